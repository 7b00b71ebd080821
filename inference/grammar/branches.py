"""What schemas in normal form consist of: nodes, and the branches of these, each of one type with all its limits."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from inference.grammar.automaton import Automaton, of_length
from inference.grammar.formats import compiled_format
from inference.grammar.keywords import Keywords, Sub, refusal
from inference.grammar.numbers import Limit, compiled_decimals, compiled_integers

Members: TypeAlias = tuple[Sub, ...]


@dataclass(frozen=True, slots=True)
class Values:
    """Some values, one at least."""

    values: tuple[object, ...]


@dataclass(frozen=True)
class Numbers:
    """Numbers between limits."""

    only_integers: bool
    low: Limit | None
    high: Limit | None

    @cached_property
    def automaton(self) -> Automaton:
        """Their spellings."""
        return (compiled_integers if self.only_integers else compiled_decimals)(self.low, self.high)


@dataclass(frozen=True)
class Strings:
    """Strings of a length in characters; each of ``languages`` must hold them."""

    least: int
    most: int | None
    languages: tuple[Automaton, ...]

    @cached_property
    def automaton(self) -> Automaton:
        """Their characters."""
        language, *others = self.languages
        for other in others:
            language &= other
        if language.is_empty:
            return language
        shortest, longest = language.lengths()
        if self.least <= shortest and (self.most is None or (longest is not None and longest <= self.most)):
            return language
        return language & of_length(self.least, self.most)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays of ``least`` to ``most`` elements: the first like ``prefix``, all others like ``items``."""

    prefix: "tuple[Node, ...]"
    items: "Node"
    least: int
    most: int | None
    is_closed: bool
    """The schema says nothing about elements after ``prefix``."""


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects with ``least`` to ``most`` properties."""

    properties: "dict[str, Node]"
    required: frozenset[str]
    additional: "Node"
    least: int
    most: int | None
    is_closed: bool
    """The schema names properties and says nothing about others."""


Branch: TypeAlias = Values | Numbers | Strings | Arrays | Objects


@dataclass(eq=False, slots=True)
class Node:
    """Values that are valid under each of ``members``."""

    members: Members
    depth: int
    param: str
    branches: list[Branch] | None = None
    """Together all valid values."""
    narrowed: list[Branch] = field(default_factory=list)
    """Those to generate: a schema that names no type means that of which its keywords speak."""
    is_inhabited: bool | None = None


def first_elements(arrays: Arrays) -> Iterator[Node]:
    """Of the shortest valid arrays."""
    yield from arrays.prefix[: arrays.least]
    if arrays.least > len(arrays.prefix):
        yield arrays.items


def numbers(schemas: Iterable[Keywords], *, only_integers: bool) -> Numbers:
    """The numbers that are valid under each of ``schemas``.

    Raises:
        ApiError: INVALID_JSON_SCHEMA, so for ``strings`` and ``counts``.
    """
    low: Limit | None = None
    high: Limit | None = None
    for keywords in schemas:
        for keyword, is_inside in (("minimum", True), ("exclusiveMinimum", False)):
            value = keywords.number(keyword)
            if value is not None and (low is None or (value, not is_inside) > (low.value, not low.is_inside)):
                low = Limit(value, is_inside)
        for keyword, is_inside in (("maximum", True), ("exclusiveMaximum", False)):
            value = keywords.number(keyword)
            if value is not None and (high is None or (value, is_inside) < (high.value, high.is_inside)):
                high = Limit(value, is_inside)
        factor = keywords.number("multipleOf")
        if factor is not None:
            if factor != 1:
                raise refusal("'multipleOf' is supported with 1 only", keywords.sub.at("multipleOf"))
            only_integers = True
    return Numbers(only_integers, low, high)


def strings(schemas: Iterable[Keywords]) -> Strings:
    """The strings that are valid under each of ``schemas``."""
    languages: list[Automaton] = []
    for keywords in schemas:
        if (pattern := keywords.pattern()) is not None:
            languages.append(pattern)
        if (name := keywords.string("format")) is not None and (known := compiled_format(name)) is not None:
            languages.append(known)
    least, most = counts(schemas, "minLength", "maxLength")
    return Strings(least, most, tuple(languages))


def counts(schemas: Iterable[Keywords], lowest: str, highest: str) -> tuple[int, int | None]:
    """What the keywords ``lowest`` and ``highest`` of ``schemas`` leave."""
    least = max((count for keywords in schemas if (count := keywords.count(lowest)) is not None), default=0)
    most = min((count for keywords in schemas if (count := keywords.count(highest)) is not None), default=None)
    return least, most
