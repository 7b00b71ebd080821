"""Engines under test, and prompts that make any of them do what a test needs."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from inference.engines.base import Engine, EnginePrompt, EngineStop, MixedPrompt, SamplingParams, TokenLogprob
from inference.engines.llamacpp import LlamaCppEngine, LlamaCppSettings
from inference.engines.scripted import ScriptedEngine, ScriptedSettings
from tests.support.model import model_path
from tests.support.trtllm import ABORT_MODE, trtllm_engine

Name = Literal["scripted", "llamacpp", "trtllm"]
NAMES: tuple[Name, ...] = get_args(Name)
CONTEXT_WINDOW = 1024
CAPACITY = 4
GREEDY = SamplingParams(max_tokens=8, temperature=0)


@dataclass(frozen=True, slots=True)
class Subject:
    """A started engine."""

    name: Name
    engine: Engine

    @property
    def is_scripted(self) -> bool:
        """It follows the script in its prompt; trtllm does too, as its model is a fake."""
        return self.name != "llamacpp"

    def chat(self, text: str) -> list[int]:
        """A prompt of one user message in the form that all engines' models know."""
        tokenizer = self.engine.tokenizer
        start, end = tokenizer.markers["<|im_start|>"], tokenizer.markers["<|im_end|>"]
        message = [start, *tokenizer.encode(f"user\n{text}"), end]
        return [*message, *tokenizer.encode("\n"), start, *tokenizer.encode("assistant\n")]

    def repeating(self, word: str) -> list[int]:
        """After which a text of its own comes, for at least 40 tokens, greedily."""
        return self.engine.tokenizer.encode(f" {word}" * 60)

    def ending_turn(self) -> list[int]:
        """After which the turn ends within 100 tokens, greedily."""
        return self.chat("script:\nsay Hello world." if self.is_scripted else "Say hi.")

    def endless(self) -> list[int]:
        """After which hundreds of tokens come, one at a time."""
        return self.chat("script:\npace 100\ntokens 1000") if self.is_scripted else self.repeating("one")

    def long_prefill(self, tokens: int) -> list[int]:
        """Of so many tokens, that take seconds before the first one comes; then at least three do."""
        tokenizer = self.engine.tokenizer
        filler = tokenizer.encode(" one")
        if not self.is_scripted:
            return (filler * tokens)[:tokens]
        script = self.chat("script:\nprefill 200\nsay one one one one")
        markers = [tokenizer.markers["<|im_start|>"], tokenizer.markers["<|im_end|>"]]
        room = tokens - len(script) - len(markers)
        return [markers[0], *(filler * room)[:room], markers[1], *script]

    def failing(self) -> list[int]:
        """After which this generation fails, and the engine does not."""
        return self.chat("script:\nfail") if self.is_scripted else [2**31 - 1]


@asynccontextmanager
async def started(name: Name) -> AsyncGenerator[Subject, None]:
    """An engine with small limits."""
    with ExitStack() as resources:
        engine: Engine
        match name:
            case "scripted":
                engine = ScriptedEngine(ScriptedSettings(context_window=CONTEXT_WINDOW, parallel=CAPACITY))
            case "llamacpp":
                engine = LlamaCppEngine(
                    LlamaCppSettings(model_path(), context_window=CONTEXT_WINDOW, parallel=CAPACITY, threads=1)
                )
            case "trtllm":
                engine = resources.enter_context(
                    trtllm_engine(context_window=CONTEXT_WINDOW, parallel=CAPACITY, abort_mode=ABORT_MODE)
                )
        await engine.start()
        try:
            yield Subject(name, engine)
        finally:
            await engine.close()


@dataclass(frozen=True, slots=True)
class Generated:
    """A generation that has come to its end."""

    token_ids: list[int]
    logprobs: list[TokenLogprob]
    stop: EngineStop
    cached_tokens: int


async def generate(engine: Engine, prompt: EnginePrompt, params: SamplingParams = GREEDY) -> Generated:
    """Run to the end, and hold every step to the protocol."""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    stop: EngineStop | None = None
    cached_tokens: int | None = None
    async with asyncio.timeout(100), aclosing(engine.generate("test", prompt, params)) as steps:
        async for step in steps:
            assert stop is None, "a step came after the last one"
            assert len(step.logprobs) == (0 if params.top_logprobs is None else len(step.token_ids))
            token_ids += step.token_ids
            logprobs += step.logprobs
            stop = step.stop
            cached_tokens = cached_tokens if step.cached_tokens is None else step.cached_tokens
    assert stop is not None
    assert cached_tokens is not None
    if isinstance(prompt, MixedPrompt):
        assert 0 <= cached_tokens < engine.count_tokens(prompt)
        assert len(token_ids) <= params.max_tokens  # a character that the limit cuts is left out
    else:
        assert 0 <= cached_tokens < len(prompt)
        assert (len(token_ids) == params.max_tokens) == (stop is EngineStop.MAX_TOKENS)
    assert not engine.tokenizer.eos_token_ids.intersection(token_ids)
    return Generated(token_ids, logprobs, stop, cached_tokens)
