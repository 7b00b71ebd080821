"""Every response, item, event and error that the codec can make, against the OpenAPI document and OpenAI's own SDK."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from openai.types import responses as sdk
from pydantic import TypeAdapter

from antiphon.errors import ApiError
from antiphon.responses.v1 import event_pb2, item_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.tool_pb2 import TOOL_CHOICE_MODE_NONE
from edge import codec
from edge.codec.events import EVENT_TYPES
from edge.errors import to_http
from tests.support import strategies
from tests.support.openapi import (
    assert_valid_error,
    assert_valid_event,
    assert_valid_item,
    assert_valid_request,
    assert_valid_response,
    event_components,
)

params = strategies.response_params().map(codec.with_defaults)

SDK_RESPONSE = TypeAdapter(sdk.Response)
SDK_EVENT: TypeAdapter[Any] = TypeAdapter(sdk.ResponseStreamEvent)


@given(response=strategies.responses(params))
def test_every_response_is_a_response_resource(response: response_pb2.Response) -> None:
    assert_valid_response(json.loads(codec.response_json(response)))


@given(item=strategies.items)
def test_every_item_is_an_item_of_the_specification(item: item_pb2.Item) -> None:
    assert_valid_item(codec.encode_item(item))


@given(event=strategies.events(strategies.responses(params)))
def test_every_event_is_one_of_the_specification_and_fits_on_one_line(event: event_pb2.ResponseEvent) -> None:
    encoded = codec.event_json(event)
    assert b"\n" not in encoded
    assert b"\r" not in encoded
    value = json.loads(encoded)
    assert value["type"] == codec.event_type(event)
    assert_valid_event(value)


def test_every_event_of_the_specification_has_a_message() -> None:
    assert set(EVENT_TYPES.values()) == set(event_components())
    assert set(EVENT_TYPES) == {field.name for field in event_pb2.ResponseEvent.DESCRIPTOR.oneofs[0].fields}


@pytest.mark.parametrize("reason", [value for value in ErrorReason.values() if value], ids=ErrorReason.Name)
def test_every_error_is_an_error_object(reason: ErrorReason.ValueType) -> None:
    answer = to_http(ApiError(reason, "no", "input[0]"))
    value = json.loads(answer.body)
    assert_valid_error(value)
    assert 400 <= answer.status < 600
    assert value["error"]["param"] == "input[0]"


# What both the specification and OpenAI's SDK know. The SDK's error codes are a closed list, its parts go by role, and
# it has no mode "none" for allowed tools.
sdk_params = params.filter(lambda given: given.tool_choice.allowed_tools.mode != TOOL_CHOICE_MODE_NONE)
sdk_items = st.one_of(strategies.function_calls, strategies.reasonings, strategies.compactions)
sdk_responses = st.builds(
    lambda response, items: response_pb2.Response(**{**_set_fields(response), "error": None, "output": items}),
    strategies.responses(sdk_params),
    st.lists(sdk_items, max_size=2),
)


def _set_fields(response: response_pb2.Response) -> dict[str, Any]:
    return {field.name: value for field, value in response.ListFields()}


@given(response=sdk_responses)
def test_every_response_has_what_openais_sdk_requires(response: response_pb2.Response) -> None:
    """Strict clients are built from the same types."""
    SDK_RESPONSE.validate_python(json.loads(codec.response_json(response)))


@given(event=strategies.events(sdk_responses, sdk_items))
def test_every_event_that_openais_sdk_knows_has_what_it_requires(event: event_pb2.ResponseEvent) -> None:
    """The SDK calls reasoning deltas by another name, and its `error` event is flat."""
    assume(event.WhichOneof("event") not in ("reasoning_delta", "reasoning_done", "error"))
    SDK_EVENT.validate_python(json.loads(codec.event_json(event)))


def test_the_validator_refuses_what_real_servers_get_wrong() -> None:
    response = response_pb2.Response(
        id="resp_1",
        status=response_pb2.RESPONSE_STATUS_COMPLETED,
        params=codec.with_defaults(response_pb2.ResponseParams(model="m")),
    )
    good = json.loads(codec.response_json(response))
    assert_valid_response(good)
    for broken in (
        {**good, "temperature": None},
        {**good, "reasoning": {}},
        {**good, "text": {"format": {"type": "text"}, "verbosity": None}},
        {**good, "tools": None},
        {key: value for key, value in good.items() if key != "store"},
    ):
        with pytest.raises(AssertionError):
            assert_valid_response(broken)
    with pytest.raises(AssertionError):
        assert_valid_event({"type": "response.reasoning_text.delta", "sequence_number": 0})
    with pytest.raises(AssertionError):
        assert_valid_error({"error": {"message": "no", "type": "server_error", "param": None}})
    with pytest.raises(AssertionError):
        assert_valid_request({"store": "no"})
