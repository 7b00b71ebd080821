"""The rules that both doors share, on messages as a gRPC caller would send them."""

import math
from typing import Any

import pytest
from hypothesis import given

from antiphon.errors import ApiError
from antiphon.responses.v1 import response_pb2 as pb
from antiphon.responses.v1.content_pb2 import (
    ContentPart,
    InputFile,
    InputImage,
    InputText,
    RawPart,
)
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import (
    ROLE_USER,
    Compaction,
    ContentParts,
    FunctionCall,
    FunctionCallOutput,
    Item,
    ItemReference,
    Message,
    RawItem,
    Reasoning,
)
from antiphon.responses.v1.tool_pb2 import (
    TOOL_CHOICE_MODE_NONE,
    TOOL_CHOICE_MODE_REQUIRED,
    AllowedToolsChoice,
    FunctionTool,
    FunctionToolChoice,
    Tool,
    ToolChoice,
)
from edge import codec
from edge.checks import MAX_TEXT
from edge.unsupported import unsupported
from edge.validate import check_rules, check_tool_outputs, validate
from tests.support import strategies


def user(*parts: ContentPart) -> Item:
    return Item(message=Message(role=ROLE_USER, content=parts))


TEXT = ContentPart(input_text=InputText(text="hi"))
HELLO = user(TEXT)
TOOL = Tool(function=FunctionTool(name="f"))


def params(**fields: Any) -> pb.ResponseParams:
    return pb.ResponseParams(**{"model": "m", "input": [HELLO], **fields})


def image(url: str | None) -> dict[str, Any]:
    return {"input": [user(TEXT, ContentPart(input_image=InputImage(image_url=url)))]}


def file(**fields: Any) -> dict[str, Any]:
    return {"input": [user(ContentPart(input_file=InputFile(**fields)))]}


def choice(**fields: Any) -> dict[str, Any]:
    return {"tools": [TOOL], "tool_choice": ToolChoice(**fields)}


def schema_format(**fields: Any) -> dict[str, Any]:
    format_ = pb.TextFormat(json_schema=pb.TextFormatJsonSchema(**{"name": "a", "schema": "{}", **fields}))
    return {"text": pb.TextConfig(format=format_)}


@given(params=strategies.response_params())
def test_every_valid_request_passes_with_and_without_defaults(params: pb.ResponseParams) -> None:
    for given_or_filled in (params, codec.with_defaults(params)):
        check_rules(pb.ResponseParams(**{**_fields(given_or_filled), "input": [HELLO]}))


def _fields(message: pb.ResponseParams) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


@pytest.mark.parametrize(
    ("fields", "reason", "param"),
    [
        ({"model": ""}, "MISSING_REQUIRED_PARAMETER", "model"),
        ({"input": []}, "MISSING_REQUIRED_PARAMETER", "input"),
        ({"temperature": -0.1}, "DECIMAL_BELOW_MIN_VALUE", "temperature"),
        ({"temperature": 2.1}, "DECIMAL_ABOVE_MAX_VALUE", "temperature"),
        ({"temperature": math.nan}, "DECIMAL_BELOW_MIN_VALUE", "temperature"),
        ({"top_p": math.inf}, "DECIMAL_ABOVE_MAX_VALUE", "top_p"),
        ({"presence_penalty": -2.5}, "DECIMAL_BELOW_MIN_VALUE", "presence_penalty"),
        ({"frequency_penalty": 2.5}, "DECIMAL_ABOVE_MAX_VALUE", "frequency_penalty"),
        ({"max_output_tokens": 15}, "INTEGER_BELOW_MIN_VALUE", "max_output_tokens"),
        ({"max_tool_calls": 0}, "INTEGER_BELOW_MIN_VALUE", "max_tool_calls"),
        ({"top_logprobs": 21}, "INTEGER_ABOVE_MAX_VALUE", "top_logprobs"),
        ({"safety_identifier": "a" * 65}, "STRING_ABOVE_MAX_LENGTH", "safety_identifier"),
        ({"prompt_cache_key": "a" * 65}, "STRING_ABOVE_MAX_LENGTH", "prompt_cache_key"),
        ({"metadata": {str(n): "" for n in range(17)}}, "OBJECT_ABOVE_MAX_PROPERTIES", "metadata"),
        ({"metadata": {"a" * 65: ""}}, "STRING_ABOVE_MAX_LENGTH", "metadata"),
        ({"metadata": {"a": "b" * 513}}, "STRING_ABOVE_MAX_LENGTH", "metadata.a"),
        ({"background": True, "store": False}, "INVALID_VALUE", "background"),
        ({"truncation": 9}, "INVALID_VALUE", "truncation"),
        ({"service_tier": 9}, "INVALID_VALUE", "service_tier"),
        ({"include": [2, 0]}, "MISSING_REQUIRED_PARAMETER", "include[1]"),
        ({"include": [9]}, "INVALID_VALUE", "include[0]"),
        ({"reasoning": pb.ReasoningConfig(effort=9)}, "INVALID_VALUE", "reasoning.effort"),  # type: ignore[arg-type]
        # items
        ({"input": [HELLO, Item()]}, "MISSING_REQUIRED_PARAMETER", "input[1].type"),
        ({"input": [Item(message=Message(content=[TEXT]))]}, "MISSING_REQUIRED_PARAMETER", "input[0].role"),
        ({"input": [user(TEXT, ContentPart())]}, "MISSING_REQUIRED_PARAMETER", "input[0].content[1].type"),
        (
            {"input": [user(ContentPart(input_text=InputText(text="a" * (MAX_TEXT + 1))))]},
            "STRING_ABOVE_MAX_LENGTH",
            "input[0].content[0].text",
        ),
        ({"input": [Item(function_call=FunctionCall(name="f"))]}, "STRING_BELOW_MIN_LENGTH", "input[0].call_id"),
        ({"input": [Item(function_call=FunctionCall(call_id="c", name="a b"))]}, "INVALID_VALUE", "input[0].name"),
        (
            {"input": [Item(function_call=FunctionCall(call_id="c" * 65, name="f"))]},
            "STRING_ABOVE_MAX_LENGTH",
            "input[0].call_id",
        ),
        (
            {"input": [Item(function_call_output=FunctionCallOutput(call_id="c"))]},
            "MISSING_REQUIRED_PARAMETER",
            "input[0].output",
        ),
        (
            {
                "input": [
                    Item(
                        function_call_output=FunctionCallOutput(
                            call_id="c", parts=ContentParts(parts=[ContentPart(input_image=InputImage())])
                        )
                    )
                ]
            },
            "MISSING_REQUIRED_PARAMETER",
            "input[0].output[0].image_url",
        ),
        (
            {"input": [Item(reasoning=Reasoning(summary=[ContentPart()]))]},
            "MISSING_REQUIRED_PARAMETER",
            "input[0].summary[0].type",
        ),
        ({"input": [Item(item_reference=ItemReference())]}, "MISSING_REQUIRED_PARAMETER", "input[0].id"),
        ({"input": [Item(compaction=Compaction())]}, "STRING_BELOW_MIN_LENGTH", "input[0].encrypted_content"),
        ({"input": [Item(raw=RawItem(type="mcp_call", json=b"[]"))]}, "INVALID_VALUE", "input[0]"),
        ({"input": [Item(raw=RawItem(json=b"{}"))]}, "MISSING_REQUIRED_PARAMETER", "input[0].type"),
        # media
        (image(None), "MISSING_REQUIRED_PARAMETER", "input[0].content[1].image_url"),
        (image("ftp://a/b.png"), "INVALID_VALUE", "input[0].content[1].image_url"),
        (image("https://"), "INVALID_VALUE", "input[0].content[1].image_url"),
        (image("iVBORw0KGgo="), "INVALID_VALUE", "input[0].content[1].image_url"),
        (file(filename="a.pdf"), "INVALID_VALUE", "input[0].content[0]"),
        (file(file_data="data:,a", file_url="https://a"), "INVALID_VALUE", "input[0].content[0]"),
        (file(file_data=""), "STRING_BELOW_MIN_LENGTH", "input[0].content[0].file_data"),
        (file(file_url="file:///etc/passwd"), "INVALID_VALUE", "input[0].content[0].file_url"),
        # tools
        ({"tools": [Tool()]}, "MISSING_REQUIRED_PARAMETER", "tools[0].type"),
        ({"tools": [TOOL, Tool(function=FunctionTool(name=""))]}, "STRING_BELOW_MIN_LENGTH", "tools[1].name"),
        ({"tools": [Tool(function=FunctionTool(name="a.b"))]}, "INVALID_VALUE", "tools[0].name"),
        ({"tools": [Tool(function=FunctionTool(name="a\n"))]}, "INVALID_VALUE", "tools[0].name"),
        ({"tools": [Tool(function=FunctionTool(name="a" * 65))]}, "STRING_ABOVE_MAX_LENGTH", "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "INVALID_VALUE", "tools[1].name"),
        (
            {"tools": [Tool(function=FunctionTool(name=f"f{n}")) for n in range(129)]},
            "ARRAY_ABOVE_MAX_LENGTH",
            "tools",
        ),
        (
            {"tools": [Tool(function=FunctionTool(name="f", parameters="{]"))]},
            "INVALID_JSON_SCHEMA",
            "tools[0].parameters",
        ),
        (
            {"tools": [Tool(function=FunctionTool(name="f", parameters="[" * 100_000))]},
            "INVALID_JSON_SCHEMA",
            "tools[0].parameters",
        ),
        ({"tool_choice": ToolChoice(mode=TOOL_CHOICE_MODE_REQUIRED)}, "INVALID_VALUE", "tool_choice"),
        (choice(function=FunctionToolChoice(name="g")), "INVALID_VALUE", "tool_choice"),
        (choice(allowed_tools=AllowedToolsChoice()), "ARRAY_BELOW_MIN_LENGTH", "tool_choice.tools"),
        (
            choice(allowed_tools=AllowedToolsChoice(tools=[FunctionToolChoice(name="f")] * 129)),
            "ARRAY_ABOVE_MAX_LENGTH",
            "tool_choice.tools",
        ),
        (
            choice(allowed_tools=AllowedToolsChoice(tools=[FunctionToolChoice(name=n) for n in "fg"])),
            "INVALID_VALUE",
            "tool_choice.tools[1].name",
        ),
        (choice(mode=9), "INVALID_VALUE", "tool_choice"),
        # text
        (schema_format(name="a b"), "INVALID_VALUE", "text.format.name"),
        (schema_format(name=""), "STRING_BELOW_MIN_LENGTH", "text.format.name"),
        (schema_format(schema="true"), "INVALID_JSON_SCHEMA", "text.format.schema"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(fields: dict[str, Any], reason: str, param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        validate(params(**fields))
    assert (refusal.value.reason, refusal.value.param) == (ErrorReason.Value(f"ERROR_REASON_{reason}"), param)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0, "top_p": 1.0, "presence_penalty": -2.0, "frequency_penalty": 2.0},
        {"max_output_tokens": 16, "top_logprobs": 20, "max_tool_calls": 1},
        {"input": [], "previous_response_id": "resp_1"},
        {"metadata": {f"{n:064}": "a" * 512 for n in range(16)}},
        {"safety_identifier": "é" * 64},
        {"input": [Item(message=Message(role=ROLE_USER))]},
        {"tool_choice": ToolChoice(mode=TOOL_CHOICE_MODE_NONE)},
        {"tool_choice": ToolChoice()},
        choice(mode=TOOL_CHOICE_MODE_REQUIRED),
        choice(function=FunctionToolChoice(name="f")),
        image("HTTPS://example.org/a.png"),
        image("data:image/png;base64,AAAA"),
        file(file_data="AAAA", filename="a.pdf"),
        file(file_url="https://example.org/a.pdf"),
        schema_format(schema='{"type": "object"}'),
        {"background": True},
        {"background": True, "store": True},
    ],
)
def test_what_is_just_within_the_rules_passes(fields: dict[str, Any]) -> None:
    check_rules(params(**fields))


def test_messages_are_openais() -> None:
    def message(**fields: Any) -> str:
        with pytest.raises(ApiError) as refusal:
            check_rules(params(**fields))
        return refusal.value.message

    assert message(model="") == "Missing required parameter: 'model'."
    assert message(max_output_tokens=1) == (
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead."
    )
    assert message(temperature=3) == (
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3.0 instead."
    )
    assert message(prompt_cache_key="a" * 65) == (
        "Invalid 'prompt_cache_key': string too long. Expected a string with maximum length 64, "
        "but got a string with length 65 instead."
    )


def test_an_output_must_answer_a_call_before_it() -> None:
    call = Item(function_call=FunctionCall(call_id="call_1", name="f"))
    output = Item(function_call_output=FunctionCallOutput(call_id="call_1", text="5"))
    check_tool_outputs([HELLO, call, HELLO, output, output])
    check_tool_outputs([call])
    for orphaned in ([output], [output, call]):
        with pytest.raises(ApiError) as refusal:
            check_tool_outputs(orphaned)
        assert (refusal.value.reason, refusal.value.param) == (ErrorReason.ERROR_REASON_INVALID_VALUE, "input")
        assert refusal.value.message == "No tool call found for function call output with call_id call_1."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [user(ContentPart(raw=RawPart(type="input_audio", json=b"{}")))]}, "input[0].content[0]"),
        ({"input": [Item(raw=RawItem(type="mcp_call", json=b"{}"))]}, "input[0]"),
    ],
)
def test_what_is_still_to_come_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        validate(params(**fields))
    assert refusal.value.param == param
    assert refusal.value.reason in (
        ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER,
        ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE,
    )
    assert refusal.value.message.endswith(" yet.")


def test_plain_text_with_every_sampling_field_is_supported() -> None:
    plain = params(
        instructions="be brief",
        temperature=0.5,
        top_p=0.5,
        presence_penalty=1.0,
        frequency_penalty=1.0,
        max_output_tokens=100,
        truncation=pb.TRUNCATION_AUTO,
        service_tier=pb.SERVICE_TIER_FLEX,
        reasoning=pb.ReasoningConfig(effort=pb.REASONING_EFFORT_NONE),
        text=pb.TextConfig(verbosity=pb.VERBOSITY_MEDIUM, format=pb.TextFormat(text=pb.TextFormatText())),
        tool_choice=ToolChoice(mode=TOOL_CHOICE_MODE_NONE),
        metadata={"a": "b"},
        safety_identifier="s",
        prompt_cache_key="p",
        stream_options=pb.StreamOptions(include_obfuscation=False),
    )
    validate(plain)
    unsupported(codec.with_defaults(plain))
