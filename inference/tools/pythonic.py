"""Llama 3.2 and 4, with calls as a list in Python: an output is either text or calls, and no mark tells which.

::

    [get_weather(city="Graz", days=3), get_time()]

Values are Python's literals; where we decide, they are spelled as in JSON. Nothing is ever evaluated: a value that is
neither JSON nor a literal is text.
"""

import enum
import json
import re
from collections.abc import Mapping

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL, PART_KIND_TEXT
from inference.grammar import Grammar, alternatives, literal
from inference.grammar.keywords import refusal
from inference.parsing.base import OutputParser, ParserEvent, PartEnded, PartStarted, TextDelta
from inference.tools.format import ToolFormat
from inference.tools.parameters import ANY_TYPE, add_fields, argument_json, parameter_types, read_parameters
from inference.tools.text import other_than

_TAGS = ("<|python_start|>", "<|python_tag|>")
_HEAD = re.compile(r"\s*\[\s*([a-zA-Z_][a-zA-Z0-9_-]*)\(")
_NEXT = re.compile(r"\s*,\s*([a-zA-Z_][a-zA-Z0-9_-]*)\(")
_KEYWORD = re.compile(r"\s*,?\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*")
_STRUCTURE = re.compile(r"""["'\\()\[\]{},]""")
_IDENTIFIER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class _State(enum.Enum):
    START = enum.auto()
    """Before anything that tells calls from text."""
    TEXT = enum.auto()
    """In text, to the end of the output."""
    KEYWORD = enum.auto()
    """In a call, before an argument's name."""
    VALUE = enum.auto()
    """In an argument's value."""
    NEXT = enum.auto()
    """After a call."""
    DONE = enum.auto()
    """After the list: nothing can follow."""


class PythonicParser:
    """An output that begins with a call of a known function in brackets is calls; all else is text.

    Arguments come one by one, each when it is whole.
    """

    def __init__(self, functions: Mapping[str, str]) -> None:
        self._functions = functions
        self._state = _State.START
        self._held = ""
        self._in_text = False
        self._types: Mapping[str, frozenset[str]] = {}
        self._name = ""
        self._has_argument = False

    def feed(self, text: str) -> list[ParserEvent]:
        """As OutputParser says."""
        events: list[ParserEvent] = []
        self._held += text
        while self._step(events):
            pass
        return events

    def finish(self) -> list[ParserEvent]:
        """As OutputParser says."""
        held, self._held = self._held, ""
        events: list[ParserEvent] = []
        match self._state:
            case _State.START if not self._may_begin(held) or not held.strip():
                self._say(held, events)
            case _State.KEYWORD | _State.VALUE:
                events.append(PartEnded())
            case _:
                pass
        if self._in_text:
            events.append(PartEnded())
        return events

    def _step(self, events: list[ParserEvent]) -> bool:
        """Settle what can be settled in the present state; whether another state has to look at the rest."""
        match self._state:
            case _State.START:
                return self._start(events)
            case _State.TEXT:
                held, self._held = self._held, ""
                self._say(held, events)
                return False
            case _State.KEYWORD:
                return self._keyword(events)
            case _State.VALUE:
                return self._value(events)
            case _State.NEXT:
                return self._next(events)
            case _State.DONE:
                self._held = ""
                return False

    def _start(self, events: list[ParserEvent]) -> bool:
        held = _untagged(self._held)
        head = _HEAD.match(held)
        if head is not None and head[1] in self._functions:
            self._begin(head, held, events)
            return True
        if head is None and self._may_begin(self._held):
            return False
        self._state = _State.TEXT
        return True

    def _may_begin(self, text: str) -> bool:
        """Whether ``text``, the whole output so far, may go on to be a call."""
        held = _untagged(text)
        if any(tag.startswith(held.strip()) for tag in _TAGS):
            return True
        head = re.fullmatch(r"\s*\[\s*([a-zA-Z_][a-zA-Z0-9_-]*)?\(?", held)
        return head is not None and any(name.startswith(head[1] or "") for name in self._functions)

    def _begin(self, head: re.Match[str], held: str, events: list[ParserEvent]) -> None:
        self._held = held[head.end() :]
        self._types = parameter_types(self._functions.get(head[1], ""))
        self._has_argument = False
        self._state = _State.KEYWORD
        events += (PartStarted(PART_KIND_FUNCTION_CALL, head[1]), TextDelta("{"))

    def _keyword(self, events: list[ParserEvent]) -> bool:
        rest = self._held.lstrip(" \n\t,")
        if rest.startswith(")"):
            self._held = rest[1:]
            events += (TextDelta("}"), PartEnded())
            self._state = _State.NEXT
            return True
        keyword = _KEYWORD.match(self._held)
        if keyword is None or keyword.end() == len(self._held):  # white space may follow
            if not rest or re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*\s*(=\s*)?", rest):
                return False
            self._held = ""  # no keyword argument: the rest is beyond reading
            events.append(PartEnded())
            self._state = _State.DONE
            return False
        self._held = self._held[keyword.end() :]
        self._name = keyword[1]
        self._state = _State.VALUE
        return True

    def _value(self, events: list[ParserEvent]) -> bool:
        end = _value_end(self._held)
        if end is None:
            return False
        value, self._held = self._held[:end], self._held[end:]
        separator = ", " if self._has_argument else ""
        self._has_argument = True
        written = argument_json(value, self._types.get(self._name, ANY_TYPE))
        events.append(TextDelta(f"{separator}{json.dumps(self._name)}: {written}"))
        self._state = _State.KEYWORD
        return True

    def _next(self, events: list[ParserEvent]) -> bool:
        if head := _NEXT.match(self._held):
            self._begin(head, self._held, events)
            return True
        if re.fullmatch(r"\s*(,\s*([a-zA-Z_][a-zA-Z0-9_-]*)?)?", self._held):
            return False
        self._state = _State.DONE
        return True

    def _say(self, text: str, events: list[ParserEvent]) -> None:
        if text and not self._in_text:
            self._in_text = True
            events.append(PartStarted(PART_KIND_TEXT))
        if text:
            events.append(TextDelta(text))


def _untagged(text: str) -> str:
    text = text.lstrip()
    for tag in _TAGS:
        text = text.removeprefix(tag)
    return text


def _value_end(text: str) -> int | None:
    """Where the value with which ``text`` begins ends: at a comma or bracket that is not inside of it."""
    depth, quote, position = 0, "", 0
    while match := _STRUCTURE.search(text, position):
        position = match.end()
        match match[0]:
            case "\\":
                position += 1
            case '"' | "'" as sign:
                quote = "" if quote == sign else quote or sign
            case _ if quote:
                pass
            case "(" | "[" | "{":
                depth += 1
            case _ if depth == 0:
                return match.start()
            case ")" | "]" | "}":
                depth -= 1
            case _:
                pass
    return None


class PythonicFormat(ToolFormat):
    """``ToolFormat`` of calls in Python."""

    name = "pythonic"
    marks = (*_TAGS, "<|python_end|>")
    mixes = False

    def new_parser(self, *, may_mix: bool, functions: Mapping[str, str]) -> OutputParser:
        return PythonicParser(functions)

    def call_head(self, name: str) -> str:
        return f"[{name}"

    def call_text(self, name: str, arguments: str) -> str:
        return f"[{name}({arguments})]"

    def is_spoken_in(self, rendered: str, name: str) -> bool:
        return f"[{name}(key=" in rendered

    def add_text(self, grammar: Grammar, *, is_all: bool) -> str:
        anything = grammar.add_rule("anything", f"{other_than(())}*")
        return grammar.add_rule("answer", f"[ \\n]* ({other_than('[< ' + chr(10))} {anything})?")

    def add_calls(self, grammar: Grammar, arguments: Mapping[str, str], *, first: str | None, most: int | None) -> str:
        calls = {
            name: grammar.add_rule(f"call-{name}", f"{literal(f'{name}(')} {rule} {literal(')')}")
            for name, rule in arguments.items()
        }
        call = grammar.add_rule("call", alternatives(calls.values()))
        following = grammar.add_rule("following-call", f"{literal(', ')} {call}")
        more = "" if most == 1 else grammar.repeat(following, 0, None if most is None else most - 1)
        head = call if first is None else calls[first]
        return grammar.add_rule("calls", " ".join(filter(None, (literal("["), head, more, literal("]")))))

    def add_arguments(self, grammar: Grammar, schema: object, *, param: str) -> str:
        parameters = read_parameters(schema, param=param)
        if not parameters and isinstance(schema, dict) and schema.get("additionalProperties") is not False:
            return self.add_any_arguments(grammar)
        fields: list[tuple[str, bool]] = []
        for parameter in parameters:
            if not _IDENTIFIER.fullmatch(parameter.name):
                raise refusal("its name cannot be that of an argument in this model's format of calls", parameter.param)
            value = grammar.add_schema(parameter.schema, param=parameter.param)
            fields.append((f"{literal(f'{parameter.name}=')} {value}", parameter.is_required))
        return add_fields(grammar, fields, ", ")

    def add_any_arguments(self, grammar: Grammar) -> str:
        """Of any name."""
        field = grammar.add_rule("any-argument", f'[a-zA-Z_] [a-zA-Z0-9_]* "=" {grammar.json_value()}')
        return grammar.add_rule("any-arguments", f"({field} ({literal(', ')} {field})*)?")


PYTHONIC = PythonicFormat()
