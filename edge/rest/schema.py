"""The shapes of what clients send as JSON: types only, null meaning unset wherever a field is optional.

Ranges, lengths and rules across fields are `edge.validate`'s, the names of enumerations `edge.codec`'s, so that both
doors share them. Where the shape depends on a discriminator (items, parts, tools), the field is `Any` here and the
codec picks the struct by `type`. Fields that no struct names are allowed, as the Open Responses schema allows them;
whoever decodes a request can ask for their names.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Struct

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.checks import missing


class Text(Struct):
    """`input_text`, `text`, `reasoning_text` and `summary_text` parts."""

    text: str


class ImageUrl(Struct):
    """An `image_url` as Chat Completions has it."""

    url: str
    detail: str | None = None


class InputImage(Struct):
    """An `input_image` part."""

    image_url: str | ImageUrl | None = None
    detail: str | None = None
    file_id: str | None = None


class InputFile(Struct):
    """An `input_file` part."""

    filename: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None


class InputVideo(Struct):
    """An `input_video` part."""

    video_url: str


class TopLogprob(Struct):
    """One candidate in the logprobs of an `output_text` part that is sent back."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class Logprob(Struct):
    """One token in the logprobs of an `output_text` part that is sent back."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] | None = None


class Annotation(Struct):
    """An annotation of any kind; only a `url_citation` has the other fields."""

    type: str
    start_index: int | None = None
    end_index: int | None = None
    url: str | None = None
    title: str | None = None


class OutputText(Struct):
    """An `output_text` part; clients leave out annotations, or send them as null."""

    text: str
    annotations: list[Annotation] | None = None
    logprobs: list[Logprob] | None = None


class Refusal(Struct):
    """A `refusal` part."""

    refusal: str


class Message(Struct):
    """A `message` item, with or without its `type`. Only what the assistant said may be null, if it said nothing."""

    role: str
    content: str | list[Any] | None
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCall(Struct):
    """A `function_call` item."""

    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionCallOutput(Struct):
    """A `function_call_output` item."""

    call_id: str
    output: str | list[Any]
    id: str | None = None
    status: str | None = None


class Reasoning(Struct):
    """A `reasoning` item. The schema knows no `content` in requests, but output items sent back carry it."""

    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: str | None = None


class Compaction(Struct):
    """A `compaction` item (Open Responses 2026-04-24)."""

    encrypted_content: str
    id: str | None = None
    created_by: str | None = None


class ItemReference(Struct):
    """An `item_reference`, whose `type` may be absent or null."""

    id: str


class RawItem(Struct):
    """What the codec reads of an item that has no message of its own yet."""

    id: str | None = None


class FunctionTool(Struct):
    """A `function` tool."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionToolChoice(Struct):
    """`{"type": "function", "name": ...}`."""

    name: str


class AllowedToolsChoice(Struct):
    """`{"type": "allowed_tools", ...}`."""

    tools: list[Any]
    mode: str | None = None


class JsonSchemaFormat(Struct):
    """`{"type": "json_schema", ...}` in `text.format`."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct):
    """`text`."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningConfig(Struct):
    """The `reasoning` parameter."""

    effort: str | None = None
    summary: str | None = None


class StreamOptions(Struct):
    """`stream_options`."""

    include_obfuscation: bool | None = None


class CreateResponse(Struct):
    """CreateResponseBody of Open Responses 2026-04-24."""

    model: str | None = None
    input: str | list[Any] | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    text: TextConfig | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    reasoning: ReasoningConfig | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    truncation: str | None = None
    instructions: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    top_logprobs: int | None = None


class CompactResponse(Struct):
    """CompactResponseMethodPublicBody of Open Responses 2026-04-24."""

    model: str | None = None
    input: str | list[Any] | None = None
    previous_response_id: str | None = None
    instructions: str | None = None
    prompt_cache_key: str | None = None


ShapeT = TypeVar("ShapeT")

_unknown: ContextVar[list[str] | None] = ContextVar("_unknown", default=None)


@contextmanager
def noting_unknown_fields() -> Iterator[list[str]]:
    """Gives the places of fields that no struct names and that are not null, as ``shape`` meets them inside."""
    places: list[str] = []
    token = _unknown.set(places)
    try:
        yield places
    finally:
        _unknown.reset(token)


def shape(value: object, kind: type[ShapeT], place: str = "") -> ShapeT:
    """`value`, as a JSON decoder gives it, as a ``kind``; ``place`` is where the request has it, such as ``input[0]``.

    Raises:
        ApiError: INVALID_TYPE or MISSING_REQUIRED_PARAMETER, whose `param` is the place of the fault.
    """
    try:
        shaped = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _fault(str(error), place) from None
    unknown = _unknown.get()
    if unknown is not None and kind is not RawItem:  # of a raw item everything is kept
        _note_unknown(value, kind, place, unknown)
    return shaped


def _note_unknown(value: object, kind: type, place: str, places: list[str]) -> None:
    if not isinstance(value, dict):
        return
    known = _fields(kind)
    for name, given in value.items():
        at = f"{place}.{name}" if place else name
        if name in known:
            nested = known[name]
            if nested is not None:
                _note_unknown(given, nested, at, places)
        elif given is not None and not (place and name == "type"):
            places.append(at)


@cache
def _fields(kind: type) -> dict[str, type | None]:
    """The fields of a struct, each with the struct that it holds, if it holds one."""
    return {
        name: next((part for part in get_args(hint) if isinstance(part, type) and issubclass(part, Struct)), None)
        for name, hint in get_type_hints(kind).items()
    }


def as_object(value: object, place: str) -> dict[str, Any]:
    """``value``, if it is a JSON object; INVALID_TYPE otherwise."""
    if not isinstance(value, dict):
        raise invalid_type(place, "an object", value)
    return value


def type_of(fields: dict[str, Any], place: str) -> str:
    """The discriminator of ``fields``."""
    kind = fields.get("type")
    if kind is None:
        raise missing(f"{place}.type")
    if not isinstance(kind, str):
        raise invalid_type(f"{place}.type", "a string", kind)
    return kind


def invalid_type(place: str, expected: str, value: object) -> ApiError:
    """The error for a ``value`` that is not ``expected`` ("a string")."""
    return _invalid_type(place, expected, _PHRASES[_JSON_TYPES.get(type(value), "object")])


def _invalid_type(place: str, expected: str, got: str) -> ApiError:
    subject = f"Invalid type for '{place}'" if place else "Invalid type for the request body"
    return ApiError(
        ErrorReason.ERROR_REASON_INVALID_TYPE, f"{subject}: expected {expected}, but got {got} instead.", place or None
    )


_JSON_TYPES: dict[type, str] = {
    type(None): "null", bool: "bool", int: "int", float: "float", str: "str", list: "array", dict: "object",
}  # fmt: skip
_PHRASES = {
    "null": "null",
    "bool": "a boolean",
    "int": "an integer",
    "float": "a decimal",
    "str": "a string",
    "array": "an array",
    "object": "an object",
}
"""How OpenAI's messages call what msgspec calls by the keys."""

# msgspec reports a fault as text only; test_schema.py pins these forms.
_WRONG_TYPE = re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>\w+)`")
_MISSING_FIELD = re.compile(r"Object missing required field `(?P<field>\w+)`")
_AT = re.compile(r" - at `\$(?P<path>[^`]*)`$")


def _fault(message: str, place: str) -> ApiError:
    path = at["path"] if (at := _AT.search(message)) else ""
    place = (place + path).removeprefix(".")
    if absent := _MISSING_FIELD.match(message):
        return missing(f"{place}.{absent['field']}".removeprefix("."))
    if wrong := _WRONG_TYPE.match(message):
        expected = [kind for kind in wrong["expected"].split(" | ") if kind != "null"]
        if wrong["got"] == "null" and place and not place.endswith("]"):
            return missing(place)
        return _invalid_type(place, " or ".join(_PHRASES[kind] for kind in expected), _PHRASES[wrong["got"]])
    reason = message[: at.start()] if at else message  # such as "Number out of range"
    return ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, f"Invalid value for '{place}': {reason}.", place or None)
