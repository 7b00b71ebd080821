"""A function's parameters one by one, for formats that do not write arguments as one JSON object."""

import ast
import json
import warnings
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from antiphon.errors import ApiError
from inference.grammar import Grammar, literal
from inference.grammar.keywords import refusal

ANY_TYPE: Final = frozenset({"object", "array", "string", "number", "boolean", "null"})
_ROOT_KEYWORDS: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "title", "description", "default", "examples"}
    | {"$defs", "definitions", "$schema", "$id", "$comment"}
)
_DEFINITIONS: Final = ("$defs", "definitions")
_MAX_REFERENCES: Final = 20


class Parameter(NamedTuple):
    """One of a function's parameters."""

    name: str
    schema: object
    """Its own, with the definitions that it may refer to."""
    is_required: bool
    types: frozenset[str]
    """Of JSON, integers being numbers: the value has one of these."""
    param: str


def read_parameters(schema: object, *, param: str = "") -> list[Parameter]:
    """The parameters that ``schema`` names; none others can be given.

    Raises:
        ApiError: INVALID_JSON_SCHEMA, it says of the object as a whole what cannot be told of parameters one by one.
    """
    if not isinstance(schema, dict):
        raise refusal("it is no JSON object", param)
    for keyword in schema.keys() - _ROOT_KEYWORDS:
        raise refusal(f"'{keyword}' is not supported by this model in parameters as a whole", f"{param}.{keyword}")
    definitions = {keyword: schema[keyword] for keyword in _DEFINITIONS if keyword in schema}
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise refusal("'properties' is no object, or 'required' is no array", param)
    for name in required:
        if name not in properties:
            raise refusal(f"'required' names '{name}', which is not among the properties", f"{param}.required")
    return [
        Parameter(
            name,
            value | definitions if isinstance(value, dict) else value,
            name in required,
            _types(value, definitions),
            f"{param}.properties.{name}",
        )
        for name, value in properties.items()
    ]


def _types(schema: object, definitions: dict[str, object], depth: int = 0) -> frozenset[str]:
    """The types of the values that are valid under ``schema``, and perhaps others."""
    if not isinstance(schema, dict) or depth > _MAX_REFERENCES:
        return ANY_TYPE
    types = ANY_TYPE
    if (named := schema.get("type")) is not None:
        names = named if isinstance(named, list) else [named]
        types = frozenset("number" if name == "integer" else str(name) for name in names)
    if "const" in schema:
        types &= {type_of(schema["const"])}
    if isinstance(values := schema.get("enum"), list):
        types &= {type_of(value) for value in values}
    for keyword in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(keyword), list) and options:
            types &= frozenset().union(*(_types(option, definitions, depth + 1) for option in options))
    for part in schema.get("allOf") or ():
        types &= _types(part, definitions, depth + 1)
    if isinstance(reference := schema.get("$ref"), str):
        types &= _types(_referred(reference, definitions), definitions, depth + 1)
    return types


def _referred(reference: str, definitions: dict[str, object]) -> object:
    root, _, rest = reference.partition("/")
    keyword, _, name = rest.partition("/")
    found = definitions.get(keyword)
    return found.get(name) if root == "#" and isinstance(found, dict) else None


def type_of(value: object) -> str:
    """JSON's type of a parsed value, integers being numbers."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def add_fields(grammar: Grammar, fields: Sequence[tuple[str, bool]], separator: str = "") -> str:
    """The rule of ``fields`` in their order, those that are not required perhaps left out.

    Args:
        fields: The body of each, and whether it is required.
        separator: Between two of them; may be empty.
    """
    between = f"{literal(separator)} " if separator else ""
    first, later = literal(""), literal("")  # what is left where none came before, and where one did
    for body, is_required in reversed(fields):
        here, after = f"{body} {later}", f"{between}{body} {later}"
        if not is_required:
            here, after = f"{here} | {first}", f"{after} | {later}"
        first = grammar.add_rule("fields", here)
        later = grammar.add_rule("more-fields", after) if separator else first
    return grammar.add_rule("fields", first)


def parameter_types(schema_text: str) -> dict[str, frozenset[str]]:
    """The types of each parameter of a JSON Schema; empty if it cannot be read so: then all are of any type."""
    try:
        parameters = read_parameters(json.loads(schema_text) if schema_text else {})
    except (ApiError, ValueError, RecursionError):
        return {}
    return {parameter.name: parameter.types for parameter in parameters}


def is_plain_string(schema: object) -> bool:
    """Whether a schema of strings allows all of them."""
    return isinstance(schema, dict) and schema.keys() <= {"type", "title", "description", "default", "examples"} | set(
        _DEFINITIONS
    )


def argument_json(text: str, types: frozenset[str]) -> str:
    """JSON of an argument of one of ``types`` that a model wrote as ``text``: as JSON, as a literal of Python, or as
    the text that it is."""
    value: object = text
    if types != {"string"} or text.strip()[:1] in ('"', "'"):
        for read in (_read_json, _read_python):
            try:
                value = read(text.strip())
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
    if type_of(value) not in types and "string" in types:
        value = text
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # a set, a complex number, infinity
        return json.dumps(text, ensure_ascii=False)


def _read_json(text: str) -> object:
    return json.loads(text, parse_constant=_refuse_constant)


def _read_python(text: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of escapes that Python may refuse one day
        return ast.literal_eval(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
