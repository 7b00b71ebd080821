"""Grammars generate what their schemas allow, and nothing else. Judges: `jsonschema`, and an own reader of GBNF."""

import json
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from inference.grammar import Grammar
from inference.grammar.recursion import MAX_LEVELS
from tests.support.gbnf import Gbnf
from tests.support.schemas import Case, cases

slow_to_draw = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
seeds = st.integers(0, 2**32)


def gbnf_of(schema: object) -> Gbnf:
    grammar = Grammar()
    return Gbnf(grammar.render(grammar.add_schema(schema, param="schema")))


def check_generated(schema: Any, *, texts: int = 20) -> list[Any]:
    """Values of texts that the grammar generates, all valid; the shortest of them among them."""
    gbnf = gbnf_of(schema)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    generated = [gbnf.generate(seed, symbols=0 if seed == 0 else 300) for seed in range(texts)]
    values = [json.loads(text) for text in generated]
    for value in values:
        validator.validate(value)
    return values


def spelled(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@slow_to_draw
@given(case=cases(), data=st.data(), seed=seeds)
def test_generated_texts_are_valid_and_valid_values_can_be_generated(
    case: Case, data: st.DataObject, seed: int
) -> None:
    gbnf = gbnf_of(case.schema)
    jsonschema.validate(json.loads(gbnf.generate(seed)), case.schema, jsonschema.Draft202012Validator)
    value = data.draw(case.values)
    jsonschema.validate(value, case.schema, jsonschema.Draft202012Validator)
    assert gbnf.matches(spelled(value))


DIALECTS = {"nullable", "additionalItems"}
"""Keywords of OpenAPI and of older drafts, which the judge does not know."""


def schema_keywords(schema: object) -> set[str]:
    return set(schema) if isinstance(schema, dict) else set()


TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 3},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["name", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}


def test_a_value_is_nested_in_itself_to_a_limit() -> None:
    gbnf = gbnf_of(TREE)

    def chain(length: int) -> dict[str, Any]:
        return {"name": "a", "children": [chain(length - 1)] if length > 1 else []}

    assert gbnf.matches(spelled(chain(MAX_LEVELS + 1)))
    assert not gbnf.matches(spelled(chain(MAX_LEVELS + 2)))
    assert len(check_generated(TREE, texts=50)) == 50


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 1},
                   "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}, "c": {}}, "minProperties": 1,
         "additionalProperties": False},
        {"anyOf": [{"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1}, {"type": "boolean"}]},
        {"minLength": 5, "maxLength": 3},
    ],
    ids=["mutual", "optional", "map", "narrowed"],
)  # fmt: skip
def test_every_level_can_come_to_an_end(schema: dict[str, Any]) -> None:
    assert len(check_generated(schema, texts=50)) == 50


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (
            TREE,
            [{"name": "a", "children": [{"name": "b", "children": []}]}],
            [{"name": "a"}, {"name": "a", "children": [1]}],
        ),
        ({"type": "array", "items": {"$ref": "#"}}, [[], [[], [[]]]], [[1], {}]),
        ({"properties": {"/~": {"const": 1}, "c": {"$ref": "#/properties/~1~0"}}}, [{"c": 1}], [{"c": 2}]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "maxLength": 2}, ["ab", None], ["abc", 1]),
        ({"type": "string", "nullable": True}, ["a", None], [1]),
        ({"enum": ["a", 1, None], "type": ["string", "null"]}, ["a", None], [1]),
        ({"enum": [{"k": [1, 2]}, [True]], "minItems": 1}, [{"k": [1, 2]}, [True]], [[]]),
        ({"allOf": [{"enum": [1, 2, 3]}, {"minimum": 2}]}, [2, 3], [1]),
        ({"allOf": [{"minLength": 1}, {"pattern": "^a*$"}], "type": "string", "maxLength": 3}, ["a", "aaa"], [""]),
        (
            {"oneOf": [
                {"properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"]},
                {"properties": {"kind": {"const": "dog"}}, "required": ["kind"]},
            ], "type": "object"},
            [{"kind": "cat", "lives": 7}, {"kind": "dog"}], [{"kind": "dog", "lives": 7}, {"kind": "cow"}, 3],
        ),
        ({"items": [{"type": "integer"}], "additionalItems": {"type": "null"}}, [[], [1], [1, None]], [[None], [1, 2]]),
        ({"type": "array", "prefixItems": [{"type": "null"}, False]}, [[], [None]], [[None, 1]]),
        ({"type": "object", "properties": {"a": False, "b": {}}}, [{}, {"b": 1}], [{"a": 1}]),
        ({"required": ["x"], "additionalProperties": {"type": "null"}}, [{"x": None}], [{}, {"x": 1}]),
        ({"type": "object", "additionalProperties": {}, "minProperties": 1}, [{"a": 1}], [{}]),
        ({"properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2}, [{"a": 1, "c": 1}], [{"b": 1}, {}]),
        ({"properties": {"a": {"type": "null"}}}, [{"a": None}, {}], [{"a": 1}, 3]),
        ({"type": ["integer", "string"], "minimum": 5, "maxLength": 1}, [5, "a"], [4, "ab"]),
        ({"type": "number", "multipleOf": 1, "minimum": 2}, [2, 30], [1, 2.5]),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 0}, [[]], [[None]]),
        (True, [1, "a", None, {"a": [1.5, True]}], []),
    ],
)  # fmt: skip
def test_a_schema_allows_some_values_and_not_others(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    gbnf = gbnf_of(schema)
    assert [value for value in valid if not gbnf.matches(spelled(value))] == []
    assert [value for value in invalid if gbnf.matches(spelled(value))] == []
    if not DIALECTS & schema_keywords(schema):
        check_generated(schema)


@given(
    low=st.decimals(-(10**6), 10**6, places=3), high=st.decimals(-(10**6), 10**6, places=3),
    value=st.decimals(-(10**6), 10**6, places=4), near=st.booleans(),
    keywords=st.sampled_from([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")]),
)  # fmt: skip
@slow_to_draw
def test_bounds_of_numbers_are_exact(
    low: Decimal, high: Decimal, value: Decimal, keywords: tuple[str, str], near: bool
) -> None:
    low, high = sorted((low, high))
    assume(low < high)
    if near:
        value = low if value < 0 else high
    gbnf = gbnf_of({"type": "number", keywords[0]: float(low), keywords[1]: float(high)})
    is_inside = low <= value <= high if keywords[0] == "minimum" else low < value < high
    text = f"{value:f}" if value else "0"
    assert gbnf.matches(text) == is_inside
    assert low <= Decimal(gbnf.generate(int(abs(value)))) <= high


@given(bounds=st.lists(st.integers(-(10**20), 10**20) | st.integers(-20, 20), min_size=2, max_size=2), data=st.data())
@slow_to_draw
def test_bounds_of_integers_are_exact(bounds: list[int], data: st.DataObject) -> None:
    low, high = sorted(bounds)
    gbnf = gbnf_of({"type": "integer", "minimum": low, "maximum": high})
    value = data.draw(st.integers(low - 3, high + 3))
    assert gbnf.matches(str(value)) == (low <= value <= high)
    assert not gbnf.matches(f"0{value}")
    assert low <= int(gbnf.generate(0)) <= high


@pytest.mark.parametrize(
    ("format_", "valid", "invalid"),
    [
        ("date", ["2024-02-29", "1999-12-31"], ["2023-02-29", "2024-13-01", "2024-1-1", "0000-01-01"]),
        ("time", ["12:00:00Z", "23:59:59.25+01:00"], ["24:00:00Z", "12:00:00", "12:00Z"]),
        ("date-time", ["2024-01-01T00:00:00Z"], ["2024-01-01 00:00:00", "2024-01-01T00:00:00"]),
        ("duration", ["P1D", "PT5M", "P1Y2M3DT4H5M6S", "P2W"], ["P", "PT", "P1S", "1D"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
        ("email", ["a.b@example.com"], ["a@b", "@example.com", "a b@example.com"]),
        ("hostname", ["example.com", "localhost"], ["-a", "a..b", ""]),
        ("ipv4", ["0.0.0.0", "255.249.199.10"], ["256.0.0.0", "1.2.3", "01.2.3.4"]),
        ("ipv6", ["::", "::1", "fe80::1", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::"], ["1", "1::2::3", "1:2:3:4:5:6:7:8:9"]),
        ("uri", ["https://example.com:80/a?b=c"], ["example.com", "https://", "https://a b"]),
        ("something-else", ["anything", ""], []),
    ],
)  # fmt: skip
def test_a_format_is_enforced_if_it_is_known(format_: str, valid: list[str], invalid: list[str]) -> None:
    schema = {"type": "string", "format": format_}
    check_generated(schema, texts=100)
    gbnf = gbnf_of(schema)
    assert [value for value in valid if not gbnf.matches(spelled(value))] == []
    assert [value for value in invalid if gbnf.matches(spelled(value))] == []


def test_whitespace_stands_where_models_put_it_and_is_bounded() -> None:
    gbnf = gbnf_of({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}})
    assert gbnf.matches(json.dumps({"a": [1, 2]}))
    assert gbnf.matches(json.dumps({"a": [1, 2]}, indent=4))
    assert gbnf.matches(json.dumps({"a": [1, 2]}, indent="\t"))
    assert not gbnf.matches('{"a":  1}')
    assert not gbnf.matches('{"a": [1' + "\n" * 2 + "]}")
    assert not gbnf.matches('{"a": []}' + " ")


def test_strings_are_spelled_in_one_way() -> None:
    gbnf = gbnf_of({"type": "string", "maxLength": 1})
    assert all(gbnf.matches(spelled(char)) for char in ("é", "🙂", "\n", '"', "\\", "\x00", "\x7f", "/"))
    assert not any(gbnf.matches(text) for text in ('"\\u0041"', '"\n"', '"\\/"', '"\\ud83d\\ude42"', '"\\x"'))


def test_an_additional_property_never_has_the_name_of_a_declared_one() -> None:
    schema = {"type": "object", "properties": {"ab": {"type": "integer"}}, "additionalProperties": {"type": "null"}}
    gbnf = gbnf_of(schema)
    assert gbnf.matches('{"ab":1,"a":null,"abc":null,"":null}')
    assert not gbnf.matches('{"ab":null}')


@pytest.mark.parametrize("length", [999, 1000, 1001, 2001])
def test_long_repetitions_are_counted_exactly(length: int) -> None:
    gbnf = gbnf_of({"type": "string", "minLength": length, "maxLength": length + 1, "pattern": "a|b"})
    plain = gbnf_of({"type": "array", "items": {"const": 1}, "minItems": length, "maxItems": length + 1})
    for count, is_valid in ((length - 1, False), (length, True), (length + 1, True), (length + 2, False)):
        assert gbnf.matches('"' + "a" * count + '"') == is_valid
        assert plain.matches("[" + ",".join("1" * count) + "]") == is_valid
