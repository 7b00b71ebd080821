"""A small byte-level tokenizer, for tests of what is built on one."""

import re
from collections.abc import Iterable, Sequence

MERGES = (
    "th",
    "the",
    "in",
    "er",
    "on",
    " a",
    " t",
    " the",
    "ss",
    "st",
    "us",
    "user",
    "as",
    "\n\n",
    "im",
    "<|",
    "|>",
    "é",
)
"""Texts, besides single bytes, that are one token."""
FIRST_MERGE = 256
FIRST_MARKER = 1000


class ByteTokenizer:
    """Ids 0 to 255 are bytes, then come MERGES, then the markers.

    As llama.cpp does, ``encode`` knows markers that are no control tokens (here: those without ``|``) in any text: the
    caller must see to it that they do not come out.
    """

    def __init__(self, markers: Iterable[str] = (), *, bos: str | None = None, eos: Iterable[str] = ()) -> None:
        texts = dict.fromkeys((*markers, *eos, *([bos] if bos else [])))
        self.markers = {text: FIRST_MARKER + index for index, text in enumerate(texts)}
        self.special_tokens = {"bos_token": bos or "", "eos_token": next(iter(eos), "")}
        self.bos_token_id = self.markers[bos] if bos else None
        self.eos_token_ids = frozenset(self.markers[text] for text in eos)
        self._ids = {text.encode(): FIRST_MERGE + index for index, text in enumerate(MERGES)}
        self._ids |= {bytes([byte]): byte for byte in range(256)}
        self._ids |= {text.encode(): token_id for text, token_id in self.markers.items() if "|" not in text}
        self._bytes = {token_id: text for text, token_id in self._ids.items()}
        self._bytes |= {token_id: b"" for text, token_id in self.markers.items() if "|" in text}
        longest_first = sorted((text for text in self._ids if len(text) > 1), key=len, reverse=True)
        self._token = re.compile(b"|".join([*map(re.escape, longest_first), b"."]), re.DOTALL)
        self.encoded: list[str] = []
        """Every text that was tokenized, in order."""

    def encode(self, text: str) -> list[int]:
        self.encoded.append(text)
        return [self._ids[token] for token in self._token.findall(text.encode())]

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def decode(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(self._bytes[token_id] for token_id in token_ids)

    def spell(self, token_ids: Sequence[int]) -> str:
        """``token_ids`` as text, markers included."""
        names = {token_id: text.encode() for text, token_id in self.markers.items()}
        return b"".join(names.get(token_id, self._bytes[token_id]) for token_id in token_ids).decode()
