"""Llama 3.2 and 4, with calls as a list in Python: an output is either text or calls, and no mark tells which.

::

    [get_weather(city="Graz", days=3), get_time()]

Values are Python's literals; where we decide, they are spelled as in JSON. Nothing is ever evaluated: a value that is
neither JSON nor a literal is text.
"""

import re
import string
from collections.abc import Mapping

from inference.grammar import Grammar, literal
from inference.grammar.keywords import refusal
from inference.parsing.base import OutputParser
from inference.parsing.marks import Marks
from inference.tools.fieldwise import FieldwiseFormat, FieldwiseParser
from inference.tools.format import add_sequence
from inference.tools.parameters import Parameter, argument_json
from inference.tools.text import other_than

_TOKENS = ("<|python_start|>", "<|python_tag|>", "<|python_end|>")
_MARKS = Marks(*_TOKENS)
_NAME = "[a-zA-Z_][a-zA-Z0-9_-]*"
_HEAD = re.compile(rf"\[\s*({_NAME})\(")
_HEAD_BEGUN = re.compile(rf"(?:\[\s*({_NAME})?)?")
_NEXT = re.compile(rf",\s*({_NAME})\(")
_NEXT_BEGUN = re.compile(rf"(?:,\s*({_NAME})?)?")
_IDENTIFIER = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_KEYWORD = re.compile(rf"({_IDENTIFIER.pattern})\s*=\s*")
_KEYWORD_BEGUN = re.compile(rf"(?:{_IDENTIFIER.pattern}\s*(?:=\s*)?)?")
_GAP = string.whitespace + ","
_STRUCTURE = re.compile(r"""["'\\()\[\]{},]""")


class PythonicParser(FieldwiseParser):
    """An output that begins with a call of a known function in brackets is calls; all else is text.

    Arguments come one by one, each when it is whole. What cannot be read within the list is lost.
    """

    def __init__(self, functions: Mapping[str, str], *, may_mix: bool) -> None:
        super().__init__(self._in_head, functions, mark="", marks=_MARKS, may_mix=may_mix)
        self._name = ""

    def _settle(self, held: str) -> None:
        if self._step in (self._in_text, self._in_answer) or (self._step == self._in_head and not held.strip()):
            self._say(held)

    def _in_head(self) -> bool:
        held = self._held.lstrip()
        head, tag = _HEAD.match(held), _MARKS.at(held, 0)
        begun = _HEAD_BEGUN.fullmatch(held)
        if head and head[1] in self._functions:
            self._held = held[head.end() :]
            self._begin_call(head[1])
            self._step = self._in_arguments
        elif tag:
            self._held = held.removeprefix(tag)
        elif tag is not None or (begun and any(name.startswith(begun[1] or "") for name in self._functions)):
            return False
        else:
            self._step = self._in_text
        return True

    def _in_arguments(self) -> bool:
        """In a call, before an argument's name."""
        rest = self._held.lstrip(_GAP)
        keyword = _KEYWORD.match(rest)
        if rest.startswith(")"):
            self._held = rest[1:]
            self._end_call()
            self._step = self._in_list
        elif keyword and keyword.end() < len(rest):  # else white space may follow
            self._held = rest[keyword.end() :]
            self._name = keyword[1]
            self._step = self._in_value
        elif _KEYWORD_BEGUN.fullmatch(rest):
            return False
        else:
            self._end()
            self._step = self._in_rest
        return True

    def _in_value(self) -> bool:
        """In an argument's value."""
        end = _value_end(self._held)
        if end is None:
            return False
        self._name_argument(self._name)
        self._tell(argument_json(self._held[:end], self._types))
        self._held = self._held[end:]
        self._step = self._in_arguments
        return True

    def _in_list(self) -> bool:
        """After a call."""
        rest = self._held.lstrip()
        if head := _NEXT.match(rest):
            self._held = rest[head.end() :]
            self._begin_call(head[1])
            self._step = self._in_arguments
        elif rest.startswith("]"):
            self._held = rest[1:]
            self._step = self._in_tail
        elif _NEXT_BEGUN.fullmatch(rest):
            return False
        else:
            self._step = self._in_rest
        return True

    def _in_tail(self) -> bool:
        self._held = self._held.lstrip()
        if self._held:
            self._step = self._in_text
        return bool(self._held)

    def _in_rest(self) -> bool:
        """After what cannot be read."""
        self._held = ""
        return False


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


class PythonicFormat(FieldwiseFormat):
    """``ToolFormat`` of calls in Python."""

    name = "pythonic"
    marks = _TOKENS
    mixes = False
    separator = ", "

    def new_parser(self, *, may_mix: bool, functions: Mapping[str, str]) -> OutputParser:
        return PythonicParser(functions, may_mix=may_mix)

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
        sequence = add_sequence(grammar, calls, literal(", "), first=first, most=most)
        return grammar.add_rule("calls", f"{literal('[')} {sequence} {literal(']')}")

    def add_field(self, grammar: Grammar, parameter: Parameter) -> str:
        if not _IDENTIFIER.fullmatch(parameter.name):
            raise refusal("its name cannot be that of an argument in this model's format of calls", parameter.param)
        return f"{literal(f'{parameter.name}=')} {grammar.add_schema(parameter.schema, param=parameter.param)}"

    def add_any_arguments(self, grammar: Grammar) -> str:
        """Of any name."""
        field = grammar.add_rule("any-argument", f'[a-zA-Z_] [a-zA-Z0-9_]* "=" {grammar.json_value()}')
        return grammar.add_rule("any-arguments", f"({field} ({literal(self.separator)} {field})*)?")


PYTHONIC = PythonicFormat()
