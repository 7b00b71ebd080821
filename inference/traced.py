"""Text that knows, for every character, whether the chat template wrote it or content did.

Only what the template wrote may turn into control tokens. So it is the template's own literals that are marked, not the
content: a string operation that this module does not follow gives a plain ``str``, and plain text counts as content.
What is forgotten here costs a marker, never safety.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, SupportsIndex


@dataclass(frozen=True, eq=False, slots=True)
class Content:
    """One string of a conversation, as an object: a rendering refers back to it."""

    text: str
    token_ids: Sequence[int] = ()
    """The ids that the model generated as ``text``; empty if unknown."""
    image: bytes | None = None
    """An image that stands where ``text``, one character, does."""


class Span(NamedTuple):
    """Where a stretch of text came from."""

    length: int
    """Characters, at least 1."""
    is_literal: bool = False
    """The template wrote it."""
    content: Content | None = None
    """The content it came from, unchanged; None for a literal, and for content that cannot be told."""
    offset: int = 0
    """Its first character's place in ``content.text``."""


class Segment(NamedTuple):
    """A span with its text."""

    text: str
    is_literal: bool
    content: Content | None
    offset: int


class TracedStr(str):
    """A string made of spans. Slicing, joining, splitting and stripping keep them; other methods give plain strings."""

    __slots__ = ("_spans",)
    _spans: tuple[Span, ...]

    def __new__(cls, text: str = "", spans: Iterable[Span] | None = None) -> Self:
        """``text`` as content that cannot be told, unless ``spans``, as long as ``text`` in all, say otherwise."""
        traced = super().__new__(cls, text)
        traced._spans = _spans(text) if spans is None else tuple(spans)
        return traced

    @classmethod
    def literal(cls, text: str) -> Self:
        """``text`` as a template's own."""
        return cls(text, [Span(len(text), is_literal=True)] if text else [])

    @classmethod
    def of(cls, content: Content) -> Self:
        """The text of ``content``."""
        return cls(content.text, [Span(len(content.text), content=content)] if content.text else [])

    @classmethod
    def concat(cls, pieces: Iterable[str]) -> Self:
        """All ``pieces`` in one, neighbours of one origin merged.

        Raises:
            TypeError: a piece is no string.
        """
        pieces = list(pieces)
        spans: list[Span] = []
        for piece in pieces:
            for span in _spans(piece):
                if spans and _continues(spans[-1], span):
                    spans[-1] = spans[-1]._replace(length=spans[-1].length + span.length)
                else:
                    spans.append(span)
        return cls("".join(pieces), spans)

    def segments(self) -> Iterator[Segment]:
        """The spans in order, with their texts."""
        start = 0
        for length, is_literal, content, offset in self._spans:
            yield Segment(str.__getitem__(self, slice(start, start + length)), is_literal, content, offset)
            start += length

    @property
    def is_literal(self) -> bool:
        """Whether the template wrote all of it."""
        return all(span.is_literal for span in self._spans)

    def _slice(self, start: int, stop: int) -> "TracedStr":
        """Characters ``start`` to ``stop`` (exclusive); both within the text."""
        spans = []
        begin = 0
        for span in self._spans:
            end = begin + span.length
            low, high = max(begin, start), min(end, stop)
            if low < high:
                offset = span.offset + low - begin if span.content else 0
                spans.append(span._replace(length=high - low, offset=offset))
            if end >= stop:
                break
            begin = end
        return TracedStr(str.__getitem__(self, slice(start, stop)), spans)

    def _locate(self, pieces: Iterable[str], gap: int = 0) -> list[str]:
        """``pieces`` of this text, in order and at least ``gap`` characters apart, as slices of it."""
        located: list[str] = []
        position = 0
        for piece in pieces:
            start = self.index(piece, position)
            located.append(self._slice(start, start + len(piece)))
            position = start + len(piece) + gap
        return located

    def _changed(self, text: str) -> str:
        """``text``, made of this text alone: a literal if this is one."""
        return TracedStr.literal(text) if self.is_literal else text

    def __str__(self) -> str:
        return self

    def __add__(self, other: object) -> str:
        return TracedStr.concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> str:
        return TracedStr.concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> str:
        return TracedStr.concat([self] * count)

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if not isinstance(key, slice):
            index = range(len(self))[key]
            return self._slice(index, index + 1)
        start, stop, step = key.indices(len(self))
        return self._slice(start, max(start, stop)) if step == 1 else str.__getitem__(self, key)

    def __iter__(self) -> Iterator[str]:
        for text, is_literal, content, offset in self.segments():
            for place, character in enumerate(text):
                yield TracedStr(character, [Span(1, is_literal, content, offset + place if content else 0)])

    def join(self, pieces: Iterable[str], /) -> str:
        return TracedStr.concat(part for i, piece in enumerate(pieces) for part in ((self, piece) if i else (piece,)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._locate(str.split(self, sep, maxsplit), gap=len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._locate(str.rsplit(self, sep, maxsplit), gap=len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._locate(str.splitlines(self, keepends=True))
        if keepends:
            return lines
        return [line[: len(bare)] for line, bare in zip(lines, str.splitlines(self), strict=True)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        head, middle, tail = self._locate(str.partition(self, sep))
        return head, middle, tail

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        head, middle, tail = self._locate(str.rpartition(self, sep))
        return head, middle, tail

    def strip(self, chars: str | None = None, /) -> str:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._slice(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._slice(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> str:
        return self[: len(self) - len(suffix)] if self.endswith(suffix) else self

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:
            return str.replace(self, old, new, count)
        return TracedStr(new, _spans(new)).join(self.split(old, count))

    def upper(self) -> str:
        return self._changed(str.upper(self))

    def lower(self) -> str:
        return self._changed(str.lower(self))

    def capitalize(self) -> str:
        return self._changed(str.capitalize(self))

    def title(self) -> str:
        return self._changed(str.title(self))


def _spans(text: str) -> tuple[Span, ...]:
    if isinstance(text, TracedStr):
        return text._spans
    return (Span(len(text)),) if text else ()


def _continues(span: Span, following: Span) -> bool:
    """Whether ``following`` goes on where ``span`` ends, in the same origin."""
    if span.is_literal or following.is_literal or span.content is None:
        return span[1:3] == following[1:3]
    return span.content is following.content and span.offset + span.length == following.offset
