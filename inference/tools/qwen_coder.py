"""Qwen3-Coder and Qwen 3.5: arguments are elements of their own, texts as they are, all else as JSON.

::

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Graz
    </parameter>
    </function>
    </tool_call>

What a value is, its parameter's schema says. A parameter that may be text or something else is written as JSON.
"""

import enum
import json
import re
from collections.abc import Mapping

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL, PART_KIND_TEXT
from inference.detokenizer import open_start
from inference.grammar import Grammar, alternatives, literal
from inference.parsing.base import OutputParser, ParserEvent, PartEnded, PartStarted, TextDelta
from inference.tools.format import ToolFormat
from inference.tools.parameters import (
    ANY_TYPE,
    Parameter,
    add_fields,
    argument_json,
    is_plain_string,
    parameter_types,
    read_parameters,
)
from inference.tools.text import add_text_without, other_than

_START, _END = "<tool_call>", "</tool_call>"
_FUNCTION_END, _PARAMETER_END = "</function>", "</parameter>"
_PARAMETER = "<parameter="
_HEAD = re.compile(r"\s*<function=([a-zA-Z0-9_-]+)>")
_NAME = re.compile(r"<parameter=([^>]*)>\n?")
_LURES = ("<tool_", "</tool_")
_STRING = frozenset({"string"})


class _State(enum.Enum):
    TEXT = enum.auto()
    """Outside of calls."""
    HEAD = enum.auto()
    """After the start mark, before the function's name."""
    PARAMETERS = enum.auto()
    """In a call, between its parameters."""
    VALUE = enum.auto()
    """In a parameter."""
    TAIL = enum.auto()
    """After the function, before the end mark."""


class QwenCoderParser:
    """Reads calls between the marks; what is between them and no call is text.

    Text comes bit by bit, in arguments too if their schema says that they are text; other arguments come whole.
    """

    def __init__(self, functions: Mapping[str, str], *, may_mix: bool) -> None:
        self._functions = functions
        self._may_mix = may_mix
        self._state = _State.TEXT
        self._held = ""
        self._in_text = False
        self._has_call = False
        self._types: Mapping[str, frozenset[str]] = {}
        self._has_argument = False
        self._name = ""

    def feed(self, text: str) -> list[ParserEvent]:
        """As OutputParser says."""
        events: list[ParserEvent] = []
        self._held += text
        while self._step(events):
            pass
        return events

    def finish(self) -> list[ParserEvent]:
        """As OutputParser says. A call that is cut keeps what it has, as JSON that ends there."""
        held, self._held = self._held, ""
        events: list[ParserEvent] = []
        match self._state:
            case _State.TEXT:
                self._say(held, events)
            case _State.HEAD:
                body = held.strip()
                if body and not (_may_be_head(held) or _END.startswith(body)):
                    self._say(body, events)
            case _State.VALUE if self._is_text:
                self._argue(json.dumps(held.removesuffix("\n"), ensure_ascii=False)[1:-1], events)
                events.append(PartEnded())
            case _State.PARAMETERS | _State.VALUE:
                events.append(PartEnded())
            case _State.TAIL:
                pass
        if self._in_text:
            events.append(PartEnded())
        return events

    def _step(self, events: list[ParserEvent]) -> bool:
        """Settle what can be settled in the present state; whether another state has to look at the rest."""
        match self._state:
            case _State.TEXT:
                return self._text(events)
            case _State.HEAD:
                return self._head(events)
            case _State.PARAMETERS:
                return self._parameters(events)
            case _State.VALUE:
                return self._value(events)
            case _State.TAIL:
                return self._tail()

    def _text(self, events: list[ParserEvent]) -> bool:
        if not self._may_mix and (self._in_text or not _START.startswith(self._held.lstrip()[: len(_START)])):
            held, self._held = self._held, ""
            self._say(held, events)
            return False
        before, start, rest = self._held.partition(_START)
        if not start:
            settled = len(self._held[: open_start(self._held, _START)].rstrip())
            before, rest = self._held[:settled], self._held[settled:]
        self._held = rest
        self._say(before.rstrip(), events)
        if start:
            if self._in_text:
                self._in_text = False
                events.append(PartEnded())
            self._state = _State.HEAD
        return bool(start)

    def _head(self, events: list[ParserEvent]) -> bool:
        if head := _HEAD.match(self._held):
            self._held = self._held[head.end() :]
            self._types = parameter_types(self._functions.get(head[1], ""))
            self._has_argument = False
            events += (PartStarted(PART_KIND_FUNCTION_CALL, head[1]), TextDelta("{"))
            self._state = _State.PARAMETERS
            return True
        body, end, rest = self._held.partition(_END)
        if _may_be_head(self._held) or not end:
            return False
        self._held = rest
        self._state = _State.TEXT
        self._say(body.strip(), events)
        return True

    def _parameters(self, events: list[ParserEvent]) -> bool:
        """To the next parameter or the function's end; what else is there is lost."""
        found = [(at, mark) for mark in (_PARAMETER, _FUNCTION_END, _END) if (at := self._held.find(mark)) >= 0]
        if not found:
            marks = (_PARAMETER, _FUNCTION_END, _END)
            self._held = self._held[min(open_start(self._held, mark) for mark in marks) :]
            return False
        at, mark = min(found)
        self._held = self._held[at:]
        if mark != _PARAMETER:
            self._held = self._held.removeprefix(_FUNCTION_END)
            events += (TextDelta("}"), PartEnded())
            self._has_call = True
            self._state = _State.TAIL
            return True
        name = _NAME.match(self._held)
        if name is None or name.end() == len(self._held):  # a line end may follow
            return False
        self._held = self._held[name.end() :]
        self._name = name[1]
        separator = ", " if self._has_argument else ""
        self._has_argument = True
        opening = f"{separator}{json.dumps(self._name, ensure_ascii=False)}: "
        events.append(TextDelta(opening + '"' if self._is_text else opening))
        self._state = _State.VALUE
        return True

    @property
    def _is_text(self) -> bool:
        return self._types.get(self._name, ANY_TYPE) == _STRING

    def _value(self, events: list[ParserEvent]) -> bool:
        value, end, rest = self._held.partition(_PARAMETER_END)
        if not end and not self._is_text:
            return False
        if end:
            value = value.removesuffix("\n")
            self._state = _State.PARAMETERS
        else:
            settled = open_start(value, _PARAMETER_END)
            settled = len(value[:settled].removesuffix("\n"))
            value, rest = value[:settled], value[settled:]
        self._held = rest
        if self._is_text:
            self._argue(json.dumps(value, ensure_ascii=False)[1:-1] + ('"' if end else ""), events)
        else:
            self._argue(argument_json(value, self._types.get(self._name, ANY_TYPE)), events)
        return bool(end)

    def _tail(self) -> bool:
        rest = self._held.lstrip()
        if _END.startswith(rest) and rest != _END:
            return False
        self._held = rest.removeprefix(_END)
        self._state = _State.TEXT
        return bool(self._held)

    def _argue(self, text: str, events: list[ParserEvent]) -> None:
        if text:
            events.append(TextDelta(text))

    def _say(self, text: str, events: list[ParserEvent]) -> None:
        if not self._in_text:
            if self._has_call:
                text = text.lstrip()
            if text:
                self._in_text = True
                events.append(PartStarted(PART_KIND_TEXT))
        if text:
            events.append(TextDelta(text))


def _may_be_head(text: str) -> bool:
    head = text.lstrip()
    lead = "<function="
    return lead.startswith(head) or (
        head.startswith(lead) and re.fullmatch("[a-zA-Z0-9_-]*", head[len(lead) :]) is not None
    )


class QwenCoderFormat(ToolFormat):
    """``ToolFormat`` of Qwen3-Coder."""

    name = "qwen3_coder"
    marks = (_START, _END)

    def new_parser(self, *, may_mix: bool, functions: Mapping[str, str]) -> OutputParser:
        return QwenCoderParser(functions, may_mix=may_mix)

    def call_head(self, name: str) -> str:
        return f"{_START}\n<function={name}"

    def call_text(self, name: str, arguments: str) -> str:
        return f"{self.call_head(name)}>\n{arguments}\n{_FUNCTION_END}\n{_END}"

    def is_spoken_in(self, rendered: str, name: str) -> bool:
        return f"<function={name}>" in rendered and f"{_PARAMETER}key>" in rendered

    def add_text(self, grammar: Grammar, *, is_all: bool) -> str:
        text = add_text_without(grammar, _LURES)
        return grammar.add_rule("answer", f"({other_than(_START[0])} {text})?") if is_all else text

    def add_calls(self, grammar: Grammar, arguments: Mapping[str, str], *, first: str | None, most: int | None) -> str:
        calls = {
            name: grammar.add_rule(
                f"call-{name}",
                f"{literal(f'{self.call_head(name)}>{chr(10)}')} {rule} {literal(f'{_FUNCTION_END}{chr(10)}{_END}')}",
            )
            for name, rule in arguments.items()
        }
        call = grammar.add_rule("call", alternatives(calls.values()))
        following = grammar.add_rule("following-call", f"{literal(chr(10))} {call}")
        more = "" if most == 1 else grammar.repeat(following, 0, None if most is None else most - 1)
        return grammar.add_rule("calls", f"{call if first is None else calls[first]} {more}".rstrip())

    def add_arguments(self, grammar: Grammar, schema: object, *, param: str) -> str:
        parameters = read_parameters(schema, param=param)
        if not parameters and isinstance(schema, dict) and schema.get("additionalProperties") is not False:
            return self.add_any_arguments(grammar)
        fields = [(_field(grammar, parameter), parameter.is_required) for parameter in parameters]
        return add_fields(grammar, fields)

    def add_any_arguments(self, grammar: Grammar) -> str:
        """Of any name; values as JSON."""
        name = "[a-zA-Z_] [a-zA-Z0-9_]*"
        end = literal(f"\n{_PARAMETER_END}\n")
        field = f"{literal(_PARAMETER)} {name} {literal(chr(62) + chr(10))} {grammar.json_value()} {end}"
        return grammar.add_rule("any-arguments", f"{grammar.add_rule('any-argument', field)}*")


def _field(grammar: Grammar, parameter: Parameter) -> str:
    start, end = literal(f"{_PARAMETER}{parameter.name}>\n"), literal(f"\n{_PARAMETER_END}\n")
    if parameter.types != _STRING:
        return f"{start} {grammar.add_schema(parameter.schema, param=parameter.param)} {end}"
    if is_plain_string(parameter.schema):
        return f"{start} {add_text_without(grammar, [_PARAMETER_END], end=_PARAMETER_END)} {literal(chr(10))}"
    return f"{start} {grammar.add_plain_string(parameter.schema, param=parameter.param)} {end}"


QWEN_CODER = QwenCoderFormat()
