"""What the output of a generation is held to: the one place where a request becomes a grammar."""

import json
from functools import lru_cache
from typing import NoReturn

from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.response_pb2 import TextFormat
from inference.grammar import Grammar
from inference.grammar.keywords import refusal

MAX_SCHEMA_CHARS = 500_000
_CACHED_GRAMMARS = 64


def constraint(request: GenerateRequest) -> str | None:
    """The grammar of all that may be generated for ``request``; None if anything may. Takes its time.

    Raises:
        ApiError: INVALID_JSON_SCHEMA; ``param`` names the place, such as ``text.format.schema.properties.a.pattern``.
    """
    return _format_grammar(request.text.format.SerializeToString(deterministic=True))


def answer_rule(grammar: Grammar, text_format: TextFormat) -> str | None:
    """The rule of the answers that ``text_format`` allows; None if any text is one.

    Raises:
        ApiError: as ``constraint``.
    """
    match text_format.WhichOneof("format"):
        case "json_schema":
            schema = parsed_schema(text_format.json_schema.schema, param="text.format.schema")
            return grammar.add_schema(schema, param="text.format.schema")
        case "json_object":
            return grammar.json_object()
        case _:
            return None


def parsed_schema(text: str, *, param: str) -> object:
    """The JSON Schema that ``text`` spells.

    Raises:
        ApiError: INVALID_JSON_SCHEMA at ``param``: it is too long, or no JSON.
    """
    if len(text) > MAX_SCHEMA_CHARS:
        raise refusal(f"it is longer than {MAX_SCHEMA_CHARS} characters", param)

    def refuse_constant(name: str) -> NoReturn:
        raise refusal(f"{name} is not a number in JSON", param)

    try:
        schema: object = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise refusal("it is not valid JSON", param) from error
    return schema


@lru_cache(_CACHED_GRAMMARS)
def _format_grammar(text_format: bytes) -> str | None:
    """Clients repeat their formats from turn to turn."""
    grammar = Grammar()
    rule = answer_rule(grammar, TextFormat.FromString(text_format))
    return None if rule is None else grammar.render(rule)
