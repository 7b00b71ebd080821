"""Compaction items: what the model is shown of them, and what a summary is asked of."""

import pytest

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item
from edge.compaction import compaction, reveal, summary_request, turn_starts, user_messages
from edge.sealing import Sealer

SEALER = Sealer([bytes(32)])
OWNER = "owner"


def said(role: item_pb2.Role.ValueType, text: str) -> Item:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=text))
    return Item(message=item_pb2.Message(role=role, content=[part]))


USER, ANSWER = said(item_pb2.ROLE_USER, "question"), said(item_pb2.ROLE_ASSISTANT, "answer")
FOREIGN = Item(compaction=item_pb2.Compaction(encrypted_content="gAAAAA"))


def sealed(summary: str, *, owner: str = OWNER) -> Item:
    part = content_pb2.ContentPart(output_text=content_pb2.OutputText(text=summary))
    message = Item(message=item_pb2.Message(role=item_pb2.ROLE_ASSISTANT, content=[part]))
    return compaction(response_pb2.Response(output=[message]), SEALER, owner=owner)


def texts(items: list[Item]) -> list[str]:
    return [item.message.content[0].input_text.text for item in items]


def test_the_model_is_shown_the_summary_and_nothing_of_foreign_ones() -> None:
    revealed = reveal([USER, FOREIGN, sealed(" the summary\n"), ANSWER], 1, SEALER, owner=OWNER)
    assert texts(revealed.items) == ["question", "Summary of the earlier conversation:\nthe summary", "answer"]
    assert revealed.kept == [0, 2, 3]
    assert revealed.warnings == ["input[0]: compaction of another server left out"]


@pytest.mark.parametrize(
    "broken", [sealed("x", owner="someone else"), compaction(response_pb2.Response(), Sealer([b"k" * 32]), owner=OWNER)]
)
def test_what_is_not_authentic_is_refused_unless_it_is_stored(broken: Item) -> None:
    with pytest.raises(ApiError) as refusal:
        reveal([USER, USER, broken], 1, SEALER, owner=OWNER)
    assert refusal.value.reason == ErrorReason.ERROR_REASON_INVALID_ENCRYPTED_CONTENT
    assert refusal.value.param == "input[1].encrypted_content"
    revealed = reveal([broken, USER], 1, SEALER, owner=OWNER)
    assert revealed.items == [USER]
    assert revealed.warnings == ["previous_response_id: compaction of another server left out"]


def test_an_earlier_summary_is_never_among_what_is_cut() -> None:
    items = [said(item_pb2.ROLE_USER, text) for text in ("summary", "one", "two", "three")]
    *kept, request = texts(summary_request(items, [0], dropped=2))
    assert kept == ["summary", "two", "three"]
    assert request.startswith("Summarise")
    assert len(summary_request(items, [0])) == 5


def test_a_conversation_is_cut_where_a_turn_begins() -> None:
    assert turn_starts([USER, ANSWER, ANSWER, USER, FOREIGN]) == [0, 3]


def test_user_messages_are_copies() -> None:
    messages = user_messages([USER, ANSWER, FOREIGN])
    assert messages == [USER]
    messages[0].id = "msg_1"
    assert USER.id == ""
