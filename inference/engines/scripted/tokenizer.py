"""A small tokenizer with everything that a real one has: bytes, words, control tokens and other added tokens."""

import re
from collections.abc import Mapping, Sequence

_TEXT = (
    "the a of to and in is it you that was for on are with as I his they be at one have this from or had by hot "
    "word but what some we can out other were all there when up use your how said an each she which do their time "
    "if will way about many then them write would like so these her long make thing see him two has look more day "
    "could go come did number sound no most people my over know water than call first who may down side been now "
    "find three four five six seven eight nine ten token Hello hello world quick brown fox jumps lazy dog say wait"
)
_WORDS = _TEXT.split()

_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")

_PIECES = [bytes([byte]) for byte in range(256)] + [piece.encode() for word in _WORDS for piece in (word, f" {word}")]
_IDS = {piece: token_id for token_id, piece in enumerate(_PIECES)}
_PATTERN = re.compile(b"|".join(map(re.escape, sorted(_PIECES, key=len, reverse=True))), re.DOTALL)
_MARKERS = {text: len(_PIECES) + index for index, text in enumerate(_CONTROL + _ADDED)}
_EOS = frozenset({_MARKERS["<|endoftext|>"], _MARKERS["<|im_end|>"]})
_BYTES = _PIECES + [b""] * len(_CONTROL) + [text.encode() for text in _ADDED]


class ScriptedTokenizer:
    """``inference.tokenizer.Tokenizer``: ids 0 to 255 are the bytes, then come words, with and without a space."""

    @property
    def markers(self) -> Mapping[str, int]:
        return _MARKERS

    @property
    def special_tokens(self) -> Mapping[str, str]:
        return {"eos_token": "<|im_end|>"}

    @property
    def bos_token_id(self) -> int | None:
        return None

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return _EOS

    def encode(self, text: str) -> list[int]:
        return [_IDS[match.group()] for match in _PATTERN.finditer(text.encode())]

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(_BYTES):
            raise KeyError(token_id)
        return _BYTES[token_id]

    def decode(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(map(self.token_bytes, token_ids))
