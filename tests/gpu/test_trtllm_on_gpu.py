"""What only a GPU can answer about TensorRT-LLM 1.2.1; ``docs/tensorrt-llm.md`` tells what was assumed meanwhile.

In NVIDIA's image, with this project and its extra ``dev`` installed, and ``ANTIPHON_GPU_MODEL`` naming the folder of a
small chat model::

    pytest -m gpu tests/gpu/test_trtllm_on_gpu.py

A failure is an answer too: names of the surface file, a capability or a default of the engine is to be changed then.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from inference.engines.base import EngineDead, EngineError, EngineStop, SamplingParams
from inference.engines.trtllm import surface
from inference.engines.trtllm.engine import TrtllmEngine, TrtllmSettings
from inference.engines.trtllm.options import KvCache, Options
from inference.engines.trtllm.processes import pool_workers
from inference.prompt import PromptBuilder
from tests.support.engines import GREEDY, generate
from tests.support.processes import children_of
from tests.support.worker import until, user_message, worker_process

pytestmark = [pytest.mark.gpu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1800)]

WINDOW = 4096
PARALLEL = 8
INTERVAL = 8
ROUNDS = 1000


def model() -> Path:
    return Path(os.environ["ANTIPHON_GPU_MODEL"])  # a run without one is a mistake, not a pass


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncGenerator[TrtllmEngine, None]:
    options = Options(abort_mode="engine", stream_interval=INTERVAL, kv_cache=KvCache(free_gpu_memory_fraction=0.4))
    engine = TrtllmEngine(TrtllmSettings(model(), context_window=WINDOW, parallel=PARALLEL, options=options))
    await engine.start()
    yield engine
    await engine.close()


def chat(engine: TrtllmEngine, text: str) -> list[int]:
    prompts = PromptBuilder(engine.tokenizer, engine.chat_template, WINDOW)
    return prompts.build(pb.GenerateRequest(items=[user_message(text)])).token_ids


def filler(engine: TrtllmEngine, tokens: int) -> list[int]:
    return (engine.tokenizer.encode(" one two three four five") * tokens)[:tokens]


async def test_the_package_has_every_name_of_the_surface() -> None:
    root = surface.installed_root()
    assert root is not None
    assert surface.check(root) == ([], [])


async def test_a_turn_ends_without_showing_the_token_that_ended_it(engine: TrtllmEngine) -> None:
    generated = await generate(engine, chat(engine, "Say hi."), replace(GREEDY, max_tokens=2000))
    assert generated.stop is EngineStop.END_OF_TURN
    assert generated.token_ids


async def test_a_stop_token_ends_the_turn_and_is_not_shown(engine: TrtllmEngine) -> None:
    whole = (await generate(engine, chat(engine, "Count to ten."), replace(GREEDY, max_tokens=20))).token_ids
    params = replace(GREEDY, max_tokens=20, stop_token_ids=(whole[-1],))
    generated = await generate(engine, chat(engine, "Count to ten."), params)
    assert (generated.token_ids, generated.stop) == (whole[: whole.index(whole[-1])], EngineStop.END_OF_TURN)


async def test_the_first_token_comes_at_once_and_the_others_by_the_interval(engine: TrtllmEngine) -> None:
    params = SamplingParams(max_tokens=33, temperature=0)
    async with aclosing(engine.generate("test", filler(engine, 50), params)) as steps:
        lengths = [len(step.token_ids) async for step in steps]
    assert lengths[0] == 1
    assert max(lengths) <= INTERVAL


async def test_twenty_candidates_come_with_every_token_and_are_those_before_sampling(engine: TrtllmEngine) -> None:
    params = SamplingParams(max_tokens=1, temperature=0, top_logprobs=20)
    cold = (await generate(engine, filler(engine, 50), params)).logprobs[0]
    hot = (await generate(engine, filler(engine, 50), replace(params, temperature=2.0, top_p=0.5))).logprobs[0]
    assert cold.top[0] == (cold.token_id, cold.logprob)
    assert len(cold.top) == 20
    assert hot.logprob > -9999, "the sampled token is among the candidates, or one more"
    assert [id_ for id_, _ in hot.top] == [id_ for id_, _ in cold.top]
    assert [value for _, value in hot.top] == pytest.approx([value for _, value in cold.top], abs=0.05)


async def test_seeds_and_penalties_have_no_effect(engine: TrtllmEngine) -> None:
    """So they are refused; where this fails they can be offered."""
    from tensorrt_llm.sampling_params import SamplingParams as LibraryParams

    async def generated(**params: float) -> tuple[int, ...]:
        sampling = LibraryParams(max_tokens=32, top_p=1.0, detokenize=False, ignore_eos=True, **params)
        result: Any = engine._library._llm.generate_async(  # type: ignore[union-attr]
            inputs=filler(engine, 50), sampling_params=sampling, streaming=True
        )
        async with asyncio.timeout(60):
            async for _ in result:
                pass
        return tuple(result.outputs[0].token_ids)

    assert len({await generated(temperature=1.0, seed=7) for _ in range(3)}) > 1
    greedy = await generated(temperature=0.0)
    assert await generated(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0) == greedy


async def test_prompt_and_output_fill_the_context_window_to_the_last_token(engine: TrtllmEngine) -> None:
    generated = await generate(engine, filler(engine, WINDOW - 2), replace(GREEDY, max_tokens=2))
    assert generated.stop is EngineStop.MAX_TOKENS


async def test_a_prompt_as_long_as_the_context_window_fails_alone(engine: TrtllmEngine) -> None:
    with pytest.raises(EngineError) as caught:
        await generate(engine, filler(engine, WINDOW), replace(GREEDY, max_tokens=1))
    assert not isinstance(caught.value, EngineDead)
    await generate(engine, filler(engine, 50))


async def test_salts_keep_caches_apart(engine: TrtllmEngine) -> None:
    prompt = filler(engine, 1000)
    cached = [
        (await generate(engine, prompt, replace(GREEDY, cache_salt=salt))).cached_tokens for salt in ("a", "b", "a")
    ]
    assert cached[:2] == [0, 0]
    assert cached[2] > 900


@pytest.mark.parametrize("text", ['{"name":"한국어 화해"}', '"<|im_start|>\\u0001^é0"'])
async def test_the_output_is_what_a_grammar_says(engine: TrtllmEngine, text: str) -> None:
    literal = text.replace("\\", "\\\\").replace('"', '\\"')
    params = replace(GREEDY, max_tokens=200, grammar=f'root ::= "{literal}"\n')
    generated = await generate(engine, chat(engine, "Say hi."), params)
    assert generated.stop is EngineStop.END_OF_TURN
    assert engine.tokenizer.decode(generated.token_ids).decode() == text


async def test_a_broken_grammar_fails_alone_even_unchecked(
    engine: TrtllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.engines.trtllm.library.check_grammar", lambda grammar: None)
    with pytest.raises(EngineError) as caught:
        await generate(engine, chat(engine, "Say hi."), replace(GREEDY, grammar="root ::= nothing\n"))
    assert not isinstance(caught.value, EngineDead)
    await generate(engine, filler(engine, 50))


async def test_aborts_at_any_time_leave_the_engine_usable(engine: TrtllmEngine) -> None:
    """In prefills and while decoding, with log probabilities and without."""
    choices = random.Random(7)
    places = asyncio.Semaphore(PARALLEL)

    async def one(number: int) -> None:
        prompt = filler(engine, choices.choice((50, WINDOW - 300)))
        params = SamplingParams(200, top_logprobs=choices.choice((None, 5)), cache_salt=str(number))
        async with places:
            task = asyncio.ensure_future(generate(engine, prompt, params))
            await asyncio.wait([task], timeout=choices.random() / 4)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None

    async with asyncio.timeout(1500), asyncio.TaskGroup() as tasks:
        for number in range(ROUNDS):
            tasks.create_task(one(number))
    assert engine.in_flight == 0
    assert not engine.died.is_set()
    await generate(engine, filler(engine, 50))


async def test_the_engine_tells_how_full_its_cache_is(engine: TrtllmEngine) -> None:
    await generate(engine, filler(engine, 50))
    await until(lambda: engine.kv_cache_usage is not None)


async def test_its_processes_are_found(engine: TrtllmEngine) -> None:
    assert pool_workers()


SETTINGS = {"engine": "trtllm", "context_window": "2048", "parallel": "2"}


async def test_a_worker_ends_in_good_order_in_time(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker", model_path=str(model()), start_timeout_s=900, **SETTINGS) as worker:
        begun = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.process.wait, 60) == 0
        assert time.monotonic() - begun < 45
        messages = [line["message"] for line in worker.log_lines()]
        assert "TensorRT-LLM does not stop" not in messages


async def test_a_worker_whose_gpu_process_is_killed_ends(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker", model_path=str(model()), start_timeout_s=900, **SETTINGS) as worker:
        waiting = [worker.pid]
        killed = 0
        while waiting:
            for pid, command in children_of(waiting.pop()).items():
                waiting.append(pid)
                if "mpi4py.futures.server" in command:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        assert killed
        assert await asyncio.to_thread(worker.process.wait, 60) == 1
        async with grpc.aio.insecure_channel(worker.target) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await InferenceServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=5)
