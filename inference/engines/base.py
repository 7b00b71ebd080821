"""The protocol that every engine follows. ``tests/contract/test_engines.py`` holds all of them to it."""

import asyncio
import enum
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.tokenizer import Tokenizer


class EngineStop(enum.Enum):
    """Why an engine ended a generation by itself."""

    END_OF_TURN = enum.auto()
    """An EOS or stop token came; it is in no step's ``token_ids``."""
    MAX_TOKENS = enum.auto()
    """``SamplingParams.max_tokens`` were generated."""
    CONTENT_FILTER = enum.auto()
    """A filter inside the engine ended it."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; a request that needs more is refused before it reaches the engine."""

    penalties: bool = False
    seed: bool = False
    max_top_logprobs: int = 0
    grammar: bool = False
    max_grammar_chars: int | None = None
    """Of the text of one grammar; None: any number."""
    scoring: bool = False
    """``SamplingParams.forced_token_ids`` are honoured."""
    end_bias: bool = False
    images: bool = False
    """``MixedPrompt`` is taken."""
    cache_salt: bool = False


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine serves. Fixed once it has started."""

    engine: str
    """Name of the engine and its version, such as ``llamacpp 2026.10.11549``."""
    context_window: int
    """Tokens of prompt and output together that one generation may have."""
    capacity: int
    """Generations that can run at once. The caller never starts more."""
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one generation are chosen, in full: an engine adds no defaults of its own."""

    max_tokens: int
    """At least 1; prompt and output fit into the context window together."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    min_p: float = 0.0
    """Tokens with less than this share of the likeliest one's probability, before ``temperature``, are left out."""
    end_bias: float = 0.0
    """Added to the logits of the tokens that end the turn. Not with ``grammar`` or ``forced_token_ids``."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    """None: a fresh one each time."""
    stop_token_ids: tuple[int, ...] = ()
    """End the turn, besides the tokenizer's ``eos_token_ids``."""
    top_logprobs: int | None = None
    """None: no log probabilities; otherwise this many candidates a token, 0 to ``max_top_logprobs``."""
    grammar: str | None = None
    """GBNF text: its ``root`` generates what may come, and the turn ends only where that is whole."""
    marker_token_ids: tuple[int, ...] = ()
    """Control tokens that may come where ``grammar`` has the text that names them; no others may."""
    forced_token_ids: tuple[int, ...] = ()
    """If not empty, the ids that are generated, however unlikely: to learn their log probabilities. As many as
    ``max_tokens``, and all whole characters; not with ``grammar``."""
    cache_salt: str = ""
    """Generations with different salts share no KV cache, if the engine can keep them apart."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log probability (natural logarithm, before sampling params) of one token and of the likeliest at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """Token id and log probability, likeliest first."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an engine generated since its last step."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of ``token_ids`` if asked for, else empty."""
    stop: EngineStop | None = None
    """Set on the last step, and only there."""
    cached_tokens: int | None = None
    """Prompt tokens that came from the KV cache; set on the last step at the latest."""
    prompt_tokens: int | None = None
    """With ``cached_tokens``, where ``count_tokens`` is more than the prompt turned out to have: how many it has."""


@dataclass(frozen=True, slots=True)
class MixedPrompt:
    """A prompt of text and images, for engines with ``Capabilities.images``.

    Such engines tokenize the texts themselves, each on its own, and turn every marker's text in them into its token. So
    the caller has to see to it that no text holds one that is not meant. The engine puts BOS before it all if the model
    expects that, and whatever the model expects around an image.
    """

    texts: tuple[str, ...]
    """Before, between and after the images: one more than there are of these. All but the last may be empty."""
    images: tuple[bytes, ...]
    """As ``inference.images.check_image`` lets them pass; at least one."""


EnginePrompt = Sequence[int] | MixedPrompt
"""Token ids, or text and images."""


class EngineError(Exception):
    """One generation failed; the engine goes on. The message is for the log."""


class EngineDead(EngineError):
    """The engine is beyond repair: the worker must end so that a new one can take its place."""


class Engine(Protocol):
    """Token ids in, or text and images; token ids out. For one model.

    An engine knows nothing of chat templates, text, stop strings or queues: the caller renders, decodes, and starts at
    most ``info.capacity`` generations at once. A generation that asks for what the engine is not capable of fails.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def chat_template(self) -> str:
        """The model's own Jinja chat template."""
        ...

    @property
    def died(self) -> asyncio.Event:
        """Set when the engine is beyond repair, or closed, whether a generation runs then or not."""
        ...

    @property
    def kv_cache_usage(self) -> float | None:
        """The share of the KV cache that generations hold, 0 to 1; None: unknown."""
        ...

    async def start(self) -> None:
        """Load the model; may take minutes. Returns when a first token can be generated.

        Raises:
            EngineDead: the model cannot be loaded.
        """
        ...

    def count_tokens(self, prompt: MixedPrompt) -> int:
        """Tokens of ``prompt``, those of its images with it; as many as it may have, if that is known only later.

        Takes its time: belongs in a thread.

        Raises:
            EngineError: it holds what the engine cannot take; always if ``Capabilities.images`` is false.
        """
        ...

    def generate(self, request_id: str, prompt: EnginePrompt, params: SamplingParams) -> AsyncGenerator[Step, None]:
        """Generate after ``prompt``; the last step has ``stop`` set.

        Closing the generator aborts: within one token while decoding, within one chunk of the prompt, or one image,
        while prefilling.
        When ``aclose`` returns the engine does no more work for it and its place is free.

        Raises:
            EngineError: this generation failed.
            EngineDead: the engine failed, and with it every generation.
        """
        ...

    async def close(self) -> None:
        """Stop the engine, in bounded time. Generations still running end with EngineDead."""
        ...
