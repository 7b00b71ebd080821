"""What the parsers of formats with marks have in common: steps over held text, the open part, marks in portions."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL, PART_KIND_TEXT, PartKind
from inference.parsing.base import ParserEvent, PartEnded, PartStarted, TextDelta
from inference.parsing.json_object import JsonObject
from inference.parsing.marks import Marks


class SteppedParser(ABC):
    """An ``OutputParser`` that settles text step by step.

    A step is a method for one place in the format. It takes what it can settle out of ``_held``, perhaps names the step
    for what comes then, and says whether there is more to settle before new text comes. It looks at nothing but what
    was fed so far, never at where portions ended: that keeps the parts the same however the text arrives.
    """

    def __init__(self, first: Callable[[], bool]) -> None:
        self._step = first
        self._held = ""
        self._open: PartKind.ValueType | None = None
        self._events: list[ParserEvent] = []
        self._json = JsonObject(Marks())

    def feed(self, text: str) -> list[ParserEvent]:
        """As OutputParser says."""
        self._held += text
        while self._step():
            pass
        return self._told()

    def finish(self) -> list[ParserEvent]:
        """As OutputParser says."""
        held, self._held = self._held, ""
        self._settle(held)
        self._end()
        return self._told()

    @abstractmethod
    def _settle(self, held: str) -> None:
        """Tell of ``held``, with which the output ends, what is no markup. The open part ends thereafter."""

    def _told(self) -> list[ParserEvent]:
        events, self._events = self._events, []
        return events

    def _start(self, kind: PartKind.ValueType, name: str = "") -> None:
        self._end()
        self._open = kind
        self._events.append(PartStarted(kind, name))

    def _tell(self, text: str) -> None:
        if text:
            self._events.append(TextDelta(text))

    def _end(self) -> None:
        if self._open is not None:
            self._open = None
            self._events.append(PartEnded())

    def _say(self, text: str, kind: PartKind.ValueType = PART_KIND_TEXT) -> None:
        """Tell ``text`` of a part that it opens."""
        if text and self._open != kind:
            self._start(kind)
        self._tell(text)

    def _start_json(self, name: str, marks: Marks) -> None:
        """A call, whose arguments come as one JSON object."""
        self._start(PART_KIND_FUNCTION_CALL, name)
        self._json = JsonObject(marks)

    def _tell_json(self) -> bool:
        """Tell what is held of the arguments; whether they have ended."""
        end, is_end = self._json.find(self._held)
        self._tell(self._held[:end])
        self._held = self._held[end:]
        if is_end:
            self._end()
        return is_end


class CallsParser(SteppedParser):
    """Text, and calls that are told from it by a mark or by their beginning the output.

    White space around calls and marks belongs to the markup. A mark where none belongs is dropped.

    Args:
        mark: What a call begins with; empty: nothing tells one in the middle of text.
        marks: All that no text has.
        may_mix: Calls may follow text; otherwise what begins as text is text to its end, marks in it too.
    """

    def __init__(self, first: Callable[[], bool], *, mark: str, marks: Marks, may_mix: bool) -> None:
        super().__init__(first)
        self._mark = mark
        self._marks = marks
        self._may_mix = may_mix

    def _in_text(self) -> bool:
        """Outside of calls."""
        if not self._may_mix and self._marks.find(self._held.lstrip())[0]:
            self._step = self._in_answer
            return True
        at, mark = self._marks.find(self._held)
        text = self._held[:at].rstrip()
        self._say(text)
        if not mark:
            self._held = self._held[len(text) :]
            return False
        self._held = self._held[at + len(mark) :]
        if mark == self._mark:
            self._end()
            self._step = self._in_head
        elif self._open is None:
            self._step = self._in_tail
        return True

    def _in_answer(self) -> bool:
        """In text to the end of the output, whatever is in it."""
        held, self._held = self._held, ""
        self._say(held)
        return False

    @abstractmethod
    def _in_head(self) -> bool:
        """Where a call may begin: after its mark, or where there is none at the beginning of the output."""

    @abstractmethod
    def _in_tail(self) -> bool:
        """After a call, up to text or the next one."""
