"""Token ids -> text, never splitting a character; stop sequences across tokens."""

import codecs
from collections.abc import Mapping, Sequence

from inference.tokenizer import Tokenizer

MAX_HELD_CHARS = 16
"""That wait for the rest of one which begins in the same token."""


class Detokenizer:
    """The text of one generation, as it comes.

    In any portions the texts join to ``tokenizer.decode(all_ids).decode("utf-8", "replace")``, but for the tokens in
    ``spelled``.

    Args:
        spelled: Bytes of control tokens that are to be seen in the text: those that a parser looks for.
    """

    def __init__(self, tokenizer: Tokenizer, spelled: Mapping[int, bytes] | None = None) -> None:
        self._tokenizer = tokenizer
        self._spelled = spelled or {}
        self._held = ""
        self._incomplete = b""

    @property
    def is_inside_character(self) -> bool:
        """The last token ended within one."""
        return bool(self._incomplete)

    def feed(self, token_ids: Sequence[int]) -> str:
        """The characters that ``token_ids`` complete; the bytes of one still incomplete wait.

        So do the characters before it, up to a few: then what was told so far is whole tokens as well.

        Raises:
            KeyError: no such token.
        """
        if self._spelled:
            pieces = [self._spelled.get(token_id) or self._tokenizer.token_bytes(token_id) for token_id in token_ids]
            data = b"".join(pieces)
        else:
            data = self._tokenizer.decode(token_ids)
        data = self._incomplete + data
        text, end = codecs.utf_8_decode(data, "replace", False)
        self._incomplete = data[end:]
        text = self._held + text
        self._held = ""
        if self._incomplete and len(text) <= MAX_HELD_CHARS:
            self._held, text = text, ""
        return text

    def finish(self) -> str:
        """What was held back, with U+FFFD for a character that was left incomplete."""
        text = self._held + codecs.utf_8_decode(self._incomplete, "replace", True)[0]
        self._held, self._incomplete = "", b""
        return text


class StopSequences:
    """Ends a text before the first stop sequence.

    The first is the one complete first; of two complete at once the longer. So the result is the same whatever the
    portions in which the text comes.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        """``sequences`` are not empty."""
        self._sequences = sequences
        self._held = ""
        self.found: str | None = None
        """The sequence that ended the text."""

    def feed(self, text: str) -> str:
        """What is sure to belong to the text, out of ``text`` and what was held back before. Nothing once ``found``.

        Held back is the longest end that is the beginning of a stop sequence.
        """
        if self.found is not None:
            return ""
        text = self._held + text
        hits = [(at + len(stop), at, stop) for stop in self._sequences if (at := text.find(stop)) >= 0]
        if hits:
            _, end, self.found = min(hits)
            self._held = ""
        else:
            end = min((open_start(text, stop) for stop in self._sequences), default=len(text))
            self._held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def open_start(text: str, stop: str) -> int:
    """Where the longest end of ``text`` that begins ``stop``, but is not all of it, starts."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return start if start >= 0 else len(text)
