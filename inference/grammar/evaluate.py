"""Whether a value is valid under a schema: for the values of ``const`` and ``enum``, which other keywords restrict."""

import math
from collections.abc import Callable
from typing import TypeAlias

from inference.grammar.keywords import Keywords, Sub

Resolve: TypeAlias = Callable[[str, str], Sub]
"""The target of a reference, which stands at a place."""


def is_valid(value: object, keywords: Keywords, resolve: Resolve) -> bool:
    """Whether ``value`` is valid, ``$ref`` and the combining keywords at the top not looked at.

    Raises:
        ApiError: INVALID_JSON_SCHEMA.
    """
    kinds = keywords.kinds()
    if kinds is not None and _kind(value) not in kinds:
        return False
    values = keywords.values()
    if values is not None and not any(same(value, other) for other in values):
        return False
    match value:
        case str():
            pattern = keywords.pattern()
            return _is_counted(len(value), keywords, "Length") and (pattern is None or pattern.accepts(value))
        case list():
            prefix, items = keywords.prefix_items(), keywords.items()
            schemas = [*prefix, *[items] * (len(value) - len(prefix))]
            return _is_counted(len(value), keywords, "Items") and all(
                schema is None or _is_valid_under(element, schema, resolve)
                for element, schema in zip(value, schemas, strict=False)
            )
        case dict():
            properties, additional = keywords.properties(), keywords.schema("additionalProperties")
            return (
                _is_counted(len(value), keywords, "Properties")
                and value.keys() >= set(keywords.names("required"))
                and all(
                    schema is None or _is_valid_under(member, schema, resolve)
                    for name, member in value.items()
                    for schema in (properties.get(name, additional),)
                )
            )
        case int() | float() if not isinstance(value, bool):
            return _is_in_range(value, keywords)
        case _:
            return True


def same(first: object, second: object) -> bool:
    """Whether two values are equal as JSON: true is not 1, but 1.0 is."""
    match first, second:
        case (bool(), _) | (_, bool()):
            return first is second
        case list(), list():
            return len(first) == len(second) and all(map(same, first, second))
        case dict(), dict():
            return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
        case _:
            return first == second


def _is_valid_under(value: object, sub: Sub, resolve: Resolve) -> bool:
    if isinstance(sub.schema, bool):
        return sub.schema
    keywords = Keywords(sub)
    if value is None and keywords.given.get("nullable") is True:
        return True
    reference = keywords.string("$ref")
    if reference is not None and not _is_valid_under(value, resolve(reference, sub.at("$ref")), resolve):
        return False
    valid = {
        keyword: [_is_valid_under(value, option, resolve) for option in options]
        for keyword in ("allOf", "anyOf", "oneOf")
        if (options := keywords.schemas(keyword)) is not None
    }
    return (
        all(valid.get("allOf", ()))
        and any(valid.get("anyOf", (True,)))
        and sum(valid.get("oneOf", (True,))) == 1
        and is_valid(value, keywords, resolve)
    )


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case float() if not value.is_integer():
            return "fraction"
        case _:
            return "integer"


def _is_counted(count: int, keywords: Keywords, what: str) -> bool:
    least, most = keywords.count(f"min{what}"), keywords.count(f"max{what}")
    return (least is None or count >= least) and (most is None or count <= most)


def _is_in_range(value: float, keywords: Keywords) -> bool:
    least, most = keywords.number("minimum"), keywords.number("maximum")
    above, below = keywords.number("exclusiveMinimum"), keywords.number("exclusiveMaximum")
    factor = keywords.number("multipleOf")
    return (
        math.isfinite(value)
        and (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
        and (below is None or value < below)
        and (factor is None or value % float(factor) == 0)
    )
