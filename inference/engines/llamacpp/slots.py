"""Which of llama.cpp's slots a generation runs in, so that a conversation finds its KV cache again."""

from dataclasses import dataclass
from hashlib import sha256

from inference.engines.base import MixedPrompt
from inference.engines.prefix import common_prefix

CacheKey = tuple[int | str | bytes, ...]
"""What a KV cache holds, so that it can be compared: token ids; of text with images the characters and digests."""

_KEEP_AT_LEAST = 0.5


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one generation, and what its KV cache holds."""

    index: int
    key: CacheKey = ()
    prompt_length: int = 0
    """How much of ``key`` was the last prompt; the rest was generated after it."""
    cache_salt: str | None = None
    """Of the generation that filled it; None: nothing it holds may be reused."""

    def forget(self) -> None:
        """What it holds is not known, or not for the next generation: until that one's first call has replaced it."""
        self.key, self.prompt_length, self.cache_salt = (), 0, None


class Slots:
    """The free slots, least recently used first."""

    def __init__(self, count: int) -> None:
        self._free = [Slot(index) for index in range(count)]

    @property
    def has_free(self) -> bool:
        """One can be taken."""
        return bool(self._free)

    def take(self, prompt: CacheKey, cache_salt: str) -> Slot:
        """The slot with the longest prefix of ``prompt``, if that is worth it; else the least recently used.

        It is worth it if at least half of the slot's last prompt stays: all conversations begin with the same few
        tokens of their template, and must not drive each other out of the cache for them.
        """
        assert self._free, "more generations than slots"
        best, best_prefix = self._free[0], 0
        for slot in self._free:
            if slot.cache_salt == cache_salt:
                prefix = common_prefix(slot.key, prompt)
                if prefix > best_prefix and prefix >= _KEEP_AT_LEAST * slot.prompt_length:
                    best, best_prefix = slot, prefix
        self._free.remove(best)
        return best

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot)


def cache_key(prompt: tuple[int, ...] | MixedPrompt) -> CacheKey:
    """What ``prompt`` leaves in a KV cache."""
    if not isinstance(prompt, MixedPrompt):
        return prompt
    first, *others = prompt.texts
    key: list[str | bytes] = [*first]
    for image, text in zip(prompt.images, others, strict=True):
        key += [sha256(image).digest(), *text]
    return tuple(key)
