"""The format of models that think between two marks, such as ``<think>`` and ``</think>``, before they answer."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL, PART_KIND_REASONING
from inference.parsing.base import OutputParser, ParserEvent, PartEnded, PartStarted, TextDelta
from inference.parsing.marks import Marks
from inference.parsing.stepped import SteppedParser


class ThinkingMarks(NamedTuple):
    """What a model writes around its thoughts."""

    start: str
    end: str
    next: tuple[str, ...] = ()
    """What ends them too, where the end mark was forgotten: how that begins which follows."""


class ThinkingParser(SteppedParser):
    """The first block between the marks is reasoning; what is around it is for another parser.

    As the cards of these models parse them, line ends at both ends of the thoughts and after the end mark belong to the
    markup; thoughts of nothing but white space are none. Without a start mark everything is answer. In a call a mark is
    a part of the call. Thoughts that the token limit cut go to the end of the output. A model that repeats a start mark
    which its prompt has already is forgiven.

    Args:
        marks: Not empty, in the text that is fed: control tokens must have been spelled out.
        is_open: The prompt ends with the start mark, so the output begins with thoughts.
        new_answer_parser: Makes a parser for a stretch of text outside of the thoughts.
    """

    def __init__(self, marks: ThinkingMarks, *, is_open: bool, new_answer_parser: Callable[[], OutputParser]) -> None:
        super().__init__(self._opened if is_open else self._before)
        self._marks, self._starts, self._ends = marks, _marks(marks.start), _marks(marks.end, *marks.next)
        self._new_answer_parser = new_answer_parser
        self._answer = new_answer_parser()
        self._answer_has_text = False
        self._is_in_call = False
        self._may_repeat_start = is_open

    def feed(self, text: str) -> list[ParserEvent]:
        """As OutputParser says."""
        if self._step == self._after:
            return self._answer.feed(text)
        return super().feed(text)

    def _settle(self, held: str) -> None:
        if self._step == self._before:
            self._events += self._answer.feed(held)
        elif self._step == self._opened:
            # an unfinished repetition of the start mark is no thought
            if held.strip() and not (self._may_repeat_start and self._marks.start.startswith(held.strip())):
                self._say(held.strip("\n"), PART_KIND_REASONING)
        elif self._step == self._thinking:
            self._tell(held.rstrip("\n"))
        self._end()
        self._events += self._answer.finish()

    def _before(self) -> bool:
        """No thoughts yet; there may never be any."""
        at, start = self._starts.find(self._held)
        before = self._held[:at]
        if before.strip() or self._answer_has_text:
            self._feed_answer(before)
        elif not start:
            return False  # white space at the beginning: a start mark after it would make it markup
        self._held = self._held[at + len(start) :]
        if start and self._is_in_call:
            self._feed_answer(start)
        elif start:
            self._events += self._answer.finish()
            self._answer = self._new_answer_parser()
            self._step = self._opened
        return bool(start)

    def _opened(self) -> bool:
        """In thoughts that have only white space so far."""
        thought = self._held.lstrip()
        if self._may_repeat_start:
            if thought.startswith(self._marks.start):
                self._held = thought.removeprefix(self._marks.start)
                self._may_repeat_start = False
                return True
            if self._marks.start.startswith(thought):
                return False
        end = self._ends.at(thought, 0)
        if end:
            self._held = thought.removeprefix(self._marks.end)
            self._step = self._ended
            return True
        if not thought or end is not None:  # nothing, or the beginning of an end
            return False
        self._held = self._held.lstrip("\n")
        self._start(PART_KIND_REASONING)
        self._step = self._thinking
        return True

    def _thinking(self) -> bool:
        """In thoughts."""
        at, end = self._ends.find(self._held)
        thought = self._held[:at].rstrip("\n")  # line ends may turn out to be the last ones
        self._tell(thought)
        self._held = self._held[at:].removeprefix(self._marks.end) if end else self._held[len(thought) :]
        if end:
            self._end()
            self._step = self._ended
        return bool(end)

    def _ended(self) -> bool:
        """Right after the end mark: line ends belong to the markup."""
        self._held = self._held.lstrip("\n")
        if self._held:
            self._step = self._after
        return bool(self._held)

    def _after(self) -> bool:
        """Behind the thoughts for good: what looks like a mark from here on is text."""
        held, self._held = self._held, ""
        self._feed_answer(held)
        return False

    def _feed_answer(self, text: str) -> None:
        self._answer_has_text = True
        for event in self._answer.feed(text):
            match event:
                case PartStarted():
                    self._is_in_call = event.kind == PART_KIND_FUNCTION_CALL
                case PartEnded():
                    self._is_in_call = False
                case TextDelta():
                    pass
            self._events.append(event)


@functools.cache
def _marks(*marks: str) -> Marks:
    return Marks(*marks)
