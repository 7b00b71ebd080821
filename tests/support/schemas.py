"""Random JSON Schemas, each with the values that are valid under it, in the part that grammars enforce exactly."""

import string
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

PATTERNS = (
    "^[a-z]{1,4}$",
    "[0-9]",
    "^(ab|c)*$",
    '^".{0,3}\\\\$',
    "^[^a-z]+$",
    "x?y+z*$",
    "^\\S+ \\w$",
    "^(?=.*[A-Z]).{2,5}$",
)
NAMES = ("a", "b", "ab", "a b", 'q"', "é", "")


@dataclass(frozen=True, slots=True)
class Case:
    """A schema, and a strategy of values that are valid under it."""

    schema: Schema
    values: st.SearchStrategy[Any]


def cases(depth: int = 3) -> st.SearchStrategy[Case]:
    """Schemas nested up to ``depth``."""
    leaves = st.one_of(_integers(), _decimals(), _strings(), _patterns(), _enumerations(), _plain())
    if depth == 0:
        return leaves
    below = cases(depth - 1)
    return st.one_of(
        leaves, _arrays(below), _tuples(below), _objects(below), _maps(below), _unions(below), _both(below)
    )


def _plain() -> st.SearchStrategy[Case]:
    return st.sampled_from(
        [
            Case({"type": "boolean"}, st.booleans()),
            Case({"type": "null"}, st.none()),
            Case({"type": "string", "title": "Text", "default": "x", "x-order": 1}, texts()),
            Case({"type": ["string", "null"]}, st.none() | texts()),
            Case({}, st.none() | st.booleans() | texts() | st.lists(st.integers(0, 9), max_size=2)),
        ]
    )


def texts() -> st.SearchStrategy[str]:
    """Strings that JSON can hold as UTF-8."""
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@st.composite
def _integers(draw: st.DrawFn) -> Case:
    low, high = sorted((draw(st.integers(-2000, 2000)), draw(st.integers(-2000, 2000))))
    schema: Schema = {"type": "integer"}
    lowest, highest = -(10**6), 10**6
    if draw(st.booleans()):
        schema["minimum"] = lowest = low
    elif draw(st.booleans()):
        schema["exclusiveMinimum"] = low - 0.5
        lowest = low
    if draw(st.booleans()):
        schema["maximum"] = highest = high
    elif draw(st.booleans()):
        schema["exclusiveMaximum"] = high + 1
        highest = high
    return Case(schema, st.integers(lowest, highest))


@st.composite
def _decimals(draw: st.DrawFn) -> Case:
    low, high = sorted((draw(st.integers(-3000, 3000)), draw(st.integers(-3000, 3000))))
    schema: Schema = {"type": "number"}
    lowest, highest = -(10**6), 10**6
    if draw(st.booleans()):
        schema["minimum"], lowest = low / 100, low
    if draw(st.booleans()):
        schema["exclusiveMaximum"], highest = (high + 1) / 100, high
    return Case(schema, st.integers(lowest, highest).map(lambda value: value / 100))


@st.composite
def _strings(draw: st.DrawFn) -> Case:
    least = draw(st.integers(0, 3))
    most = draw(st.none() | st.integers(least, 6))
    schema: Schema = {"type": "string", "minLength": least} | ({} if most is None else {"maxLength": most})
    return Case(
        schema, st.text(st.characters(exclude_categories=["Cs"]), min_size=least, max_size=6 if most is None else most)
    )


@st.composite
def _patterns(draw: st.DrawFn) -> Case:
    pattern = draw(st.sampled_from(PATTERNS))
    alphabet = st.characters(codec="ascii", exclude_categories=["Cc"])
    values = st.from_regex(f"(?a:{pattern})", alphabet=alphabet)
    return Case({"type": "string", "pattern": pattern}, values)


@st.composite
def _enumerations(draw: st.DrawFn) -> Case:
    values = draw(st.lists(texts() | st.integers(-99, 99) | st.none(), min_size=1, max_size=9, unique_by=repr))
    if len(values) == 1:
        return Case({"const": values[0]}, st.just(values[0]))
    return Case({"enum": values}, st.sampled_from(values))


@st.composite
def _arrays(draw: st.DrawFn, below: st.SearchStrategy[Case]) -> Case:
    items = draw(below)
    least = draw(st.integers(0, 2))
    most = draw(st.none() | st.integers(least, 3))
    schema: Schema = {"type": "array", "items": items.schema, "minItems": least}
    if most is not None:
        schema["maxItems"] = most
    return Case(schema, st.lists(items.values, min_size=least, max_size=3 if most is None else most))


@st.composite
def _tuples(draw: st.DrawFn, below: st.SearchStrategy[Case]) -> Case:
    prefix = draw(st.lists(below, min_size=1, max_size=3))
    least = draw(st.integers(0, len(prefix)))
    schema: Schema = {
        "type": "array", "prefixItems": [case.schema for case in prefix], "items": False, "minItems": least,
    }  # fmt: skip
    lengths = st.integers(least, len(prefix))
    return Case(schema, lengths.flatmap(lambda length: st.tuples(*(case.values for case in prefix[:length])).map(list)))


@st.composite
def _objects(draw: st.DrawFn, below: st.SearchStrategy[Case]) -> Case:
    fields = draw(st.dictionaries(st.sampled_from(NAMES), below, max_size=4))
    required = [name for name in fields if draw(st.booleans())]
    schema: Schema = {
        "type": "object",
        "properties": {name: case.schema for name, case in fields.items()},
        "required": required,
        "additionalProperties": False,
    }
    values = {name: case.values for name, case in fields.items()}

    @st.composite
    def in_schema_order(draw: st.DrawFn) -> Schema:
        return {name: draw(value) for name, value in values.items() if name in required or draw(st.booleans())}

    return Case(schema, in_schema_order())


@st.composite
def _maps(draw: st.DrawFn, below: st.SearchStrategy[Case]) -> Case:
    others = draw(below)
    declared = draw(st.sampled_from([(), ("k",), ("key", "k")]))
    most = draw(st.none() | st.integers(1, 3))
    schema: Schema = {
        "type": "object", "properties": {name: {"type": "null"} for name in declared},
        "additionalProperties": others.schema,
    }  # fmt: skip
    if most is not None:
        schema["maxProperties"] = most
    names = st.text(string.ascii_lowercase, max_size=3).filter(lambda name: name not in declared)

    @st.composite
    def values(draw: st.DrawFn) -> Schema:
        value: Schema = {name: None for name in declared if draw(st.booleans())} | draw(
            st.dictionaries(names, others.values, max_size=2)
        )
        return dict(list(value.items())[:most])

    return Case(schema, values())


@st.composite
def _unions(draw: st.DrawFn, below: st.SearchStrategy[Case]) -> Case:
    options = draw(st.lists(below, min_size=1, max_size=3))
    values = st.one_of([case.values for case in options])
    return Case({"anyOf": [case.schema for case in options]}, values)


@st.composite
def _both(draw: st.DrawFn, below: st.SearchStrategy[Case]) -> Case:
    """``allOf`` and a reference: two schemas of which each says a half of it."""
    field = draw(below)
    schema: Schema = {
        "type": "object",
        "allOf": [
            {"properties": {"a": field.schema}, "required": ["a"]},
            {"properties": {"b": {"type": "integer", "minimum": 0}}, "required": ["b"]},
        ],
    }
    return Case(schema, st.tuples(field.values, st.integers(0, 99)).map(lambda pair: {"a": pair[0], "b": pair[1]}))
