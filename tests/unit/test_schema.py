"""Bytes and content type -> a decoded request, or a clean error."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.responses.v1 import item_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.rest import schema
from edge.rest.body import FORM, JSON, CreateRequest, decode, parse_json
from edge.validate import validate
from tests.support import strategies

BODY: dict[str, Any] = {"model": "m", "input": "hi"}
MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}


def decode_body(**fields: Any) -> CreateRequest:
    return decode(json.dumps({**BODY, **fields}).encode(), JSON)


def refusal(body: bytes, content_type: str | None = JSON) -> ApiError:
    with pytest.raises(ApiError) as refused:
        decode(body, content_type)
    return refused.value


def refusal_of(**fields: Any) -> ApiError:
    return refusal(json.dumps({**BODY, **fields}).encode())


def test_a_string_is_one_user_message() -> None:
    request = decode(b'{"model": "m", "input": "hi", "stream": true}', "application/json; charset=UTF-8")
    assert request.stream
    assert request.warnings == []
    assert request.params.model == "m"
    assert [item.message.role for item in request.params.input] == [item_pb2.ROLE_USER]
    assert request.params.input[0].message.content[0].input_text.text == "hi"


def test_null_is_unset_in_every_optional_field() -> None:
    names = [field.name for field in msgspec.structs.fields(schema.CreateResponse)]
    body = {**dict.fromkeys([*names, "user", "prompt", "conversation", "context_management", "moderation"]), **BODY}
    assert decode(json.dumps(body).encode(), JSON) == decode(json.dumps(BODY).encode(), JSON)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"store": "no"}, "store", "Invalid type for 'store': expected a boolean, but got a string instead."),
        (
            {"background": 0},
            "background",
            "Invalid type for 'background': expected a boolean, but got an integer instead.",
        ),
        ({"stream": "true"}, "stream", "Invalid type for 'stream': expected a boolean, but got a string instead."),
        (
            {"parallel_tool_calls": "yes"},
            "parallel_tool_calls",
            "Invalid type for 'parallel_tool_calls': expected a boolean, but got a string instead.",
        ),
        (
            {"temperature": True},
            "temperature",
            "Invalid type for 'temperature': expected a decimal, but got a boolean instead.",
        ),
        ({"top_p": "1"}, "top_p", "Invalid type for 'top_p': expected a decimal, but got a string instead."),
        (
            {"max_output_tokens": 16.0},
            "max_output_tokens",
            "Invalid type for 'max_output_tokens': expected an integer, but got a decimal instead.",
        ),
        ({"input": 3}, "input", "Invalid type for 'input': expected a string or an array, but got an integer instead."),
        ({"input": ["hi"]}, "input[0]", "Invalid type for 'input[0]': expected an object, but got a string instead."),
        (
            {"input": [MESSAGE, {"role": "user", "content": [{"type": "input_text", "text": 5}]}]},
            "input[1].content[0].text",
            "Invalid type for 'input[1].content[0].text': expected a string, but got an integer instead.",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": 7}]}]},
            "input[0].content[0].type",
            "Invalid type for 'input[0].content[0].type': expected a string, but got an integer instead.",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": {"url": 1}}]}]},
            "input[0].content[0].image_url.url",
            "Invalid type for 'input[0].content[0].image_url.url': expected a string, but got an integer instead.",
        ),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": []}]},
            "tools[0].parameters",
            "Invalid type for 'tools[0].parameters': expected an object, but got an array instead.",
        ),
        (
            {"metadata": {"a": "b", "c": 1}},
            "metadata.c",
            "Invalid type for 'metadata.c': expected a string, but got an integer instead.",
        ),
        ({"include": [None]}, "include[0]", "Invalid type for 'include[0]': expected a string, but got null instead."),
        ({"text": "json"}, "text", "Invalid type for 'text': expected an object, but got a string instead."),
        (
            {"reasoning": {"effort": 3}},
            "reasoning.effort",
            "Invalid type for 'reasoning.effort': expected a string, but got an integer instead.",
        ),
        (
            {"stream_options": {"include_obfuscation": "x"}},
            "stream_options.include_obfuscation",
            "Invalid type for 'stream_options.include_obfuscation': expected a boolean, but got a string instead.",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_place(fields: dict[str, Any], param: str, message: str) -> None:
    error = refusal_of(**fields)
    assert (error.reason, error.param, error.message) == (ErrorReason.ERROR_REASON_INVALID_TYPE, param, message)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"content": "hi"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "message", "content": "hi"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"text": "hi"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": None}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tool_choice": {"name": "f"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function"}]}}, "tool_choice.tools[0].name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ],
)
def test_a_missing_field_is_named_with_its_place(fields: dict[str, Any], param: str) -> None:
    error = refusal_of(**fields)
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_MISSING_REQUIRED_PARAMETER, param)
    assert error.message == f"Missing required parameter: '{param}'."


@pytest.mark.parametrize(
    "body",
    [
        b"", b"   ", b"{", b"{'a': 1}", b'{"temperature": NaN}', b'{"temperature": -Infinity}', b"nope", b"\xff\xfe",
        b'{"model": "\xff"}', b'{"model": "\\ud800"}', b'{"model": "\\udc00\\ud800 x"}', b'{"model": "\xed\xa0\x80"}',
        b'{"temperature": 1e999}', b'{"max_output_tokens": ' + b"9" * 10_000 + b"}", b'{"model": "m"} {}',
        b'\xef\xbb\xbf{"model": "m"}', b"[" * 100_000, b'{"input":' * 100_000, b'{"a": 1, "a": 1}',
        b'{"metadata": {"k": "a", "k": "b"}}', b'{"model": "m", "mod\\u0065l": "n"}', '{"é": 1, "\\u00e9": 1}'.encode(),
        '{"model": "m"}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_as_such(body: bytes) -> None:
    error = refusal(body)
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_JSON
    assert error.message.startswith("We could not parse the body of your request: ")


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"model"', b"true"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_INVALID_TYPE, None)


keys = st.text(st.sampled_from('":\\a,{'), max_size=4)
texts_with_quotes = st.recursive(
    keys, lambda values: st.lists(values, max_size=3) | st.lists(st.tuples(keys, values), max_size=4).map(tuple)
)


@given(
    value=st.lists(st.tuples(keys, texts_with_quotes), max_size=4).map(tuple), indent=st.booleans(), raw=st.booleans()
)
@example(value=(('a":', "x"), ("a", '":"')), indent=False, raw=False)
def test_exactly_the_objects_with_a_key_twice_are_refused(value: Any, indent: bool, raw: bool) -> None:
    """Objects are tuples of pairs here, as a dict cannot hold a key twice."""

    def text(node: Any) -> str:
        if isinstance(node, tuple):
            pairs = (f"{text(key)}{' ' * indent}:{text(child)}" for key, child in node)
            return "{" + ",".join(pairs) + "}"
        if isinstance(node, list):
            return "[" + ",".join(map(text, node)) + "]"
        return '"' + "".join(character(c) for c in node) + '"'

    def character(c: str) -> str:
        if c in '":' and not raw:
            return f"\\u{ord(c):04x}"
        return "\\" + c if c in '"\\' else c

    def is_unique(node: Any) -> bool:
        if isinstance(node, tuple):
            return len({key for key, _ in node}) == len(node) and all(is_unique(child) for _, child in node)
        return not isinstance(node, list) or all(map(is_unique, node))

    try:
        parse_json(text(value).encode())
        accepted = True
    except ApiError:
        accepted = False
    assert accepted == is_unique(value)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=x", "application/json5", "", ";"]
)
def test_another_content_type_is_refused(content_type: str) -> None:
    if content_type == "":  # as good as absent
        assert decode(json.dumps(BODY).encode(), content_type).params.model == "m"
    else:
        assert refusal(b"{}", content_type).reason == ErrorReason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE


def test_another_charset_is_refused() -> None:
    error = refusal(b"{}", 'application/json; charset="latin-1"')
    assert error.reason == ErrorReason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE


def test_a_body_without_a_content_type_is_taken_as_json() -> None:
    assert decode(json.dumps(BODY).encode(), None).params.model == "m"
    assert refusal(b"model=m", None).reason == ErrorReason.ERROR_REASON_INVALID_JSON


def test_a_form_gives_numbers_booleans_and_json() -> None:
    body = (
        b"model=m&input=%5Bnot+json&temperature=0.5&max_output_tokens=32&stream=true&store=false&instructions=5"
        b"&metadata=%7B%22a%22%3A%22b%22%7D&tool_choice=none&text=null"
    )
    request = decode(body, FORM)
    assert request.stream
    assert request.params.input[0].message.content[0].input_text.text == "[not json"
    assert (request.params.temperature, request.params.max_output_tokens, request.params.store) == (0.5, 32, False)
    assert request.params.instructions == "5"
    assert request.params.metadata == {"a": "b"}


def test_a_form_can_hold_items() -> None:
    assert decode(b'model=m&input=[{"role":"user","content":"hi"}]', FORM).params.input[0].message.content


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"model=m&input=a&max_output_tokens=many", "max_output_tokens"), (b"model=m&input=a&store=", "store")],
)
def test_a_value_in_a_form_that_is_no_json_is_named(body: bytes, param: str) -> None:
    error = refusal(body, FORM)
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_INVALID_TYPE, param)


@pytest.mark.parametrize("body", [b"model=%FF", b"model=\xff", b"model=a&model=b", b"&".join([b"a=1"] * 1000)])
def test_a_broken_form_is_refused(body: bytes) -> None:
    assert refusal(body, FORM).reason == ErrorReason.ERROR_REASON_INVALID_JSON


def test_json_sent_as_a_form_is_explained() -> None:
    """What `curl -d` does by default."""
    assert "content type" in refusal(json.dumps(BODY).encode(), FORM).message


def test_fields_that_are_not_honoured_are_told() -> None:
    request = decode_body(
        user="u", prompt_cache_retention="24h", service_tier="flex", include=["web_search_call.results"]
    )
    assert request.warnings == ["include.web_search_call.results", "prompt_cache_retention", "user"]
    assert list(request.params.include) == []


def test_warnings_are_few_and_safe_in_a_header() -> None:
    unsafe = {"a\r\nset-cookie: x": 1, "b" * 100: 1, "": 1, "é": 1}
    assert decode_body(**unsafe, ok=1).warnings == ["?", "a??set-cookie??x", "b" * 96, "ok"]
    many = decode_body(**{f"f{number:03}": 1 for number in range(1000)}).warnings
    assert many == [*(f"f{number:03}" for number in range(16)), "984 more"]


def test_unknown_fields_are_told_wherever_they_are() -> None:
    request = decode_body(
        input=[
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "x", "cache_control": {}, "detail": None}],
                "a": 1,
            },
            {"type": "mcp_call", "id": "mcp_1", "server_label": "kept whole"},
        ],
        text={"format": {"type": "json_schema", "name": "n", "schema": {"x-any": 1}, "b": 2}, "c": 3},
        tools=[{"type": "function", "name": "f", "parameters": {"any": 1}, "defer_loading": True}],
        reasoning={"effort": "low", "generate_summary": "auto", "context": None},
    )
    assert request.warnings == [
        "input[0].a",
        "input[0].content[0].cache_control",
        "reasoning.generate_summary",
        "text.c",
        "text.format.b",
        "tools[0].defer_loading",
    ]


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"user": "me"}, "user"),
        ({"input": [{"role": "user", "content": "x", "a": 1}]}, "input[0].a"),
        ({"reasoning": {"generate_summary": "auto"}}, "reasoning.generate_summary"),
        ({"a\nb": 1}, "a?b"),
    ],
)
def test_strictly_an_unknown_field_is_refused(field: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        decode(json.dumps(BODY | field).encode(), JSON, strict=True)
    assert refusal.value.reason == ErrorReason.ERROR_REASON_UNKNOWN_PARAMETER
    assert refusal.value.message == f"Unknown parameter: '{param}'."
    assert refusal.value.param == param
    assert decode(json.dumps(BODY | dict.fromkeys(field)).encode(), JSON, strict=True).warnings == []


def test_stream_options_without_a_stream_are_told() -> None:
    options = {"include_obfuscation": False}
    assert decode_body(stream_options=options).warnings == ["stream_options"]
    request = decode_body(stream_options=options, stream=True)
    assert request.warnings == []
    assert request.params.stream_options == response_pb2.StreamOptions(include_obfuscation=False)


@pytest.mark.parametrize("name", ["conversation", "prompt", "context_management"])
def test_a_field_that_changes_the_question_is_refused(name: str) -> None:
    error = refusal_of(**{name: {"id": "x"}})
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER, name)


@pytest.mark.parametrize("kind", ["input_image", "input_file"])
def test_a_file_id_is_refused(kind: str) -> None:
    error = refusal_of(input=[{"role": "user", "content": [{"type": kind, "file_id": "file_1"}]}])
    assert error.reason == ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER
    assert error.param == "input[0].content[0].file_id"


def test_an_openai_agents_turn_is_accepted() -> None:
    body = {
        "model": "m", "include": [], "instructions": "x", "max_output_tokens": 64, "tool_choice": "auto", "tools": [
            {"type": "function", "name": "f", "description": None, "strict": True, "parameters": {
                "properties": {"a": {"title": "A", "type": "string"}}, "required": ["a"], "title": "f_args",
                "type": "object", "additionalProperties": False,
            }},
        ],
        "input": [
            {"content": "weather?", "role": "user"},
            {"arguments": "{}", "call_id": "c", "name": "f", "type": "function_call", "id": "fc"},
            {"call_id": "c", "output": "sunny", "type": "function_call_output"},
        ],
    }  # fmt: skip
    params = decode(json.dumps(body).encode(), JSON).params
    assert [item.WhichOneof("kind") for item in params.input] == ["message", "function_call", "function_call_output"]
    assert json.loads(params.tools[0].function.parameters) == body["tools"][0]["parameters"]  # type: ignore[index]


# Anything at all: an ApiError or a request, never another exception.

field_names = (
    st.sampled_from([field.name for field in msgspec.structs.fields(schema.CreateResponse)]) | strategies.texts
)
typed_objects = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["message", "function_call", "function_call_output", "reasoning", "item_reference", "compaction",
             "function", "custom", "input_text", "output_text", "input_image", "input_file",
             "json_schema", "allowed_tools", "mcp"]
        ) | strategies.json_values,
        "role": st.sampled_from(["user", "assistant", "bot"]) | strategies.json_values,
        "content": strategies.json_values,
        **dict.fromkeys(
            ["id", "status", "name", "call_id", "arguments", "output", "text", "schema", "parameters", "tools", 
             "summary", "annotations", "logprobs", "image_url", "file_data", "encrypted_content", "phase"],
            strategies.json_values,
        ),
    },
)  # fmt: skip
almost_bodies = st.dictionaries(
    field_names, strategies.json_values | typed_objects | st.lists(typed_objects, max_size=3), max_size=6
)


@settings(max_examples=50)  # building them is slow
@given(body=almost_bodies)
def test_any_json_object_is_decoded_or_refused(body: dict[str, Any]) -> None:
    with suppress(ApiError):
        validate(decode(msgspec.json.encode({**BODY, **body}), JSON).params)


@given(body=st.binary(max_size=64) | strategies.json_values.map(msgspec.json.encode))
@pytest.mark.parametrize("content_type", [JSON, FORM])
def test_any_bytes_are_decoded_or_refused(body: bytes, content_type: str) -> None:
    with suppress(ApiError):
        validate(decode(body, content_type).params)


@given(content_type=st.text(max_size=30))
def test_any_content_type_is_taken_or_refused(content_type: str) -> None:
    with suppress(ApiError):
        decode(b'{"model": "m", "input": "hi"}', content_type)
