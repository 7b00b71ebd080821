"""What the output of a generation is held to: the one place where a request becomes a grammar."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NoReturn

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import TextFormat
from antiphon.responses.v1.tool_pb2 import FunctionTool
from inference.grammar import Grammar
from inference.grammar.keywords import refusal
from inference.tools.format import ToolFormat
from inference.tools.rules import CallRules

MAX_SCHEMA_CHARS = 500_000
_CACHED_GRAMMARS = 64

_OWN_LENGTHS = frozenset({"maxLength", "minLength", "enum", "const", "pattern", "format"})
"""Keywords that say, or may say, how long a string is."""
_VALUES = frozenset({"enum", "const", "default", "examples"})
"""Keywords that hold values, not schemas."""


def constraint(
    request: GenerateRequest, rules: CallRules, tool_format: ToolFormat, *, max_string: int | None = None
) -> str | None:
    """The grammar of all that may be generated for ``request``; None if anything may. Takes its time.

    One answer in the request's format; or calls; or, if that format is plain text, text and, as the model's family does
    it, calls after it or instead of it. Where the model
    may have calls in mind, because it was told of tools or has called before, and must not make one, text is held to
    have no beginning of one.

    Args:
        max_string: The most characters of strings in arguments whose schema does not say; None: any number.

    Raises:
        ApiError: INVALID_JSON_SCHEMA; ``param`` names the place, such as ``text.format.schema.properties.a.pattern``.
    """
    knows_calls = bool(request.tools) or any(item.HasField("function_call") for item in request.items)
    functions = [
        (index, tool.function.SerializeToString(deterministic=True))
        for index, tool in enumerate(request.tools)
        if tool.HasField("function") and tool.function.name in rules.names
    ]
    text_format = request.text.format.SerializeToString(deterministic=True)
    return _grammar(text_format, tuple(functions), rules, tool_format, knows_calls, max_string)


def check_size(grammar: str | None, most: int | None, request: GenerateRequest) -> None:
    """Refuse a grammar that is larger than an engine takes.

    Raises:
        ApiError: INVALID_JSON_SCHEMA.
    """
    if grammar is not None and most is not None and len(grammar) > most:
        raise ApiError(
            ErrorReason.ERROR_REASON_INVALID_JSON_SCHEMA,
            "The schemas of the request are together too large to be enforced by this model.",
            "tools" if has_free_text(request) else "text.format.schema",
        )


def has_free_text(request: GenerateRequest) -> bool:
    """Whether an answer may be any text."""
    return request.text.format.WhichOneof("format") in (None, "text")


@lru_cache(_CACHED_GRAMMARS)
def _grammar(
    text_format: bytes,
    functions: Sequence[tuple[int, bytes]],
    rules: CallRules,
    tool_format: ToolFormat,
    knows_calls: bool,
    max_string: int | None,
) -> str | None:
    """Clients repeat their formats and tools from turn to turn."""
    grammar = Grammar()
    answer = None if rules.is_required else answer_rule(grammar, TextFormat.FromString(text_format))
    if answer is not None:
        answer = tool_format.add_answer(grammar, answer)
    if not rules.allows_calls:
        if answer is None and knows_calls:
            answer = tool_format.add_text(grammar, is_all=True)
        return None if answer is None else grammar.render(answer)
    parsed = {index: FunctionTool.FromString(function) for index, function in functions}
    arguments = _arguments(grammar, tool_format, parsed, max_string)
    calls = tool_format.add_calls(grammar, arguments, first=rules.first, most=rules.most)
    if rules.is_required:
        return grammar.render(calls)
    if answer is None:
        text = tool_format.add_text(grammar, is_all=False)
        both = f"{text} {calls}?" if tool_format.mixes else f"{text} | {calls}"
        return grammar.render(grammar.add_rule("text-and-calls", both))
    return grammar.render(grammar.add_rule("answer-or-calls", f"{answer} | {calls}"))


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


def _arguments(
    grammar: Grammar, tool_format: ToolFormat, functions: Mapping[int, FunctionTool], max_string: int | None
) -> dict[str, str]:
    """The rule of the arguments of each function, by its name.

    Raises:
        ApiError: as ``constraint``, only of a function that is strict; those of others may then be any.
    """
    rules: dict[str, str] = {}
    for index, function in functions.items():
        param = f"tools[{index}].parameters"
        try:
            schema = _parameters(function, param)
            if max_string is not None:
                _bound_strings(schema, max_string)
            rules[function.name] = tool_format.add_arguments(grammar, schema, param=param)
        except ApiError:
            if function.strict:
                raise
            rules[function.name] = tool_format.add_any_arguments(grammar)
    return rules


def _parameters(function: FunctionTool, param: str) -> object:
    """The schema of the arguments: an object, with the properties that are listed and no others unless it says so.

    As OpenAI has it, a function without parameters takes none.

    Raises:
        ApiError: as ``constraint``.
    """
    if not function.parameters:
        return {"type": "object", "additionalProperties": False}
    schema = parsed_schema(function.parameters, param=param)
    if not isinstance(schema, dict):
        raise refusal("it is no JSON object", param)
    if schema.setdefault("type", "object") != "object":
        raise refusal("arguments are always of type object", f"{param}.type")
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


def _bound_strings(schema: object, max_string: int) -> None:
    """Give every string of ``schema`` a greatest length that has none."""
    if isinstance(schema, list):
        for item in schema:
            _bound_strings(item, max_string)
    elif isinstance(schema, dict):
        if schema.get("type") == "string" and _OWN_LENGTHS.isdisjoint(schema):
            schema["maxLength"] = max_string
        for keyword, value in schema.items():
            if keyword not in _VALUES:
                _bound_strings(value, max_string)


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
