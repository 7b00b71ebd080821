"""What this server sealed opens for its owner and purpose, and for nothing else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.content_pb2 import ContentPart, ReasoningText
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item, Message, Reasoning
from edge.sealed_reasoning import open_reasoning, seal_reasoning, wants_sealed_reasoning
from edge.sealing import KEY_BYTES, Purpose, SealBroken, Sealer, parse_keys

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
SEALER = Sealer([NEW, OLD])
FOREIGN = "gAAAAABoISQ24OyVRYbkYfukdJoqdzWT-3uiErKInHDC-lgAaXeky44N77j7aibc"


def thought(text: str = "Hm.", token_ids: tuple[int, ...] = (1, 2)) -> Item:
    part = ContentPart(reasoning_text=ReasoningText(text=text, token_ids=token_ids))
    return Item(id="rs_1", reasoning=Reasoning(content=[part]))


@given(data=st.binary(max_size=300), owner=st.text(max_size=10), purpose=st.sampled_from(Purpose))
def test_what_was_sealed_opens(data: bytes, owner: str, purpose: Purpose) -> None:
    assert SEALER.open(SEALER.seal(data, owner=owner, purpose=purpose), owner=owner, purpose=purpose) == data


def test_a_sealed_text_never_repeats_and_shows_nothing() -> None:
    one, other = (SEALER.seal(b"secret" * 9, owner="a", purpose=Purpose.REASONING) for _ in range(2))
    assert one != other
    assert b"secret" not in base64.urlsafe_b64decode(one.partition(".")[2] + "===")


SEALED = SEALER.seal(b"data", owner="a", purpose=Purpose.REASONING)
"""One for all examples of a property: a seal never repeats, and what hypothesis draws from must."""


@given(data=st.data())
def test_any_other_character_breaks_the_seal(data: st.DataObject) -> None:
    sealed = SEALED
    last = len(sealed) - 2  # the last character may hold bits that stand for nothing
    at = data.draw(st.integers(len("antiphon"), last))
    character = data.draw(st.sampled_from("AZaz09-_.=é").filter(lambda drawn: drawn != sealed[at]))
    with pytest.raises(SealBroken):
        SEALER.open(sealed[:at] + character + sealed[at + 1 :], owner="a", purpose=Purpose.REASONING)


@pytest.mark.parametrize("text", ["antiphon1.", "antiphon1.AAAA", "antiphon1.é", "antiphon2.AAAA", "antiphon1.A"])
def test_a_text_that_claims_to_be_sealed_and_is_not_is_broken(text: str) -> None:
    with pytest.raises(SealBroken):
        SEALER.open(text, owner="a", purpose=Purpose.REASONING)


def test_a_sealed_text_is_bound_to_its_owner_and_its_purpose() -> None:
    sealed = SEALER.seal(b"data", owner="a", purpose=Purpose.REASONING)
    with pytest.raises(SealBroken):
        SEALER.open(sealed, owner="b", purpose=Purpose.REASONING)
    with pytest.raises(SealBroken):
        SEALER.open(sealed, owner="a", purpose=Purpose.COMPACTION)


def test_keys_rotate() -> None:
    sealed = Sealer([OLD]).seal(b"data", owner="a", purpose=Purpose.REASONING)
    assert Sealer([NEW, OLD]).open(sealed, owner="a", purpose=Purpose.REASONING) == b"data"
    renewed = Sealer([NEW, OLD]).seal(b"data", owner="a", purpose=Purpose.REASONING)
    assert Sealer([NEW]).open(renewed, owner="a", purpose=Purpose.REASONING) == b"data"
    for gone in (Sealer([NEW]), Sealer([])):
        with pytest.raises(SealBroken):
            gone.open(sealed, owner="a", purpose=Purpose.REASONING)


@given(text=st.text().filter(lambda text: not text.startswith("antiphon")))
def test_other_servers_texts_are_none_of_ours(text: str) -> None:
    assert SEALER.open(text, owner="a", purpose=Purpose.REASONING) is None


def test_keys_are_read_from_a_setting() -> None:
    one, other = base64.b64encode(NEW).decode(), base64.b64encode(OLD).decode()
    assert parse_keys(f" {one}, {other},") == [NEW, OLD]
    assert parse_keys("") == []
    for wrong in ("abc", base64.b64encode(b"short").decode(), f"{one},{other}x"):
        with pytest.raises(ValueError, match=r"^key \d is not the base64 form of 32 bytes$"):
            parse_keys(wrong)


def test_a_reasoning_item_comes_back_whole_whatever_the_client_made_of_it() -> None:
    item = thought()
    seal_reasoning(item, SEALER, owner="a")
    sent_back = Item(id="rs_1", reasoning=Reasoning(encrypted_content=item.reasoning.encrypted_content))
    opened = open_reasoning([sent_back], SEALER, owner="a")
    assert opened.items == [thought()]
    assert opened.foreign == []
    sent_back.reasoning.content.append(ContentPart(reasoning_text=ReasoningText(text="forged")))
    assert open_reasoning([sent_back], SEALER, owner="a").items == [thought()]


def test_items_that_are_no_reasoning_are_left_alone() -> None:
    message = Item(message=Message())
    seal_reasoning(message, SEALER, owner="a")
    assert message == Item(message=Message())
    assert open_reasoning([message], SEALER, owner="a").items[0] is message


def test_foreign_content_is_left_out_and_named() -> None:
    foreign = thought()
    foreign.reasoning.encrypted_content = FOREIGN
    opened = open_reasoning([Item(message=Message()), foreign], SEALER, owner="a")
    assert opened.items[1] == thought()
    assert opened.foreign == [1]


def test_content_that_is_not_authentic_is_refused_unless_it_is_our_own_store_s() -> None:
    item = thought()
    seal_reasoning(item, SEALER, owner="b")
    item.reasoning.ClearField("content")
    with pytest.raises(ApiError) as refused:
        open_reasoning([Item(), item], SEALER, owner="a")
    assert refused.value.reason == ErrorReason.ERROR_REASON_INVALID_ENCRYPTED_CONTENT
    assert refused.value.param == "input[1].encrypted_content"
    assert open_reasoning([Item(), item], SEALER, owner="a", is_stored=True).foreign == [1]


def test_without_a_key_sealing_is_refused_by_its_place() -> None:
    include = [
        response_pb2.INCLUDE_MESSAGE_OUTPUT_TEXT_LOGPROBS,
        response_pb2.INCLUDE_REASONING_ENCRYPTED_CONTENT,
    ]
    assert wants_sealed_reasoning(include, SEALER)
    assert not wants_sealed_reasoning([], Sealer([]))
    with pytest.raises(ApiError) as refused:
        wants_sealed_reasoning(include, Sealer([]))
    assert refused.value.param == "include[1]"
