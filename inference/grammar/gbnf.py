"""Grammars in the text format GBNF, which llama.cpp reads and xgrammar calls EBNF.

Only what both read alike is written: one rule a line, ``name ::= body``; literals, positive character classes, groups,
alternatives and ``{m,n}``. A body is text; the functions here write the pieces of one.
"""

import re
from collections.abc import Callable, Mapping

from inference.grammar.bodies import MAX_REPEAT, repeated
from inference.grammar.keywords import refusal
from inference.grammar.normal import Document
from inference.grammar.rules import SchemaRules

MAX_RULES = 20_000
MAX_CHARS = 2_000_000
MAX_REPEATS = 50_000
"""Of all repetitions together: engines write them out."""
_JSON_RULES = {
    "ws": r'(" " | "\n" [ \u0009]{0,20})?',
    "json-char": r"[ !#-\u005B\u005D-\uCFFF\uD000-\uD7FF\uE000-\U0010FFFF] | json-escape",
    "json-escape": r'"\\" (["\\bfnrt] | "u00" [01] [0-9a-fA-F])',
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


class GrammarTooLargeError(Exception):
    """A grammar has grown beyond what engines can be asked to take."""


class Grammar:
    """Rules by name, each written once. Every method that adds one returns its name, for use in other bodies.

    Raises:
        GrammarTooLargeError: from every method but ``add_schema``.
    """

    def __init__(self) -> None:
        self._bodies: dict[str, str | None] = {}
        self._chars = 0
        self._repeats = 0

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
            raise GrammarTooLargeError
        self._bodies[unique] = None
        return unique

    def define(self, name: str, body: str) -> str:
        """Write the rule of a reserved name."""
        assert self._bodies[name] is None, f"{name} is defined twice"
        self._bodies[name] = body
        self._chars += len(name) + len(body)
        if self._chars > MAX_CHARS:
            raise GrammarTooLargeError
        return name

    def add_schema(self, schema: object, *, param: str) -> str:
        """A rule for the JSON texts that are valid under ``schema``, a parsed JSON Schema.

        Raises:
            ApiError: INVALID_JSON_SCHEMA, the schema is invalid or says what cannot be enforced; ``param`` is extended
                to the place, such as ``text.format.schema.properties.age.minimum``.
        """
        return self._add(SchemaRules.add, schema, param)

    def add_plain_string(self, schema: object, *, param: str) -> str:
        """A rule for the strings that are valid under ``schema``, without quotes and escapes, none with ``<`` in it.

        Raises:
            ApiError: as ``add_schema``.
        """
        return self._add(SchemaRules.add_plain, schema, param)

    def _add(self, add: Callable[[SchemaRules], str], schema: object, param: str) -> str:
        try:
            document = Document(schema, param=param)
            if not document.is_inhabited(document.root):
                raise refusal("no value is valid under it", document.contradiction())
            return add(SchemaRules(self, document))
        except RecursionError as error:
            raise refusal("it is nested too deeply", param) from error
        except GrammarTooLargeError as error:
            raise refusal("it is too large to be enforced", param) from error

    def repeat(self, name: str, least: int, most: int | None) -> str:
        """The rule ``name`` so many times, any number above ``least`` if ``most`` is None; as one item."""
        self._repeats += least if most is None else most
        if self._repeats > MAX_REPEATS:
            raise GrammarTooLargeError
        if max(least, most or 0) <= MAX_REPEAT:
            return repeated(name, least, most)
        block = f"{name}{{{MAX_REPEAT}}}"
        rest = self.repeat(name, max(0, least - MAX_REPEAT), None if most is None else most - MAX_REPEAT)
        body = f"{block} {rest}"
        if least < MAX_REPEAT:
            body += f" | {repeated(name, least, MAX_REPEAT - 1)}"
        return self.add_rule(f"{name}-repeated", body)

    def json_value(self) -> str:
        """Any JSON text."""
        return self._json("json-value")

    def json_object(self) -> str:
        """Any JSON object."""
        return self._json("json-object")

    def json_string(self) -> str:
        """Any JSON string, with its quotes."""
        return self._json("json-string")

    def json_char(self) -> str:
        """One character of a JSON string."""
        return self._json("json-char")

    def json_escape(self) -> str:
        """One character of a JSON string that has to be escaped."""
        return self._json("json-escape")

    def json_integer(self) -> str:
        """Any JSON integer."""
        return self._json("json-integer")

    def json_number(self) -> str:
        """Any JSON number."""
        return self._json("json-number")

    def whitespace(self) -> str:
        """What may stand between the tokens of a JSON text; may be nothing."""
        return self._json("ws")

    def render(self, root: str) -> str:
        """The text of the grammar that generates just what the rule ``root`` does."""
        return written(root, self._bodies)

    def _json(self, name: str) -> str:
        if name not in self._bodies:
            self._bodies[name] = _JSON_RULES[name]
            for reference in _references(_JSON_RULES[name]):
                self._json(reference)
        return name


def written(root: str, bodies: Mapping[str, str | None]) -> str:
    """The text of a grammar: ``root``, a body, and those of ``bodies``, by rule, that it needs."""
    lines = [f"root ::= {root}"]
    seen = {"root"}
    waiting = _references(root)[::-1]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        body = bodies[name]
        assert body is not None, f"{name} was reserved and not defined"
        lines.append(f"{name} ::= {body}")
        waiting += reversed(_references(body))
    return "\n".join(lines) + "\n"


def _references(body: str) -> list[str]:
    return [name for match in _REFERENCE.finditer(body) if (name := match[1]) is not None]


def _rule_name(text: str) -> str:
    """A name that both readers take: they differ in more than letters, digits and ``-``, and in case."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-").removeprefix("json-") or "rule"
