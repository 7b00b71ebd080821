"""Data URIs (RFC 2397) and base64 -> bytes, strictly."""

import binascii
import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

_DATA_URI: Final = re.compile(r"data:([^,]{0,256}),", re.IGNORECASE)
_CHARSET: Final = re.compile(r"\s*charset\s*=\s*\"?([^\"]+)\"?\s*", re.IGNORECASE)


class Decoded(NamedTuple):
    """What a data URI, or a string of base64, holds."""

    data: bytes
    media_type: str
    """As declared, in lower case and without parameters; empty if it is not. Not to be trusted."""
    charset: str | None
    """Likewise."""


def is_data_uri(text: str) -> bool:
    """Whether ``text`` is a data URI and no other URL."""
    return _DATA_URI.match(text) is not None


def decode(text: str, max_bytes: int) -> Decoded:
    """The bytes in ``text``, a data URI or base64, not empty.

    Line breaks within base64 are skipped, as encoders put them there; everything else that is no base64 is an error.

    Raises:
        ApiError: INVALID_MEDIA; REQUEST_TOO_LARGE, more than ``max_bytes``.
    """
    media_type, charset, is_base64, start = "", None, True, 0
    if uri := _DATA_URI.match(text):
        declared, *parameters = uri[1].split(";")
        media_type, start = declared.strip().lower(), uri.end()
        is_base64 = bool(parameters) and parameters[-1].strip().lower() == "base64"
        charset = next((match[1] for match in map(_CHARSET.fullmatch, parameters) if match), None)
    try:
        data = _base64(text[start:]) if is_base64 else unquote_to_bytes(text[start:])
    except (binascii.Error, UnicodeEncodeError):
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, "The data is not valid base64.") from None
    if not data:
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, "The data is empty.")
    if len(data) > max_bytes:
        message = f"The data is too large: {len(data)} bytes, where at most {max_bytes} are allowed."
        raise ApiError(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, message)
    return Decoded(data, media_type, charset)


def _base64(text: str) -> bytes:
    encoded = text.encode("ascii").replace(b"\r", b"").replace(b"\n", b"")
    if b"%" in encoded:  # `%3D` for `=`, as URIs may be escaped
        encoded = unquote_to_bytes(encoded)
    return binascii.a2b_base64(encoded, strict_mode=True)
