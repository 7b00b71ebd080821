"""The TensorRT-LLM engine: results of its LLM API as steps, on the event loop; nothing of it outlives its process."""

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inference.engines.base import (
    Capabilities,
    EngineDead,
    EngineError,
    EngineInfo,
    EnginePrompt,
    MixedPrompt,
    SamplingParams,
    Step,
)
from inference.engines.trtllm import surface
from inference.engines.trtllm.loading import check_package, load_folder, load_image_prompts
from inference.engines.trtllm.options import Options
from inference.engines.trtllm.processes import ProcessWatch
from inference.engines.trtllm.steps import Result, StepReader
from inference.engines.trtllm.vision import ImagePrompts, salt, trial_prompt
from inference.engines.trtllm.watchdog import Watchdog
from inference.huggingface import HuggingFaceTokenizer, ModelFolder

if TYPE_CHECKING:
    from inference.engines.trtllm.library import Inputs, Library

log = logging.getLogger(__name__)

_MAX_TOP_LOGPROBS: Final = 20
_FIRST_TOKEN_TIMEOUT_S: Final = 900.0
"""Kernels are compiled meanwhile, the first time."""
_STATS_INTERVAL_S: Final = 1.0
_EXECUTOR_CHECK_INTERVAL_S: Final = 1.0
_TRIAL: Final = SamplingParams(max_tokens=1, temperature=0)
_TRIAL_TEXT: Final = "0 apples"
"""What a trial grammar says; nothing that a model would say by itself."""
_MAX_ERROR_CHARS: Final = 200
"""Of TensorRT-LLM's messages: they may quote grammars, which are of a client."""


@dataclass(frozen=True, slots=True)
class TrtllmSettings:
    """What to load and how wide."""

    model_path: Path
    """A Hugging Face model folder."""
    context_window: int = 8192
    parallel: int = 64
    """Generations at once: buffers are made for so many."""
    options: Options = field(default_factory=Options)


class TrtllmEngine:
    """``Engine`` over TensorRT-LLM 1.2.1.

    It has no penalties, no ``min_p``, no bias, no seed that repeats anything and no forced tokens: a generation that
    asks for one fails. Under a grammar a turn ends by the tokenizer's own EOS token alone, the one that grammars know.
    """

    def __init__(self, settings: TrtllmSettings) -> None:
        self._settings = settings
        self._options = options = settings.options
        has_grammar = options.guided_decoding_backend != "none"
        self._info = EngineInfo(
            engine=f"trtllm {surface.expected().version}",
            context_window=settings.context_window,
            capacity=settings.parallel,
            capabilities=Capabilities(
                max_top_logprobs=_MAX_TOP_LOGPROBS,
                grammar=has_grammar,
                max_grammar_chars=options.max_grammar_chars if has_grammar else None,
                images=options.images is not None,
                cache_salt=True,
            ),
        )
        self._died = asyncio.Event()
        self._kv_cache_usage: float | None = None
        self._dead: str | None = "the engine has not started"
        self._model: ModelFolder | None = None
        self._image_prompts: ImagePrompts | None = None
        self._library: Library | None = None
        self._in_flight = 0
        self._waits: set[asyncio.Timeout] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._watchdog = Watchdog(options.progress_timeout_s, self._stalled)
        self._processes = ProcessWatch(lambda pid: self._die(f"process {pid} of TensorRT-LLM has ended"))

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def died(self) -> asyncio.Event:
        return self._died

    @property
    def tokenizer(self) -> HuggingFaceTokenizer:
        return self._loaded.tokenizer

    @property
    def chat_template(self) -> str:
        return self._loaded.chat_template

    @property
    def _loaded(self) -> ModelFolder:
        assert self._model is not None, "start the engine first"
        return self._model

    @property
    def kv_cache_usage(self) -> float | None:
        return self._kv_cache_usage

    @property
    def in_flight(self) -> int:
        """Generations that TensorRT-LLM has work for, those that nobody waits for any more among them."""
        return self._in_flight

    async def start(self) -> None:
        """As ``Engine.start``. Belongs on the main thread, before gRPC; the event loop stands still meanwhile."""
        self._loop = asyncio.get_running_loop()
        path, images = self._settings.model_path, self._options.images
        await asyncio.to_thread(check_package)
        self._model = await asyncio.to_thread(load_folder, path, context_window=self._settings.context_window)
        if images is not None:
            self._image_prompts = await asyncio.to_thread(load_image_prompts, path, self._model, images)
        self._library = self._load_library()
        self._dead = None
        try:
            async with asyncio.timeout(_FIRST_TOKEN_TIMEOUT_S):
                await self._generate_some()
                if self._image_prompts is not None:
                    await self._generate_some(trial_prompt())
                if self._info.capabilities.grammar:
                    await self._try_grammar()
        except (EngineError, TimeoutError) as error:
            raise EngineDead(f"the model generates nothing: {_told(error)}") from error
        self._watchdog.start()
        self._processes.start()
        self._tasks = [
            asyncio.create_task(task) for task in (self._check_when_idle(), self._check_executor(), self._read_stats())
        ]

    def _load_library(self) -> "Library":
        """On this thread: MPI wants the main one."""
        try:
            self._module = importlib.import_module("inference.engines.trtllm.library")
            library: Library = self._module.Library(
                self._settings.model_path,
                context_window=self._settings.context_window,
                parallel=self._settings.parallel,
                options=self._options,
            )
        except Exception as error:  # of any kind: none leaves an engine
            raise EngineDead(f"TensorRT-LLM does not load the model: {_told(error)}") from error
        return library

    def count_tokens(self, prompt: MixedPrompt) -> int:
        """As ``Engine.count_tokens``: its text exactly, its images as ``Images.tokens_per_image`` has them at most."""
        return self._seeing.text(prompt).tokens

    @property
    def _seeing(self) -> ImagePrompts:
        if self._image_prompts is None:
            raise EngineError("the model takes no images, or its settings do not say so")
        return self._image_prompts

    async def generate(
        self, request_id: str, prompt: EnginePrompt, params: SamplingParams
    ) -> AsyncGenerator[Step, None]:
        self._raise_if_dead()
        _refuse_unsupported(params, self._info.capabilities)
        if params.grammar is not None:
            await self._check_grammar(params.grammar)
        eos_token_ids = self.tokenizer.eos_token_ids
        # A grammar ends by the tokenizer's own EOS token; the model's others are text to it, and must not cut it short.
        stop_token_ids = {*params.stop_token_ids, *(() if params.grammar is not None else eos_token_ids)}
        most_tokens: int | None = None
        if isinstance(prompt, MixedPrompt):
            inputs, most_tokens = await asyncio.to_thread(self._with_images, prompt)
            params = replace(params, cache_salt=salt(params.cache_salt, prompt.images))
            self._raise_if_dead()
        else:
            inputs = list(prompt)
        result = self._submit(inputs, params, sorted(stop_token_ids))
        prompt_tokens = None if most_tokens is None else len(result.prompt_token_ids)
        reader = StepReader(params, eos_token_ids.union(params.stop_token_ids), prompt_tokens=prompt_tokens)
        self._in_flight += 1
        is_over = False  # nothing more will come
        try:
            if prompt_tokens is not None and most_tokens is not None and prompt_tokens > most_tokens:
                raise EngineError(
                    f"a prompt with images has {prompt_tokens} tokens, not {most_tokens} at most:"
                    " images.tokens_per_image is too low"
                )
            while not is_over:
                try:
                    await self._next(result)
                except EngineError:
                    is_over = True
                    raise
                is_over = result.finished
                step = reader.read(result)
                if step.token_ids or is_over:
                    yield step
        finally:
            try:
                if not is_over and self._dead is None:
                    await self._abandon(result)
            finally:
                self._in_flight -= 1

    def _with_images(self, prompt: MixedPrompt) -> "tuple[Inputs, int]":
        """What the library takes, and how many tokens it has at most."""
        text, tokens = self._seeing.text(prompt)
        try:
            inputs: Inputs = self._module.with_images(text, prompt.images)
        except (OSError, SyntaxError) as error:
            raise EngineError(f"an image cannot be decoded: {type(error).__name__}") from error
        return inputs, tokens

    async def _check_grammar(self, grammar: str) -> None:
        try:
            await asyncio.to_thread(self._module.check_grammar, grammar)
        except RuntimeError:
            raise EngineError("xgrammar refuses the grammar") from None  # its words would quote it
        self._raise_if_dead()

    def _submit(self, inputs: "Inputs", params: SamplingParams, stop_token_ids: Sequence[int]) -> Result:
        assert self._library is not None
        refusals: tuple[type[Exception], ...] = (ValueError, TypeError, self._module.RequestError)
        if isinstance(inputs, dict):
            refusals += (LookupError, AssertionError)  # of the model's processor of images
        self._watchdog.begin()
        try:
            return self._library.submit(inputs, params, stop_token_ids=stop_token_ids)
        except refusals as error:
            raise EngineError(f"TensorRT-LLM refuses the request: {_told(error)}") from error
        except Exception as error:
            raise self._death(f"TensorRT-LLM takes no request: {_told(error)}") from error
        finally:
            self._watchdog.end()

    async def _next(self, result: Result) -> None:
        """Wait for one more response, which changes ``result``.

        Raises:
            EngineError: this generation has failed; nothing may be awaited of ``result`` again.
            EngineDead: the engine has died, perhaps while this waited for a response that never comes.
        """
        self._raise_if_dead()
        self._watchdog.begin()
        try:
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                try:
                    await result.__anext__()
                finally:
                    self._waits.discard(wait)
        except StopAsyncIteration:
            raise EngineError("TensorRT-LLM ended a generation without a reason") from None
        except self._module.RequestError as error:
            raise EngineError(f"TensorRT-LLM: {_told(error)}") from error
        except Exception as error:
            self._raise_if_dead()
            raise self._death(f"TensorRT-LLM has failed: {_told(error)}") from error
        finally:
            self._watchdog.end()
        self._raise_if_dead()
        self._watchdog.moved()

    async def _abandon(self, result: Result) -> None:
        """End a generation that nobody waits for; return when the engine has no more work for it."""
        mode = self._options.abort_mode
        try:
            if mode == "after_first_token":
                while not result.outputs[0].token_ids and not result.finished:
                    await self._next(result)
            async with asyncio.timeout(None if mode == "off" else self._options.abort_timeout_s):
                if mode != "off":
                    self._abort(result)
                while not result.finished:
                    await self._next(result)
        except TimeoutError:
            self._die("an aborted generation does not end")
        except EngineError:  # it is over, whichever way: who asked for its end does not care
            pass
        except asyncio.CancelledError:
            if mode != "off" and not result.finished:
                self._abort(result)
            raise

    def _abort(self, result: Result) -> None:
        try:
            result.abort()
        except Exception as error:  # its executor is gone, or does not take it
            self._die(f"TensorRT-LLM takes no abort: {_told(error)}")

    async def _generate_some(self, prompt: EnginePrompt | None = None, params: SamplingParams = _TRIAL) -> list[int]:
        """The first tokens after ``prompt``; by default after nothing much.

        Raises:
            EngineError: they do not come.
        """
        tokenizer = self.tokenizer
        if prompt is None:
            prompt = tokenizer.encode("a") if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [token_id async for step in self.generate("check", prompt, params) for token_id in step.token_ids]

    async def _try_grammar(self) -> None:
        """See that the library keeps to a grammar: where it has no backend for them it ignores them, without a word.

        Raises:
            EngineError: it does not, or generates nothing.
        """
        # a token a byte at most, and the end of the turn
        params = replace(_TRIAL, max_tokens=len(_TRIAL_TEXT) + 1, grammar=f'root ::= "{_TRIAL_TEXT}"\n')
        token_ids = await self._generate_some(params=params)
        if self.tokenizer.decode(token_ids) != _TRIAL_TEXT.encode():
            raise EngineError("TensorRT-LLM does not keep to a grammar")

    async def _check_when_idle(self) -> None:
        """What a hanging engine does not notice by itself, the watchdog does: there is a generation then."""
        while True:
            await asyncio.sleep(self._options.idle_check_interval_s)
            if self._in_flight == 0:
                try:
                    await self._generate_some()
                except EngineError as error:
                    self._die(f"the idle engine generates nothing: {error}")

    async def _check_executor(self) -> None:
        """The library gives up its executor after some errors, and tells one generation at most.

        What that one is told says more: it has an interval to arrive.
        """
        assert self._library is not None
        was_shut_down = False
        while True:
            await asyncio.sleep(_EXECUTOR_CHECK_INTERVAL_S)
            is_shut_down = self._library.is_shut_down()
            if is_shut_down and was_shut_down:
                self._die("TensorRT-LLM has shut itself down")
            was_shut_down = is_shut_down

    async def _read_stats(self) -> None:
        assert self._library is not None
        try:
            while True:
                async for stats in self._library.stats():
                    self._kv_cache_usage = _kv_cache_usage(stats)
                await asyncio.sleep(_STATS_INTERVAL_S)
        except Exception as error:  # an engine without statistics is an engine
            self._kv_cache_usage = None
            log.warning("no statistics of TensorRT-LLM", extra={"error": _told(error)})

    def _stalled(self) -> None:
        """Called in the watchdog's thread."""
        reason = f"TensorRT-LLM has done nothing for {self._options.progress_timeout_s:.0f} s"
        self._loop.call_soon_threadsafe(self._die, reason)

    def _death(self, reason: str) -> EngineDead:
        self._die(reason)
        return EngineDead(reason)

    def _die(self, reason: str) -> None:
        if self._dead is None:
            log.error("engine died", extra={"reason": reason})
        self._end(reason)

    def _end(self, reason: str) -> None:
        self._dead = self._dead or reason
        self._died.set()
        for wait in self._waits:
            if wait.when() is None:
                wait.reschedule(self._loop.time())

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise EngineDead(self._dead)

    async def close(self) -> None:
        """As ``Engine.close``. If TensorRT-LLM does not stop it is left as it is: the process must end."""
        self._end("the engine is closed")
        self._processes.close()
        self._watchdog.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        library, self._library = self._library, None
        if library is not None and not await library.shutdown(self._options.shutdown_timeout_s):
            log.error("TensorRT-LLM does not stop", extra={"timeout_s": self._options.shutdown_timeout_s})


def _refuse_unsupported(params: SamplingParams, capabilities: Capabilities) -> None:
    """What the library would take and ignore.

    Raises:
        EngineError: the caller did not look at the capabilities.
    """
    asked = {
        "presence_penalty": params.presence_penalty != 0,
        "frequency_penalty": params.frequency_penalty != 0,
        "min_p": params.min_p != 0,
        "end_bias": params.end_bias != 0,
        "seed": params.seed is not None,
        "forced_token_ids": bool(params.forced_token_ids),
        "grammar": params.grammar is not None and not capabilities.grammar,
        "top_logprobs": (params.top_logprobs or 0) > capabilities.max_top_logprobs,
    }
    if refused := [name for name, is_asked in asked.items() if is_asked]:
        raise EngineError(f"the engine does not support: {', '.join(refused)}")


def _kv_cache_usage(stats: Mapping[str, Any]) -> float | None:
    """The share of blocks that generations hold, as far as the statistics tell."""
    match stats:
        case {"kvCacheStats": {"usedNumBlocks": int(used), "maxNumBlocks": int(most)}} if most > 0:
            return min(1.0, used / most)
        case _:
            return None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:_MAX_ERROR_CHARS]}"
