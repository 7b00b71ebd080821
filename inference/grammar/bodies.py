"""Pieces of the bodies of rules, as text in the part of GBNF that llama.cpp and xgrammar read alike."""

import re
from collections.abc import Iterable

MAX_REPEAT = 1_000
"""In one ``{m,n}``. llama.cpp refuses 2000, and takes any number of items for a limit above."""

_CARET = 0x5E
_BLOCK = 0x1000
_FIRST_OF_THREE_BYTES = 0x800

_PLAIN = re.compile(r"[ !#-,./0-9:-Z_a-z{-~]")
"""Characters that mean themselves in literals and in classes, at any place of them."""


def literal(text: str) -> str:
    """``text`` itself; it must not be empty where something refers to the body as one item."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def char_class(ranges: Iterable[tuple[int, int]]) -> str:
    """One character whose code point is in one of ``ranges``, ends included.

    Written as xgrammar 0.1.32 needs it, to which a class is a negative one if it begins with ``^``, escaped or not.
    """
    pieces = [piece for low, high in ranges for piece in _split(low, high)]
    if pieces == [(_CARET, _CARET)]:
        return literal("^")
    pieces.sort(key=lambda piece: piece[0] == _CARET)
    return "[" + "".join(_char(low) if low == high else f"{_char(low)}-{_char(high)}" for low, high in pieces) + "]"


def _split(low: int, high: int) -> list[tuple[int, int]]:
    """The range in pieces that xgrammar 0.1.32 reads right.

    Of one that reaches into a block of 4096 code points (all that share the bytes of their UTF-8 but the last two) from
    below and ends inside of it, xgrammar loses the most of that block: of ``[a-\\uD7FF]`` half of the Hangul syllables.
    """
    if low == _CARET < high:
        return [(low, low), *_split(low + 1, high)]
    block = high & ~(_BLOCK - 1)
    if high < _FIRST_OF_THREE_BYTES or low >= block or high == block + _BLOCK - 1:
        return [(low, high)]
    return [(low, block - 1), (block, high)]


def alternatives(bodies: Iterable[str]) -> str:
    """One of ``bodies``, as one item."""
    return "(" + " | ".join(bodies) + ")"


def repeated(item: str, least: int, most: int | None) -> str:
    """``item`` so many times, up to MAX_REPEAT."""
    match least, most:
        case 1, 1:
            return item
        case _, 0:
            return literal("")
        case 0, 1:
            return f"{item}?"
        case 0, None:
            return f"{item}*"
        case _, None:
            return f"{item}{{{least},}}"
        case _:
            return f"{item}{{{least}}}" if least == most else f"{item}{{{least},{most}}}"


def _escaped(char: str) -> str:
    return _char(ord(char)) if char not in "^-[]" else char


def _char(code: int) -> str:
    char = chr(code)
    if _PLAIN.fullmatch(char):
        return char
    if char in '"\\':
        return "\\" + char
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
