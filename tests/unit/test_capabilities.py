"""The table of fields: whole, current in the documentation, and true of the validator."""

from pathlib import Path

import msgspec
import pytest

from antiphon.inference.v1.inference_pb2 import Capabilities, ModelInfo
from edge.capabilities import ROWS, Support, claims, docs, encode_capabilities
from edge.rest.body import REFUSED_FIELDS, decode_fields
from edge.rest.schema import CreateResponse


def test_every_field_of_a_request_has_a_row() -> None:
    named = {row.field.partition(":")[0].partition(".")[0].partition(",")[0] for row in ROWS}
    fields = {field.name for field in msgspec.structs.fields(CreateResponse)}
    assert named == fields | REFUSED_FIELDS


def test_no_field_has_two_rows_and_every_sample_uses_known_fields_alone() -> None:
    assert len({row.field for row in ROWS}) == len(ROWS)
    for row in ROWS:
        if not REFUSED_FIELDS & row.sample.keys() and "file_id" not in row.field:
            unknown = [name for name in decode_fields({"model": "m", **row.sample}).warnings if "include." not in name]
            assert unknown == [], row.field


def test_what_is_approximated_says_how() -> None:
    for engine in (None, Capabilities()):
        for claim in claims(engine):
            assert claim.note or claim.support is not Support.APPROXIMATED, claim


def test_the_documentation_is_current() -> None:
    """Made by ``python -m edge.capabilities > docs/fields.md``."""
    assert (Path(__file__).parents[2] / "docs" / "fields.md").read_text() == docs()


def test_an_engine_that_can_do_less_is_told_apart() -> None:
    weak = ModelInfo(id="weak", engine="e", context_window=7)
    best = Capabilities(penalties=True, max_top_logprobs=20, grammar=True, images=True, reasoning=True)
    strong = ModelInfo(id="strong", capabilities=best)
    encoded = encode_capabilities([weak, strong], is_strict=True)
    assert encoded["unknown_fields"] == "refused"
    weak_model, strong_model = encoded["models"]
    assert strong_model["differing_fields"] == []
    assert weak_model["context_window"] == 7
    differing = {claim["field"]: claim["support"] for claim in weak_model["differing_fields"]}
    assert differing["presence_penalty"] == "refused"
    assert differing["input: input_image"] == "approximated"
    assert differing.keys() <= {row.field for row in ROWS if row.need is not None}


@pytest.mark.parametrize("field", ["conversation", "prompt", "input: input_image, file_id"])
def test_what_the_validator_refuses_is_refused_in_the_table(field: str) -> None:
    assert {claim.field: claim.support for claim in claims()}[field] is Support.REFUSED
