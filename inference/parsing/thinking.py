"""The format of models that think between two marks, such as ``<think>`` and ``</think>``, before they answer."""

import enum
from collections.abc import Callable
from typing import NamedTuple

from antiphon.inference.v1.inference_pb2 import PART_KIND_REASONING
from inference.detokenizer import open_start
from inference.parsing.base import OutputParser, ParserEvent, PartEnded, PartStarted, TextDelta


class ThinkingMarks(NamedTuple):
    """What a model writes around its thoughts."""

    start: str
    end: str


class _State(enum.Enum):
    BEFORE = enum.auto()
    """No thoughts yet; there may never be any."""
    OPENED = enum.auto()
    """In thoughts that have only white space so far."""
    THINKING = enum.auto()
    """In thoughts."""
    ENDED = enum.auto()
    """Right after the end mark: line ends belong to the markup."""
    AFTER = enum.auto()
    """Behind the thoughts for good: what looks like a mark from here on is text."""


class ThinkingParser:
    """The first block between the marks is reasoning; what is around it is for another parser.

    As the cards of these models parse them, line ends at both ends of the thoughts and after the end mark belong to the
    markup; thoughts of nothing but white space are none. Without a start mark everything is answer. Thoughts that the
    token limit cut go to the end of the output. A model that repeats a start mark which its prompt has already is
    forgiven.

    Args:
        marks: Not empty, in the text that is fed: control tokens must have been spelled out.
        is_open: The prompt ends with the start mark, so the output begins with thoughts.
        new_answer_parser: Makes a parser for a stretch of text outside of the thoughts.
    """

    def __init__(self, marks: ThinkingMarks, *, is_open: bool, new_answer_parser: Callable[[], OutputParser]) -> None:
        self._marks = marks
        self._new_answer_parser = new_answer_parser
        self._answer = new_answer_parser()
        self._answer_has_text = False
        self._may_repeat_start = is_open
        self._state = _State.OPENED if is_open else _State.BEFORE
        self._held = ""

    def feed(self, text: str) -> list[ParserEvent]:
        """As OutputParser says."""
        if self._state is _State.AFTER or self._is_plain(text):
            return self._answer.feed(text)
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
            case _State.BEFORE | _State.AFTER:
                events += self._answer.feed(held)
            case _State.OPENED:
                # an unfinished repetition of the start mark is no thought
                if held.strip() and not (self._may_repeat_start and self._marks.start.startswith(held.strip())):
                    events += [PartStarted(PART_KIND_REASONING), TextDelta(held.strip("\n")), PartEnded()]
            case _State.THINKING:
                if rest := held.rstrip("\n"):
                    events.append(TextDelta(rest))
                events.append(PartEnded())
            case _State.ENDED:
                pass
        return [*events, *self._answer.finish()]

    def _is_plain(self, text: str) -> bool:
        """Whether ``text`` is sure to be answer: most is, and should cost no more than this."""
        return (
            self._answer_has_text
            and self._state is _State.BEFORE
            and not self._held
            and self._marks.start[0] not in text
        )

    def _step(self, events: list[ParserEvent]) -> bool:
        """Settle what can be settled in the present state; whether another state has to look at the rest."""
        match self._state:
            case _State.BEFORE:
                return self._before(events)
            case _State.OPENED:
                return self._opened(events)
            case _State.THINKING:
                return self._thinking(events)
            case _State.ENDED:
                self._held = self._held.lstrip("\n")
                if self._held:
                    self._state = _State.AFTER
                return bool(self._held)
            case _State.AFTER:
                held, self._held = self._held, ""
                events += self._answer.feed(held)
                return False

    def _before(self, events: list[ParserEvent]) -> bool:
        before, start, rest = self._held.partition(self._marks.start)
        if not start:
            settled = open_start(self._held, self._marks.start)
            if not self._answer_has_text and not self._held[:settled].strip():
                return False  # white space at the beginning: a start mark after it would make it markup
            before, rest = self._held[:settled], self._held[settled:]
        self._held = rest
        if before and (self._answer_has_text or before.strip()):
            self._answer_has_text = True
            events += self._answer.feed(before)
        if start:
            events += self._answer.finish()
            self._answer = self._new_answer_parser()
            self._state = _State.OPENED
        return bool(start)

    def _opened(self, events: list[ParserEvent]) -> bool:
        thought = self._held.lstrip()
        if self._may_repeat_start:
            if thought.startswith(self._marks.start):
                self._held = thought.removeprefix(self._marks.start)
                self._may_repeat_start = False
                return True
            if self._marks.start.startswith(thought):
                return False
        if thought.startswith(self._marks.end):
            self._held = thought.removeprefix(self._marks.end)
            self._state = _State.ENDED
            return True
        if self._marks.end.startswith(thought):  # nothing, or a beginning of the end mark
            return False
        self._held = self._held.lstrip("\n")
        self._state = _State.THINKING
        events.append(PartStarted(PART_KIND_REASONING))
        return True

    def _thinking(self, events: list[ParserEvent]) -> bool:
        thought, end, rest = self._held.partition(self._marks.end)
        if end:
            thought = thought.rstrip("\n")
            self._state = _State.ENDED
        else:
            settled = open_start(thought, self._marks.end)
            settled = len(thought[:settled].rstrip("\n"))  # they may turn out to be the last ones
            thought, rest = thought[:settled], thought[settled:]
        self._held = rest
        if thought:
            events.append(TextDelta(thought))
        if end:
            events.append(PartEnded())
        return bool(end)
