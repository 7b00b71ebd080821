"""Which requests meet on one worker, and what a worker is asked for."""

from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1.item_pb2 import Item
from edge.codec import with_defaults
from edge.request import generate_request, routing_key

RULES = "Be kind."


def said(role: item_pb2.Role.ValueType, text: str, item_id: str = "") -> Item:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=text))
    return Item(id=item_id, message=item_pb2.Message(role=role, content=[part]))


SYSTEM = said(item_pb2.ROLE_SYSTEM, "You are a pirate.")
FIRST = said(item_pb2.ROLE_USER, "Hi")
ANSWER = said(item_pb2.ROLE_ASSISTANT, "Ahoy", "msg_2")


def params(**fields: object) -> response_pb2.ResponseParams:
    built = response_pb2.ResponseParams(model="m")
    for name, value in fields.items():
        setattr(built, name, value)
    return built


def test_all_turns_of_a_conversation_have_one_key_however_they_are_sent() -> None:
    first = routing_key(params(), [SYSTEM, FIRST])
    stored = said(item_pb2.ROLE_USER, "Hi", "msg_1")
    by_id = routing_key(params(previous_response_id="resp_1"), [SYSTEM, stored, ANSWER, FIRST])
    by_value = routing_key(params(), [SYSTEM, FIRST, ANSWER, FIRST])
    assert first == by_id == by_value


def test_other_conversations_have_other_keys() -> None:
    other = said(item_pb2.ROLE_USER, "Ho")
    keys = {
        routing_key(params(), [SYSTEM, FIRST]),
        routing_key(params(), [SYSTEM, other]),
        routing_key(params(), [FIRST]),
        routing_key(params(instructions=RULES), [FIRST]),
    }
    assert len(keys) == 4


def test_a_prompt_cache_key_decides_alone() -> None:
    assert routing_key(params(prompt_cache_key="k"), [FIRST]) == "k"


def test_verbosity_is_asked_for_in_words() -> None:
    for given, verbosity, expected in (
        (RULES, response_pb2.VERBOSITY_LOW, f"{RULES}\n\nAnswer as briefly as you can."),
        ("", response_pb2.VERBOSITY_HIGH, "Answer thoroughly and in detail."),
        (RULES, response_pb2.VERBOSITY_MEDIUM, RULES),
    ):
        asked = params(**{"instructions": given} if given else {})
        asked.text.verbosity = verbosity
        request = generate_request(with_defaults(asked), [FIRST], request_id="r", owner="o")
        assert request.instructions == expected
        assert request.text.verbosity == response_pb2.VERBOSITY_UNSPECIFIED


def test_owners_share_no_cache_and_take_turns() -> None:
    request = generate_request(with_defaults(params()), [FIRST], request_id="r", owner="o")
    assert request.owner == request.cache_salt == "o"
