"""gpt-oss's format, harmony: an output is messages, each with a header that names its channel and its recipient.

::

    <|channel|>analysis<|message|>The user wants...<|end|>
    <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Graz"}<|call|>
    <|start|>assistant<|channel|>final<|message|>It rains.<|return|>

Format: https://developers.openai.com/cookbook/articles/openai-harmony. ``openai-harmony`` has a parser too, but loads
its vocabulary from the network; this one reads the markers as they are spelled out.
"""

import enum
import re
from typing import Final

from antiphon.inference.v1.inference_pb2 import (
    PART_KIND_FUNCTION_CALL,
    PART_KIND_REASONING,
    PART_KIND_TEXT,
    PartKind,
)
from inference.detokenizer import open_start
from inference.parsing.base import ParserEvent, PartEnded, PartStarted, TextDelta
from inference.parsing.calls import JsonObjectEnd
from inference.parsing.syntax import NAME

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
CONSTRAIN: Final = "<|constrain|>"
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")

_AFTER_BODY: Final = (*ENDS, START, CHANNEL)
_CHANNEL = re.compile(rf"{re.escape(CHANNEL)}\s*(\w+)")
_FUNCTION = re.compile(rf"\bto=functions\.({NAME})")
_HEADER_STARTS: Final = (START, CHANNEL, MESSAGE, "to=", *ENDS)


class _State(enum.Enum):
    HEADER = enum.auto()
    """Before a message's body."""
    BODY = enum.auto()
    """In a message that is text or thoughts."""
    ARGUMENTS = enum.auto()
    """In a message that is a call."""
    TAIL = enum.auto()
    """After a call's arguments."""


class HarmonyParser:
    """The channel ``analysis`` is reasoning, what goes to ``functions`` are calls, all else is text.

    A header that is cut is nothing. An output that begins without one is text.
    """

    def __init__(self) -> None:
        self._state = _State.HEADER
        self._held = ""
        self._kind: PartKind.ValueType = PART_KIND_TEXT
        self._is_open = False
        self._arguments = JsonObjectEnd()

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
        if self._state is _State.BODY or (self._state is _State.HEADER and not _may_be_header(held)):
            self._say(held, events)
        self._end(events)
        return events

    def _step(self, events: list[ParserEvent]) -> bool:
        """Settle what can be settled in the present state; whether another state has to look at the rest."""
        match self._state:
            case _State.HEADER:
                return self._in_header(events)
            case _State.BODY:
                return self._in_body(events)
            case _State.ARGUMENTS:
                return self._in_arguments(events)
            case _State.TAIL:
                return self._in_tail()

    def _in_header(self, events: list[ParserEvent]) -> bool:
        if not _may_be_header(self._held):
            self._kind, self._state = PART_KIND_TEXT, _State.BODY
            return True
        header, message, rest = self._held.partition(MESSAGE)
        if not message:
            return False
        self._held = rest
        channel = _CHANNEL.search(header)
        if function := _FUNCTION.search(header):
            events.append(PartStarted(PART_KIND_FUNCTION_CALL, function[1]))
            self._is_open = True
            self._arguments = JsonObjectEnd()
            self._state = _State.ARGUMENTS
        else:
            is_thought = channel is not None and channel[1] == "analysis"
            self._kind = PART_KIND_REASONING if is_thought else PART_KIND_TEXT
            self._state = _State.BODY
        return True

    def _in_body(self, events: list[ParserEvent]) -> bool:
        ends = [(at, mark) for mark in _AFTER_BODY if (at := self._held.find(mark)) >= 0]
        if not ends:
            settled = min(open_start(self._held, mark) for mark in _AFTER_BODY)
            body, self._held = self._held[:settled], self._held[settled:]
            self._say(body, events)
            return False
        at, mark = min(ends)
        self._say(self._held[:at], events)
        self._end(events)
        self._held = self._held[at:].removeprefix(mark) if mark in ENDS else self._held[at:]
        self._state = _State.HEADER
        return True

    def _in_arguments(self, events: list[ParserEvent]) -> bool:
        end = self._arguments.find(self._held)
        text, self._held = self._held[:end], "" if end is None else self._held[end:]
        if text:
            events.append(TextDelta(text))
        if end is None:
            return False
        self._end(events)
        self._state = _State.TAIL
        return True

    def _in_tail(self) -> bool:
        """To the next message: nothing else can follow a call."""
        starts = [at for mark in (START, CHANNEL) if (at := self._held.find(mark)) >= 0]
        if not starts:
            self._held = self._held[min(open_start(self._held, mark) for mark in (START, CHANNEL)) :]
            return False
        self._held = self._held[min(starts) :]
        self._state = _State.HEADER
        return True

    def _say(self, text: str, events: list[ParserEvent]) -> None:
        if not text:
            return
        if not self._is_open:
            self._is_open = True
            events.append(PartStarted(self._kind))
        events.append(TextDelta(text))

    def _end(self, events: list[ParserEvent]) -> None:
        if self._is_open:
            self._is_open = False
            events.append(PartEnded())


def _may_be_header(text: str) -> bool:
    text = text.lstrip()
    return any(text.startswith(start) or start.startswith(text) for start in _HEADER_STARTS)
