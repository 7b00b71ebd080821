"""What may follow a text that a grammar has begun to generate: again a grammar, so that another engine can go on.

A grammar that engines can only enter at its beginning is followed here through the text, all ways at once. A way is
what is still to come, item after item, nested rules flattened: the stack of a pushdown automaton. What remains of the
grammar (its left quotient, or derivative) are the ways that survive, as alternatives: exactly the texts that complete
the one so far, no more and no fewer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import count

from inference.grammar.bodies import literal, repeated
from inference.grammar.gbnf import written

MAX_WORK = 500_000
"""Steps of all ways together, some 5 us each. Where what may follow recurs a character is one step, which is nearly
everywhere; in strings whose length is counted it is about ten, and forty in objects nested in themselves."""
MAX_REST_CHARS = 200_000
"""Of the items that remain of open rules: only texts nested in themselves thousands of times leave so many."""

_LITERAL_PIECE = 32
"""Characters that are copied for each that is followed."""

_Ranges = tuple[tuple[int, int], ...]

_TOKEN = re.compile(r'("(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[a-z][a-z0-9-]*|[(|)])([*?+]|\{[0-9,]+\})?')
_CHAR = re.compile(r'\\u([0-9A-F]{4})|\\U([0-9A-F]{8})|\\([nrt"\\])|([^\\])')
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_COUNTS = re.compile(r"(.*)(?:([*?+])|\{([0-9]+)(,([0-9]*))?\})", re.DOTALL)


def residual(grammar: str, text: str) -> str | None:
    """The grammar of just those texts that are in ``grammar`` with ``text`` before them. Takes its time.

    None: there is none such, or it would take more time or room than it may.

    Args:
        grammar: As ``Grammar.render`` writes it.
    """
    bodies = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
    try:
        ways = _Follower(bodies).follow(text)
    except _TooMuchError:
        return None
    rules = _rules(ways, bodies)
    if not ways or sum(map(len, rules.values())) > MAX_REST_CHARS:
        return None
    return written(rules.pop("root"), bodies | rules)


class _TooMuchError(Exception):
    """More work than is allowed."""


class _Way:
    """An item and what follows it; equal ones are one object."""

    __slots__ = ("item", "rest")

    def __init__(self, item: str, rest: "_Way | None") -> None:
        self.item = item
        self.rest = rest


_Ways = tuple[_Way | None, ...]
"""Different ones; None: the text may end."""


class _Follower:
    """Follows texts through the grammar of ``bodies``, its rules."""

    def __init__(self, bodies: Mapping[str, str]) -> None:
        self._bodies = bodies
        self._known: dict[tuple[str, _Way | None], _Way] = {}
        self._choices: dict[_Way, list[tuple[_Ranges, _Way | None]]] = {}
        self._steps: dict[tuple[_Ways, str], _Ways] = {}
        self._options, self._ranges = cache(_options), cache(_ranges)
        self._work = 0

    def follow(self, text: str) -> _Ways:
        """All ways after ``text``; empty if it begins nothing.

        Raises:
            _TooMuchError: there is more to do than is allowed.
        """
        ways: _Ways = tuple(dict.fromkeys(self._unfolded(self._bodies["root"], None)))
        for char in text:
            self._spend(1)
            step = (ways, char)
            following = self._steps.get(step)
            if following is None:
                following = self._steps[step] = self._after(ways, ord(char))
            ways = following
        return ways

    def _after(self, ways: _Ways, code: int) -> _Ways:
        found: dict[_Way | None, None] = {}
        for way in ways:
            if way is None:
                continue
            for ranges, rest in self._choices_of(way):
                if any(low <= code <= high for low, high in ranges):
                    found[rest] = None
        return tuple(found)

    def _choices_of(self, way: _Way) -> list[tuple[_Ranges, _Way | None]]:
        """The characters that may come next, with what follows them."""
        if way not in self._choices:
            self._choices[way] = list(self._choose(way))
        return self._choices[way]

    def _choose(self, way: _Way) -> Iterator[tuple[_Ranges, _Way | None]]:
        waiting: list[_Way | None] = [way]
        seen: set[_Way | None] = {None}
        while waiting:
            way_now = waiting.pop()
            if way_now is None or way_now in seen:
                continue
            seen.add(way_now)
            self._spend(1)
            item, rest = way_now.item, way_now.rest
            if item[0] == '"' == item[-1]:
                if item == '""':
                    waiting.append(rest)
                else:
                    code, end = _char(item, 1)
                    yield ((code, code),), rest if item[end] == '"' else self._way('"' + item[end:], rest)
            elif item[0] == "[" and item[-1] == "]":
                yield self._ranges(item), rest
            elif item[-1] in "*?+}":
                waiting += self._repetitions(item, rest)
            else:
                body = item[1:-1] if item[0] == "(" else self._bodies[item]
                waiting += reversed(list(self._unfolded(body, rest)))

    def _unfolded(self, body: str, rest: _Way | None) -> Iterator[_Way | None]:
        """The ways that begin with an alternative of ``body``."""
        for option in self._options(body):
            self._spend(len(option))
            way = rest
            for item in reversed(option):
                way = self._way(item, way)
            yield way

    def _repetitions(self, item: str, rest: _Way | None) -> Iterator[_Way | None]:
        repeated_item, least, most = _counts(item)
        if least == 0:
            yield rest
        if most is None or most > 1:
            left = repeated(repeated_item, max(0, least - 1), None if most is None else most - 1)
            yield self._way(repeated_item, self._way(left, rest))
        elif most == 1:
            yield self._way(repeated_item, rest)

    def _way(self, item: str, rest: _Way | None) -> _Way:
        way = self._known.get((item, rest))
        if way is None:
            way = self._known[item, rest] = _Way(item, rest)
        return way

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise _TooMuchError


def _rules(ways: _Ways, taken: Mapping[str, str]) -> dict[str, str]:
    """The rules of ``ways``, with ``root``, their alternation.

    What several of them end with is a rule of its own, so that an engine finds them to be one way from there on.
    """
    seen: set[_Way] = set()
    shared: dict[_Way, str] = {}
    names = (name for number in count(1) if (name := f"rest-{number}") not in taken)
    for start in ways:
        way = start
        while way is not None and way not in seen:
            seen.add(way)
            way = way.rest
        if way is not None and way not in shared:
            shared[way] = next(names)

    def spelled(way: _Way | None) -> Iterator[str]:
        while way is not None and way not in shared:
            yield way.item
            way = way.rest
        if way is not None:
            yield shared[way]

    rules = {name: " ".join([way.item, *spelled(way.rest)]) for way, name in shared.items()}
    rules["root"] = " | ".join(" ".join(spelled(way)) or literal("") for way in ways)
    return rules


def _options(body: str) -> tuple[tuple[str, ...], ...]:
    """The items of each alternative of a body; long literals in pieces."""
    options: list[list[str]] = [[]]
    depth = start = 0
    for token in _TOKEN.finditer(body):
        text = token[1]
        if text == "(":
            start = start if depth else token.start()
            depth += 1
        elif text == ")":
            depth -= 1
            if depth == 0:
                options[-1].append(body[start : token.end()])
        elif depth == 0:
            if text == "|":
                options.append([])
            elif text[0] == '"' and not token[2]:
                options[-1] += _pieces(text)
            else:
                options[-1].append(token[0])
    return tuple(map(tuple, options))


def _pieces(item: str) -> Iterable[str]:
    """A literal as several ones."""
    if len(item) <= _LITERAL_PIECE:
        return [item]
    chars = [char[0] for char in _CHAR.finditer(item, 1, len(item) - 1)]
    starts = range(0, len(chars), _LITERAL_PIECE)
    return ['"' + "".join(chars[start : start + _LITERAL_PIECE]) + '"' for start in starts]


def _ranges(item: str) -> _Ranges:
    """The code points of a class."""
    ranges: list[tuple[int, int]] = []
    position = 1
    while position < len(item) - 1:
        low, position = _char(item, position)
        high = low
        if item[position] == "-":
            high, position = _char(item, position + 1)
        ranges.append((low, high))
    return tuple(ranges)


def _counts(item: str) -> tuple[str, int, int | None]:
    """What is repeated, how often at least and at most."""
    match = _COUNTS.fullmatch(item)
    assert match is not None, item
    what, sign, least, is_range, most = match.groups()
    if sign:
        return what, int(sign == "+"), 1 if sign == "?" else None
    return what, int(least), (int(most) if most else None) if is_range else int(least)


def _char(item: str, position: int) -> tuple[int, int]:
    """The code point that is written at ``position``, and where the next one begins."""
    match = _CHAR.match(item, position)
    assert match is not None, item
    short, long, control, plain = match.groups()
    if plain:
        return ord(plain), match.end()
    return ord(_CONTROLS.get(control, control)) if control else int(short or long, 16), match.end()
