"""How a family writes calls whose arguments are a JSON object, as data, and how the beginning of one is recognized."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

NAME: Final = "[a-zA-Z0-9_-]+"
_ATOM = re.compile(r"\s+|[{}\[\]:,]|[^\s{}\[\]:,]+")


@dataclass(frozen=True)
class CallSyntax:
    """What stands around the arguments of calls::

        section_start call_start NAME name_end {...} call_end [separator call_start NAME ...] section_end

    White space in these texts may be missing or be more; so it may be around JSON's own signs.
    """

    call_start: str
    name_end: str
    call_end: str = ""
    section_start: str = ""
    section_end: str = ""
    separator: str = ""
    mark: str = ""
    """How ``section_start + call_start`` begins: what tells calls from text. Empty: only that the output begins so."""
    next_mark: str = ""
    """How ``separator + call_start`` begins, if ``mark`` does not come again."""
    end_mark: str = ""
    """How ``call_end`` ends, if that cannot be JSON: what is no call ends there too."""
    other_starts: tuple[str, ...] = ()
    """What some models write for ``call_start``."""
    id_mark: str = ""
    """After this some models write an id, between the name and ``name_end``."""

    @cached_property
    def first_head(self) -> "Head":
        """From the mark to the arguments of a section's first call."""
        return self._head(self.section_start)

    @cached_property
    def next_head(self) -> "Head":
        """From the next mark to the arguments of a section's further calls."""
        return self._head(self.separator)

    def _head(self, lead: str) -> "Head":
        ends = [list(_atoms(self.name_end))]
        if self.id_mark:
            ends.append([*_atoms(self.id_mark), NAME, *_atoms(self.name_end)])
        starts = [list(_atoms(lead + start)) for start in (self.call_start, *self.other_starts)]
        return Head([(start, end) for start in starts for end in ends])

    @cached_property
    def closers(self) -> tuple[str, ...]:
        """What may follow arguments, in this order, each perhaps forgotten."""
        return tuple(filter(None, (*self.call_end.removesuffix(self.end_mark).split(), self.end_mark)))

    @property
    def is_object(self) -> bool:
        """Whether a call is one JSON object, with name and arguments as members."""
        return self.closers[:1] == ("}",)


class Head:
    """Recognizes the beginnings of calls, and beginnings of these.

    Args:
        ways: Each the patterns of what is before the name, sign by sign, and of what is after it.
    """

    def __init__(self, ways: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
        self._whole = [
            re.compile("".join(before) + f"({NAME})" + "".join(after) + r"\s*(?=\{)") for before, after in ways
        ]
        self._beginnings = [_beginning([*before, NAME, *after, r"\s*"]) for before, after in ways]

    def match(self, text: str) -> re.Match[str] | None:
        """From the beginning of ``text`` up to the arguments; group 1 is the name."""
        return next((match for way in self._whole if (match := way.match(text))), None)

    def may_begin(self, text: str) -> bool:
        """Whether more text may make ``text`` match."""
        return any(way.fullmatch(text) for way in self._beginnings)


def _beginning(steps: Sequence[str]) -> re.Pattern[str]:
    return re.compile("".join(f"(?:{step}" for step in steps) + ")?" * len(steps))


def _atoms(text: str) -> Iterator[str]:
    """Patterns of the signs of ``text``; white space, and that around JSON's signs, is free."""
    for match in _ATOM.finditer(text):
        atom = match[0]
        if atom.isspace():
            yield r"\s*"
        elif atom in "{}[]:,":
            yield from (r"\s*", re.escape(atom), r"\s*")
        else:
            yield from map(re.escape, atom)
