"""Finds the texts of a vocabulary's marker tokens."""

import re
from collections.abc import Iterator, Mapping


class MarkerIndex:
    """Marker texts, found in time proportional to the text, however many there are (some vocabularies have thousands).

    White space and single characters are left out: vocabularies have such tokens, but they are text, not structure.
    """

    def __init__(self, markers: Mapping[str, int]) -> None:
        """``markers`` is a tokenizer's: text to id."""
        self.ids = {text: token_id for text, token_id in markers.items() if len(text) > 1 and not text.isspace()}
        self._lengths = sorted({len(text) for text in self.ids}, reverse=True)
        first_characters = "".join(re.escape(character) for character in sorted({text[0] for text in self.ids}))
        self._start = re.compile(f"[{first_characters}]" if first_characters else "(?!)")

    def starts(self, text: str) -> Iterator[tuple[int, str]]:
        """Every place where a marker's text begins, overlapping ones too, with the longest that begins there."""
        for match in self._start.finditer(text):
            start = match.start()
            for length in self._lengths:
                if (candidate := text[start : start + length]) in self.ids:
                    yield start, candidate
                    break

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """The markers of ``text`` from left to right, the longest at each place, none overlapping."""
        end = 0
        for start, marker in self.starts(text):
            if start >= end:
                yield start, marker
                end = start + len(marker)

    def cut(self, text: str) -> Iterator[str]:
        """The pieces of ``text`` after cuts inside every marker's text, so that no piece holds one whole."""
        begin = 0
        for start, _ in self.starts(text):
            yield text[begin : start + 1]
            begin = start + 1
        yield text[begin:]
