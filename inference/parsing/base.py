"""The protocol that every output parser follows, and what it yields."""

from dataclasses import dataclass
from typing import Protocol

from antiphon.inference.v1.inference_pb2 import PartKind


@dataclass(frozen=True, slots=True)
class PartStarted:
    """An output part begins; the one before it has ended."""

    kind: PartKind.ValueType
    name: str = ""
    """Only for function calls: the function's name."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that belongs to the open part; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The open part is whole."""


ParserEvent = PartStarted | TextDelta | PartEnded


class OutputParser(Protocol):
    """The text of one generation, in any portions -> parts, one after the other.

    The portions decide only where deltas end: joined, the parts are the same.
    """

    def feed(self, text: str) -> list[ParserEvent]:
        """What ``text`` settles; what may still turn into markup is held back."""
        ...

    def finish(self) -> list[ParserEvent]:
        """What was held back, as the text it then is, and the end of the open part. Called once, at the end."""
        ...
