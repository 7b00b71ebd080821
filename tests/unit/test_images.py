"""The one form of image that may reach an engine."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.images import MAX_SIDE, check_image
from tests.support.media import png


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def image(
    *, width: int = 2, height: int = 2, form: bytes = b"\x08\x02\0\0\0", rows: bytes = bytes(14), more: bytes = b""
) -> bytes:
    header = struct.pack(">II", width, height) + form
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [image(), png(), png(1, 1), png(MAX_SIDE, 1)])
def test_plain_pngs_pass(data: bytes) -> None:
    check_image(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xe0",
        image(form=b"\x10\x02\0\0\0"),  # 16 bits
        image(form=b"\x08\x06\0\0\0"),  # with alpha
        image(form=b"\x08\x02\0\0\x01"),  # interlaced
        image(width=3),  # rows are missing
        image(rows=bytes(15)),  # more rows than the header says
        image(rows=bytes(2**26)),  # many more
        image(rows=b"\5" + bytes(13)),  # an unknown filter
        image(more=chunk(b"iCCP", b"x")),
        image(width=0, rows=b"\0\0"),
        image(width=MAX_SIDE + 1, rows=bytes(2 * (1 + 3 * (MAX_SIDE + 1)))),
        image() + b"x",
        image()[:-1],
        image()[:40],
        image().replace(b"IDAT", b"IDAU"),
    ],
)
def test_everything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_image(data)


@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    whole = bytearray(png(5, 5))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"."):
        check_image(bytes(whole))
