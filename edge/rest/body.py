"""A request's bytes and content type -> what it asks for.

Pure and synchronous: a caller runs it in a thread for bodies over 64 KB, which take milliseconds.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ResponseParams
from edge.codec.params import FRUITLESS_INCLUDES, decode_params
from edge.rest import schema
from edge.rest.schema import noting_unknown_fields

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"

REFUSED_FIELDS = frozenset({"context_management", "conversation", "prompt"})
"""Fields of OpenAI's API that change what an answer is about: to drop them would be to answer another question."""

_ENCODINGS: Final = frozenset({"identity", "gzip", "deflate", "br", "zstd"})
"""What aiohttp undoes, or refuses itself where it lacks a library for it."""
_MAX_WARNINGS: Final = 16
_MAX_FORM_FIELDS: Final = 256

_FIELDS = {field.name: field for field in msgspec.structs.fields(schema.CreateResponse)}
_TEXT_FIELDS = frozenset(name for name, field in _FIELDS.items() if field.type == str | None)
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
_MAX_PLACE: Final = 96
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")


class CreateRequest(NamedTuple):
    """A decoded body of POST /v1/responses; `edge.validate` has not seen it yet."""

    params: ResponseParams
    stream: bool
    warnings: list[str]
    """Places of fields that were given and not honoured, such as `user`: safe in a header, sorted, at most 17."""

    @property
    def is_obfuscated(self) -> bool:
        """Deltas are padded."""
        options = self.params.stream_options
        return options.include_obfuscation if options.HasField("include_obfuscation") else True


def decode(body: bytes, content_type: str | None, *, strict: bool = False) -> CreateRequest:
    """The body of POST /v1/responses.

    Args:
        strict: Refuse fields that the API does not have, instead of naming them in the warnings.

    Raises:
        ApiError: UNSUPPORTED_MEDIA_TYPE, INVALID_JSON, or what is wrong with which field.
    """
    return decode_fields(parse_object(body, content_type), strict=strict)


def decode_fields(fields: dict[str, Any], *, strict: bool = False) -> CreateRequest:
    """The fields of a request for a response, whatever brought them. Arguments and errors as ``decode``'s."""
    with noting_unknown_fields() as unknown:
        for name in sorted(REFUSED_FIELDS & fields.keys()):
            if fields[name] is not None:
                raise ApiError(
                    ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER,
                    f"Unsupported parameter: '{name}' is not supported by this server.",
                    name,
                )
        request = schema.shape(fields, schema.CreateResponse)
        params = decode_params(request)
    places = {_shown(place) for place in unknown}
    refuse_unknown(places, strict=strict)
    places.update(f"include.{value}" for value in FRUITLESS_INCLUDES.intersection(request.include or ()))
    if request.stream_options is not None and not request.stream:
        places.add("stream_options")
    return CreateRequest(params, bool(request.stream), warnings_of(places))


def decode_compact(body: bytes, content_type: str | None, *, strict: bool = False) -> tuple[ResponseParams, list[str]]:
    """The body of POST /v1/responses/compact, and warnings. Arguments and errors as ``decode``'s."""
    fields = parse_object(body, content_type)
    with noting_unknown_fields() as unknown:
        request = schema.shape(fields, schema.CompactResponse)
        params = decode_params(schema.CreateResponse(**msgspec.structs.asdict(request)))
    places = {_shown(place) for place in unknown}
    refuse_unknown(places, strict=strict)
    return params, warnings_of(places)


def check_encoding(headers: Mapping[str, str]) -> None:
    """Refuse a body in a `Content-Encoding` that the server has not undone, as it would pass for bad JSON.

    Raises:
        ApiError: UNSUPPORTED_MEDIA_TYPE.
    """
    if headers.get("Content-Encoding", "identity").strip().lower() not in _ENCODINGS:
        raise unsupported_encoding()


def unsupported_encoding() -> ApiError:
    """A compression that this server does not know."""
    message = "Unsupported content encoding. This API takes 'gzip', 'deflate' and 'identity'."
    return ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE, message)


def is_strict(headers: Mapping[str, str], *, default: bool) -> bool:
    """What a request's header `x-antiphon-strict` says.

    Raises:
        ApiError: INVALID_VALUE: it says neither true nor false.
    """
    value = headers.get("x-antiphon-strict")
    if value is None:
        return default
    if value.lower() not in ("true", "false"):
        message = "Invalid header 'x-antiphon-strict'. Supported values are: 'true' and 'false'."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message)
    return value.lower() == "true"


def refuse_unknown(places: Collection[str], *, strict: bool) -> None:
    """Refuse fields that the API does not have, if ``strict``.

    Raises:
        ApiError: UNKNOWN_PARAMETER at the first of ``places``.
    """
    if places and strict:
        first = min(places)
        raise ApiError(ErrorReason.ERROR_REASON_UNKNOWN_PARAMETER, f"Unknown parameter: '{first}'.", first)


def warnings_of(places: Collection[str]) -> list[str]:
    """``places`` in order; of more than 16 the first 16 and how many there are besides."""
    warnings = sorted(places)
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS:] = [f"{len(warnings) - _MAX_WARNINGS} more"]
    return warnings


def _shown(place: str) -> str:
    """``place``, which holds a name that the client made up, as it may stand in a header."""
    return _UNSAFE.sub("?", place[:_MAX_PLACE]) or "?"


def parse_object(body: bytes, content_type: str | None) -> dict[str, Any]:
    """The JSON object, or the form, in ``body``. A body without a content type is taken as JSON.

    Raises:
        ApiError: UNSUPPORTED_MEDIA_TYPE, INVALID_JSON, or INVALID_TYPE if it is JSON, but no object.
    """
    media_type, _, parameters = (content_type or JSON).partition(";")
    charset = _CHARSET.search(parameters)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ApiError(
            ErrorReason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE, "Unsupported charset: send the request body as UTF-8."
        )
    match media_type.strip().lower():
        case "application/json":
            value = parse_json(body)
        case "application/x-www-form-urlencoded":
            value = _parse_form(body)
        case _:
            raise ApiError(
                ErrorReason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE,
                f"Unsupported content type. This API takes '{JSON}' and '{FORM}'.",
            )
    return schema.as_object(value, "")


def parse_json(body: bytes) -> Any:
    """The value of the JSON text ``body``, strictly RFC 8259: no NaN, no lone surrogates, no key twice in an object.

    Raises:
        ApiError: INVALID_JSON.
    """
    try:
        value = msgspec.json.decode(body)
        _refuse_repeated_keys(body, value)
    except RecursionError:
        raise _invalid_json("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise _invalid_json("it is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise _invalid_json("it is empty" if not body.strip() else str(error)) from None
    return value


def _refuse_repeated_keys(body: bytes, value: object) -> None:
    """Refuse an object that has a key twice: parsers disagree on which one counts, so a filter in front of this server
    may have read another value.

    msgspec keeps the last one. Re-encoded, the decoded value then lacks a quote followed by a colon that ``body`` has:
    within strings JSON text can hold that pair only in the same, escaped form, but for the escapes that are looked for.
    So the slow parser, which sees each pair, runs on suspicion alone.
    """
    quote_colons = msgspec.json.format(body, indent=-1).count(b'":')
    if quote_colons == msgspec.json.encode(value).count(b'":') and not _ESCAPED_QUOTE_OR_COLON.search(body):
        return
    json.loads(body, object_pairs_hook=_unique)


_ESCAPED_QUOTE_OR_COLON = re.compile(rb"\\u00(?:22|3[aA])")


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _invalid_json(f"an object has the key {json.dumps(key[:64])} twice")
        seen.add(key)


def _parse_form(body: bytes) -> dict[str, Any]:
    """The flat fields of a form. Those that are no strings hold JSON text; `input` and `tool_choice` may be either.

    A value that is no JSON stays a string, so that its field's own error names it.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FORM_FIELDS
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise _invalid_json("it is not a valid form") from error
    fields: dict[str, Any] = {}
    for name, text in pairs:
        if name.lstrip().startswith("{"):
            raise _invalid_json(f"it looks like JSON, but its content type is '{FORM}'; send '{JSON}'")
        if name in fields:
            raise _invalid_json(f"the form has the field {json.dumps(name[:64])} twice")
        fields[name] = _form_value(name, text)
    return fields


def _form_value(name: str, text: str) -> Any:
    if name in _TEXT_FIELDS or name not in _FIELDS:
        return text
    if name in ("input", "tool_choice") and not text.startswith(("[", "{")):
        return text
    try:
        return parse_json(text.encode())
    except ApiError:
        return text


def _invalid_json(problem: str) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INVALID_JSON, f"We could not parse the body of your request: {problem}.")
