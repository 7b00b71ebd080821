"""The format of models that call functions as Hermes and Qwen do: a JSON object between two marks.

::

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Graz"}}
    </tool_call>
"""

import enum
import json
import re
from typing import Final, NamedTuple, NoReturn

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL, PART_KIND_TEXT
from inference.detokenizer import open_start
from inference.parsing.base import ParserEvent, PartEnded, PartStarted, TextDelta

CALL_START: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([a-zA-Z0-9_-]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')
_STRUCTURE = re.compile(r'["\\{}\[\]]')


class _State(enum.Enum):
    TEXT = enum.auto()
    """Outside of calls."""
    HEAD = enum.auto()
    """In a call whose arguments have not begun."""
    ARGUMENTS = enum.auto()
    """In a call's arguments."""
    TAIL = enum.auto()
    """In a call after its arguments."""


class _Call(NamedTuple):
    name: str
    arguments: str


class HermesParser:
    """What is between the marks are function calls, all else is text.

    White space around a call belongs to the markup. Arguments come as they are written, bit by bit, if the name comes
    before them; else when the call is whole. Without its marks what is between them is text if it is no call. A call
    that is cut before its arguments is nothing: there is no name to tell, and no text either.

    Args:
        may_mix: Calls may follow text; otherwise what begins as text is text to its end.
    """

    def __init__(self, *, may_mix: bool = True) -> None:
        self._may_mix = may_mix
        self._state = _State.TEXT
        self._held = ""
        self._in_text = False
        self._has_call = False
        self._arguments = _JsonObjectEnd()

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
            case _State.TEXT:
                self._say(held, events)
            case _State.HEAD:
                if call := _read_call(held):
                    self._tell(call, events)
                elif not held.lstrip().startswith(("{", CALL_END[0])):
                    self._say(_unmarked(held), events)
            case _State.ARGUMENTS:
                events.append(PartEnded())
            case _State.TAIL:
                pass
        self._end_text(events)
        return events

    def _step(self, events: list[ParserEvent]) -> bool:
        """Settle what can be settled in the present state; whether another state has to look at the rest."""
        match self._state:
            case _State.TEXT:
                return self._text(events)
            case _State.HEAD:
                return self._head(events)
            case _State.ARGUMENTS:
                return self._in_arguments(events)
            case _State.TAIL:
                return self._tail()

    def _text(self, events: list[ParserEvent]) -> bool:
        if not self._may_mix and (self._in_text or not CALL_START.startswith(self._held.lstrip()[: len(CALL_START)])):
            held, self._held = self._held, ""
            self._say(held, events)
            return False
        before, start, rest = self._held.partition(CALL_START)
        if not start:
            settled = open_start(self._held, CALL_START)
            settled = len(self._held[:settled].rstrip())  # a call may follow the white space
            before, rest = self._held[:settled], self._held[settled:]
        self._held = rest
        self._say(before.rstrip(), events)
        if start:
            self._end_text(events)
            self._state = _State.HEAD
        return bool(start)

    def _head(self, events: list[ParserEvent]) -> bool:
        if head := _HEAD.match(self._held):
            events.append(PartStarted(PART_KIND_FUNCTION_CALL, head[1]))
            self._held = self._held[head.end() :]
            self._arguments = _JsonObjectEnd()
            self._state = _State.ARGUMENTS
            return True
        body, end, rest = self._held.partition(CALL_END)
        if not end:
            return False
        self._held = rest
        self._state = _State.TEXT
        if call := _read_call(body):
            self._tell(call, events)
        else:
            self._say(_unmarked(body), events)
        return True

    def _in_arguments(self, events: list[ParserEvent]) -> bool:
        end = self._arguments.find(self._held)
        text, self._held = self._held[:end], "" if end is None else self._held[end:]
        if text:
            events.append(TextDelta(text))
        if end is None:
            return False
        events.append(PartEnded())
        self._has_call = True
        self._state = _State.TAIL
        return True

    def _tail(self) -> bool:
        """The end of the object and the end mark; a model that leaves them out is forgiven."""
        rest = self._held.lstrip()
        if rest.startswith("}"):
            rest = rest[1:].lstrip()
        if CALL_END.startswith(rest):
            if rest != CALL_END:
                return False
            rest = ""
        self._held = rest.removeprefix(CALL_END)
        self._state = _State.TEXT
        return True

    def _tell(self, call: _Call, events: list[ParserEvent]) -> None:
        events += (PartStarted(PART_KIND_FUNCTION_CALL, call.name), TextDelta(call.arguments), PartEnded())
        self._has_call = True

    def _say(self, text: str, events: list[ParserEvent]) -> None:
        if not self._in_text:
            if self._has_call:
                text = text.lstrip()
            if text:
                self._in_text = True
                events.append(PartStarted(PART_KIND_TEXT))
        if text:
            events.append(TextDelta(text))

    def _end_text(self, events: list[ParserEvent]) -> None:
        if self._in_text:
            self._in_text = False
            events.append(PartEnded())


class _JsonObjectEnd:
    """Finds the end of a JSON object that comes in portions."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped_at_end = False

    def find(self, text: str) -> int | None:
        """The place in this portion after the object's last brace."""
        position = 1 if self._escaped_at_end and text else 0
        self._escaped_at_end = self._escaped_at_end and not text
        while match := _STRUCTURE.search(text, position):
            position = match.end()
            match match[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\" if self._in_string:
                    self._escaped_at_end = position == len(text)
                    position += 1
                case "{" | "[" if not self._in_string:
                    self._depth += 1
                case "}" | "]" if not self._in_string:
                    self._depth -= 1
                    if self._depth == 0:
                        return position
        return None


def _unmarked(body: str) -> str:
    """What is no call, as text."""
    return body.replace(CALL_START, "").strip()


def _read_call(body: str) -> _Call | None:
    """The call that ``body`` spells with its members in any order, without arguments if it has none."""
    try:
        call: object = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict):
        return None
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return _Call(name, json.dumps(arguments, ensure_ascii=False))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
