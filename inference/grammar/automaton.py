"""Regular languages over Unicode characters: sets of these, and automata that can be intersected and subtracted.

Patterns, formats, lengths, ranges of numbers and long enumerations become deterministic automata before they become
rules: an engine then has one state to follow, however the schema put it, and several constraints on one string can be
met at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

MAX_STATES = 10_000
MAX_TEXT_CHARS = 100_000
"""Of all texts of one enumeration."""
MAX_WORK = 2_000_000
"""Edges looked at while one automaton is made: about two seconds."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""A set of characters: ranges of code points, ends included, rising and apart."""

ANY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""Every character; halves of surrogate pairs are none."""


class TooComplexError(Exception):
    """An automaton would need more states, or more work, than one schema may cost."""


class Edge(NamedTuple):
    """Where one range of characters leads."""

    low: int
    high: int
    target: int


@dataclass(frozen=True, slots=True)
class Automaton:
    """Deterministic; starts in state 0. Every state can still lead to an accepting one, unless nothing is accepted."""

    edges: tuple[tuple[Edge, ...], ...]
    """Of each state, rising and apart."""
    accepting: frozenset[int]

    @property
    def is_empty(self) -> bool:
        """Whether no text is accepted."""
        return not self.accepting

    def accepts(self, text: str) -> bool:
        """Whether ``text`` is in the language."""
        state = 0
        for char in text:
            code = ord(char)
            for low, high, target in self.edges[state]:
                if low <= code <= high:
                    state = target
                    break
            else:
                return False
        return state in self.accepting

    def lengths(self) -> tuple[int, int | None]:
        """The shortest and the longest text that is accepted; None if there is no longest. It must not be empty."""
        shortest = 0
        reached, seen = {0}, {0}
        while not reached & self.accepting:
            reached = {edge.target for state in reached for edge in self.edges[state]} - seen
            seen |= reached
            shortest += 1
        longest = 0
        reached = {0}
        while reached := {edge.target for state in reached for edge in self.edges[state]}:
            longest += 1
            if longest >= len(self.edges):
                return shortest, None
        return shortest, longest

    def __and__(self, other: "Automaton") -> "Automaton":
        """What both accept."""
        return _product(self, other, subtract=False)

    def __sub__(self, other: "Automaton") -> "Automaton":
        """What this one accepts and ``other`` does not."""
        return _product(self, other, subtract=True)


NOTHING = Automaton(((),), frozenset())
"""Accepts no text."""


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The characters in any of ``ranges``, which may overlap and come in any order."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def common(first: Ranges, second: Ranges) -> Ranges:
    """The characters in both sets."""
    pairs = ((max(a, c), min(b, d)) for a, b in first for c, d in second)
    return union((low, high) for low, high in pairs if low <= high)


def complement(ranges: Ranges) -> Ranges:
    """All other characters."""
    gaps: list[tuple[int, int]] = []
    position = 0
    for low, high in ranges:
        if position < low:
            gaps.append((position, low - 1))
        position = high + 1
    if position <= 0x10FFFF:
        gaps.append((position, 0x10FFFF))
    return common(tuple(gaps), ANY)


def of_length(least: int, most: int | None) -> Automaton:
    """The automaton that accepts texts of ``least`` to ``most`` characters.

    Raises:
        TooComplexError: more than MAX_STATES.
    """
    if most is not None and most < least:
        return NOTHING
    length = least if most is None else most
    if length >= MAX_STATES:
        raise TooComplexError
    edges = [tuple(Edge(low, high, state + 1) for low, high in ANY) for state in range(length)]
    edges.append(() if most is not None else tuple(Edge(low, high, length) for low, high in ANY))
    return Automaton(tuple(edges), frozenset(range(least, length + 1)))


def of_texts(texts: Iterable[str]) -> Automaton:
    """The automaton that accepts just ``texts``: a trie.

    Raises:
        TooComplexError: more than MAX_TEXT_CHARS.
    """
    texts = list(texts)
    if sum(map(len, texts)) > MAX_TEXT_CHARS:
        raise TooComplexError
    states: list[dict[int, int]] = [{}]
    accepting = set()
    for value in texts:
        state = 0
        for char in value:
            target = states[state].get(ord(char))
            if target is None:
                target = states[state][ord(char)] = len(states)
                states.append({})
            state = target
        accepting.add(state)
    edges = tuple(tuple(Edge(code, code, target) for code, target in sorted(out.items())) for out in states)
    return Automaton(edges, frozenset(accepting))


def joined(edges: Iterable[Edge]) -> Iterator[Edge]:
    """Rising edges, neighbours with one target made one."""
    last: Edge | None = None
    for edge in edges:
        if last is not None and last.target == edge.target and last.high + 1 == edge.low:
            last = Edge(last.low, edge.high, edge.target)
            continue
        if last is not None:
            yield last
        last = edge
    if last is not None:
        yield last


def _product(first: Automaton, second: Automaton, *, subtract: bool) -> Automaton:
    numbers: dict[tuple[int, int | None], int] = {(0, 0): 0}
    waiting: list[tuple[int, int | None]] = [(0, 0)]
    edges: list[tuple[Edge, ...]] = []
    accepting: set[int] = set()

    def number(pair: tuple[int, int | None]) -> int:
        if pair not in numbers:
            if len(numbers) >= MAX_STATES:
                raise TooComplexError
            numbers[pair] = len(numbers)
            waiting.append(pair)
        return numbers[pair]

    for a, b in waiting:  # grows meanwhile
        if a in first.accepting and (b in second.accepting) is not subtract:
            accepting.add(numbers[a, b])
        found: list[Edge] = []
        for low, high, target in first.edges[a]:
            position = low
            for other in () if b is None else second.edges[b]:
                start, end = max(low, other.low), min(high, other.high)
                if start > end:
                    continue
                if subtract and position < start:
                    found.append(Edge(position, start - 1, number((target, None))))
                found.append(Edge(start, end, number((target, other.target))))
                position = end + 1
            if subtract and position <= high:
                found.append(Edge(position, high, number((target, None))))
        edges.append(tuple(joined(found)))
    return trimmed(edges, accepting)


def trimmed(edges: Sequence[Sequence[Edge]], accepting: set[int]) -> Automaton:
    """Without the states that lead nowhere; those that cannot be reached are not there to begin with."""
    sources: dict[int, list[int]] = {}
    for state, out in enumerate(edges):
        for edge in out:
            sources.setdefault(edge.target, []).append(state)
    useful = set(accepting)
    waiting = list(accepting)
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in useful:
                useful.add(source)
                waiting.append(source)
    if 0 not in useful:
        return NOTHING
    numbers = {state: number for number, state in enumerate(sorted(useful))}
    return Automaton(
        tuple(
            tuple(Edge(low, high, numbers[target]) for low, high, target in edges[state] if target in useful)
            for state in sorted(useful)
        ),
        frozenset(numbers[state] for state in accepting),
    )
