"""gpt-oss's format, harmony: an output is messages, each with a header that names its channel and its recipient.

::

    <|channel|>analysis<|message|>The user wants...<|end|>
    <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Graz"}<|call|>
    <|start|>assistant<|channel|>final<|message|>It rains.<|return|>

Format: https://developers.openai.com/cookbook/articles/openai-harmony. ``openai-harmony`` has a parser too, but loads
its vocabulary from the network; this one reads the markers as they are spelled out.
"""

import re
from typing import Final

from antiphon.inference.v1.inference_pb2 import PART_KIND_REASONING, PART_KIND_TEXT, PartKind
from inference.parsing.marks import Marks
from inference.parsing.stepped import SteppedParser
from inference.parsing.syntax import NAME

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
MESSAGE: Final = "<|message|>"
CONSTRAIN: Final = "<|constrain|>"
ENDS: Final = ("<|end|>", "<|call|>", "<|return|>")

_MARKS = Marks(START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)
_STARTS = Marks(START, CHANNEL)
_ENDS = Marks(*ENDS)
_CHANNEL = re.compile(rf"{re.escape(CHANNEL)}\s*(\w+)")
_FUNCTION = re.compile(rf"\bto=functions\.({NAME})")
_HEADER_STARTS: Final = (START, CHANNEL, MESSAGE, "to=", *ENDS)


class HarmonyParser(SteppedParser):
    """The channel ``analysis`` is reasoning, what goes to ``functions`` are calls, all else is text.

    A header that is cut is nothing. An output that begins without one is text. A marker in a message, where none
    belongs, is dropped.
    """

    def __init__(self) -> None:
        super().__init__(self._in_header)
        self._kind: PartKind.ValueType = PART_KIND_TEXT

    def _settle(self, held: str) -> None:
        if self._step == self._in_body:
            self._say(held, self._kind)

    def _in_header(self) -> bool:
        """Before a message's body."""
        held = self._held.lstrip()
        if end := _ENDS.at(held, 0):
            self._held = held.removeprefix(end)
            return True
        if not _may_be_header(held):
            self._kind = PART_KIND_TEXT
            self._step = self._in_body
            return True
        header, message, rest = held.partition(MESSAGE)
        if not message:
            return False
        self._held = rest
        header = header.rpartition(START)[2]
        channel = _CHANNEL.search(header)
        if function := _FUNCTION.search(header):
            self._start_json(function[1], _MARKS)
            self._step = self._in_arguments
        else:
            is_thought = channel is not None and channel[1] == "analysis"
            self._kind = PART_KIND_REASONING if is_thought else PART_KIND_TEXT
            self._step = self._in_body
        return True

    def _in_body(self) -> bool:
        """In a message that is text or thoughts."""
        at, mark = _MARKS.find(self._held)
        self._say(self._held[:at], self._kind)
        self._held = self._held[at:]
        if mark in (MESSAGE, CONSTRAIN):
            self._held = self._held.removeprefix(mark)
        elif mark:
            self._end()
            self._step = self._in_header
        return bool(mark)

    def _in_arguments(self) -> bool:
        """In a message that is a call."""
        if not self._tell_json():
            return False
        self._step = self._in_tail
        return True

    def _in_tail(self) -> bool:
        """After a call's arguments, to the next message: nothing else can follow."""
        at, mark = _STARTS.find(self._held)
        self._held = self._held[at:]
        if mark:
            self._step = self._in_header
        return bool(mark)


def _may_be_header(text: str) -> bool:
    return any(text.startswith(start) or start.startswith(text) for start in _HEADER_STARTS)
