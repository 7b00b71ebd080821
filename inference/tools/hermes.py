"""Calls as Hermes and Qwen models write them; ``inference.parsing.hermes`` reads them."""

import json
import re
from collections.abc import Collection, Mapping

from inference.detokenizer import open_start
from inference.grammar import Grammar, alternatives, char_class, literal
from inference.parsing.base import OutputParser
from inference.parsing.hermes import CALL_END, CALL_START, HermesParser

_MARKS = ("<tool_", "</tool_")
"""How all marks begin: models that may not write one make up others much like it."""
_MARK_CHARACTERS = frozenset("".join(_MARKS))
_SURROGATES = (0xD800, 0xDFFF)
_LAST_CHARACTER = 0x10FFFF


class HermesFormat:
    """``ToolFormat`` of a JSON object between ``<tool_call>`` and ``</tool_call>``."""

    def new_parser(self, *, may_mix: bool) -> OutputParser:
        return HermesParser(may_mix=may_mix)

    def call_head(self, name: str) -> str:
        return f'{CALL_START}\n{{"name": {json.dumps(name)}'.removesuffix('"')

    def is_spoken_in(self, rendered: str, name: str) -> bool:
        return re.search(rf'{CALL_START}\s*{{"name": "{re.escape(name)}", "arguments": ', rendered) is not None

    def may_begin_call(self, text: str) -> bool:
        return open_start(text, CALL_START) < len(text)

    def add_text(self, grammar: Grammar, *, is_all: bool) -> str:
        """An automaton whose states are what the text ends with of a mark."""
        ends = sorted({mark[:length] for mark in _MARKS for length in range(len(mark))})
        states = {end: grammar.reserve(f"text-{number}") for number, end in enumerate(ends)}
        for end, state in states.items():
            ways = [f"{_other_than(_MARK_CHARACTERS)} {states['']}"]
            for character in sorted(_MARK_CHARACTERS):
                after = end + character
                if not after.endswith(_MARKS):
                    reached = next(after[start:] for start in range(len(after) + 1) if after[start:] in states)
                    ways.append(f"{literal(character)} {states[reached]}")
            grammar.define(state, " | ".join([*ways, literal("")]))
        if not is_all:
            return states[""]
        return grammar.add_rule("answer", f"({_other_than({CALL_START[0]})} {states['']})?")

    def add_calls(self, grammar: Grammar, arguments: Mapping[str, str], *, first: str | None, most: int | None) -> str:
        calls = {name: grammar.add_rule(f"call-{name}", _call(name, rule)) for name, rule in arguments.items()}
        call = grammar.add_rule("call", alternatives(calls.values()))
        head = call if first is None else calls[first]
        following = grammar.add_rule("following-call", f"{literal(chr(10))} {call}")
        more = "" if most == 1 else grammar.repeat(following, 0, None if most is None else most - 1)
        return grammar.add_rule("calls", f"{head} {more}".rstrip())


def _call(name: str, arguments: str) -> str:
    """Models are trained with line ends inside of the marks, or without."""
    head = literal(f'{{"name": {json.dumps(name)}, "arguments": ')
    line_end = f"{literal(chr(10))}?"
    return f"{literal(CALL_START)} {line_end} {head} {arguments} {literal('}')} {line_end} {literal(CALL_END)}"


def _other_than(characters: Collection[str]) -> str:
    """Any character but ``characters`` and surrogates, which no text has."""
    left_out = sorted([*((ord(character), ord(character)) for character in characters), _SURROGATES])
    starts = [1, *(last + 1 for _, last in left_out)]
    ends = [*(first - 1 for first, _ in left_out), _LAST_CHARACTER]
    return char_class([(low, high) for low, high in zip(starts, ends, strict=True) if low <= high])
