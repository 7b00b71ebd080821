"""The protocol of a format of function calls. One file per format; ``native`` says which one a chat template speaks."""

from collections.abc import Mapping
from typing import Protocol

from inference.grammar import Grammar
from inference.parsing.base import OutputParser


class ToolFormat(Protocol):
    """How a family of models writes calls. Equal ones make equal grammars."""

    def __hash__(self) -> int: ...

    def new_parser(self, *, may_mix: bool) -> OutputParser:
        """A parser of text and calls; ``may_mix``: both may be in one output, otherwise it is one or the other."""
        ...

    def call_head(self, name: str) -> str:
        """How a call of ``name`` begins, up to the name's last character."""
        ...

    def is_spoken_in(self, rendered: str, name: str) -> bool:
        """Whether a template that rendered a call of ``name`` wrote it in this format."""
        ...

    def may_begin_call(self, text: str) -> bool:
        """Whether the end of ``text`` may turn out to be the beginning of a call."""
        ...

    def add_text(self, grammar: Grammar, *, is_all: bool) -> str:
        """The rule of texts in which no call begins; they may be empty.

        Args:
            is_all: No call follows. Then a text does not begin like one: a model that wants to call would go on with
                something almost like a call.
        """
        ...

    def add_calls(self, grammar: Grammar, arguments: Mapping[str, str], *, first: str | None, most: int | None) -> str:
        """The rule of one call or more.

        Args:
            arguments: The rule of the arguments of each function that may be called.
            first: The function of the first call; None: any.
            most: The most calls; None: any number.
        """
        ...
