"""Calls whose arguments are a JSON object between fixed texts, as most families write them.

What differs between families is data: ``CallSyntax``. Each family's is in its file of ``inference.tools``.
"""

import enum
import json
import re
from collections.abc import Collection
from typing import NamedTuple, NoReturn

from antiphon.inference.v1.inference_pb2 import PART_KIND_FUNCTION_CALL, PART_KIND_TEXT
from inference.detokenizer import open_start
from inference.parsing.base import ParserEvent, PartEnded, PartStarted, TextDelta
from inference.parsing.syntax import CallSyntax

_STRUCTURE = re.compile(r'["\\{}\[\]]')


class _State(enum.Enum):
    TEXT = enum.auto()
    """Outside of calls."""
    HEAD = enum.auto()
    """In a call whose arguments have not begun."""
    ARGUMENTS = enum.auto()
    """In a call's arguments."""
    MEMBERS = enum.auto()
    """In a call that is an object, in members after its arguments: some models write an id there."""
    TAIL = enum.auto()
    """In a call after its arguments, or between calls of a section."""


class _Call(NamedTuple):
    name: str
    arguments: str


class CallParser:
    """Calls are told from text by their mark, or by their beginning the output.

    White space around a call belongs to the markup. Arguments come as they are written, bit by bit, if the name comes
    before them; else when the call is whole, if it has an end mark. Without its marks what is between them is text if
    it is no call. A call that is cut before its arguments is nothing: there is no name to tell, and no text either.

    Args:
        may_mix: Calls may follow text; otherwise what begins as text is text to its end.
        names: The functions that there are; what calls another is text, where no mark tells calls from text.
    """

    def __init__(self, syntax: CallSyntax, *, may_mix: bool = True, names: Collection[str] = ()) -> None:
        self._syntax = syntax
        self._may_mix = may_mix and bool(syntax.mark)
        self._names = names
        self._state = _State.TEXT
        self._held = ""
        self._head = syntax.first_head
        self._closers = syntax.closers
        self._in_text = False
        self._has_call = False
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
        match self._state:
            case _State.TEXT:
                self._say(held, events)
            case _State.HEAD:
                if call := self._read_call(held):
                    self._tell(call, events)
                elif not self._is_cut_call(held):
                    self._say(self._unmarked(held), events)
            case _State.ARGUMENTS:
                events.append(PartEnded())
            case _State.MEMBERS | _State.TAIL:
                pass
        self._end_text(events)
        return events

    def _step(self, events: list[ParserEvent]) -> bool:
        """Settle what can be settled in the present state; whether another state has to look at the rest."""
        match self._state:
            case _State.TEXT:
                return self._text(events)
            case _State.HEAD:
                return self._in_head(events)
            case _State.ARGUMENTS:
                return self._in_arguments(events)
            case _State.MEMBERS:
                return self._in_members()
            case _State.TAIL:
                return self._in_tail()

    def _text(self, events: list[ParserEvent]) -> bool:
        mark = self._syntax.mark
        if not self._may_mix and (self._in_text or not self._may_begin_call()):
            held, self._held = self._held, ""
            self._say(held, events)
            return False
        if not mark:
            self._state = _State.HEAD
            return True
        before, start, _ = self._held.partition(mark)
        if not start:
            settled = open_start(self._held, mark)
            before = self._held[: len(self._held[:settled].rstrip())]  # a call may follow the white space
        self._held = self._held[len(before) :]
        self._say(before.rstrip(), events)
        if start:
            self._held = self._held.lstrip()
            self._end_text(events)
            self._head = self._syntax.first_head
            self._state = _State.HEAD
        return bool(start)

    def _may_begin_call(self) -> bool:
        """Whether what is held, the beginning of the output or what follows a call, may begin one."""
        held, mark = self._held.lstrip(), self._syntax.mark
        if mark:
            return mark.startswith(held[: len(mark)])
        return not self._has_call and (self._is_head(held) is not None or self._head.may_begin(held))

    def _is_head(self, text: str) -> re.Match[str] | None:
        head = self._head.match(text)
        return head if head and (self._syntax.mark or head[1] in self._names) else None

    def _in_head(self, events: list[ParserEvent]) -> bool:
        held = self._held.lstrip()
        if head := self._is_head(held):
            events.append(PartStarted(PART_KIND_FUNCTION_CALL, head[1]))
            self._held = held[head.end() :]
            self._arguments = JsonObjectEnd()
            self._state = _State.ARGUMENTS
            return True
        if self._head.may_begin(held):
            return False
        end_mark = self._syntax.end_mark
        body, end, rest = held.partition(end_mark) if end_mark else ("", "", "")
        if end_mark and not end:
            return False
        self._state = _State.TEXT
        if not end_mark:
            # its mark is no text; without one, this and all that follows is
            self._held = self._held if not self._syntax.mark else held.removeprefix(self._syntax.mark).lstrip()
            if not self._syntax.mark:
                self._say(self._held, events)
                self._held = ""
            return bool(self._held)
        self._held = rest
        if call := self._read_call(body):
            self._tell(call, events)
        else:
            self._say(self._unmarked(body), events)
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
        self._closers = self._syntax.closers
        self._state = _State.TAIL
        return True

    def _in_members(self) -> bool:
        end = self._arguments.find(self._held)
        self._held = "" if end is None else self._held[end:]
        if end is None:
            return False
        self._closers = self._syntax.closers[1:]
        self._state = _State.TAIL
        return True

    def _in_tail(self) -> bool:
        """The end of the call, of which a model may leave out what it likes, and what comes between calls."""
        syntax, rest = self._syntax, self._held.lstrip()
        if syntax.is_object and self._closers == syntax.closers and rest.startswith(","):
            self._held = rest
            self._arguments = JsonObjectEnd(depth=1)
            self._state = _State.MEMBERS
            return True
        while closer := next(filter(rest.startswith, self._closers), None):
            self._closers = self._closers[self._closers.index(closer) + 1 :]
            rest = rest.removeprefix(closer).lstrip()
        self._held = rest
        if syntax.next_mark and rest.startswith(syntax.next_mark):
            self._head = syntax.next_head
            self._state = _State.HEAD
            return True
        if syntax.section_end and rest.startswith(end := syntax.section_end.strip()):
            self._held = rest.removeprefix(end)
            self._state = _State.TEXT
            return True
        if any(
            word.startswith(rest) for word in (*self._closers, syntax.next_mark, syntax.section_end.strip()) if word
        ):
            return False
        self._state = _State.TEXT
        return bool(rest)

    def _is_cut_call(self, held: str) -> bool:
        """Whether ``held``, at the end of the output, was to become a call."""
        syntax, body = self._syntax, self._unmarked(held)
        if not syntax.mark:
            return bool(body.strip()) and self._head.may_begin(held.lstrip())
        if not body or self._head.may_begin(held.lstrip()):
            return True
        return (syntax.is_object and body.startswith("{")) or (
            bool(syntax.end_mark) and syntax.end_mark.startswith(body)
        )

    def _read_call(self, body: str) -> _Call | None:
        """The call that ``body`` spells with its members in any order, without arguments if it has none."""
        if not (self._syntax.is_object and self._syntax.end_mark):
            return None
        try:
            call: object = json.loads(self._unmarked(body), parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return None
        if not isinstance(call, dict):
            return None
        name, arguments = call.get("name"), call.get("arguments", {})
        if not isinstance(name, str) or not name or not isinstance(arguments, dict):
            return None
        return _Call(name, json.dumps(arguments, ensure_ascii=False))

    def _unmarked(self, body: str) -> str:
        """What is no call, as text."""
        mark = self._syntax.mark
        return body.replace(mark, "").strip() if mark else body

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


class JsonObjectEnd:
    """Finds the end of a JSON object that comes in portions, from ``depth`` braces inside of it."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
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


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
