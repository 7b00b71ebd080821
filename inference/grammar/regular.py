"""Regular languages over Unicode characters: expressions, and automata that can be intersected and subtracted.

Patterns, formats, lengths, ranges of numbers and long enumerations become deterministic automata before they become
rules: an engine then has one state to follow, however the schema put it, and several constraints on one string can be
met at once.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

MAX_STATES = 10_000
MAX_TEXT_CHARS = 100_000
"""Of all texts of one enumeration."""
_MAX_WORK = 2_000_000
"""Edges looked at while one automaton is made: about two seconds."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""A set of characters: ranges of code points, ends included, rising and apart."""

ANY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""Every character; halves of surrogate pairs are none."""


class TooComplexError(Exception):
    """An automaton would need more states, or more work, than one schema may cost."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequenced:
    """One after the other."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them; never matches if there are none."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Repeated:
    """So many times; any number above ``least`` if ``most`` is None."""

    item: "Expression"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Start:
    """Nothing, at the start of the text."""


@dataclass(frozen=True, slots=True)
class End:
    """Nothing, at the end of the text."""


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


Expression: TypeAlias = Chars | Sequenced | Choice | Repeated | Start | End | Automaton

EMPTY = Sequenced(())
ANYTHING = Repeated(Chars(ANY), 0, None)
NOTHING = Automaton(((),), frozenset())
"""Accepts no text."""


def text(value: str) -> Expression:
    """``value`` itself."""
    return Sequenced(tuple(Chars(((ord(char), ord(char)),)) for char in value))


def one_of(chars: str) -> Chars:
    """One of ``chars``."""
    return Chars(union((ord(char), ord(char)) for char in chars))


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


def compiled(expression: Expression) -> Automaton:
    """The automaton that accepts the texts that ``expression`` matches from start to end.

    Raises:
        TooComplexError: it would be too large.
    """
    nfa = _Nfa()
    first, last = nfa.state(), nfa.state()
    nfa.build(expression, first, last)
    return _determined(nfa, first, last)


def searched(expression: Expression) -> Automaton:
    """The automaton that accepts the texts that ``expression`` matches somewhere.

    Raises:
        TooComplexError: it would be too large.
    """
    nfa = _Nfa()
    first, found, last = nfa.state(), nfa.state(), nfa.state()
    nfa.chars[first].append((ANY, first))
    nfa.build(expression, first_of := nfa.state(), found)
    nfa.epsilons[first].append(first_of)
    nfa.chars[last].append((ANY, last))
    nfa.epsilons[found].append(last)
    return _determined(nfa, first, last, everything=last)


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


class _Nfa:
    """Thompson's construction."""

    def __init__(self) -> None:
        self.chars: list[list[tuple[Ranges, int]]] = []
        self.epsilons: list[list[int]] = []
        self.starts: list[list[int]] = []
        """Edges that are free at the start of the text."""
        self.ends: list[list[int]] = []
        """Edges that are free at its end."""

    def state(self) -> int:
        if len(self.chars) > 10 * MAX_STATES:
            raise TooComplexError
        self.chars.append([])
        for free in (self.epsilons, self.starts, self.ends):
            free.append([])
        return len(self.chars) - 1

    def build(self, expression: Expression, first: int, last: int) -> None:
        match expression:
            case Chars(ranges):
                self.chars[first].append((ranges, last))
            case Sequenced(items):
                for item in items:
                    middle = self.state()
                    self.build(item, first, middle)
                    first = middle
                self.epsilons[first].append(last)
            case Choice(items):
                for item in items:
                    entry = self.state()
                    self.epsilons[first].append(entry)
                    self.build(item, entry, last)
            case Repeated(item, least, most):
                for _ in range(least):
                    middle = self.state()
                    self.build(item, first, middle)
                    first = middle
                if most is None:
                    loop = self.state()
                    self.epsilons[first].append(loop)
                    after = self.state()
                    self.build(item, loop, after)
                    self.epsilons[after].append(loop)
                    first = loop
                else:
                    for _ in range(most - least):
                        self.epsilons[first].append(last)
                        middle = self.state()
                        self.build(item, first, middle)
                        first = middle
                self.epsilons[first].append(last)
            case Automaton(edges, accepting):
                states = [self.state() for _ in edges]
                self.epsilons[first].append(states[0])
                for state, out in zip(states, edges, strict=True):
                    self.chars[state] += ((((low, high),), states[target]) for low, high, target in out)
                for number in accepting:
                    self.epsilons[states[number]].append(last)
            case Start():
                self.starts[first].append(last)
            case End():
                self.ends[first].append(last)

    def closure(self, states: Iterable[int], *, at_start: bool = False, at_end: bool = False) -> frozenset[int]:
        """``states`` and all that can be reached from them without a character."""
        reached = set(states)
        waiting = list(reached)
        while waiting:
            state = waiting.pop()
            for free, edges in ((True, self.epsilons), (at_start, self.starts), (at_end, self.ends)):
                if free:
                    for target in edges[state]:
                        if target not in reached:
                            reached.add(target)
                            waiting.append(target)
        return frozenset(reached)


def _determined(nfa: _Nfa, first: int, last: int, everything: int | None = None) -> Automaton:
    """The subset construction. From state ``everything`` every text is accepted."""
    work = 0

    def closure(states: Iterable[int]) -> frozenset[int]:
        nonlocal work
        closed = nfa.closure(states)
        work += len(closed)
        return frozenset({everything}) if everything is not None and everything in closed else closed

    start = nfa.closure({first}, at_start=True)
    numbers: dict[tuple[frozenset[int], bool], int] = {(start, True): 0}
    waiting = [(start, True)]
    edges: list[tuple[Edge, ...]] = []
    accepting: set[int] = set()
    for states, at_start in waiting:  # grows meanwhile
        if last in nfa.closure(states, at_start=at_start, at_end=True):
            accepting.add(numbers[states, at_start])
        out = [(low, high, target) for state in states for ranges, target in nfa.chars[state] for low, high in ranges]
        found: list[Edge] = []
        closures: dict[frozenset[int], int] = {}
        for low, high, targets in _elementary(out):
            work += len(targets) + 1
            if work > _MAX_WORK:
                raise TooComplexError
            if targets not in closures:
                key = (closure(targets), False)
                if key not in numbers:
                    if len(numbers) >= MAX_STATES:
                        raise TooComplexError
                    numbers[key] = len(numbers)
                    waiting.append(key)
                closures[targets] = numbers[key]
            found.append(Edge(low, high, closures[targets]))
        edges.append(tuple(_joined(found)))
    return _trimmed(edges, accepting)


def _elementary(edges: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, frozenset[int]]]:
    """The ranges between all ends of ``edges``, rising, with the targets of each, if it has any."""
    opens: dict[int, list[int]] = {}
    closes: dict[int, list[int]] = {}
    for low, high, target in edges:
        opens.setdefault(low, []).append(target)
        closes.setdefault(high + 1, []).append(target)
    bounds = sorted(opens.keys() | closes.keys())
    active: dict[int, int] = {}
    for bound, following in itertools.pairwise(bounds):
        for target in closes.get(bound, ()):
            active[target] -= 1
            if not active[target]:
                del active[target]
        for target in opens.get(bound, ()):
            active[target] = active.get(target, 0) + 1
        if active:
            yield bound, following - 1, frozenset(active)


def _joined(edges: Iterable[Edge]) -> Iterator[Edge]:
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
        edges.append(tuple(_joined(found)))
    return _trimmed(edges, accepting)


def _trimmed(edges: Sequence[Sequence[Edge]], accepting: set[int]) -> Automaton:
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
