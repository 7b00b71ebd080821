"""The keywords of JSON Schema (2020-12, and what older drafts wrote differently): read, checked, or refused."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.grammar.automaton import Automaton, TooComplexError
from inference.grammar.numbers import MAX_DIGITS
from inference.grammar.pattern import PatternError, compiled_pattern

TYPES: Mapping[str, frozenset[str]] = {
    "null": frozenset({"null"}),
    "boolean": frozenset({"boolean"}),
    "string": frozenset({"string"}),
    "array": frozenset({"array"}),
    "object": frozenset({"object"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"integer", "fraction"}),
}
"""Types, and the kinds of values that they are; a fraction is a number that is no integer."""
ALL_KINDS = frozenset().union(*TYPES.values())

KEYWORD_TYPES: Mapping[str, str] = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "maxProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "additionalItems": "array",
    "minItems": "array",
    "maxItems": "array",
    "pattern": "string",
    "format": "string",
    "minLength": "string",
    "maxLength": "string",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}
"""Keywords that say something about values of one type only."""

_REFUSED: Mapping[str, tuple[object, ...]] = {
    "patternProperties": ({},),
    "propertyNames": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "uniqueItems": (False,),
    "contains": (),
    "not": (False,),
    "if": (),
    "$dynamicRef": (),
    "$recursiveRef": (),
}
"""Keywords that restrict values in ways that are not enforced, and the values with which they restrict nothing."""


class Sub(NamedTuple):
    """A schema inside a document, and the place of it."""

    schema: object
    param: str

    def at(self, keyword: str, *, index: int | None = None, key: str | None = None) -> str:
        """The place of ``keyword`` in this schema, or of one of its members."""
        place = f"{self.param}.{keyword}"
        if index is not None:
            place += f"[{index}]"
        return place if key is None else f"{place}.{key}"


class Keywords:
    """The keywords of one schema that is an object. Values of the wrong form are refused when they are read.

    Raises:
        ApiError: INVALID_JSON_SCHEMA from every method.
    """

    def __init__(self, sub: Sub) -> None:
        if not isinstance(sub.schema, dict):
            raise refusal("a schema is an object or a boolean", sub.param)
        self.sub = sub
        self.given: Mapping[str, object] = sub.schema
        for keyword, harmless in _REFUSED.items():
            if keyword in self.given and not any(
                self.given[keyword] is v or self.given[keyword] == v for v in harmless
            ):
                raise refusal(f"'{keyword}' is not supported", sub.at(keyword))

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.given

    def kinds(self) -> frozenset[str] | None:
        """The kinds of values that ``type`` allows; None if it is absent."""
        if "type" not in self.given:
            return None
        given = self.given["type"]
        names = given if isinstance(given, list) and given else [given]
        found: frozenset[str] = frozenset()
        for name in names:
            if not isinstance(name, str) or name not in TYPES:
                raise refusal(f"the types are {', '.join(TYPES)}", self.sub.at("type"))
            found |= TYPES[name]
        return found

    def implied_kinds(self) -> frozenset[str]:
        """The kinds of values that keywords speak of."""
        return frozenset().union(*(TYPES[name] for keyword, name in KEYWORD_TYPES.items() if keyword in self.given))

    def values(self) -> list[object] | None:
        """What ``const`` or ``enum`` allow; None if both are absent."""
        if "const" in self.given:
            return [self.given["const"]]
        if "enum" not in self.given:
            return None
        values = self.given["enum"]
        if not isinstance(values, list) or not values:
            raise refusal("'enum' is a list of at least one value", self.sub.at("enum"))
        return values

    def count(self, keyword: str) -> int | None:
        """An integer that is not negative."""
        if keyword not in self.given:
            return None
        value = self.given[keyword]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise refusal(f"'{keyword}' is an integer of at least 0", self.sub.at(keyword))
        return value

    def number(self, keyword: str) -> Decimal | None:
        """A number, exactly as its shortest decimal spelling says."""
        if keyword not in self.given:
            return None
        value = self.given[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise refusal(f"'{keyword}' is a number", self.sub.at(keyword))
        if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
            raise refusal(f"numbers of more than {MAX_DIGITS} digits are not supported", self.sub.at(keyword))
        exact = Decimal(repr(value))
        if exact and not -MAX_DIGITS < exact.adjusted() < MAX_DIGITS:
            raise refusal(f"numbers of more than {MAX_DIGITS} digits are not supported", self.sub.at(keyword))
        return exact

    def names(self, keyword: str) -> list[str]:
        """A list of strings; empty if absent."""
        value = self.given.get(keyword, [])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise refusal(f"'{keyword}' is a list of strings", self.sub.at(keyword))
        return value

    def schema(self, keyword: str) -> Sub | None:
        """One schema."""
        return Sub(self.given[keyword], self.sub.at(keyword)) if keyword in self.given else None

    def schemas(self, keyword: str) -> list[Sub] | None:
        """A list of schemas."""
        if keyword not in self.given:
            return None
        value = self.given[keyword]
        if not isinstance(value, list) or not value:
            raise refusal(f"'{keyword}' is a list of at least one schema", self.sub.at(keyword))
        return [Sub(schema, self.sub.at(keyword, index=index)) for index, schema in enumerate(value)]

    def properties(self) -> dict[str, Sub]:
        """The schemas of properties by their names; empty if absent."""
        value = self.given.get("properties", {})
        if not isinstance(value, dict):
            raise refusal("'properties' is an object", self.sub.at("properties"))
        return {str(key): Sub(schema, self.sub.at("properties", key=key)) for key, schema in value.items()}

    def prefix_items(self) -> list[Sub]:
        """The schemas of the first elements of an array; older drafts wrote them into ``items``."""
        keyword = "items" if isinstance(self.given.get("items"), list) else "prefixItems"
        return (self.schemas(keyword) if self.given.get(keyword) != [] else None) or []

    def items(self) -> Sub | None:
        """The schema of the elements after those of ``prefix_items``."""
        return self.schema("additionalItems" if isinstance(self.given.get("items"), list) else "items")

    def string(self, keyword: str) -> str | None:
        """A string."""
        if keyword not in self.given:
            return None
        value = self.given[keyword]
        if not isinstance(value, str):
            raise refusal(f"'{keyword}' is a string", self.sub.at(keyword))
        return value

    def pattern(self) -> Automaton | None:
        """The texts that ``pattern`` allows."""
        pattern = self.string("pattern")
        if pattern is None:
            return None
        try:
            return compiled_pattern(pattern)
        except PatternError as error:
            raise refusal(str(error), self.sub.at("pattern")) from error
        except TooComplexError as error:
            raise refusal("the pattern is too complex", self.sub.at("pattern")) from error


def refusal(reason: str, param: str) -> ApiError:
    """The error for a schema that is invalid or cannot be enforced."""
    return ApiError(ErrorReason.ERROR_REASON_INVALID_JSON_SCHEMA, f"Invalid schema for '{param}': {reason}.", param)
