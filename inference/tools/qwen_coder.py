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

import json
import re
from collections.abc import Mapping

from inference.grammar import Grammar, literal
from inference.grammar.keywords import refusal
from inference.parsing.base import OutputParser
from inference.parsing.marks import Marks, beginning
from inference.parsing.syntax import NAME
from inference.tools.fieldwise import FieldwiseFormat, FieldwiseParser
from inference.tools.format import add_sequence
from inference.tools.parameters import Parameter, argument_json, is_plain_string
from inference.tools.text import add_text_without, other_than

_START, _END = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_MARKS = Marks(_START, _END)
_IN_CALL = Marks(_PARAMETER, _FUNCTION_END, _FUNCTION, _START, _END)
_AFTER_CALL = Marks(_END, _FUNCTION)
_VALUE_END = Marks(_PARAMETER_END)
_HEAD = re.compile(f"{_FUNCTION}({NAME})>")
_HEAD_BEGUN = re.compile(beginning([*_FUNCTION, NAME, ">"]))
_PARAMETER_NAME = re.compile(rf"{_PARAMETER}([^>]*)>\n?")
_LURES = ("<tool_", "</tool_")
_STRING = frozenset({"string"})


class QwenCoderParser(FieldwiseParser):
    """Reads calls between the marks; what is between them and no call is text.

    Text comes bit by bit, in arguments too if their schema says that they are text; other arguments come whole. A value
    goes on to its own end mark, whatever other marks are in it. A call that is cut keeps what it has, as JSON that ends
    there.
    """

    def __init__(self, functions: Mapping[str, str], *, may_mix: bool) -> None:
        super().__init__(self._in_text, functions, mark=_START, marks=_MARKS, may_mix=may_mix)

    def _settle(self, held: str) -> None:
        if self._step in (self._in_text, self._in_answer):
            self._say(held)
        elif self._step == self._in_value and self._types == _STRING:
            self._tell(_in_quotes(held.removesuffix("\n")))

    def _in_head(self) -> bool:
        self._held = self._held.lstrip()
        if head := _HEAD.match(self._held):
            self._held = self._held[head.end() :]
            self._begin_call(head[1])
            self._step = self._in_parameters
            return True
        if _HEAD_BEGUN.fullmatch(self._held):
            return False
        self._step = self._in_text
        return True

    def _in_parameters(self) -> bool:
        """In a call, to the next parameter or the function's end; what else is there is lost."""
        at, mark = _IN_CALL.find(self._held)
        self._held = self._held[at:]
        if mark != _PARAMETER:
            if mark:
                self._held = self._held.removeprefix(_FUNCTION_END)
                self._end_call()
                self._step = self._in_tail
            return bool(mark)
        name = _PARAMETER_NAME.match(self._held)
        if name is None or name.end() == len(self._held):  # a line end may follow
            return False
        self._held = self._held[name.end() :]
        self._name_argument(name[1])
        self._tell('"' if self._types == _STRING else "")
        self._step = self._in_value
        return True

    def _in_value(self) -> bool:
        """In a parameter."""
        is_text = self._types == _STRING
        at, end = _VALUE_END.find(self._held)
        if not end and not is_text:
            return False
        value = self._held[:at].removesuffix("\n")
        self._held = self._held[at + len(end) :] if end else self._held[len(value) :]
        self._tell(_in_quotes(value) if is_text else argument_json(value, self._types))
        if end:
            self._tell('"' if is_text else "")
            self._step = self._in_parameters
        return bool(end)

    def _in_tail(self) -> bool:
        rest = self._held = self._held.lstrip()
        at, mark = _AFTER_CALL.find(rest)
        if not at and not mark:
            return False
        self._held = rest.removeprefix(_END)
        if mark == _FUNCTION and not at:
            self._step = self._in_head
        elif at:
            self._step = self._in_text
        return True


def _in_quotes(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


class QwenCoderFormat(FieldwiseFormat):
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
        sequence = add_sequence(grammar, calls, literal("\n"), first=first, most=most)
        return grammar.add_rule("calls", sequence)

    def add_any_arguments(self, grammar: Grammar) -> str:
        """Of any name; values as JSON."""
        name = "[a-zA-Z_] [a-zA-Z0-9_]*"
        end = literal(f"\n{_PARAMETER_END}\n")
        field = f"{literal(_PARAMETER)} {name} {literal(chr(62) + chr(10))} {grammar.json_value()} {end}"
        return grammar.add_rule("any-arguments", f"{grammar.add_rule('any-argument', field)}*")

    def add_field(self, grammar: Grammar, parameter: Parameter) -> str:
        if ">" in parameter.name:
            raise refusal("its name cannot be that of an argument in this model's format of calls", parameter.param)
        start, end = literal(f"{_PARAMETER}{parameter.name}>\n"), literal(f"\n{_PARAMETER_END}\n")
        if parameter.types != _STRING:
            return f"{start} {grammar.add_schema(parameter.schema, param=parameter.param)} {end}"
        if is_plain_string(parameter.schema):
            return f"{start} {add_text_without(grammar, [_PARAMETER_END], end=_PARAMETER_END)} {literal(chr(10))}"
        return f"{start} {grammar.add_plain_string(parameter.schema, param=parameter.param)} {end}"


QWEN_CODER = QwenCoderFormat()
