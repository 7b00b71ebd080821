"""Reads the metadata of a GGUF model file: what a tokenizer needs to know, and nothing of the tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Little-endian files of versions 2 and 3. A file is
untrusted input: every length is checked against the bytes that are there before anything is allocated.
"""

import mmap
import struct
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = "int | float | bool | str | list[Value]"

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING = 8
_ARRAY = 9
_VERSIONS = (2, 3)
_MAX_DEPTH = 4
"""Arrays in arrays. No known file has any; deeper ones are an attack on the stack."""


class GgufError(Exception):
    """The file is no GGUF file, is cut off, or holds something that the format does not allow."""


def read_metadata(path: Path, keys: Collection[str]) -> dict[str, Value]:
    """The values of those of ``keys`` that the file has; the rest of its metadata is skipped.

    Raises:
        GgufError: the file is not readable as GGUF.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise GgufError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).metadata(frozenset(keys))
            except GgufError as error:
                raise GgufError(f"{path} is not a usable GGUF file: {error}") from None


class _Reader:
    """Walks through the header; ``_position`` is where the next value starts."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._position = 0

    def metadata(self, keys: frozenset[str]) -> dict[str, Value]:
        if self._bytes(4) != b"GGUF":
            raise GgufError("it does not start with GGUF")
        version = self._number("I")
        if version not in _VERSIONS:
            raise GgufError(f"its version is {version}, supported are {_VERSIONS}")
        self._number("Q")  # tensors
        found: dict[str, Value] = {}
        for _ in range(self._count(min_item_size=12)):
            key = self._string()
            kind = self._number("I")
            if key in keys:
                found[key] = self._value(kind)
            else:
                self._skip(kind)
        return found

    def _value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalars(kind, 1)[0]
        item_kind, count = self._array_header(depth)
        if item_kind in (_STRING, _ARRAY):
            return [self._value(item_kind, depth + 1) for _ in range(count)]
        return self._scalars(item_kind, count)

    def _skip(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self._advance(self._number("Q"))
        elif kind != _ARRAY:
            self._advance(self._scalar_size(kind))
        else:
            item_kind, count = self._array_header(depth)
            if item_kind in (_STRING, _ARRAY):
                for _ in range(count):
                    self._skip(item_kind, depth + 1)
            else:
                self._advance(count * self._scalar_size(item_kind))

    def _array_header(self, depth: int) -> tuple[int, int]:
        """Kind and number of the items of the array that starts here."""
        if depth == _MAX_DEPTH:
            raise GgufError(f"arrays are nested deeper than {_MAX_DEPTH}")
        item_kind = self._number("I")
        smallest = {_STRING: 8, _ARRAY: 12}
        return item_kind, self._count(smallest[item_kind] if item_kind in smallest else self._scalar_size(item_kind))

    def _count(self, min_item_size: int) -> int:
        count = self._number("Q")
        if count * min_item_size > len(self._data) - self._position:
            raise GgufError(f"it says that {count} items follow at byte {self._position}, but it ends before")
        return count

    def _string(self) -> str:
        raw = self._bytes(self._number("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise GgufError(f"the text before byte {self._position} is not UTF-8") from None

    def _number(self, format_: str) -> int:
        value = struct.unpack(f"<{format_}", self._bytes(struct.calcsize(f"<{format_}")))[0]
        assert isinstance(value, int)
        return value

    def _scalars(self, kind: int, count: int) -> list[Value]:
        raw = self._bytes(count * self._scalar_size(kind))
        return list(struct.unpack(f"<{count}{_SCALARS[kind]}", raw))

    def _scalar_size(self, kind: int) -> int:
        if kind not in _SCALARS:
            raise GgufError(f"there is no value type {kind} (before byte {self._position})")
        return struct.calcsize(f"<{_SCALARS[kind]}")

    def _bytes(self, size: int) -> bytes:
        start = self._position
        self._advance(size)
        return self._data[start : self._position]

    def _advance(self, size: int) -> None:
        if size > len(self._data) - self._position:
            raise GgufError(f"it ends within the value at byte {self._position}")
        self._position += size
