"""The tokenizer of a GGUF model: llama.cpp encodes, the file's vocabulary decodes."""

import enum
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from inference import gguf, vocabulary
from inference.engines.base import EngineDead

_MODEL = "tokenizer.ggml.model"
_TOKENS = "tokenizer.ggml.tokens"
_TOKEN_TYPES = "tokenizer.ggml.token_type"
_CHAT_TEMPLATE = "tokenizer.chat_template"
_BOS_TOKEN_ID = "tokenizer.ggml.bos_token_id"
_ADD_BOS_TOKEN = "tokenizer.ggml.add_bos_token"
_EOS_TOKEN_IDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")

_TAG = re.compile(r".?[<\[]\S+[>\]]")

_UNMERGED = "\x01"

_BYTE_PAIRS = "gpt2"
_SENTENCEPIECE = "llama"

_EOS_TEXTS = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|return|>", "<|call|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"}
    | {"<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<|flush|>", "<|calls|>"}
)
"""Ends of a generation that llama.cpp knows by name (its llama-vocab.cpp, special_eog_ids), metadata or not."""
_HARMONY = frozenset({"<|return|>", "<|call|>", "<|end|>"})
"""A vocabulary with all three ends a turn with the first two; the third ends one message of several."""


class _TokenType(enum.IntEnum):
    """GGUF's ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class LlamaCppTokenizer:
    """``inference.tokenizer.Tokenizer`` for a GGUF file whose text ``tokenize`` can encode.

    Byte-level BPE (``gpt2``) and SentencePiece (``llama``) vocabularies.

    Raises:
        EngineDead: the file is damaged, or has another kind of vocabulary.
    """

    def __init__(self, model_path: Path, tokenize: Callable[[str], list[int]]) -> None:
        self._tokenize = tokenize
        try:
            metadata = gguf.read_metadata(
                model_path,
                {_MODEL, _TOKENS, _TOKEN_TYPES, _CHAT_TEMPLATE, _BOS_TOKEN_ID, _ADD_BOS_TOKEN, *_EOS_TOKEN_IDS},
            )
        except (gguf.GgufError, OSError) as error:
            raise EngineDead(f"cannot read the model file: {error}") from error
        texts, types = _vocabulary(model_path, metadata)
        to_bytes = _byte_pair_bytes if metadata[_MODEL] == _BYTE_PAIRS else _sentencepiece_bytes
        self._bytes = [to_bytes(text, type_) for text, type_ in zip(texts, types, strict=True)]
        self._adds_space = metadata[_MODEL] == _SENTENCEPIECE
        self._single_bytes = bytes(range(256))
        if metadata[_MODEL] == _BYTE_PAIRS:
            self._single_bytes = b"".join({piece for piece in self._bytes if len(piece) == 1})
        added = (_TokenType.CONTROL, _TokenType.UNKNOWN, _TokenType.USER_DEFINED)
        self.markers = {
            text: token_id
            for token_id, (text, type_) in enumerate(zip(texts, types, strict=True))
            if type_ in added and text.strip()  # some vocabularies add runs of spaces: they are text
        }
        self.tags = [text for text in texts if _TAG.fullmatch(text) and text not in self.markers]
        """Tokens that look like markers, and are none by their type."""
        self.eos_token_ids = _eos_token_ids(metadata, self.markers)
        # what llama.cpp would make a marker of even in plain text; the longest first
        words = sorted((text for text, id_ in self.markers.items() if self._bytes[id_]), key=len, reverse=True)
        self._forgeable = re.compile("|".join(map(re.escape, words))) if words else None
        self.chat_template = str(metadata.get(_CHAT_TEMPLATE, ""))
        bos = metadata.get(_BOS_TOKEN_ID)
        self.special_tokens = {
            name: texts[token_id]
            for name, token_id in (("bos_token", bos), ("eos_token", metadata.get(_EOS_TOKEN_IDS[0])))
            if isinstance(token_id, int) and 0 <= token_id < len(texts)
        }
        # files without the flag: llama.cpp puts BOS before SentencePiece prompts only
        expects_bos = metadata.get(_ADD_BOS_TOKEN, metadata[_MODEL] == _SENTENCEPIECE)
        self.bos_token_id = bos if isinstance(bos, int) and expects_bos else None

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        text = self.spellable(text)
        token_ids: list[int] = []
        start = 0
        while self._forgeable is not None and (match := self._forgeable.search(text, start)):
            # cut after the marker's first character: neither piece holds it whole
            cut = match.start() + 1
            token_ids += self._encode(text[start:cut])
            start = cut
        return token_ids + self._encode(text[start:])

    def _encode(self, text: str) -> list[int]:
        """As llama.cpp does, but without the space that it puts before SentencePiece texts.

        A byte that merges with nothing takes the space, and both are taken off again.
        """
        if not text or not self._adds_space:
            return self._tokenize(text) if text else []
        token_ids = self._tokenize(_UNMERGED + text)
        assert token_ids[: len(self._unmerged)] == self._unmerged, "the byte has merged"
        return token_ids[len(self._unmerged) :]

    @functools.cached_property
    def _unmerged(self) -> list[int]:
        return self._tokenize(_UNMERGED)

    def spellable(self, text: str) -> str:
        """``text`` with U+FFFD for what the vocabulary cannot spell, and half surrogate pairs as question marks."""
        return vocabulary.spellable(text.encode(errors="replace").decode(), self._single_bytes)

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._bytes):
            raise KeyError(token_id)
        return self._bytes[token_id]

    @cached_property
    def silent_token_ids(self) -> tuple[int, ...]:
        """Tokens without text that do not end a turn."""
        return tuple(id_ for id_ in self.markers.values() if not self._bytes[id_] and id_ not in self.eos_token_ids)

    def spelled(self, piece: bytes, count: int) -> list[int]:
        """Some ``count`` tokens that spell ``piece``; more or fewer if no such number does."""
        ways: list[dict[int, tuple[int, ...]]] = [{0: ()}, *({} for _ in piece)]  # by end, by number of tokens
        for start, known in enumerate(ways[:-1]):
            for end in range(start + 1, len(piece) + 1):
                if (token_id := self._ids.get(piece[start:end])) is not None:
                    for number, path in known.items():
                        ways[end].setdefault(number + 1, (*path, token_id))
        found = ways[-1]
        return list(found.get(count) or next(iter(found.values()), ()))

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {piece: token_id for token_id, piece in reversed(list(enumerate(self._bytes))) if piece}

    def decode(self, token_ids: Sequence[int]) -> bytes:
        return b"".join(map(self.token_bytes, token_ids))


def _vocabulary(model_path: Path, metadata: Mapping[str, gguf.Value]) -> tuple[list[str], list[int]]:
    """Texts and types of all tokens, by id."""
    model = metadata.get(_MODEL)
    if model not in (_BYTE_PAIRS, _SENTENCEPIECE):
        raise EngineDead(
            f"{model_path} has a tokenizer of kind {model!r}; supported are {_BYTE_PAIRS!r} and {_SENTENCEPIECE!r}"
        )
    texts, types = metadata.get(_TOKENS), metadata.get(_TOKEN_TYPES)
    if not isinstance(texts, list) or not isinstance(types, list) or len(texts) != len(types):
        raise EngineDead(f"{model_path} has no usable vocabulary: {_TOKENS} and {_TOKEN_TYPES} do not match")
    return [str(text) for text in texts], [type_ if isinstance(type_, int) else 0 for type_ in types]


def _eos_token_ids(metadata: Mapping[str, gguf.Value], markers: Mapping[str, int]) -> frozenset[int]:
    named = {value for key in _EOS_TOKEN_IDS if isinstance(value := metadata.get(key), int)}
    texts = _EOS_TEXTS - {"<|end|>"} if markers.keys() >= _HARMONY else _EOS_TEXTS
    return frozenset(named | {markers[text] for text in texts if text in markers})


def _byte_pair_bytes(text: str, type_: int) -> bytes:
    match type_:
        case _TokenType.NORMAL:
            return vocabulary.byte_pair_bytes(text)
        case _TokenType.USER_DEFINED:
            return text.encode()
        case _:
            return b""


def _sentencepiece_bytes(text: str, type_: int) -> bytes:
    match type_:
        case _TokenType.NORMAL:
            return vocabulary.sentencepiece_bytes(text)
        case _TokenType.USER_DEFINED:
            return text.encode()
        case _TokenType.BYTE:
            return bytes([int(text[1:-1], 16)])  # <0x0A>
        case _:
            return b""
