"""The LLM: a thread with an event loop of its own, in which the scripted engine generates."""

import asyncio
import functools
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference.engines import base
from inference.engines.scripted import ScriptedEngine, ScriptedSettings
from tests.support.gbnf import Gbnf, GbnfError

from ..executor.result import ErrorResponse, GenerationResult, Logprob, Response
from ..inputs import InputProcessor
from ..sampling_params import SamplingParams
from .llm_args import TorchLlmArgs

_FAULTS = "FAKE_TENSORRT_LLM_FAULTS"
_POOL_WORKER = [sys.executable, "-c", "import sys; sys.stdin.read()", "mpi4py.futures.server"]


class BaseLLM:
    """Takes what the original takes, and refuses the rest."""

    def __init__(
        self,
        model: str,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        known = asdict(TorchLlmArgs())
        for name in kwargs:
            if name not in known:
                raise ValueError(f"LLM got invalid argument: {name}")
        self.args = TorchLlmArgs(model=model, **kwargs)
        self._faults = set(os.environ.get(_FAULTS, "").split(","))
        if "load_fails" in self._faults:
            raise RuntimeError("CUDA out of memory")
        graph = self.args.cuda_graph_config
        if graph is not None and graph.batch_sizes and graph.max_batch_size:
            raise ValueError("Please don't set both cuda_graph_config.batch_sizes and cuda_graph_config.max_batch_size")
        self._input_processor = InputProcessor(Path(model))
        self._scripted = ScriptedEngine(ScriptedSettings(context_window=self.args.max_seq_len, parallel=2**20))
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._results: dict[int, GenerationResult] = {}
        self._answered: set[int] = set()
        self._ids = itertools.count(1)
        self._is_dead = False
        self._stats: list[Mapping[str, Any]] = []
        self._worker = subprocess.Popen(_POOL_WORKER, stdin=subprocess.PIPE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake TensorRT-LLM", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._scripted.start(), self._loop).result()

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> GenerationResult:
        if self._loop.is_closed() or self._is_dead:
            raise RuntimeError("LLM is shutting down")
        prompt_token_ids, read = self._input_processor(inputs)
        params = sampling_params or SamplingParams()
        if len(prompt_token_ids) > self.args.max_num_tokens and not self.args.enable_chunked_prefill:
            raise ValueError(f"The sum of prompt length ({len(prompt_token_ids)}) should not exceed max_num_tokens")
        assert streaming, "the fake only streams"
        assert not params.detokenize, "the fake has no text"
        result = GenerationResult(params, next(self._ids), self.abort_request, prompt_token_ids)
        self._loop.call_soon_threadsafe(self._start, result, tuple(read), cache_salt or "")
        return result

    def abort_request(self, request_id: int) -> None:
        if "no_aborts" not in self._faults:
            self._loop.call_soon_threadsafe(self._cancel, request_id)

    def _check_health(self) -> bool:
        return "looks_healthy" in self._faults or not self._is_dead

    async def get_stats_async(self, timeout: float | None = 2) -> AsyncGenerator[Mapping[str, Any], None]:
        assert self.args.enable_iter_perf_stats
        while self._stats:
            yield self._stats.pop()

    def shutdown(self) -> None:
        if "shutdown_hangs" in self._faults:
            threading.Event().wait()
        if not self._loop.is_closed():
            self._worker.communicate(timeout=10)
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # From here on in the thread.

    async def _stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, result: GenerationResult, prompt: tuple[int, ...], cache_salt: str) -> None:
        self._results[result.request_id] = result
        task = self._loop.create_task(self._run(result, prompt, cache_salt))
        task.add_done_callback(functools.partial(self._ended, result))
        self._tasks[result.request_id] = task

    def _cancel(self, request_id: int) -> None:
        if task := self._tasks.get(request_id):
            task.cancel()

    async def _run(self, result: GenerationResult, prompt: tuple[int, ...], cache_salt: str) -> None:
        last = Response(finish_reason="stop")
        async with aclosing(self._responses(result, prompt, cache_salt)) as responses:
            async for response in responses:
                if response.finish_reason is None:
                    result.put(response)
                    self._answered.add(result.request_id)
                else:
                    last = response
        result.put(last)  # when all of it is in the cache

    def _ended(self, result: GenerationResult, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if result.request_id not in self._answered and "prefill_abort_kills" in self._faults:
                self._die()
            else:
                result.put(Response(finish_reason="cancelled"))
        else:
            match task.exception():
                case None:
                    pass
                case base.EngineDead():
                    self._die()
                case base.EngineError() | GbnfError() as error:
                    result.put(ErrorResponse(str(error)))
                case error:
                    raise error
        self._is_dead = self._is_dead or f"dies_after_{result.request_id}" in self._faults
        self._stats.append({"iter": result.request_id, "kvCacheStats": {"usedNumBlocks": 1, "maxNumBlocks": 4}})
        self._answered.discard(result.request_id)
        del self._tasks[result.request_id], self._results[result.request_id]

    def _die(self) -> None:
        """One result is told, at most; of the others nothing is heard any more."""
        self._is_dead = True
        told, *_ = self._results.values()
        if "dies_silently" not in self._faults:
            told.put(ErrorResponse("CppExecutorError: illegal memory access", is_fatal=True))

    async def _responses(
        self, result: GenerationResult, prompt: tuple[int, ...], cache_salt: str
    ) -> AsyncGenerator[Response, None]:
        params, interval = result.sampling_params, self.args.stream_interval
        room = self.args.max_seq_len - len(prompt)
        if room <= 0:
            raise base.EngineError(f"`default_max_tokens` ({room}) should be greater than 0")
        params.max_tokens = min(params.max_tokens, room)  # and only a warning is logged
        token_ids: list[int] = []
        logprobs: list[dict[int, Logprob]] = []
        is_first = True
        async with aclosing(self._tokens(result, prompt, cache_salt)) as tokens:
            async for token_id, top, cached_tokens, end in tokens:
                token_ids.append(token_id)
                logprobs += [top] if params.logprobs and "no_logprobs" not in self._faults else []
                if is_first or end or len(token_ids) >= interval:
                    yield Response(
                        tuple(token_ids),
                        tuple(logprobs),
                        None if end is None else "length" if end == "length" else "stop",
                        end == "stop_word",
                        cached_tokens,
                    )
                    token_ids, logprobs, is_first = [], [], False
                if end:
                    return

    async def _tokens(
        self, result: GenerationResult, prompt: tuple[int, ...], cache_salt: str
    ) -> AsyncGenerator[tuple[int, dict[int, Logprob], int, str | None], None]:
        """Tokens with their log probabilities, tokens from the cache, and the end's kind: eos, stop_word, length."""
        params, tokenizer = result.sampling_params, self._scripted.tokenizer
        eos = tokenizer.markers[tokenizer.special_tokens["eos_token"]]
        generated = 0
        async for ids, logprobs, cached_tokens, is_end in self._model(params, prompt, cache_salt):
            for index, token_id in enumerate([*ids, eos] if is_end else ids):
                top = logprobs[index] if index < len(logprobs) else {token_id: Logprob(-0.5)}
                generated += 1
                end: str | None = None
                if token_id == eos:
                    end = "eos"
                elif token_id in (params.stop_token_ids or ()):
                    end = "stop_word"
                elif generated == params.max_tokens:
                    end = "length"
                yield token_id, top, cached_tokens, end
                if end:
                    return

    async def _model(
        self, params: SamplingParams, prompt: tuple[int, ...], cache_salt: str
    ) -> AsyncGenerator[tuple[Sequence[int], list[dict[int, Logprob]], int, bool], None]:
        guide = params.guided_decoding
        is_guided = self.args.guided_decoding_backend == "xgrammar" and "ignores_grammars" not in self._faults
        if guide is not None and is_guided:  # without a backend it is ignored
            text = Gbnf(guide.grammar).generate(1)
            yield self._scripted.tokenizer.encode(text), [], 0, True
            return
        asked = base.SamplingParams(
            max_tokens=params.max_tokens, top_logprobs=params.logprobs, cache_salt=cache_salt, temperature=0
        )
        async with aclosing(self._scripted.generate("fake", prompt, asked)) as steps:
            async for step in steps:
                tops = [dict(_logprobs(logprob)) for logprob in step.logprobs]
                is_end = step.stop is base.EngineStop.END_OF_TURN
                yield step.token_ids, tops, step.cached_tokens or 0, is_end


class LLM(BaseLLM):
    """With the PyTorch backend."""


def _logprobs(logprob: base.TokenLogprob) -> Iterator[tuple[int, Logprob]]:
    for rank, (token_id, value) in enumerate(logprob.top, start=1):
        yield token_id, Logprob(value, rank)
