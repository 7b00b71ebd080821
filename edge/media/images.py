"""What an image's first bytes say of it. Nothing is decoded: pixels are the model's business."""

import struct
from typing import Final, NamedTuple

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

MAX_SIDE: Final = 16_384
MAX_PIXELS: Final = 100_000_000
"""So that an image of a few bytes cannot fill the memory of whoever decodes it."""

_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers of a segment that holds the size (ITU-T T.81, table B.1)."""
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
"""JPEG's markers without a segment."""


class ImageInfo(NamedTuple):
    """An image's format and size."""

    media_type: str
    width: int
    height: int


def inspect_image(data: bytes) -> ImageInfo:
    """The format and size of ``data``, an image of a kind that models take and a sane size.

    Raises:
        ApiError: INVALID_MEDIA.
    """
    try:
        info = _inspect(data)
    except (struct.error, IndexError):
        raise _invalid("The image is cut off.") from None
    if info is None:
        raise _invalid("The data is no image that is supported. Supported are PNG, JPEG, GIF and WebP.")
    if not info.width or not info.height:
        raise _invalid("The image has no pixels.")
    if max(info.width, info.height) > MAX_SIDE or info.width * info.height > MAX_PIXELS:
        message = f"The image is too large: {info.width} x {info.height} pixels. Its sides may have {MAX_SIDE} pixels,"
        raise _invalid(f"{message} and the whole {MAX_PIXELS}.")
    return info


def _inspect(data: bytes) -> ImageInfo | None:
    match data[:4]:
        case b"\x89PNG" if data[4:8] == b"\r\n\x1a\n" and data[12:16] == b"IHDR":
            return ImageInfo("image/png", *struct.unpack_from(">II", data, 16))
        case b"GIF8" if data[4:6] in (b"7a", b"9a"):
            return ImageInfo("image/gif", *struct.unpack_from("<HH", data, 6))
        case b"RIFF" if data[8:12] == b"WEBP":
            return _inspect_webp(data)
        case _ if data.startswith(b"\xff\xd8\xff"):
            return _inspect_jpeg(data)
        case _:
            return None


def _inspect_webp(data: bytes) -> ImageInfo | None:
    """RFC 9649, sections 2.5 to 2.7: the first chunk is one of three."""
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
            struct.unpack_from("10x", data, 20)  # all of it is there
        case b"VP8L" if data[20:21] == b"\x2f":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case _:
            return None
    return ImageInfo("image/webp", width, height)


def _inspect_jpeg(data: bytes) -> ImageInfo | None:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return ImageInfo("image/jpeg", width, height)
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + max(2, length)
    return None


def _invalid(message: str) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, message)
