"""The format of models that write nothing but their answer."""

from antiphon.inference.v1.inference_pb2 import PART_KIND_TEXT
from inference.parsing.base import ParserEvent, PartEnded, PartStarted, TextDelta


class PlainParser:
    """All text is one text part, which the first character opens."""

    def __init__(self) -> None:
        self._is_open = False

    def feed(self, text: str) -> list[ParserEvent]:
        """As OutputParser says."""
        if not text:
            return []
        if self._is_open:
            return [TextDelta(text)]
        self._is_open = True
        return [PartStarted(PART_KIND_TEXT), TextDelta(text)]

    def finish(self) -> list[ParserEvent]:
        """As OutputParser says."""
        return [PartEnded()] if self._is_open else []
