"""The scripted engine: runs the commands of its prompts, hundreds at once on one ticker."""

import asyncio
import itertools
import math
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from inference.engines.base import (
    Capabilities,
    EngineDead,
    EngineError,
    EngineInfo,
    EnginePrompt,
    EngineStop,
    MixedPrompt,
    SamplingParams,
    Step,
    TokenLogprob,
)
from inference.engines.prefix import common_prefix
from inference.engines.scripted.script import (
    CHAT_TEMPLATE,
    Emit,
    End,
    Fail,
    Hold,
    Prefill,
    ScriptError,
    SetPace,
    Wait,
    commands,
    generated_before,
    last_user_message,
)
from inference.engines.scripted.tokenizer import ScriptedTokenizer

_TICK_S = 0.005
_CACHED_SEQUENCES = 64
_NO_IMAGES = "the scripted engine takes no images"
_ROUNDING = 1e-3
"""Tokens: what floating point may take from one that is due."""


@dataclass(frozen=True, slots=True)
class ScriptedSettings:
    """How wide the engine is, and what it does when a prompt does not say."""

    context_window: int = 32768
    parallel: int = 256
    script: str = ""
    """For prompts whose last user message is none; begins with ``script:`` too. Empty: generate the message."""


class ScriptedEngine:
    """``Engine`` that obeys its prompts; the package's docstring has the language."""

    def __init__(self, settings: ScriptedSettings | None = None) -> None:
        settings = settings or ScriptedSettings()
        self._script = settings.script
        self._info = EngineInfo(
            engine="scripted",
            context_window=settings.context_window,
            capacity=settings.parallel,
            capabilities=Capabilities(penalties=True, seed=True, max_top_logprobs=20, cache_salt=True),
        )
        self._tokenizer = ScriptedTokenizer()
        self._cache = _PrefixCache()
        self._ticker = _Ticker()
        self._running = 0
        self._dead: str | None = "the engine has not started"
        self._died = asyncio.Event()

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> ScriptedTokenizer:
        return self._tokenizer

    @property
    def chat_template(self) -> str:
        return CHAT_TEMPLATE

    @property
    def died(self) -> asyncio.Event:
        return self._died

    @property
    def kv_cache_usage(self) -> None:
        return None

    @property
    def running(self) -> int:
        """Generations that have begun and not ended."""
        return self._running

    async def start(self) -> None:
        self._dead = None

    async def close(self) -> None:
        self._die("the engine is closed")

    def count_tokens(self, prompt: MixedPrompt) -> int:
        raise EngineError(_NO_IMAGES)

    async def generate(
        self, request_id: str, prompt: EnginePrompt, params: SamplingParams
    ) -> AsyncGenerator[Step, None]:
        self._raise_if_dead()
        if isinstance(prompt, MixedPrompt):
            raise EngineError(_NO_IMAGES)
        token_ids = tuple(prompt)
        cached_tokens = self._cache.longest_prefix(token_ids, params.cache_salt)
        generated: list[int] = []
        self._running += 1
        try:
            async with aclosing(self._run(token_ids, cached_tokens)) as batches:
                async for batch in batches:
                    step = self._step(batch, len(generated), cached_tokens, params)
                    generated += step.token_ids
                    yield step
                    if step.stop is not None:
                        return
        finally:
            self._running -= 1
            if generated:
                self._cache.add((*token_ids, *generated), params.cache_salt)

    async def _run(
        self, prompt: tuple[int, ...], cached_tokens: int
    ) -> AsyncGenerator[tuple[int, ...] | EngineStop, None]:
        """Execute the script: tokens as they become due, at last a stop."""
        message = last_user_message(prompt, self._tokenizer)
        try:
            script = commands(message, self._script, prompt, self._tokenizer)
        except ScriptError as error:
            raise EngineError(f"bad script: {error}") from error
        pace = _Pace(self._ticker, 0)
        to_skip = generated_before(prompt, self._tokenizer)
        for command in script:
            match command:
                case Emit(token_ids, times):
                    skipped = min(to_skip, len(token_ids) * times)
                    to_skip -= skipped
                    if skipped == len(token_ids) * times:
                        continue  # at no pace: what is there already takes no time
                    every = itertools.chain.from_iterable(itertools.repeat(token_ids, times))
                    coming = itertools.islice(every, skipped, None)
                    while batch := tuple(itertools.islice(coming, await pace.due())):
                        self._raise_if_dead()
                        yield batch
                case SetPace(tokens_per_s):
                    pace = _Pace(self._ticker, tokens_per_s)
                case _ if to_skip:
                    pass  # it was done before the tokens that are there already
                case Prefill(tokens_per_s):
                    await self._wait((len(prompt) - cached_tokens) / tokens_per_s)
                    pace.restart()
                case Hold():
                    await self._died.wait()
                    self._raise_if_dead()
                case Wait(duration_s):
                    await self._wait(duration_s)
                    pace.restart()
                case Fail(text, engine_too):
                    if engine_too:
                        self._die(text)
                        raise EngineDead(text)
                    raise EngineError(text)
                case End(filtered):
                    yield EngineStop.CONTENT_FILTER if filtered else EngineStop.END_OF_TURN
                    return
                case _:
                    assert_never(command)
        yield EngineStop.END_OF_TURN

    def _step(
        self, batch: tuple[int, ...] | EngineStop, generated: int, cached_tokens: int, params: SamplingParams
    ) -> Step:
        """``batch`` as a step, cut where a stop token or ``max_tokens`` ends it."""
        if isinstance(batch, EngineStop):
            return Step(stop=batch, cached_tokens=cached_tokens)
        stop: EngineStop | None = None
        token_ids = batch[: params.max_tokens - generated]
        if generated + len(token_ids) == params.max_tokens:
            stop = EngineStop.MAX_TOKENS
        eos_token_ids = self._tokenizer.eos_token_ids
        for index, token_id in enumerate(token_ids):
            if token_id in eos_token_ids or token_id in params.stop_token_ids:
                token_ids, stop = token_ids[:index], EngineStop.END_OF_TURN
                break
        logprobs = () if params.top_logprobs is None else tuple(_logprob(id_, params.top_logprobs) for id_ in token_ids)
        return Step(token_ids, logprobs, stop, cached_tokens)

    async def _wait(self, duration_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + duration_s
        while (now := loop.time()) < end:
            await self._ticker.until(min(end, now + _TICK_S))
            self._raise_if_dead()

    def _die(self, reason: str) -> None:
        self._dead = self._dead or reason
        self._died.set()

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise EngineDead(self._dead)


def _logprob(token_id: int, count: int) -> TokenLogprob:
    """Always the same: the token is the likeliest, its successors follow."""
    top = tuple(((token_id + place) % 256 if place else token_id, -0.5 - place) for place in range(count))
    return TokenLogprob(token_id, -0.5, top)


class _PrefixCache:
    """The last sequences, as a KV cache would hold them."""

    def __init__(self) -> None:
        self._sequences: deque[tuple[str, tuple[int, ...]]] = deque(maxlen=_CACHED_SEQUENCES)

    def add(self, token_ids: tuple[int, ...], cache_salt: str) -> None:
        self._sequences.append((cache_salt, token_ids))

    def longest_prefix(self, prompt: tuple[int, ...], cache_salt: str) -> int:
        """Tokens of ``prompt`` that are cached; never the last one, whose logits are needed."""
        prefixes = (common_prefix(cached, prompt[:-1]) for salt, cached in self._sequences if salt == cache_salt)
        return max(prefixes, default=0)


class _Ticker:
    """One timer for all who wait for the same tick, as the steps of a real engine are the same for all."""

    def __init__(self) -> None:
        self._ticks: dict[int, asyncio.Event] = {}

    async def until(self, time: float) -> None:
        """Return at the first tick that is not before ``time``, of the event loop's clock."""
        number = math.ceil(time / _TICK_S)
        tick = self._ticks.get(number)
        if tick is None:
            tick = self._ticks[number] = asyncio.Event()
            asyncio.get_running_loop().call_at(number * _TICK_S, self._fire, number)
        await tick.wait()

    def _fire(self, number: int) -> None:
        self._ticks.pop(number).set()


class _Pace:
    """Hands out how many tokens are due."""

    def __init__(self, ticker: _Ticker, tokens_per_s: float) -> None:
        self._ticker = ticker
        self._tokens_per_s = tokens_per_s
        self._given = 0
        self.restart()

    def restart(self) -> None:
        """Count from now: what was not due during a wait is not made up for."""
        self._start, self._given = asyncio.get_running_loop().time(), 0

    async def due(self) -> int:
        """At least one; without a pace always one, after the other tasks have had a turn."""
        if self._tokens_per_s == 0:
            await asyncio.sleep(0)
            return 1
        loop = asyncio.get_running_loop()
        while (due := int((loop.time() - self._start) * self._tokens_per_s + _ROUNDING) - self._given) < 1:
            await self._ticker.until(self._start + (self._given + 1) / self._tokens_per_s)
        self._given += due
        return due
