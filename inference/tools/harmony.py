"""gpt-oss: calls are messages in the channel ``commentary``; ``inference.parsing.harmony`` reads them."""

from collections.abc import Mapping

from inference.grammar import Grammar, alternatives, literal
from inference.parsing.base import OutputParser
from inference.parsing.harmony import CHANNEL, CONSTRAIN, ENDS, MESSAGE, START, HarmonyParser
from inference.tools.format import ToolFormat
from inference.tools.text import add_text_without

_MARKS = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)
_FINAL = f"{CHANNEL}final{MESSAGE}"
_CALL = f"{CHANNEL}commentary to=functions."
_CALL_BY_ROLE = " to=functions."


class HarmonyFormat(ToolFormat):
    """``ToolFormat`` of gpt-oss. A call ends the turn, so that there is never more than one."""

    name = "harmony"
    marks = _MARKS
    mixes = False
    answer_start = _FINAL

    def new_parser(self, *, may_mix: bool, functions: Mapping[str, str]) -> OutputParser:
        return HarmonyParser()

    def call_head(self, name: str) -> str:
        return f"{_CALL}{name}"

    def call_text(self, name: str, arguments: str) -> str:
        return f"{_CALL}{name} {CONSTRAIN}json{MESSAGE}{arguments}"

    def is_spoken_in(self, rendered: str, name: str) -> bool:
        return f" to=functions.{name}" in rendered and CHANNEL in rendered

    def add_text(self, grammar: Grammar, *, is_all: bool) -> str:
        return self.add_answer(grammar, add_text_without(grammar, _MARKS))

    def add_answer(self, grammar: Grammar, answer: str) -> str:
        return grammar.add_rule("final", f"{_add_start(grammar)} {literal(_FINAL)} {answer}")

    def add_calls(self, grammar: Grammar, arguments: Mapping[str, str], *, first: str | None, most: int | None) -> str:
        start = _add_start(grammar)
        called = arguments if first is None else {first: arguments[first]}
        calls = [
            f"{start} {_header(name)} {literal(MESSAGE)} {grammar.add_rule(f'arguments-{name}', rule)}"
            for name, rule in called.items()
        ]
        return grammar.add_rule("call", alternatives(calls))


def _header(name: str) -> str:
    """As models write it, or as templates do, with the recipient before the channel."""
    by_channel = f"{literal(_CALL + name + ' ')} {literal(CONSTRAIN)}? {literal('json')}"
    by_role = f"{literal(f'{_CALL_BY_ROLE}{name}{CHANNEL}commentary ')} {literal(CONSTRAIN)}? {literal('json')}"
    return alternatives((by_channel, by_role))


def _add_start(grammar: Grammar) -> str:
    """The prompt has the beginning of the first message; after thoughts there is a new one."""
    return grammar.add_rule("start", f"{literal(START + 'assistant')}?")


HARMONY = HarmonyFormat()
