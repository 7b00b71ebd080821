"""What the TensorRT-LLM engine keeps to beyond the protocol: aborts, death, grammars, and what its library lacks."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.engines.base import EngineDead, EngineError, EngineStop, SamplingParams
from inference.engines.trtllm.engine import TrtllmEngine, TrtllmSettings
from inference.engines.trtllm.options import CudaGraph
from inference.engines.trtllm.processes import pool_workers
from tests.support.engines import GREEDY, Generated, Subject, generate
from tests.support.trtllm import FAULTS, fake_tensorrt_llm, trtllm_engine, write_scripted_model
from tests.support.worker import until


@asynccontextmanager
async def started(**options: Any) -> AsyncGenerator[Subject, None]:
    with trtllm_engine(**options) as engine:
        await engine.start()
        try:
            yield Subject("trtllm", engine)
        finally:
            await engine.close()


async def run(subject: Subject, *commands: str, **params: Any) -> Generated:
    return await generate(subject.engine, subject.chat("\n".join(["script:", *commands])), SamplingParams(**params))


async def begin(subject: Subject, *commands: str, **params: Any) -> "asyncio.Task[Generated]":
    """A generation that runs in a task of its own, and has been handed to the engine."""
    task = asyncio.ensure_future(run(subject, *commands, **params))
    await asyncio.sleep(0)
    return task


def in_flight(subject: Subject) -> int:
    assert isinstance(subject.engine, TrtllmEngine)
    return subject.engine.in_flight


async def cancel(task: "asyncio.Task[Generated]") -> None:
    task.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait([task])
    assert task.cancelled()


async def test_a_prefill_is_not_aborted_before_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "prefill_abort_kills")
    async with started(abort_mode="after_first_token") as subject:
        await cancel(await begin(subject, "wait 100", "tokens 1000", "hold", max_tokens=900))
        assert in_flight(subject) == 0
        assert (await run(subject, "say one", max_tokens=5)).stop is EngineStop.END_OF_TURN


async def test_an_abort_in_a_prefill_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "prefill_abort_kills")
    async with started(abort_mode="engine") as subject:
        await cancel(await begin(subject, "hold", max_tokens=900))
        with pytest.raises(EngineDead, match="illegal memory access"):
            await run(subject, "say one", max_tokens=5)


async def test_without_aborts_a_generation_keeps_its_place_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "no_aborts")
    async with started(abort_mode="off") as subject:
        steps = subject.engine.generate("test", subject.chat("script:\npace 200\ntokens 50"), SamplingParams(40))
        assert (await anext(steps)).stop is None
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(steps.aclose())
            await until(lambda: in_flight(subject) == 1)
            assert not closing.done()
        assert in_flight(subject) == 0


async def test_an_engine_that_loses_an_abort_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "no_aborts")
    async with started(abort_mode="engine", abort_timeout_s=0.1) as subject:
        await cancel(await begin(subject, "hold", max_tokens=900))
        assert subject.engine.died.is_set()


async def test_an_engine_that_does_nothing_is_given_up() -> None:
    async with started(progress_timeout_s=0.3) as subject:
        with pytest.raises(EngineDead, match="nothing for"):
            await run(subject, "say one", "hold", max_tokens=900)
        assert subject.engine.died.is_set()


async def test_the_death_of_the_engine_reaches_generations_that_it_tells_nothing() -> None:
    async with started() as subject:
        running = [await begin(subject, "hold", max_tokens=900) for _ in range(3)]
        await until(lambda: in_flight(subject) == 3)
        with pytest.raises(EngineDead):
            await run(subject, "die", max_tokens=9)
        for task in running:
            with pytest.raises(EngineDead):
                await task
        assert subject.engine.died.is_set()


async def test_a_library_that_shuts_itself_down_and_tells_nobody_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "dies_silently")
    async with started() as subject, asyncio.timeout(20):
        with pytest.raises(EngineDead, match="shut itself down"):
            await run(subject, "die", max_tokens=9)


async def test_a_killed_process_of_the_library_is_the_death_of_the_engine() -> None:
    async with started() as subject:
        running = await begin(subject, "hold", max_tokens=900)
        (worker,) = pool_workers()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(EngineDead, match=f"process {worker}"):
            await running


async def test_a_generation_that_nobody_has_asked_for_a_step_learns_of_the_death_too() -> None:
    async with started() as subject, asyncio.timeout(20):
        steps = subject.engine.generate("test", subject.endless(), SamplingParams(900))
        assert (await anext(steps)).stop is None
        (worker,) = pool_workers()
        os.kill(worker, signal.SIGKILL)
        await subject.engine.died.wait()
        with pytest.raises(EngineDead):
            await anext(steps)


async def test_a_generation_whose_results_are_wrong_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "no_logprobs,no_aborts")
    async with started(abort_mode="engine", abort_timeout_s=0.1) as subject:
        with pytest.raises(EngineError, match="without their log probabilities"):
            await run(subject, "say one", "hold", max_tokens=9, top_logprobs=1)
        assert subject.engine.died.is_set(), "an abort was asked for, and lost"


async def test_the_death_of_an_idle_engine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "dies_after_2,looks_healthy")  # after the trials at the start
    async with started(idle_check_interval_s=0.05) as subject, asyncio.timeout(20):
        await subject.engine.died.wait()


@pytest.mark.parametrize(
    "asked",
    [
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"min_p": 0.05},
        {"end_bias": 1.0},
        {"seed": 1},
        {"forced_token_ids": (1,)},
        {"top_logprobs": 21},
    ],
    ids=lambda asked: next(iter(asked)),
)
async def test_what_the_library_would_ignore_is_refused(asked: dict[str, Any]) -> None:
    async with started() as subject:
        with pytest.raises(EngineError, match=next(iter(asked))):
            await run(subject, "say one", max_tokens=1, **asked)


async def test_the_output_keeps_to_a_grammar_and_ends_by_it() -> None:
    async with started() as subject:
        generated = await run(subject, "say no", max_tokens=50, grammar='root ::= "yes" | "maybe"\n')
        assert subject.engine.tokenizer.decode(generated.token_ids) in (b"yes", b"maybe")
        assert generated.stop is EngineStop.END_OF_TURN


async def test_a_broken_grammar_never_reaches_the_engine() -> None:
    async with started() as subject:
        with pytest.raises(EngineError, match="xgrammar refuses"):
            await run(subject, "say no", max_tokens=50, grammar="root ::= nothing\n")
        assert in_flight(subject) == 0


async def test_without_a_backend_for_grammars_they_are_refused_and_not_ignored() -> None:
    async with started(guided_decoding_backend="none") as subject:
        assert not subject.engine.info.capabilities.grammar
        with pytest.raises(EngineError, match="grammar"):
            await run(subject, "say no", max_tokens=50, grammar='root ::= "yes"\n')


async def test_the_first_token_comes_at_once_and_the_others_by_the_interval() -> None:
    async with started(stream_interval=4) as subject:
        prompt = subject.chat("script:\npace 1000\ntokens 20")
        params = replace(GREEDY, max_tokens=10, top_logprobs=2)
        async with aclosing(subject.engine.generate("test", prompt, params)) as steps:
            taken = [step async for step in steps]
    assert [len(step.token_ids) for step in taken] == [1, 4, 4, 1]
    for step in taken:
        assert [logprob.token_id for logprob in step.logprobs] == list(step.token_ids)


async def test_a_prompt_as_long_as_the_context_window_fails_alone() -> None:
    async with started(context_window=256) as subject:
        for tokens in (256, 300):
            with pytest.raises(EngineError, match="default_max_tokens"):
                await generate(subject.engine, subject.long_prefill(tokens), replace(GREEDY, max_tokens=1))
        assert not subject.engine.died.is_set()


async def test_an_output_that_is_cut_shorter_than_asked_for_is_no_success() -> None:
    async with started(context_window=256) as subject:
        with pytest.raises(EngineError, match="4 of 8"):
            await generate(subject.engine, (subject.repeating("one") * 2)[:252], GREEDY)


async def test_the_engine_tells_how_full_its_cache_is() -> None:
    async with started() as subject:
        await until(lambda: subject.engine.kv_cache_usage == 0.25)


async def test_a_shutdown_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "shutdown_hangs")
    with trtllm_engine(shutdown_timeout_s=0.1) as engine:
        await engine.start()
        (worker,) = pool_workers()
        async with asyncio.timeout(10):
            await engine.close()
        os.kill(worker, signal.SIGKILL)


async def test_a_library_that_ignores_grammars_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "ignores_grammars")
    with trtllm_engine() as engine:
        with pytest.raises(EngineDead, match="does not keep to a grammar"):
            await engine.start()
        await engine.close()


async def test_graphs_are_recorded_for_the_sizes_that_are_asked_for() -> None:
    """The library refuses sizes together with a largest one."""
    async with started(cuda_graph=CudaGraph(batch_sizes=[1, 2])) as subject:
        assert (await run(subject, "say one", max_tokens=5)).stop is EngineStop.END_OF_TURN


async def test_a_model_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, "load_fails")
    with trtllm_engine() as engine:
        with pytest.raises(EngineDead, match="CUDA out of memory"):
            await engine.start()
        await engine.close()


async def test_a_context_window_that_the_model_has_not_is_refused() -> None:
    with trtllm_engine(context_window=32769) as engine, pytest.raises(EngineDead, match="32768"):
        await engine.start()


async def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with fake_tensorrt_llm(), pytest.raises(EngineDead, match=r"tokenizer_config\.json"):
        await TrtllmEngine(TrtllmSettings(tmp_path)).start()


async def test_a_machine_without_the_library_is_told_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(EngineDead, match="tensorrt_llm is not installed"):
        await TrtllmEngine(TrtllmSettings(write_scripted_model(tmp_path))).start()
