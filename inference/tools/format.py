"""What a format of function calls is made of. One file per family; ``native`` says which one a model speaks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from inference.grammar import Grammar, alternatives
from inference.parsing.base import OutputParser


class ToolFormat(ABC):
    """How a family of models writes calls: read by its parser, held to by its grammar. Stateless."""

    name: str
    """In settings and in the documentation."""
    marks: tuple[str, ...] = ()
    """What the parser looks for; control tokens in it have to be spelled out."""
    mixes: bool = True
    """Calls may follow text in one output; otherwise an output is one or the other."""
    answer_start: str = ""
    """What a model writes before an answer; not empty: even outputs without calls need the parser."""

    @abstractmethod
    def new_parser(self, *, may_mix: bool, functions: Mapping[str, str]) -> OutputParser:
        """A parser of text and calls.

        Args:
            may_mix: Both may be in one output; otherwise it is one or the other.
            functions: Those that may be called, each with the JSON Schema of its arguments, perhaps empty.
        """

    @abstractmethod
    def call_head(self, name: str) -> str:
        """How a call of ``name`` begins, up to the name's last character."""

    @abstractmethod
    def call_text(self, name: str, arguments: str) -> str:
        """A call, for a prompt that tells the model how to write one.

        Args:
            arguments: As the format has them.
        """

    @abstractmethod
    def is_spoken_in(self, rendered: str, name: str) -> bool:
        """Whether a template that rendered a call of ``name``, with an argument ``key``, wrote it in this format."""

    @abstractmethod
    def add_text(self, grammar: Grammar, *, is_all: bool) -> str:
        """The rule of texts in which no call begins; they may be empty.

        Args:
            is_all: No call follows. Then a text does not begin like one: a model that wants to call would go on with
                something almost like a call.
        """

    @abstractmethod
    def add_calls(self, grammar: Grammar, arguments: Mapping[str, str], *, first: str | None, most: int | None) -> str:
        """The rule of one call or more.

        Args:
            arguments: The rule of the arguments of each function that may be called.
            first: The function of the first call; None: any.
            most: The most calls; None: any number.
        """

    def add_answer(self, grammar: Grammar, answer: str) -> str:
        """The rule of outputs that are an answer of the rule ``answer``."""
        return answer

    def add_arguments(self, grammar: Grammar, schema: object, *, param: str) -> str:
        """The rule of the arguments that are valid under ``schema``.

        Raises:
            ApiError: as ``Grammar.add_schema``.
        """
        return grammar.add_schema(schema, param=param)

    def add_any_arguments(self, grammar: Grammar) -> str:
        """The rule of all arguments there may be."""
        return grammar.json_object()


def add_sequence(
    grammar: Grammar, calls: Mapping[str, str], separator: str, *, first: str | None, most: int | None
) -> str:
    """The body of one call or more.

    Args:
        calls: The rule of a call of each function.
        separator: The body of what is between two; may be empty.
        first: As ``ToolFormat.add_calls`` takes it; so ``most``.
    """
    call = grammar.add_rule("call", alternatives(calls.values()))
    following = grammar.add_rule("following-call", f"{separator} {call}".strip())
    more = "" if most == 1 else grammar.repeat(following, 0, None if most is None else most - 1)
    return f"{call if first is None else calls[first]} {more}".rstrip()
