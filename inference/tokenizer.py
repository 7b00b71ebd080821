"""What the worker asks of a model's tokenizer, whatever engine runs the model."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back. Methods may take milliseconds: long texts belong in a thread."""

    @property
    def markers(self) -> Mapping[str, int]:
        """Text and id of every token that stands for structure, not for text.

        Control tokens (``<|im_end|>``) and the other added tokens (``<think>``). Only a template's own
        literals may turn into them.
        """
        ...

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Text of the tokens that chat templates know by name, such as ``bos_token`` and ``eos_token``."""
        ...

    @property
    def bos_token_id(self) -> int | None:
        """The id that the model expects before every prompt; None if it expects none."""
        ...

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end a turn."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as plain text: no marker comes out, and no BOS is put before it.

        Characters that the vocabulary cannot spell, a fault of some small ones, become U+FFFD.
        """
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes, perhaps a part of a character, that the token stands for; empty for control tokens.

        Raises:
            KeyError: no such token.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> bytes:
        """All tokens' bytes in one."""
        ...
