"""How a family writes calls whose arguments are a JSON object, as data, and how the beginning of one is recognized."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from inference.parsing.marks import Marks, beginning

NAME: Final = "[a-zA-Z0-9_-]+"
_ATOM = re.compile(r"\s+|[{}\[\]:,]|[^\s{}\[\]:,]+")
_SPACE = r"\s*"


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
    """How ``call_start``, or before it ``section_start``, begins: what tells calls from text. Empty: only that the
    output begins so."""
    next_mark: str = ""
    """How ``separator`` begins, if ``mark`` does not come again."""
    tokens: tuple[str, ...] = ()
    """Further texts that are markup wherever they are."""
    other_starts: tuple[str, ...] = ()
    """What some models write for ``call_start``."""
    id_mark: str = ""
    """After this some models write an id, between the name and ``name_end``."""

    @cached_property
    def marks(self) -> Marks:
        """All that no text has."""
        return Marks(*filter(None, (self.mark, *self.tokens)))

    @cached_property
    def first_head(self) -> "Head":
        """From the mark to the arguments of a section's first call."""
        is_lead = bool(self.mark) and self.section_start.startswith(self.mark)
        return self._head(self.section_start if is_lead else "", self.mark)

    @cached_property
    def next_head(self) -> "Head":
        """From the next mark to the arguments of a section's further calls."""
        return self._head(self.separator, self.next_mark)

    def _head(self, lead: str, mark: str) -> "Head":
        ends = [list(_atoms(self.name_end))]
        if self.id_mark:
            ends.append([*_atoms(self.id_mark), NAME, *_atoms(self.name_end)])
        starts = [list(_atoms((lead + start).removeprefix(mark))) for start in (self.call_start, *self.other_starts)]
        return Head([(start, end) for start in starts for end in ends])

    @cached_property
    def closers(self) -> tuple[str, ...]:
        """What may follow arguments, in this order, each perhaps forgotten."""
        end = next(filter(self.call_end.endswith, self.tokens), "")
        return tuple(filter(None, (*self.call_end.removesuffix(end).split(), end)))

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
        steps = [_without_repeats([*before, f"({NAME})", *after, _SPACE]) for before, after in ways]
        self._whole = [re.compile("".join(way) + r"(?=\{)") for way in steps]
        self._begun = [re.compile(beginning(way)) for way in steps]

    def match(self, text: str) -> re.Match[str] | None:
        """From the beginning of ``text`` up to the arguments; group 1 is the name."""
        return next((match for way in self._whole if (match := way.match(text))), None)

    def may_begin(self, text: str, names: Collection[str] | None = None) -> bool:
        """Whether more text may make ``text`` match, with one of ``names`` if any are given."""
        begun = (match for way in self._begun if (match := way.fullmatch(text)))
        return any(names is None or any(name.startswith(match[1] or "") for name in names) for match in begun)


def _atoms(text: str) -> Iterator[str]:
    """Patterns of the signs of ``text``; white space, and that around JSON's signs, is free."""
    for match in _ATOM.finditer(text):
        atom = match[0]
        if atom.isspace():
            yield _SPACE
        elif atom in "{}[]:,":
            yield from (_SPACE, re.escape(atom), _SPACE)
        else:
            yield from map(re.escape, atom)


def _without_repeats(steps: Sequence[str]) -> list[str]:
    """``steps`` with white space once where it may be several times: else much of it would be tried in every way."""
    return [step for step, before in zip(steps, [None, *steps], strict=False) if not step == before == _SPACE]
