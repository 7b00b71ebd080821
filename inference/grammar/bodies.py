"""Pieces of the bodies of rules, as text in the part of GBNF that llama.cpp and xgrammar read alike."""

import re
from collections.abc import Iterable

MAX_REPEAT = 1_000
"""In one ``{m,n}``. llama.cpp refuses 2000, and takes any number of items for a limit above."""

_PLAIN = re.compile(r"[ !#-,./0-9:-Z_a-z{-~]")
"""Characters that mean themselves in literals and in classes, at any place of them."""


def literal(text: str) -> str:
    """``text`` itself; it must not be empty where something refers to the body as one item."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def char_class(ranges: Iterable[tuple[int, int]]) -> str:
    """One character whose code point is in one of ``ranges``, ends included."""
    return "[" + "".join(_char(low) if low == high else f"{_char(low)}-{_char(high)}" for low, high in ranges) + "]"


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
