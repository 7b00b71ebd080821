"""Grammars in the text format GBNF, which llama.cpp reads and xgrammar calls EBNF.

Only what both read alike is written: one rule a line, ``name ::= body``; literals, positive character classes, groups,
alternatives and ``{m,n}``. A body is text; the functions here write the pieces of one.
"""

import re
from collections.abc import Iterable

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

MAX_RULES = 20_000
MAX_CHARS = 2_000_000
MAX_REPEAT = 1_000
"""In one ``{m,n}``. llama.cpp refuses 2000, and takes any number of items for a limit above."""

_PLAIN = re.compile(r"[ !#-,./0-9:-Z_a-z{-~]")
"""Characters that mean themselves in literals and in classes, at any place of them."""

_JSON_RULES = {
    "ws": r'(" " | "\n" [ \u0009]{0,20})?',
    "json-char": r'[ !#-\u005B\u005D-\uD7FF\uE000-\U0010FFFF] | "\\" (["\\bfnrt] | "u00" [01] [0-9a-fA-F])',
    "json-string": r'"\"" json-char* "\""',
    "json-integer": r'"-"? ("0" | [1-9] [0-9]{0,17})',
    "json-number": r'json-integer ("." [0-9]{1,17})? ([eE] [+\u002D]? [0-9]{1,2})?',
    "json-pair": r'json-string ":" ws json-value',
    "json-object": r'"{" ws (json-pair ("," ws json-pair)* ws)? "}"',
    "json-array": r'"[" ws (json-value ("," ws json-value)* ws)? "]"',
    "json-boolean": r'"true" | "false"',
    "json-null": r'"null"',
    "json-value": "json-object | json-array | json-string | json-number | json-boolean | json-null",
}
"""JSON, RFC 8259, with the spellings that this project generates.

Whitespace: where JSON allows it, at most one space, or one line break with its indentation: models do not stop of
themselves. Numbers: always finite, and integers within 64 bits. Strings: every character in its shortest spelling but
controls, so that a name has one spelling and every ``json-char`` is one character.
"""
_REFERENCE = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|([a-z][a-z0-9-]*)')


class Grammar:
    """Rules by name, each written once. Every method that adds one returns its name, for use in other bodies.

    Raises:
        ApiError: INVALID_JSON_SCHEMA, from every method: the grammar grows beyond what engines can be asked to take.
    """

    def __init__(self) -> None:
        self._bodies: dict[str, str | None] = {}
        self._chars = 0

    def add_rule(self, name: str, body: str) -> str:
        """Add a rule called ``name``, or nearly so if another rule has that name; the same rule is not added twice."""
        name = _rule_name(name)
        if self._bodies.get(name) == body:
            return name
        return self.define(self.reserve(name), body)

    def reserve(self, name: str) -> str:
        """A free name like ``name``, for a rule that has to be referred to before it can be written."""
        name = unique = _rule_name(name)
        count = 1
        while unique in self._bodies or unique in _JSON_RULES or unique == "root":
            count += 1
            unique = f"{name}-{count}"
        if len(self._bodies) >= MAX_RULES:
            raise _too_large()
        self._bodies[unique] = None
        return unique

    def define(self, name: str, body: str) -> str:
        """Write the rule of a reserved name."""
        assert self._bodies[name] is None, f"{name} is defined twice"
        self._bodies[name] = body
        self._chars += len(name) + len(body)
        if self._chars > MAX_CHARS:
            raise _too_large()
        return name

    def add_schema(self, schema: object, *, param: str) -> str:
        """A rule for the JSON texts that are valid under ``schema``, a parsed JSON Schema.

        Raises:
            ApiError: INVALID_JSON_SCHEMA, the schema is invalid or says what cannot be enforced; ``param`` is extended
                to the place, such as ``text.format.schema.properties.age.minimum``.
        """
        raise NotImplementedError

    def json_value(self) -> str:
        """Any JSON text."""
        return self._json("json-value")

    def json_object(self) -> str:
        """Any JSON object."""
        return self._json("json-object")

    def json_string(self) -> str:
        """Any JSON string, with its quotes."""
        return self._json("json-string")

    def whitespace(self) -> str:
        """What may stand between the tokens of a JSON text; may be nothing."""
        return self._json("ws")

    def render(self, root: str) -> str:
        """The text of the grammar that generates just what the rule ``root`` does."""
        lines = [f"root ::= {root}"]
        written = {"root"}
        waiting = [root]
        while waiting:
            name = waiting.pop()
            if name in written:
                continue
            written.add(name)
            body = self._bodies[name]
            assert body is not None, f"{name} was reserved and not defined"
            lines.append(f"{name} ::= {body}")
            waiting += reversed(_references(body))
        return "\n".join(lines) + "\n"

    def _json(self, name: str) -> str:
        if name not in self._bodies:
            self._bodies[name] = _JSON_RULES[name]
            for reference in _references(_JSON_RULES[name]):
                self._json(reference)
        return name


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
    if (least, most) == (1, 1):
        return item
    if most is None:
        return f"{item}*" if least == 0 else f"{item}{{{least},}}"
    return f"{item}?" if (least, most) == (0, 1) else f"{item}{{{least},{most}}}"


def _escaped(char: str) -> str:
    return _char(ord(char)) if char not in "^-[]" else char


def _char(code: int) -> str:
    char = chr(code)
    if _PLAIN.fullmatch(char):
        return char
    if char in '"\\':
        return "\\" + char
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _references(body: str) -> list[str]:
    return [name for match in _REFERENCE.finditer(body) if (name := match[1]) is not None]


def _rule_name(text: str) -> str:
    """A name that both readers take: they differ in more than letters, digits and ``-``, and in case."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-").removeprefix("json-") or "rule"


def _too_large() -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INVALID_JSON_SCHEMA, "The schema is too large to be enforced.")
