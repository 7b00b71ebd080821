import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.ids import (
    ItemId,
    ItemIds,
    ItemKind,
    ResponseId,
    new_call_id,
    new_response_id,
    parse_item_id,
    parse_response_id,
)

ALLOCATED = re.compile(r"[a-z0-9_]+")

parts = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=16, max_size=16)
response_ids = st.builds(ResponseId, tag=parts, random=parts)
item_ids = st.builds(ItemId, kind=st.sampled_from(ItemKind), response_id=response_ids, number=st.integers(0, 999_999))


@given(response_ids)
def test_a_response_id_survives_its_text(response_id: ResponseId) -> None:
    assert len(str(response_id)) == 37
    assert ALLOCATED.fullmatch(str(response_id))
    assert parse_response_id(str(response_id)) == response_id


@given(item_ids)
def test_an_item_id_survives_its_text_and_names_its_response(item_id: ItemId) -> None:
    assert ALLOCATED.fullmatch(str(item_id))
    assert parse_item_id(str(item_id)) == item_id


@given(st.text())
def test_any_text_that_parses_is_exactly_an_allocated_id(text: str) -> None:
    response_id, item_id = parse_response_id(text), parse_item_id(text)
    assert response_id is None or str(response_id) == text
    assert item_id is None or str(item_id) == text


@given(response_ids, st.integers(0, 36), st.characters(codec="utf-8"))
def test_one_wrong_character_makes_an_id_no_id_or_another_one(
    response_id: ResponseId, position: int, character: str
) -> None:
    text = str(response_id)
    changed = text[:position] + character + text[position + 1 :]
    parsed = parse_response_id(changed)
    assert parsed is None or str(parsed) == changed
    assert (parsed == response_id) == (changed == text)


@pytest.mark.parametrize("change", [str.upper, "{}\n".format, " {}".format, "{}a".format, lambda text: text[:-1]])
def test_nothing_around_an_id_is_forgiven(change: object) -> None:
    assert callable(change)
    item_id = ItemIds(new_response_id()).new(ItemKind.MESSAGE)
    assert parse_response_id(change(str(new_response_id()))) is None
    assert parse_item_id(change(item_id)) is None


def test_digits_of_other_scripts_are_no_digits() -> None:
    item_id = ItemIds(new_response_id()).new(ItemKind.MESSAGE)
    assert parse_item_id(item_id[:-1] + "٠") is None


def test_a_chain_shares_its_tag_and_nothing_else() -> None:
    root = new_response_id()
    children = [new_response_id(root) for _ in range(1000)]
    assert {child.tag for child in children} == {root.tag}
    assert len({child.random for child in children} | {root.random}) == 1001
    assert len({new_response_id().tag for _ in range(1000)}) == 1000


def test_item_ids_count_through_all_kinds_of_a_response() -> None:
    response_id = new_response_id()
    ids = ItemIds(response_id)
    middle = str(response_id).removeprefix("resp_")
    assert [ids.new(kind) for kind in (ItemKind.MESSAGE, ItemKind.REASONING, ItemKind.FUNCTION_CALL)] == [
        f"msg_{middle}000000",
        f"rs_{middle}000001",
        f"fc_{middle}000002",
    ]


def test_call_ids_fit_into_the_length_the_api_allows() -> None:
    call_ids = {new_call_id() for _ in range(1000)}
    assert len(call_ids) == 1000
    assert all(re.fullmatch(r"call_[a-z2-7]{32}", call_id) for call_id in call_ids)
