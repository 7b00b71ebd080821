"""Calls whose arguments are a JSON object between fixed texts, as most families write them.

What differs between families is data: ``CallSyntax``. Each family's is in its file of ``inference.tools``.
"""

import json
from collections.abc import Collection
from typing import NamedTuple, NoReturn

from inference.parsing.json_object import JsonObject
from inference.parsing.stepped import CallsParser
from inference.parsing.syntax import CallSyntax


class _Call(NamedTuple):
    name: str
    arguments: str


class CallParser(CallsParser):
    """Arguments come as they are written, bit by bit, if the name comes before them; else when the call is whole.

    What begins like a call and is none is text without its mark. A call that is cut before its arguments is nothing:
    there is no name to tell, and no text either.

    Args:
        names: The functions that there are; what calls another is text, where no mark tells calls from text.
    """

    def __init__(self, syntax: CallSyntax, *, may_mix: bool = True, names: Collection[str] = ()) -> None:
        first = self._in_text if syntax.mark else self._in_head
        super().__init__(first, mark=syntax.mark, marks=syntax.marks, may_mix=may_mix)
        self._syntax = syntax
        self._names = None if syntax.mark else names
        self._head = syntax.first_head
        self._closers: tuple[str, ...] = ()
        self._object: list[str] = []

    def _settle(self, held: str) -> None:
        is_blank = self._step == self._in_head and self._head is self._syntax.first_head and not held.strip()
        if self._step in (self._in_text, self._in_answer) or (is_blank and not self._mark):
            self._say(held)
        elif self._step == self._in_arguments and held == "[":  # that of an array, not of a mark
            self._tell(held)

    def _in_head(self) -> bool:
        held = self._held.lstrip()
        head = self._head.match(held)
        if not head and self._head.may_begin(held, self._names):
            return False
        self._head = self._syntax.first_head
        self._step = self._in_text
        if head and (self._names is None or head[1] in self._names):
            self._held = held[head.end() :]
            self._start_json(head[1], self._marks)
            self._step = self._in_arguments
        elif self._mark:
            self._held = held
            if self._syntax.is_object and held.startswith("{"):
                self._object = []
                self._json = JsonObject(self._marks)
                self._step = self._in_object
        return True

    def _in_arguments(self) -> bool:
        """In a call's arguments."""
        if not self._tell_json():
            return False
        self._closers = self._syntax.closers
        self._step = self._in_tail
        return True

    def _in_object(self) -> bool:
        """In a call that is an object, with its members in another order, or in an object that is no call."""
        end, is_end = self._json.find(self._held)
        self._object.append(self._held[:end])
        self._held = self._held[end:]
        if not is_end:
            return False
        text = "".join(self._object)
        if call := _read_call(text):
            self._start_json(call.name, self._marks)
            self._tell(call.arguments)
            self._end()
            self._closers = self._syntax.closers[1:]
            self._step = self._in_tail
        else:
            self._say(self._marks.without(text).rstrip())
            self._step = self._in_text
        return True

    def _in_members(self) -> bool:
        """In a call that is an object, in members after its arguments: some models write an id there."""
        end, is_end = self._json.find(self._held)
        self._held = self._held[end:]
        if is_end:
            self._closers = self._syntax.closers[1:]
            self._step = self._in_tail
        return is_end

    def _in_tail(self) -> bool:
        """The end of the call, of which a model may leave out what it likes, and what comes between calls."""
        syntax, rest = self._syntax, self._held.lstrip()
        if syntax.is_object and self._closers == syntax.closers and rest.startswith(","):
            self._held = rest
            self._json = JsonObject(self._marks, depth=1)
            self._step = self._in_members
            return True
        while closer := next(filter(rest.startswith, self._closers), None):
            self._closers = self._closers[self._closers.index(closer) + 1 :]
            rest = rest.removeprefix(closer).lstrip()
        self._held = rest
        if syntax.next_mark and rest.startswith(syntax.next_mark):
            self._held = rest.removeprefix(syntax.next_mark)
            self._head = syntax.next_head
            self._step = self._in_head
            return True
        section_end = syntax.section_end.strip()
        if section_end and rest.startswith(section_end):
            self._held = rest.removeprefix(section_end)
            self._closers = ()
            return True
        if not rest or any(word.startswith(rest) for word in (*self._closers, section_end)):
            return False
        self._closers = ()
        self._step = self._in_text
        return True


def _read_call(text: str) -> _Call | None:
    """The call that ``text`` spells with its members in any order, without arguments if it has none."""
    try:
        call: object = json.loads(text, parse_constant=_refuse_constant)
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
