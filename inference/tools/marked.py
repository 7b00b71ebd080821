"""The format of a family that writes arguments as JSON between fixed texts, made of its syntax."""

import re
from collections.abc import Mapping, Sequence

from inference.grammar import Grammar, literal
from inference.parsing.base import OutputParser
from inference.parsing.calls import CallParser
from inference.parsing.syntax import CallSyntax
from inference.tools.format import ToolFormat, add_sequence
from inference.tools.text import add_text_without, other_than

_SPACE = re.compile(r"(\s+)")


class MarkedFormat(ToolFormat):
    """``ToolFormat`` of a ``CallSyntax``.

    Args:
        lures: How what text must not have begins: models that may not write a mark make up others much like it.
    """

    def __init__(self, name: str, syntax: CallSyntax, *, lures: Sequence[str] = ()) -> None:
        self.name = name
        self._syntax = syntax
        self._lures = tuple(lures) or ((syntax.mark,) if syntax.mark else ())
        self.mixes = bool(syntax.mark)
        parts = (syntax.section_start, syntax.call_start, syntax.name_end, syntax.call_end, syntax.section_end)
        self.marks = (*parts, syntax.separator, syntax.id_mark, *syntax.other_starts)

    def new_parser(self, *, may_mix: bool, functions: Mapping[str, str]) -> OutputParser:
        return CallParser(self._syntax, may_mix=may_mix, names=functions.keys())

    def call_head(self, name: str) -> str:
        return f"{self._syntax.section_start}{self._syntax.call_start}{name}"

    def call_text(self, name: str, arguments: str) -> str:
        syntax = self._syntax
        return f"{self.call_head(name)}{syntax.name_end}{arguments}{syntax.call_end}{syntax.section_end}"

    def is_spoken_in(self, rendered: str, name: str) -> bool:
        """Templates write an object of arguments, or its text in quotes."""
        starts = re.finditer(re.escape(self._syntax.mark) or r"(?=\{)", rendered)
        heads = (self._syntax.first_head.match(rendered[start.end() :]) for start in starts)
        return any(head is not None and head[1] == name for head in heads)

    def add_text(self, grammar: Grammar, *, is_all: bool) -> str:
        if not self._lures:
            return _add_other_beginning(grammar, self._syntax)
        text = add_text_without(grammar, self._lures)
        if not is_all:
            return text
        return grammar.add_rule("answer", f"({other_than({lure[0] for lure in self._lures})} {text})?")

    def add_calls(self, grammar: Grammar, arguments: Mapping[str, str], *, first: str | None, most: int | None) -> str:
        syntax = self._syntax
        calls = {name: grammar.add_rule(f"call-{name}", _call(syntax, name, rule)) for name, rule in arguments.items()}
        sequence = add_sequence(grammar, calls, _spaced(syntax.separator), first=first, most=most)
        pieces = (_spaced(syntax.section_start), sequence, _spaced(syntax.section_end))
        return grammar.add_rule("calls", " ".join(filter(None, pieces)))


def _call(syntax: CallSyntax, name: str, arguments: str) -> str:
    """Line ends may be missing: models are trained with them, or without."""
    pieces = (_spaced(syntax.call_start + name + syntax.name_end), arguments, _spaced(syntax.call_end))
    return " ".join(filter(None, pieces))


def _spaced(text: str) -> str:
    """``text``, in which line ends may be missing; empty if it is."""
    lines = text.split("\n")
    return f" {literal(chr(10))}? ".join(literal(line) if line else "" for line in lines).strip()


def _add_other_beginning(grammar: Grammar, syntax: CallSyntax) -> str:
    """The rule of texts that do not begin like a call, where no mark tells calls from text."""
    starts = {start.lstrip()[0] for start in (syntax.call_start, *syntax.other_starts)}
    anything = grammar.add_rule("anything", f"{other_than(())}*")
    return grammar.add_rule("answer", f"[ \\n\\t]* ({other_than({*starts, ' ', *chr(10), *chr(9)})} {anything})?")
