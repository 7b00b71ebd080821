"""Regular expressions as JSON Schema has them (ECMA-262) -> automata.

The meaning is ECMA-262's. What is not regular (backreferences), and what no schema in the wild needs (word boundaries,
lookaround elsewhere than at the start, flags), is refused.
"""

import re
from functools import lru_cache

from inference.grammar.automaton import ANY, Automaton, Ranges, common, complement, union
from inference.grammar.regular import (
    ANYTHING,
    Chars,
    Choice,
    End,
    Expression,
    Repeated,
    Sequenced,
    Start,
    compiled,
    searched,
)

_MAX_DEPTH = 50
_MAX_COUNT = 1_000
_MAX_CHARS = 5_000

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_ALL_SPACES: Ranges = union(
    (ord(char), ord(char))
    for char in "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""What ECMA-262 or Python calls a space: ``\\s`` generates those that both do, ``\\S`` none of these."""
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))

_CLASSES: dict[str, Ranges] = {
    "d": _DIGITS,
    "D": complement(_DIGITS),
    "w": _WORD,
    "W": complement(_WORD),
    "s": _SPACES,
    "S": complement(_ALL_SPACES),
}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_COUNT = re.compile(r"\{(\d{1,9})(,(\d{1,9})?)?\}")
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_GROUP = re.compile(r"\?(?::|P?<[A-Za-z_]\w*>)")


class PatternError(ValueError):
    """A pattern is invalid or not supported; the message says which and why."""


@lru_cache(256)
def compiled_pattern(pattern: str) -> Automaton:
    """The automaton of the texts in which ``pattern`` is found.

    Raises:
        PatternError: it is invalid or not supported.
        TooComplexError: the automaton would be too large.
    """
    if len(pattern) > _MAX_CHARS:
        raise PatternError(f"the pattern is longer than {_MAX_CHARS} characters")
    parser = _Parser(pattern)
    conditions = parser.leading_lookaheads()
    automaton = searched(parser.whole())
    for condition, wanted in conditions:
        ahead = compiled(Sequenced((condition, ANYTHING)))
        automaton = automaton & ahead if wanted else automaton - ahead
    return automaton


class _Parser:
    """Recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        self._depth = 0

    def leading_lookaheads(self) -> list[tuple[Expression, bool]]:
        """The lookaheads of ``^(?=...)(?!...)...``, and whether each must match. What follows is anchored, too."""
        found: list[tuple[Expression, bool]] = []
        if not self._pattern.startswith(("^(?=", "^(?!")) or self._has_top_level_choice():
            return found
        self._position = 1
        while self._pattern.startswith(("(?=", "(?!"), self._position):
            wanted = self._pattern[self._position + 2] == "="
            self._position += 3
            found.append((self._choice(), wanted))
            self._expect(")")
        return found

    def whole(self) -> Expression:
        anchor: tuple[Expression, ...] = (Start(),) if self._position else ()
        expression = self._choice()
        if self._position < len(self._pattern):
            raise PatternError("')' without '('")
        return Sequenced((*anchor, expression))

    def _has_top_level_choice(self) -> bool:
        trial = _Parser(self._pattern)
        trial._position = 1
        while self._pattern.startswith(("(?=", "(?!"), trial._position):
            trial._position += 3
            trial._choice()
            trial._expect(")")
        trial._sequence()
        return trial._peek() == "|"

    def _peek(self) -> str:
        return self._pattern[self._position : self._position + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise PatternError("the pattern ends too early")
        self._position += 1
        return char

    def _expect(self, char: str) -> None:
        if self._next() != char:
            raise PatternError(f"expected {char!r}")

    def _match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        match = expression.match(self._pattern, self._position)
        if match is not None:
            self._position = match.end()
        return match

    def _choice(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PatternError("groups are nested too deeply")
        items = [self._sequence()]
        while self._peek() == "|":
            self._position += 1
            items.append(self._sequence())
        self._depth -= 1
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self) -> Expression:
        items: list[Expression] = []
        while self._peek() not in ("", "|", ")"):
            items.append(self._quantified(self._atom()))
        return items[0] if len(items) == 1 else Sequenced(tuple(items))

    def _quantified(self, atom: Expression) -> Expression:
        match self._peek():
            case "*":
                least, most = 0, None
            case "+":
                least, most = 1, None
            case "?":
                least, most = 0, 1
            case "{" if (count := self._match(_COUNT)) is not None:
                least = int(count[1])
                most = least if count[2] is None else int(count[3]) if count[3] else None
                self._position -= 1  # as if the quantifier were one character
            case _:
                return atom
        self._position += 1
        if isinstance(atom, Start | End):
            raise PatternError("an anchor cannot be repeated")
        if max(least, most or 0) > _MAX_COUNT:
            raise PatternError(f"at most {_MAX_COUNT} repetitions are supported")
        if most is not None and most < least:
            raise PatternError("the repetition's limits are in the wrong order")
        if self._peek() == "?":  # lazy: the same language
            self._position += 1
        if self._peek() in ("*", "+", "?") or _COUNT.match(self._pattern, self._position):
            raise PatternError("nothing to repeat")
        return Repeated(atom, least, most)

    def _atom(self) -> Expression:
        match char := self._next():
            case "^":
                return Start()
            case "$":
                return End()
            case ".":
                return Chars(complement(_LINE_ENDS))
            case "(":
                return self._group()
            case "[":
                return Chars(self._class())
            case "\\":
                return Chars(self._escape(in_class=False))
            case "*" | "+" | "?":
                raise PatternError("nothing to repeat")
            case _:
                return Chars(_single(ord(char)))

    def _group(self) -> Expression:
        if self._peek() == "?" and self._match(_GROUP) is None:
            raise PatternError("lookaround, flags and other (?...) groups are not supported here")
        expression = self._choice()
        self._expect(")")
        return expression

    def _class(self) -> Ranges:
        negated = self._peek() == "^"
        if negated:
            self._position += 1
        if self._peek() == "]":
            raise PatternError("an empty class means different things to different engines")
        found: list[tuple[int, int]] = []
        while self._peek() != "]":
            low = self._member()
            if self._peek() == "-" and self._pattern[self._position + 1 : self._position + 2] not in ("]", ""):
                self._position += 1
                high = self._member()
                if not (_is_single(low) and _is_single(high)) or low > high:
                    raise PatternError("a range in a class is invalid")
                found.append((low[0][0], high[0][0]))
            else:
                found += low
        self._position += 1
        ranges = union(found)
        return complement(ranges) if negated else common(ranges, ANY)

    def _member(self) -> Ranges:
        char = self._next()
        return self._escape(in_class=True) if char == "\\" else _single(ord(char))

    def _escape(self, *, in_class: bool) -> Ranges:
        if (match := self._match(_HEX)) is not None:
            return _single(int(match[1] or match[2] or match[3], 16))
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return _single(_CONTROLS[char])
        if char == "0" and not self._peek().isdigit():
            return _single(0)
        if char == "b" and in_class:
            return _single(0x08)
        if char.isalnum():
            raise PatternError(f"'\\{char}' is not supported")
        return _single(ord(char))


def _single(code: int) -> Ranges:
    if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
        raise PatternError("halves of surrogate pairs are not supported")
    return ((code, code),)


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
