"""What becomes of every field of a request: one table, of which `GET /v1/capabilities` and docs/fields.md are made.

A row has a sample of its field's use. Whether that is refused is asked of the validator itself, so that the table
cannot say otherwise. ``python -m edge.capabilities`` prints docs/fields.md.
"""

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import Capabilities, ModelInfo
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.rest.body import decode_fields
from edge.validate import validate


class Support(StrEnum):
    """What becomes of a field."""

    HONOURED = "honoured"
    """It does what the API says."""
    APPROXIMATED = "approximated"
    """It is taken, and does less or something else: the note says what."""
    REFUSED = "refused"
    """The request is answered with an error that names the field."""


class Need(NamedTuple):
    """What an engine must be able to do for a field to be supported as its row says."""

    words: str
    """For people."""
    is_met: Callable[[Capabilities], bool]


class Row(NamedTuple):
    """One field, or one use of it."""

    field: str
    sample: Mapping[str, Any]
    """Members of a request that use it."""
    note: str = ""
    """How it is approximated, or else what is worth knowing."""
    is_approximated: bool = False
    need: Need | None = None
    without: Support = Support.REFUSED
    """What becomes of it with an engine that does not meet the need."""
    without_note: str = ""


class Claim(NamedTuple):
    """What one row comes to."""

    field: str
    support: Support
    note: str


_GRAMMAR: Final = Need("an engine that can hold its output to a grammar", lambda can: can.grammar)
_IMAGES: Final = Need("a model that sees", lambda can: can.images)
_LOGPROBS: Final = Need("an engine that gives log probabilities", lambda can: can.max_top_logprobs > 0)
_PENALTIES: Final = Need("an engine with penalties", lambda can: can.penalties)
_REASONING: Final = Need("a model that reasons", lambda can: can.reasoning)

_PNG: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
_FUNCTION: Final = {"type": "function", "name": "f", "parameters": {"type": "object"}}
_SCHEMA: Final = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}


def _content(**part: Any) -> dict[str, Any]:
    return {"input": [{"type": "message", "role": "user", "content": [part]}]}


def _item(**item: Any) -> dict[str, Any]:
    return {"input": [item]}


def _tools(choice: Any = "auto", *tools: Any, **fields: Any) -> dict[str, Any]:
    return {"tools": list(tools) or [_FUNCTION], "tool_choice": choice, **fields}


# fmt: off
ROWS: Final[tuple[Row, ...]] = (
    Row("model", {"model": "m"}, "required; the name of a served model"),
    Row("input", {"input": "x"}, "a string, or items"),
    Row("input: message", _item(role="user", content="x"), "every role, at any place; `type` may be absent"),
    Row("input: message, phase", _item(role="assistant", content="x", phase="commentary"),
        "kept and repeated; the model is not told", is_approximated=True),
    Row("input: function_call", _item(type="function_call", call_id="c", name="f", arguments="{}")),
    Row("input: function_call_output", _item(type="function_call_output", call_id="c", output="x"),
        "an output without its call is an error"),
    Row("input: reasoning", _item(type="reasoning", summary=[], content=[{"type": "reasoning_text", "text": "x"}]),
        "encrypted content of this server is opened, that of others left out with a warning"),
    Row("input: item_reference", _item(type="item_reference", id="msg_x"), "stored items, and those of the chain"),
    Row("input: compaction", _item(type="compaction", encrypted_content="x"),
        "of this server; that of others is left out with a warning"),
    Row("input: items of other kinds", _item(type="mcp_call", id="x")),
    Row("input: input_text", _content(type="input_text", text="x")),
    Row("input: input_image", _content(type="input_image", image_url=_PNG),
        "scaled down to 2048 pixels a side; of an animation the first frame",
        need=_IMAGES, without=Support.APPROXIMATED,
        without_note="the model reads a note in its place, with a warning; EDGE_UNSEEN_MEDIA=refuse refuses it"),
    Row("input: input_image, detail", _content(type="input_image", image_url=_PNG, detail="low"),
        "the model looks at every image as closely as it does", is_approximated=True,
        need=_IMAGES, without=Support.APPROXIMATED, without_note="nothing is seen"),
    Row("input: input_image, file_id", _content(type="input_image", file_id="f"), "there is no file store"),
    Row("input: input_file", _content(type="input_file", filename="a.txt", file_data="data:text/plain;base64,eA=="),
        "as its text; text and PDF", is_approximated=True),
    Row("input: input_video", _content(type="input_video", video_url="data:video/mp4;base64,AA=="),
        "the model reads a note in its place, with a warning; EDGE_UNSEEN_MEDIA=refuse refuses it",
        is_approximated=True),
    Row("input: parts of other kinds", _content(type="input_audio", input_audio={})),
    Row("previous_response_id", {"previous_response_id": "resp_x"}, "with the whole chain before it"),
    Row("instructions", {"instructions": "x"}, "for this response only"),
    Row("store", {"store": False}),
    Row("background", {"background": True}),
    Row("conversation", {"conversation": "conv_x"}),
    Row("prompt", {"prompt": {"id": "x"}}),
    Row("context_management", {"context_management": []}),
    Row("stream", {"stream": True}, "also over WebSockets, where every turn is a stream"),
    Row("stream_options.include_obfuscation", {"stream": True, "stream_options": {"include_obfuscation": False}}),
    Row("include: message.output_text.logprobs", {"include": ["message.output_text.logprobs"]}, need=_LOGPROBS),
    Row("include: reasoning.encrypted_content", {"include": ["reasoning.encrypted_content"]},
        "refused without EDGE_ENCRYPTION_KEYS"),
    Row("include: values for tools of OpenAI's", {"include": ["file_search_call.results"]},
        "taken with a warning: no item of this server has them", is_approximated=True),
    Row("max_output_tokens", {"max_output_tokens": 16}, "at least 16; thoughts count"),
    Row("temperature", {"temperature": 0.5}),
    Row("top_p", {"top_p": 0.5}),
    Row("presence_penalty", {"presence_penalty": 0.5}, need=_PENALTIES),
    Row("frequency_penalty", {"frequency_penalty": 0.5}, need=_PENALTIES),
    Row("top_logprobs", {"top_logprobs": 1}, "at most what the model's engine gives", need=_LOGPROBS),
    Row("truncation: auto", {"truncation": "auto"}, "drops from the front, keeps rules and pairs of call and output"),
    Row("truncation: disabled", {"truncation": "disabled"}, "too long is an error"),
    Row("text.format: text", {"text": {"format": {"type": "text"}}}),
    Row("text.format: json_object", {"text": {"format": {"type": "json_object"}}}, need=_GRAMMAR),
    Row("text.format: json_schema", {"text": {"format": _SCHEMA}},
        "`nullable: true` allows null, as in OpenAPI 3.0; values of a schema that contains itself are at most 10 levels"
        " deep, as models do not stop by themselves", need=_GRAMMAR),
    Row("text.format.strict", {"text": {"format": _SCHEMA | {"strict": True}}}, need=_GRAMMAR),
    Row("text.verbosity: low, high", {"text": {"verbosity": "low"}}, "a sentence after the instructions asks for it",
        is_approximated=True),
    Row("text.verbosity: medium", {"text": {"verbosity": "medium"}}),
    Row("reasoning.effort: none", {"reasoning": {"effort": "none"}}),
    Row("reasoning.effort: low, medium, high, xhigh", {"reasoning": {"effort": "high"}}, need=_REASONING,
        without=Support.APPROXIMATED, without_note="taken with a warning: the model answers at once"),
    Row("reasoning.summary", {"reasoning": {"summary": "auto"}},
        "written by the model in a generation of its own, whose tokens neither count in usage nor for"
        " max_output_tokens",
        need=_REASONING,
        without=Support.APPROXIMATED, without_note="taken with a warning: there is nothing to summarise"),
    Row("tools: function", _tools()),
    Row("tools: function, strict", _tools("auto", _FUNCTION | {"strict": True}), need=_GRAMMAR),
    Row("tools: of other kinds", _tools("auto", {"type": "web_search"}),
        "taken with a warning: the model is not told of them", is_approximated=True),
    Row("tool_choice: none, auto", _tools("none")),
    Row("tool_choice: required", _tools("required"), need=_GRAMMAR),
    Row("tool_choice: function", _tools({"type": "function", "name": "f"}), need=_GRAMMAR),
    Row("tool_choice: allowed_tools",
        _tools({"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]}), need=_GRAMMAR),
    Row("parallel_tool_calls", _tools(parallel_tool_calls=False), need=_GRAMMAR),
    Row("max_tool_calls", _tools(max_tool_calls=1), "of all calls, those of functions too", need=_GRAMMAR),
    Row("metadata", {"metadata": {"k": "v"}}, "kept and repeated"),
    Row("service_tier", {"service_tier": "priority"}, "the order in a worker's queue"),
    Row("safety_identifier", {"safety_identifier": "x"}, "kept and repeated"),
    Row("prompt_cache_key", {"prompt_cache_key": "x"}, "requests with the same key go to the same worker"),
)
# fmt: on
"""By field, in the order of the API's reference."""


def claims(engine: Capabilities | None = None) -> list[Claim]:
    """What becomes of every field with ``engine``; with one that can do everything, if it is None."""
    return [_claim(row, engine) for row in ROWS]


def encode_capabilities(models: list[ModelInfo], *, is_strict: bool) -> dict[str, Any]:
    """What `GET /v1/capabilities` answers.

    Args:
        models: That are served now.
        is_strict: Unknown fields are refused, unless a request says otherwise.
    """
    return {
        "object": "capabilities",
        "unknown_fields": "refused" if is_strict else "warning",
        "fields": [claim._asdict() for claim in claims()],
        "models": [_encode_model(model) for model in models],
    }


def _encode_model(model: ModelInfo) -> dict[str, Any]:
    best = claims()
    mine = claims(model.capabilities)
    can = {field.name: getattr(model.capabilities, field.name) for field in Capabilities.DESCRIPTOR.fields}
    return {
        "id": model.id,
        "engine": model.engine,
        "context_window": model.context_window,
        "engine_capabilities": can,
        "differing_fields": [claim._asdict() for claim, other in zip(mine, best, strict=True) if claim != other],
    }


def _claim(row: Row, engine: Capabilities | None) -> Claim:
    if _is_refused(row):
        return Claim(row.field, Support.REFUSED, row.note)
    if engine is not None and row.need is not None and not row.need.is_met(engine):
        return Claim(row.field, row.without, row.without_note or f"needs {row.need.words}")
    return Claim(row.field, Support.APPROXIMATED if row.is_approximated else Support.HONOURED, row.note)


def _is_refused(row: Row) -> bool:
    try:
        validate(decode_fields({"model": "m", "input": "x", **row.sample}).params)
    except ApiError as error:
        if error.reason not in _UNSUPPORTED:
            raise AssertionError(f"the sample of {row.field} is wrong: {error}") from error
        return True
    return False


_UNSUPPORTED: Final = frozenset(
    {ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER, ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE}
)

_HEAD: Final = """\
# Fields of a request

What this server does with every field of `POST /v1/responses`, over HTTP, WebSockets and gRPC alike. Made by
`python -m edge.capabilities`; `GET /v1/capabilities` says the same of a running server and its models.

- **honoured**: it does what the API says.
- **approximated**: it is taken, and does less or something else, as the note says.
- **refused**: the request is answered with an error that names the field.

A field that is not in the table is unknown: the answer names it in the header `x-antiphon-warning` (over a WebSocket in
the member `x_antiphon_warning` of the first event). With the setting `EDGE_STRICT_FIELDS=true`, or the request header
`x-antiphon-strict: true`, it is refused.

| field | | note |
|---|---|---|
"""


def docs() -> str:
    """The text of docs/fields.md."""
    lines = []
    for row, claim in zip(ROWS, claims(), strict=True):
        notes = [claim.note]
        if row.need is not None and claim.support is not Support.REFUSED:
            otherwise = f": {row.without_note}" if row.without_note else ""
            notes.append(f"needs {row.need.words}; otherwise {row.without}{otherwise}")
        lines.append(f"| {row.field} | {claim.support} | {'; '.join(filter(None, notes))} |\n")
    return _HEAD + "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(docs())
