"""JSON <-> protobuf, both ways."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2, event_pb2, item_pb2, response_pb2, tool_pb2
from antiphon.responses.v1.error_pb2 import Error, ErrorReason
from edge import codec
from edge.checks import MAX_TEXT
from edge.codec.content import decode_part, encode_part
from edge.codec.params import encode_params
from edge.codec.tools import decode_tool, decode_tool_choice, encode_tool_choice, encode_tools
from edge.rest import schema
from tests.support import strategies

TEXT = [{"type": "input_text", "text": "hi"}]


def plain(value: object) -> Any:
    """``value`` as a client reads it."""
    return json.loads(msgspec.json.encode(value))


def params_of(body: dict[str, Any]) -> response_pb2.ResponseParams:
    return codec.decode_params(schema.shape(body, schema.CreateResponse))


@given(item=strategies.items)
def test_an_output_item_sent_back_is_the_same_item(item: item_pb2.Item) -> None:
    decoded = codec.decode_item(plain(codec.encode_item(item)), "input[0]")
    if item.HasField("compaction"):
        decoded.ClearField("status")
    assert decoded == item


@given(part=strategies.parts)
def test_a_content_part_survives_the_way_out_and_back(part: content_pb2.ContentPart) -> None:
    assert decode_part(plain(encode_part(part)), "content[0]") == part


@given(params=strategies.response_params())
def test_what_a_response_repeats_asks_for_the_same_again(params: response_pb2.ResponseParams) -> None:
    filled = codec.with_defaults(params)
    assert codec.with_defaults(params_of(plain(encode_params(filled)))) == filled


@given(params=strategies.response_params())
def test_filling_in_defaults_changes_nothing_that_was_given(params: response_pb2.ResponseParams) -> None:
    filled = codec.with_defaults(params)
    assert codec.with_defaults(filled) == filled
    for name in ("model", "metadata", "instructions", "max_output_tokens", "previous_response_id"):
        assert getattr(filled, name) == getattr(params, name)
    for name in (
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "store",
        "background",
        "top_logprobs",
    ):
        if params.HasField(name):  # type: ignore[arg-type]
            assert getattr(filled, name) == getattr(params, name)


def test_what_a_response_repeats_is_without_the_input() -> None:
    assert not codec.with_defaults(params_of({"model": "m", "input": "hi"})).input


def test_a_minimal_response_has_every_key_and_the_apis_defaults() -> None:
    response = response_pb2.Response(
        id="resp_1",
        created_at=1,
        status=response_pb2.RESPONSE_STATUS_IN_PROGRESS,
        params=codec.with_defaults(params_of({"model": "m", "input": "hi"})),
    )
    assert plain(codec.encode_response(response)) == {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "completed_at": None,
        "status": "in_progress",
        "incomplete_details": None,
        "error": None,
        "output": [],
        "usage": None,
        "model": "m",
        "previous_response_id": None,
        "instructions": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": None,
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "truncation": "disabled",
        "service_tier": "default",
        "store": True,
        "background": False,
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


def test_a_finished_response_shows_usage_and_why_it_is_incomplete() -> None:
    response = response_pb2.Response(
        id="resp_1",
        status=response_pb2.RESPONSE_STATUS_INCOMPLETE,
        incomplete_reason=response_pb2.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
        params=codec.with_defaults(params_of({"model": "m", "input": "hi", "service_tier": "priority"})),
        usage=response_pb2.Usage(input_tokens=5, cached_tokens=3, output_tokens=7, reasoning_tokens=2),
    )
    value = plain(codec.encode_response(response))
    assert value["incomplete_details"] == {"reason": "max_output_tokens"}
    assert value["service_tier"] == "priority"
    assert value["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


def test_the_schema_of_a_format_is_repeated_key_by_key() -> None:
    schema_ = {"type": "object", "title": "T", "properties": {"b": {"type": "string"}, "a": {"const": 1.0}}}
    body = {"model": "m", "text": {"format": {"type": "json_schema", "name": "t", "schema": schema_}}}
    encoded = msgspec.json.encode(encode_params(codec.with_defaults(params_of(body))))
    assert (
        b'"format":{"type":"json_schema","name":"t","description":null,"schema":{"type":"object","title":"T",'
        b'"properties":{"b":{"type":"string"},"a":{"const":1.0}}},"strict":false}' in encoded
    )


def test_a_schema_with_line_breaks_stays_on_one_line() -> None:
    """A gRPC caller's JSON text can be indented; a line break would end an SSE event."""
    tool = tool_pb2.Tool(function=tool_pb2.FunctionTool(name="f", parameters='{\n  "type": "object"\n}', strict=True))
    assert msgspec.json.encode(encode_tools([tool])) == (
        b'[{"type":"function","name":"f","description":null,"parameters":{"type":"object"},"strict":true}]'
    )


@pytest.mark.parametrize(
    ("value", "kind", "role"),
    [
        ({"role": "user", "content": "hi"}, "input_text", item_pb2.ROLE_USER),
        ({"type": None, "role": "system", "content": "hi"}, "input_text", item_pb2.ROLE_SYSTEM),
        ({"type": "message", "role": "developer", "content": TEXT}, "input_text", item_pb2.ROLE_DEVELOPER),
        ({"role": "assistant", "content": "hi"}, "output_text", item_pb2.ROLE_ASSISTANT),
        ({"role": "assistant", "content": TEXT, "extra": 1}, "input_text", item_pb2.ROLE_ASSISTANT),
        ({"role": "user", "content": ["hi"]}, "input_text", item_pb2.ROLE_USER),
        ({"role": "assistant", "content": ["hi"]}, "output_text", item_pb2.ROLE_ASSISTANT),
        (
            {"role": "assistant", "content": [{"type": "output_text", "text": "hi", "annotations": None}]},
            "output_text",
            item_pb2.ROLE_ASSISTANT,
        ),
    ],
)
def test_a_message_comes_in_many_forms(value: dict[str, Any], kind: str, role: item_pb2.Role.ValueType) -> None:
    message = codec.decode_item(value, "input[0]").message
    assert message.role == role
    assert [part.WhichOneof("part") for part in message.content] == [kind]
    assert getattr(message.content[0], kind).text == "hi"


def test_an_assistant_who_only_called_may_have_said_null() -> None:
    assert not codec.decode_item({"role": "assistant", "content": None}, "input[0]").message.content
    with pytest.raises(ApiError) as caught:
        codec.decode_item({"role": "user", "content": None}, "input[0]")
    assert caught.value.param == "input[0].content"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": "https://a/b", "detail": "low"},
        {"type": "input_image", "image_url": {"url": "https://a/b", "detail": "low"}},
        {"type": "input_image", "image_url": {"url": "https://a/b", "detail": "high"}, "detail": "low"},
        {"type": "image_url", "image_url": {"url": "https://a/b", "detail": "low"}},
    ],
)
def test_an_image_comes_in_many_forms(part: dict[str, Any]) -> None:
    message = codec.decode_item({"role": "user", "content": [part]}, "input[0]").message
    assert encode_part(message.content[0]) == {
        "type": "input_image", "image_url": "https://a/b", "detail": "low",
    }  # fmt: skip


def test_the_output_of_a_function_may_be_plain_strings() -> None:
    output = codec.decode_item({"type": "function_call_output", "call_id": "c", "output": ["a", "b"]}, "input[0]")
    assert [part.input_text.text for part in output.function_call_output.parts.parts] == ["a", "b"]


@pytest.mark.parametrize(
    "value", [{"id": "msg_1"}, {"id": "msg_1", "type": None}, {"id": "msg_1", "type": "item_reference"}]
)
def test_an_id_alone_is_a_reference(value: dict[str, Any]) -> None:
    assert codec.decode_item(value, "input[0]") == item_pb2.Item(id="msg_1", item_reference=item_pb2.ItemReference())


def test_items_as_openai_sends_them_are_accepted_back() -> None:
    """Verbatim from OpenAI's API, with keys that the specification does not have."""
    sent = [
        {
            "id": "rs_1", "type": "reasoning", "status": None, "encrypted_content": None,
            "content": [{"type": "reasoning_text", "text": "hm"}], "summary": [],
        },
        {
            "id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "phase": "commentary",
            "content": [{
                "type": "output_text", "text": "4", "parsed": None, "annotations": [
                    {"type": "url_citation", "start_index": 0, "end_index": 1, "url": "https://a", "title": "A"},
                    {"type": "file_citation", "file_id": "file_1", "filename": "a", "index": 0},
                ],
                "logprobs": [{"token": "4", "bytes": None, "logprob": 0, "top_logprobs": []}],
            }],
        },
        {
            "id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "f",
            "arguments": "{}", "namespace": None, "parsed_arguments": None,
        },
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "5"}]},
        {"type": "function_call_output", "call_id": "call_1", "output": "5", "id": None, "status": None},
        {"id": "cmp_1", "type": "compaction", "encrypted_content": "AA", "created_by": None},
        {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "patch", "input": "x"},
    ]  # fmt: skip
    reasoning, message, call, parts, text, compaction, custom = codec.decode_input(sent)
    assert reasoning.reasoning.content[0].reasoning_text.text == "hm"
    assert not reasoning.reasoning.HasField("encrypted_content")
    assert message.message.phase == item_pb2.MESSAGE_PHASE_COMMENTARY
    output = message.message.content[0].output_text
    assert [a.url_citation.url for a in output.annotations] == ["https://a"]
    assert output.logprobs[0].utf8 == b"4"
    assert call.function_call == item_pb2.FunctionCall(call_id="call_1", name="f", arguments="{}")
    assert parts.function_call_output.parts.parts[0].input_text.text == "5"
    assert text.function_call_output.text == "5"
    assert compaction.compaction.encrypted_content == "AA"
    assert custom.id == "ctc_1"
    assert plain(codec.encode_item(custom)) == sent[-1]


LONG = "x" * (MAX_TEXT + 1)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (LONG, "input"),
        ([{"role": "user", "content": LONG}], "input[0].content"),
        ([{"role": "user", "content": ["hi", LONG]}], "input[0].content[1]"),
    ],
    ids=["input", "content", "part"],
)
def test_a_string_that_is_too_long_is_named_as_it_was_sent(value: Any, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        codec.decode_input(value)
    assert (refused.value.reason, refused.value.param) == (ErrorReason.ERROR_REASON_STRING_ABOVE_MAX_LENGTH, param)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "f"}]},
        {"type": "web_search", "filters": {"allowed_domains": None}},
        {"type": "local_shell"},
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "mcp", "server_label": "a", "server_url": "https://b"},
        {"type": "computer_use_preview", "display_height": 1},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ],
)
def test_a_tool_of_openais_other_kinds_keeps_all_it_holds_and_is_not_repeated(value: dict[str, Any]) -> None:
    tool = decode_tool(value, "tools[0]")
    assert tool.raw.type == value["type"]
    assert json.loads(tool.raw.json) == value
    assert encode_tools([tool]) == []


@pytest.mark.parametrize(
    ("value", "echo"),
    [
        ("none", "none"),
        ({"type": "function", "name": "f"}, {"type": "function", "name": "f"}),
        (
            {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]},
            {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}], "mode": "auto"},
        ),
        ({"type": "custom", "name": "c"}, {"type": "custom", "name": "c"}),
        (
            {
                "type": "allowed_tools",
                "tools": [{"type": "mcp", "server_label": "a"}, {"type": "function", "name": "f"}],
            },
            {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}], "mode": "auto"},
        ),
    ],
)
def test_a_tool_choice_is_repeated_with_its_mode(value: Any, echo: object) -> None:
    assert plain(encode_tool_choice(decode_tool_choice(value))) == echo


@pytest.mark.parametrize(
    ("place", "decode"),
    [
        ("input[0].type", lambda: codec.decode_input([{"type": "massage"}])),
        ("input[1].role", lambda: codec.decode_input([{"role": "user", "content": ""}, {"role": "b", "content": ""}])),
        ("input[0].status", lambda: codec.decode_input([{"role": "user", "content": "", "status": "new"}])),
        ("input[0].content[1].type", lambda: codec.decode_input([{"role": "user", "content": [*TEXT, {"type": "x"}]}])),
        ("input[0].output[0].type", lambda: codec.decode_input(
            [{"type": "function_call_output", "call_id": "c", "output": [{"type": "x"}]}]
        )),
        ("tools[0].type", lambda: params_of({"tools": [{"type": "hammer"}]})),
        ("tool_choice", lambda: params_of({"tool_choice": "maybe"})),
        ("tool_choice.type", lambda: params_of({"tool_choice": {"type": "maybe"}})),
        ("text.format.type", lambda: params_of({"text": {"format": {"type": "xml"}}})),
        ("text.verbosity", lambda: params_of({"text": {"verbosity": "loud"}})),
        ("reasoning.effort", lambda: params_of({"reasoning": {"effort": "heroic"}})),
        ("include[1]", lambda: params_of({"include": ["reasoning.encrypted_content", "everything"]})),
        ("truncation", lambda: params_of({"truncation": "sometimes"})),
        ("service_tier", lambda: params_of({"service_tier": ""})),
    ],
)  # fmt: skip
def test_an_unknown_value_of_an_enumeration_is_named_with_its_place(place: str, decode: Any) -> None:
    with pytest.raises(ApiError) as refusal:
        decode()
    assert refusal.value.reason == ErrorReason.ERROR_REASON_INVALID_VALUE
    assert refusal.value.param == place
    assert "Supported values are: " in refusal.value.message


def test_the_supported_values_are_listed_in_openais_words() -> None:
    with pytest.raises(ApiError) as refusal:
        params_of({"model": "m", "truncation": "sometimes"})
    assert refusal.value.message == "Invalid value: 'sometimes'. Supported values are: 'auto' and 'disabled'."


@pytest.mark.parametrize("field", ["max_output_tokens", "max_tool_calls", "top_logprobs"])
@pytest.mark.parametrize("value", [-1, 2**32, -(10**400), 10**400])
def test_an_integer_that_a_message_cannot_carry_is_out_of_range(field: str, value: int) -> None:
    with pytest.raises(ApiError) as refusal:
        params_of({"model": "m", field: value})
    assert refusal.value.param == field
    assert refusal.value.reason in (
        ErrorReason.ERROR_REASON_INTEGER_BELOW_MIN_VALUE,
        ErrorReason.ERROR_REASON_INTEGER_ABOVE_MAX_VALUE,
    )


def test_a_probability_of_zero_is_a_number() -> None:
    part = content_pb2.ContentPart(
        output_text=content_pb2.OutputText(logprobs=[content_pb2.Logprob(token="a", logprob=-float("inf"))])
    )
    assert encode_part(part)["logprobs"][0]["logprob"] == -9999.0


def test_events_have_the_wire_form_of_the_specification() -> None:
    delta = event_pb2.ContentDelta(item_id="msg_1", output_index=0, content_index=1, delta="a\n")
    assert codec.event_json(event_pb2.ResponseEvent(sequence_number=4, output_text_delta=delta)) == (
        b'{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,'
        b'"content_index":1,"delta":"a\\n","logprobs":[]}'
    )
    done = event_pb2.ContentDone(item_id="msg_1", output_index=0, content_index=1, text="no")
    assert codec.event_json(event_pb2.ResponseEvent(sequence_number=5, refusal_done=done)) == (
        b'{"type":"response.refusal.done","sequence_number":5,"item_id":"msg_1","output_index":0,'
        b'"content_index":1,"refusal":"no"}'
    )
    error = Error(reason=ErrorReason.ERROR_REASON_ENGINE_FAILED, message="The engine failed.")
    assert codec.event_json(event_pb2.ResponseEvent(sequence_number=6, error=error)) == (
        b'{"type":"error","sequence_number":6,"error":{"message":"The engine failed.","type":"server_error",'
        b'"param":null,"code":"engine_failed"}}'
    )
