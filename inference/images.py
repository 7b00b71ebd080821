"""Images that may reach an engine: of one form, so plain that no decoder can fall over it.

Engines decode images in the worker's own process, some in C++, where a hostile file could end it. The edge has made
PNGs of this form out of whatever a client sent, in a process of its own; here they are held to it.
"""

import struct
import zlib
from typing import Final

MAX_SIDE: Final = 2048
"""Pixels."""
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_FORM: Final = (8, 2, 0, 0, 0)
"""Bits a sample, RGB, and the only compression and filter method; not interlaced."""
_FILTERS: Final = frozenset(range(5))


def check_image(data: bytes) -> None:
    """Check that ``data`` is a PNG of 8-bit RGB, 1 to MAX_SIDE pixels wide and high, and nothing more.

    Its chunks are IHDR, IDAT and IEND with right checksums, and its rows are all there (PNG specification, third
    edition, sections 5, 9 and 11.2).

    Raises:
        ValueError: it is not. The message holds nothing of it.
    """
    chunks = _chunks(data)
    kinds = [kind for kind, _ in chunks]
    if len(chunks) < 3 or kinds != [b"IHDR", *[b"IDAT"] * (len(chunks) - 2), b"IEND"] or chunks[-1][1]:
        raise ValueError("not the chunks that are expected")
    if len(chunks[0][1]) != 13:
        raise ValueError("a malformed header")
    width, height, *form = struct.unpack(">IIBBBBB", chunks[0][1])
    if tuple(form) != _FORM or not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError("another form or size than is expected")
    row = 1 + 3 * width
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(b"".join(body for _, body in chunks[1:-1]), row * height + 1)
    except zlib.error:
        raise ValueError("damaged pixels") from None
    if len(rows) != row * height or not inflater.eof or inflater.unused_data or not _FILTERS.issuperset(rows[::row]):
        raise ValueError("more, fewer or other pixels than the header says")


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and body of each chunk."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    chunks = []
    position = len(_SIGNATURE)
    while position < len(data):
        if len(data) - position < 12:
            raise ValueError("cut off")
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError("cut off")
        (checksum,) = struct.unpack_from(">I", data, end)
        if checksum != zlib.crc32(data[position + 4 : end]):
            raise ValueError("a wrong checksum")
        chunks.append((data[position + 4 : position + 8], data[position + 8 : end]))
        position = end + 4
    return chunks
