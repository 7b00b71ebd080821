"""Schemas that are invalid, or that say what is not enforced, are refused by the place."""

import json
from typing import Any

import pytest

from antiphon.errors import ApiError, reason_name
from antiphon.responses.v1 import response_pb2
from inference.constraint import answer_rule, parsed_schema
from inference.grammar import Grammar
from tests.support.gbnf import Gbnf


def refusal_of(schema: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        Grammar().add_schema(schema, param="s")
    assert reason_name(caught.value.reason) == "INVALID_JSON_SCHEMA"
    return caught.value


def under(schema: object) -> dict[str, Any]:
    return {"type": "object", "properties": {"age": schema}}


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        (under({"type": "integer", "minimum": "0"}), "s.properties.age.minimum"),
        (under({"type": "int"}), "s.properties.age.type"),
        (under({"type": []}), "s.properties.age.type"),
        (under({"enum": []}), "s.properties.age.enum"),
        (under({"type": "string", "pattern": "(?<=a)b"}), "s.properties.age.pattern"),
        (under({"type": "string", "pattern": "a.{40}"}), "s.properties.age.pattern"),
        (under({"type": "string", "minLength": -1}), "s.properties.age.minLength"),
        (under({"type": "string", "minLength": 2, "maxLength": 1}) | {"required": ["age"]}, "s.properties.age"),
        ({"type": "array", "minItems": 2, "items": under(False) | {"required": ["age"]}}, "s.items.properties.age"),
        ({"anyOf": [{"type": "integer", "enum": ["a"]}, {"type": "integer", "minimum": 2, "maximum": 1}]}, "s"),
        (under({"type": "array", "uniqueItems": True}), "s.properties.age.uniqueItems"),
        (under({"type": "number", "multipleOf": 0.1}), "s.properties.age.multipleOf"),
        (under({"$ref": "#/$defs/none"}), "s.properties.age.$ref"),
        (under({"$ref": "https://example.com/schema"}), "s.properties.age.$ref"),
        (under({"anyOf": [{"type": "string"}, {"not": {"type": "string"}}]}), "s.properties.age.anyOf[1].not"),
        (under({"anyOf": {}}), "s.properties.age.anyOf"),
        (under({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "s.properties.age.oneOf"),
        (under({"if": {"type": "string"}}), "s.properties.age.if"),
        (under({"items": 3, "type": "array"}), "s.properties.age.items"),
        (under({"properties": []}), "s.properties.age.properties"),
        ({"type": "object", "required": "age"}, "s.required"),
        ({"patternProperties": {"^a": {}}}, "s.patternProperties"),
        ({"$defs": {"n": {"propertyNames": {"maxLength": 3}}}, "$ref": "#/$defs/n"}, "s.$defs.n.propertyNames"),
        ({"$ref": "#"}, "s"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "s"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "s.properties.a"),
        (False, "s"),
        (3, "s"),
        ({"type": "object", "additionalProperties": {}, "minProperties": 2}, "s.minProperties"),
        ({"const": float("inf")}, "s"),
    ],
)
def test_a_refusal_names_the_place(schema: object, param: str) -> None:
    error = refusal_of(schema)
    assert error.param == param
    assert error.message.startswith(f"Invalid schema for '{param}': ")


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(levels: int, keyword: str) -> dict[str, Any]:
    definitions = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**definitions, f"d{levels}": {"type": "null"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        nested(5_000),
        doubling(40, "anyOf"),
        doubling(40, "oneOf"),
        {"type": "array", "items": {"type": "null"}, "minItems": 10**6},
        {"type": "string", "maxLength": 10**9},
        {"type": "object", "properties": {"a": {}}, "minProperties": 10**12},
        {"allOf": [{"anyOf": [{"minLength": n}, {"maxLength": n}]} for n in range(60)]},
        {"type": "object", "properties": {f"p{n}": {"type": "string", "pattern": f"{n}.{{11}}x"} for n in range(300)}},
        {"type": "object", "properties": {f"p{n}": {} for n in range(3000)}, "maxProperties": 2000},
        {"enum": ["x" * 10**6, *"abcdefgh", "y" * 3 * 10**6]},
    ],
    ids=[
        "nested",
        "anyOf",
        "oneOf",
        "minItems",
        "maxLength",
        "minProperties",
        "product",
        "patterns",
        "properties",
        "enum",
    ],
)
def test_a_hostile_schema_is_refused(schema: object) -> None:
    refusal_of(schema)


def test_schemas_of_a_usual_size_are_compiled() -> None:
    fields = {f"field_{n}": {"type": "string", "enum": [f"value {m}" for m in range(20)]} for n in range(100)}
    Grammar().add_schema({"type": "object", "properties": fields, "required": list(fields)}, param="s")


@pytest.mark.parametrize("text", ["{", "", '{"minimum": NaN}', "[" * 100_000, '{"x":' + "1" * 5_000 + "}"])
def test_a_schema_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parsed_schema(text, param="text.format.schema")
    assert caught.value.param == "text.format.schema"


def test_a_format_becomes_a_rule_only_if_it_restricts() -> None:
    schema = json.dumps({"type": "integer", "minimum": 1, "maximum": 1})
    json_schema = response_pb2.TextFormatJsonSchema(name="one", schema=schema)
    grammar = Grammar()
    assert answer_rule(grammar, response_pb2.TextFormat()) is None
    assert answer_rule(grammar, response_pb2.TextFormat(text=response_pb2.TextFormatText())) is None
    one = answer_rule(grammar, response_pb2.TextFormat(json_schema=json_schema))
    assert one is not None
    assert Gbnf(grammar.render(one)).generate(0) == "1"
    any_object = answer_rule(grammar, response_pb2.TextFormat(json_object=response_pb2.TextFormatJsonObject()))
    assert any_object is not None
    assert isinstance(json.loads(Gbnf(grammar.render(any_object)).generate(0)), dict)
