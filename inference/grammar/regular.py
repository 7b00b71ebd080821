"""Regular expressions over Unicode characters, and the automata that accept what they match."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from inference.grammar.automaton import (
    ANY,
    MAX_STATES,
    MAX_WORK,
    Automaton,
    Edge,
    Ranges,
    TooComplexError,
    joined,
    trimmed,
    union,
)


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


Expression: TypeAlias = Chars | Sequenced | Choice | Repeated | Start | End | Automaton

EMPTY = Sequenced(())
ANYTHING = Repeated(Chars(ANY), 0, None)


def text(value: str) -> Expression:
    """``value`` itself."""
    return Sequenced(tuple(Chars(((ord(char), ord(char)),)) for char in value))


def one_of(chars: str) -> Chars:
    """One of ``chars``."""
    return Chars(union((ord(char), ord(char)) for char in chars))


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
            if work > MAX_WORK:
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
        edges.append(tuple(joined(found)))
    return trimmed(edges, accepting)


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
