from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import keys
from store.ids import ResponseId

RESPONSE_ID = ResponseId(tag="a" * 16, random="b" * 16)
owners = st.text(st.characters(codec="utf-8"), min_size=1)


def test_the_key_of_a_record_is_what_the_design_says() -> None:
    assert keys.response("acme", RESPONSE_ID) == f"acme:resp:{{{'a' * 16}}}:resp_{'a' * 16}{'b' * 16}"


@given(owners)
def test_an_owner_can_be_read_back_from_a_key(owner: str) -> None:
    encoded, what, tag, response_id = keys.response(owner, RESPONSE_ID).split(":")
    assert unquote(encoded, errors="strict") == owner
    assert (what, tag, response_id) == ("resp", "{aaaaaaaaaaaaaaaa}", str(RESPONSE_ID))


@given(owners)
def test_only_the_tag_of_the_chain_decides_the_slot(owner: str) -> None:
    key = keys.response(owner, RESPONSE_ID)
    assert key[key.index("{") + 1 : key.index("}")] == RESPONSE_ID.tag  # what Redis hashes: first brace to next
    assert key.isascii()


@given(owners, owners)
def test_owners_never_share_a_key(one: str, other: str) -> None:
    assert (keys.response(one, RESPONSE_ID) == keys.response(other, RESPONSE_ID)) == (one == other)


@pytest.mark.parametrize("owner", ["", "\ud800"])
def test_an_owner_without_a_utf8_name_is_refused(owner: str) -> None:
    with pytest.raises(ValueError, match=r"an owner has a name|surrogates not allowed"):
        keys.response(owner, RESPONSE_ID)
