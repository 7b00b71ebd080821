"""Every rule on a request beyond the shapes of its JSON: both doors pass their `ResponseParams` through here.

So a gRPC caller's message is held to the API's ranges, lengths, patterns and counts too. Messages and `param` paths are
OpenAI's. The limits come from openapi.json; where it has none, from OpenAI's documentation.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, assert_never

import msgspec

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2, tool_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.checks import (
    INTEGER_RANGES,
    MAX_TEXT,
    check_decimal,
    check_enum,
    check_integer,
    check_length,
    check_name,
    invalid,
    missing,
)
from edge.unsupported import unsupported

MAX_IMAGE_URL: Final = 20_971_520
MAX_FILE_DATA: Final = 33_554_432
MAX_CALL_ID: Final = 64
MAX_TOOLS: Final = 128
MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 512

_DECIMAL_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_STRING_LENGTHS: Mapping[str, int] = {"safety_identifier": 64, "prompt_cache_key": 64, "instructions": MAX_TEXT}

_WEB_URL = re.compile(r"https?://[^\s/]", re.IGNORECASE)
_DATA_URI = re.compile(r"data:[^,]{0,256},", re.IGNORECASE)


def validate(params: response_pb2.ResponseParams) -> None:
    """Check ``params``, with or without their defaults, and that this server can do what they ask for.

    Raises:
        ApiError: the first fault; `param` names its place.
    """
    check_rules(params)
    unsupported(params)


def check_rules(params: response_pb2.ResponseParams) -> None:
    """Check ``params`` against the API alone, whatever this server can do."""
    if not params.model:
        raise missing("model")
    if not params.input and not params.previous_response_id:
        raise missing("input")
    for index, item in enumerate(params.input):
        _check_item(item, f"input[{index}]")
    for index, include in enumerate(params.include):
        check_enum(response_pb2.Include, include, f"include[{index}]", required=True)
    _check_tools(params.tools)
    _check_tool_choice(params.tool_choice, {tool.function.name for tool in params.tools if tool.HasField("function")})
    if params.tool_choice.mode == tool_pb2.TOOL_CHOICE_MODE_REQUIRED and not params.tools:
        raise invalid("Tool choice 'required' is only allowed when 'tools' are given.", "tool_choice")
    _check_metadata(params.metadata)
    _check_text_config(params.text)
    for name, (low, high) in _DECIMAL_RANGES.items():
        if params.HasField(name):  # type: ignore[arg-type]
            check_decimal(getattr(params, name), name, low, high)
    for name, bounds in INTEGER_RANGES.items():
        if params.HasField(name):  # type: ignore[arg-type]
            check_integer(getattr(params, name), name, *bounds)
    for name, length in _STRING_LENGTHS.items():
        check_length(getattr(params, name), name, length)
    if params.background and params.HasField("store") and not params.store:
        raise invalid("A background response must be stored: 'background' requires 'store' to be true.", "background")
    check_enum(response_pb2.ReasoningEffort, params.reasoning.effort, "reasoning.effort")
    check_enum(response_pb2.ReasoningSummary, params.reasoning.summary, "reasoning.summary")
    check_enum(response_pb2.Truncation, params.truncation, "truncation")
    check_enum(response_pb2.ServiceTier, params.service_tier, "service_tier")


def check_tool_outputs(items: Iterable[item_pb2.Item]) -> None:
    """Check that each output among ``items``, a whole context in order, answers a call before it.

    A call without an output is allowed: its output may have been lost, and the model can say so.

    Raises:
        ApiError: INVALID_VALUE at `input`, as an orphan is always the client's: what is stored was checked.
    """
    called = set()
    for item in items:
        if item.HasField("function_call"):
            called.add(item.function_call.call_id)
        elif item.HasField("function_call_output") and item.function_call_output.call_id not in called:
            call_id = item.function_call_output.call_id
            raise invalid(f"No tool call found for function call output with call_id {call_id}.", "input")


def _check_item(item: item_pb2.Item, place: str) -> None:
    check_enum(item_pb2.ItemStatus, item.status, f"{place}.status")
    match item.WhichOneof("kind"):
        case "message":
            check_enum(item_pb2.Role, item.message.role, f"{place}.role", required=True)
            check_enum(item_pb2.MessagePhase, item.message.phase, f"{place}.phase")
            _check_parts(item.message.content, f"{place}.content")
        case "function_call":
            check_length(item.function_call.call_id, f"{place}.call_id", MAX_CALL_ID, low=1)
            check_name(item.function_call.name, f"{place}.name")
            check_length(item.function_call.arguments, f"{place}.arguments", MAX_TEXT)
        case "function_call_output":
            output = item.function_call_output
            check_length(output.call_id, f"{place}.call_id", MAX_CALL_ID, low=1)
            match output.WhichOneof("output"):
                case "text":
                    check_length(output.text, f"{place}.output", MAX_TEXT)
                case "parts":
                    _check_parts(output.parts.parts, f"{place}.output")
                case None:
                    raise missing(f"{place}.output")
                case unreachable_output:
                    assert_never(unreachable_output)
        case "reasoning":
            _check_parts(item.reasoning.summary, f"{place}.summary")
            _check_parts(item.reasoning.content, f"{place}.content")
            check_length(item.reasoning.encrypted_content, f"{place}.encrypted_content", MAX_TEXT)
        case "item_reference":
            if not item.id:
                raise missing(f"{place}.id")
        case "compaction":
            check_length(item.compaction.encrypted_content, f"{place}.encrypted_content", MAX_TEXT, low=1)
        case "raw":
            _check_raw(item.raw, place)
        case None:
            raise missing(f"{place}.type")
        case unreachable:
            assert_never(unreachable)


def _check_parts(parts: Iterable[content_pb2.ContentPart], place: str) -> None:
    for index, part in enumerate(parts):
        _check_part(part, f"{place}[{index}]")


def _check_part(part: content_pb2.ContentPart, place: str) -> None:
    match part.WhichOneof("part"):
        case "input_text":
            check_length(part.input_text.text, f"{place}.text", MAX_TEXT)
        case "output_text":
            check_length(part.output_text.text, f"{place}.text", MAX_TEXT)
        case "reasoning_text":
            check_length(part.reasoning_text.text, f"{place}.text", MAX_TEXT)
        case "summary_text":
            check_length(part.summary_text.text, f"{place}.text", MAX_TEXT)
        case "text":
            check_length(part.text.text, f"{place}.text", MAX_TEXT)
        case "refusal":
            check_length(part.refusal.refusal, f"{place}.refusal", MAX_TEXT)
        case "input_image":
            check_enum(content_pb2.ImageDetail, part.input_image.detail, f"{place}.detail")
            _check_url(part.input_image.image_url, f"{place}.image_url", MAX_IMAGE_URL)
        case "input_video":
            _check_url(part.input_video.video_url, f"{place}.video_url", MAX_FILE_DATA)
        case "input_file":
            _check_file(part.input_file, place)
        case "raw":
            _check_raw(part.raw, place)
        case None:
            raise missing(f"{place}.type")
        case unreachable:
            assert_never(unreachable)


def _check_file(file: content_pb2.InputFile, place: str) -> None:
    match file.HasField("file_data"), file.HasField("file_url"):
        case True, False:
            check_length(file.file_data, f"{place}.file_data", MAX_FILE_DATA, low=1)
        case False, True:
            check_length(file.file_url, f"{place}.file_url", MAX_IMAGE_URL)
            if not _WEB_URL.match(file.file_url):
                raise _invalid_url(f"{place}.file_url")
        case _:
            raise invalid(f"Invalid '{place}': exactly one of 'file_data' and 'file_url' must be given.", place)


def _check_url(url: str, place: str, max_length: int) -> None:
    if not url:
        raise missing(place)
    check_length(url, place, max_length)
    if not _WEB_URL.match(url) and not _DATA_URI.match(url):
        raise _invalid_url(place)


def _check_raw(
    raw: item_pb2.RawItem | content_pb2.RawPart | tool_pb2.RawTool | tool_pb2.RawToolChoice, place: str
) -> None:
    if not raw.type:
        raise missing(f"{place}.type")
    if not _is_json_object(raw.json):
        raise invalid(f"Invalid '{place}': 'json' must hold a JSON object.", place)


def _check_tools(tools: Iterable[tool_pb2.Tool]) -> None:
    names = set()
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if index == MAX_TOOLS:
            raise _too_many("tools", MAX_TOOLS)
        match tool.WhichOneof("kind"):
            case "function":
                check_name(tool.function.name, f"{place}.name")
                if tool.function.name in names:
                    raise invalid(f"Duplicate function name: '{tool.function.name}'.", f"{place}.name")
                names.add(tool.function.name)
                if tool.function.HasField("parameters"):
                    _check_json_schema(tool.function.parameters, f"{place}.parameters")
            case "raw":
                _check_raw(tool.raw, place)
            case None:
                raise missing(f"{place}.type")
            case unreachable:
                assert_never(unreachable)


def _check_tool_choice(choice: tool_pb2.ToolChoice, names: set[str]) -> None:
    match choice.WhichOneof("choice"):
        case "mode":
            check_enum(tool_pb2.ToolChoiceMode, choice.mode, "tool_choice")
        case "function":
            if choice.function.name not in names:
                raise _unknown_tool(choice.function.name, "tool_choice")
        case "allowed_tools":
            allowed = choice.allowed_tools
            check_enum(tool_pb2.ToolChoiceMode, allowed.mode, "tool_choice.mode")
            if not allowed.tools:
                raise ApiError(
                    ErrorReason.ERROR_REASON_ARRAY_BELOW_MIN_LENGTH,
                    "Invalid 'tool_choice.tools': empty array. Expected an array with minimum length 1, but got an "
                    "empty array instead.",
                    "tool_choice.tools",
                )
            if len(allowed.tools) > MAX_TOOLS:
                raise _too_many("tool_choice.tools", MAX_TOOLS)
            for index, tool in enumerate(allowed.tools):
                if tool.name not in names:
                    raise _unknown_tool(tool.name, f"tool_choice.tools[{index}].name")
        case "raw":
            _check_raw(choice.raw, "tool_choice")
        case None:
            pass
        case unreachable:
            assert_never(unreachable)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA_PAIRS:
        raise ApiError(
            ErrorReason.ERROR_REASON_OBJECT_ABOVE_MAX_PROPERTIES,
            f"Invalid 'metadata': too many properties. Expected an object with at most {MAX_METADATA_PAIRS} "
            f"properties, but got an object with {len(metadata)} properties instead.",
            "metadata",
        )
    for key, value in metadata.items():
        check_length(key, "metadata", MAX_METADATA_KEY)
        check_length(value, f"metadata.{key}", MAX_METADATA_VALUE)


def _check_text_config(config: response_pb2.TextConfig) -> None:
    check_enum(response_pb2.Verbosity, config.verbosity, "text.verbosity")
    if config.format.HasField("json_schema"):
        check_name(config.format.json_schema.name, "text.format.name")
        _check_json_schema(config.format.json_schema.schema, "text.format.schema")


def _check_json_schema(text: str, place: str) -> None:
    if not _is_json_object(text):
        raise ApiError(
            ErrorReason.ERROR_REASON_INVALID_JSON_SCHEMA,
            f"Invalid schema for '{place}': it must be a JSON object.",
            place,
        )


def _is_json_object(text: str | bytes) -> bool:
    try:
        return isinstance(_decode(text), dict)
    except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
        return False


def _decode(text: str | bytes) -> Any:
    return msgspec.json.decode(text)


def _invalid_url(place: str) -> ApiError:
    return invalid(f"Invalid '{place}'. Expected a valid URL, but got a value with an invalid format.", place)


def _unknown_tool(name: str, place: str) -> ApiError:
    return invalid(f"Tool choice '{name}' not found in 'tools' parameter.", place)


def _too_many(place: str, high: int) -> ApiError:
    return ApiError(
        ErrorReason.ERROR_REASON_ARRAY_ABOVE_MAX_LENGTH,
        f"Invalid '{place}': array too long. Expected an array with maximum length {high}.",
        place,
    )
