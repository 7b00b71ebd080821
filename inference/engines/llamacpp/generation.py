"""One generation on llama.cpp: prefill in chunks, then decode, in a thread of its own."""

import hashlib
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from inference.engines.base import EngineError, EngineStop, MixedPrompt, SamplingParams, Step, TokenLogprob
from inference.engines.llamacpp.server import LlamaServer, Token
from inference.engines.llamacpp.slots import Slot, cache_key
from inference.engines.llamacpp.tokenizer import LlamaCppTokenizer
from inference.engines.prefix import common_prefix

_PREFILL_CHUNK = 64
"""Tokens: what an abort waits for while prefilling, and every token of other generations. No slower than larger ones;
32 would cost a quarter of the speed."""

_SINGLE_STEPS = 32
"""Tokens to generate one call at a time after one that is only a part of a character: more of them may follow."""

_UNKNOWN_LOGPROB = -9999.0
"""What OpenAI's API says for it."""

_SAMPLERS = ["penalties", "min_p", "temperature", "top_p"]
"""All that are applied, in this order; llama.cpp's other samplers and its own order are not OpenAI's."""


class Generation:
    """Runs once, in a thread (``run``); the event loop takes what has come so far (``take``).

    Tokens come as a stream, or one call each. The stream is faster with many generations at once, but llama.cpp leaves
    out of it every token that ends within a character, and its penalties count the prompt's tokens too. Where that
    matters tokens are generated one call each. What the stream has generated beyond a gap is dropped: nobody has seen
    it yet.

    A grammar begins with a call and cannot be entered in its middle, and after images a call takes no token ids: then
    everything comes as one stream. The tokens that it leaves out are told from the text that they are a part of; their
    log probabilities are unknown.
    """

    def __init__(
        self,
        server: LlamaServer,
        tokenizer: LlamaCppTokenizer,
        slot: Slot,
        prompt: tuple[int, ...] | MixedPrompt,
        params: SamplingParams,
        notify: Callable[[], None],
    ) -> None:
        self._server = server
        self._tokenizer = tokenizer
        self._slot = slot
        self._prompt = prompt
        self._params = params
        self._notify = notify
        self._stop_ids = tokenizer.eos_token_ids.union(params.stop_token_ids)
        self._penalized = params.presence_penalty != 0 or params.frequency_penalty != 0
        self._grammar = _forcing(params.forced_token_ids) if params.forced_token_ids else params.grammar
        self._seed = random.getrandbits(63) if params.seed is None else params.seed
        self._in_one_stream = self._grammar is not None or isinstance(prompt, MixedPrompt)
        self._reuse = slot.cache_salt == params.cache_salt
        self._generated: list[int] = []
        self._single_until = 0
        self._cached_tokens: int | None = None
        self._pending: deque[tuple[int, TokenLogprob | None]] = deque()
        self._aborted = False

    def abort(self) -> None:
        """Make ``run`` return soon. From any thread."""
        self._aborted = True

    def take(self, stop: EngineStop | None = None) -> Step | None:
        """What was generated since the last call; None if that is nothing and there is no ``stop``."""
        taken = [self._pending.popleft() for _ in range(len(self._pending))]
        if not taken and stop is None:
            return None
        return Step(
            token_ids=tuple(token_id for token_id, _ in taken),
            logprobs=tuple(logprob for _, logprob in taken if logprob is not None),
            stop=stop,
            cached_tokens=self._cached_tokens,
        )

    def run(self) -> EngineStop | None:
        """Generate to the end; None if aborted. ``notify`` is called at every bit of progress.

        Raises:
            EngineError: llama.cpp refused or failed.
        """
        try:
            self._prefill()
            stop = None
            while not self._aborted and stop is None:
                single = not self._in_one_stream and (self._penalized or len(self._generated) < self._single_until)
                stop = self._step() if single else self._stream()
            if self._generated:
                prompt = cache_key(self._prompt)
                self._slot.key = (*prompt, *self._generated)
                self._slot.prompt_length = len(prompt)
        except EngineError:
            self._slot.forget()
            raise
        return stop

    def _prefill(self) -> None:
        """All of the prompt but the last chunk, which the first decode brings with it; none of one with images."""
        if not self._reuse:
            self._slot.forget()
        if isinstance(self._prompt, MixedPrompt):
            return
        filled = common_prefix(self._slot.key, self._prompt)
        while len(self._prompt) - filled > _PREFILL_CHUNK and not self._aborted:
            filled += _PREFILL_CHUNK
            self._came(self._server.prefill(self._slot.index, self._prompt[:filled], reuse=self._reuse))
            self._slot.key = self._prompt[:filled]
            self._slot.prompt_length = filled
            self._notify()

    def _came(self, cached_tokens: int) -> None:
        """A call has ended its prefill: the first one tells what was there before, the later ones reuse its work."""
        if self._cached_tokens is None:
            self._cached_tokens = cached_tokens
        self._slot.cache_salt = self._params.cache_salt
        self._reuse = True

    def _stream(self) -> EngineStop | None:
        """Generate until the end, or until the stream has a gap; None then, with a spell of single steps to come."""
        stop: EngineStop | None = None
        held: Token | None = None  # a control token, until it is known that it did not end the generation
        gap = False

        def on_token(token: Token) -> bool:
            nonlocal stop, held, gap
            self._came(token.cached_tokens)
            if held is not None:
                self._emit(held)
                held = None
            piece = self._tokenizer.token_bytes(token.token_id)
            if not self._in_one_stream:
                gap = token.text != piece
            elif (count := token.position - len(self._generated) - 1) > 0:
                for missing in self._tokenizer.spelled(token.text.removesuffix(piece), count):
                    self._emit(replace(token, token_id=missing, logprob=_UNKNOWN_LOGPROB, top=()))
            if gap:
                pass
            elif token.token_id in self._stop_ids:
                stop = EngineStop.END_OF_TURN
            elif piece:
                self._emit(token)
            else:
                held = token
            return gap or stop is not None or self._aborted

        def on_progress(cached_tokens: int) -> bool:
            self._came(cached_tokens)
            self._notify()
            return self._aborted

        remaining = self._params.max_tokens - len(self._generated)
        finish_reason = self._server.stream(self._request() | {"n_predict": remaining}, on_token, on_progress)
        if stop is not None or self._aborted:
            return stop
        if finish_reason == "stop" and held is not None:
            return EngineStop.END_OF_TURN
        if held is not None:
            self._emit(held)
        if len(self._generated) == self._params.max_tokens or self._in_one_stream:
            return EngineStop.MAX_TOKENS  # perhaps within a character, whose part nobody can be told
        self._single_until = len(self._generated) + _SINGLE_STEPS
        return None

    def _step(self) -> EngineStop | None:
        """Generate one token."""
        token, ended = self._server.step(self._request())
        self._came(token.cached_tokens)
        if ended or token.token_id in self._stop_ids:
            return EngineStop.END_OF_TURN
        if self._params.top_logprobs is not None and math.isnan(token.logprob):
            token = self._with_logprobs(token)
        self._emit(token)
        if not _is_text(self._tokenizer.token_bytes(token.token_id)):
            self._single_until = len(self._generated) + _SINGLE_STEPS
        return EngineStop.MAX_TOKENS if len(self._generated) == self._params.max_tokens else None

    def _with_logprobs(self, token: Token) -> Token:
        """``token`` with its log probabilities, which llama.cpp does not give for a part of a character.

        Sought among the likeliest first, then in the whole vocabulary, which is megabytes of JSON.
        """
        forced = min(self._tokenizer.eos_token_ids)
        for count in (max(1, self._params.top_logprobs or 0), len(self._tokenizer)):
            top = self._server.candidates(self._request(), forced, count)
            if (logprob := dict(top).get(token.token_id)) is not None:
                return replace(token, logprob=logprob, top=top)
        raise EngineError(f"llama.cpp gave no probability of token {token.token_id}")

    def _emit(self, token: Token) -> None:
        self._generated.append(token.token_id)
        logprob = None
        if (count := self._params.top_logprobs) is not None:
            logprob = TokenLogprob(token.token_id, token.logprob, token.top[:count])
        self._pending.append((token.token_id, logprob))
        self._notify()

    def _request(self) -> dict[str, Any]:
        """What every call that generates says; llama.cpp's server defaults hold for nothing that changes the output."""
        params = self._params
        request: dict[str, Any] = {
            "prompt": self._calls_prompt(),
            "id_slot": self._slot.index,
            "cache_prompt": self._reuse,
            "samplers": _SAMPLERS,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "repeat_penalty": 1.0,
            "repeat_last_n": (params.max_tokens if self._in_one_stream else len(self._generated))
            if self._penalized
            else 0,
            "seed": _seed_at(self._seed, len(self._generated)),
            "n_probs": 0 if params.top_logprobs is None else max(1, params.top_logprobs),
        }
        if self._grammar is not None:
            # control tokens: to llama.cpp they are the text that names them, to everybody but a parser nothing
            silent = set(self._tokenizer.silent_token_ids).difference(params.marker_token_ids)
            bias = [[token_id, False] for token_id in silent]
            request |= {"grammar": self._grammar, "logit_bias": bias}
        elif params.end_bias:  # of log probabilities llama.cpp tells those without it
            request["logit_bias"] = [[token_id, params.end_bias] for token_id in self._stop_ids]
        return request

    def _calls_prompt(self) -> dict[str, Any] | list[int]:
        if isinstance(self._prompt, MixedPrompt):
            assert not self._generated, "one stream has it all"
            return self._server.with_images(self._prompt)
        return [*self._prompt, *self._generated]


def _seed_at(seed: int, position: int) -> int:
    """llama.cpp's seed for a call that begins at ``position``, which must not begin its random numbers anew.

    Below 2**32 - 1, which llama.cpp takes for a random one.
    """
    digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % (2**32 - 1)


def _forcing(token_ids: Sequence[int]) -> str:
    """The grammar of exactly ``token_ids``; only llama.cpp's dialect names tokens by their ids."""
    return "root ::= " + " ".join(f"<[{token_id}]>" for token_id in token_ids)


def _is_text(piece: bytes) -> bool:
    """Whether ``piece`` is whole characters."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
