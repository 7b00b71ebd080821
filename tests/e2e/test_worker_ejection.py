"""A worker whose engine fails is left alone for a while, and comes back."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from antiphon.inference.v1 import inference_pb2 as pb
from edge.workers.connection import WorkerConnection
from edge.workers.pool import WorkerPool
from tests.support.worker import MODEL, TextSink, in_process_worker, script, until

WORKERS = 3


@pytest.fixture
async def targets(tmp_path: Path) -> AsyncGenerator[list[str], None]:
    """Workers that do as the request says."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(WORKERS):
            folder = tmp_path / str(number)
            folder.mkdir()
            found.append((await stack.enter_async_context(in_process_worker(folder))).target)
        yield found


@asynccontextmanager
async def running_pool(targets: list[str], *, eject_s: float) -> AsyncGenerator[WorkerPool, None]:
    pool = WorkerPool(targets, silence_s=10, wait_s=10, eject_after=2, eject_s=eject_s)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pool.run())
        try:
            await until(lambda: pool.room == len(targets) * 64)
            yield pool
        finally:
            running.cancel()


async def chosen(pool: WorkerPool) -> set[WorkerConnection]:
    """Which workers get requests."""
    return {await pool.choose(MODEL, str(key)) for key in range(64)}


async def end_of(worker: WorkerConnection, request: pb.GenerateRequest) -> str:
    """How a generation on ``worker`` ends."""
    sink = TextSink()
    assert worker.stream is not None
    worker.stream.start(request, sink)
    await until(lambda: sink.end)
    return sink.end


async def eject(worker: WorkerConnection) -> None:
    for _ in range(2):
        assert await end_of(worker, script("say a", "fail")) == "failed"
    assert worker.outlier.is_ejected


async def test_a_worker_that_fails_is_ejected_and_comes_back(targets: list[str]) -> None:
    async with running_pool(targets, eject_s=0.5) as pool:
        everyone = await chosen(pool)
        assert len(everyone) == WORKERS
        broken = min(everyone, key=lambda worker: worker.target)
        await eject(broken)
        assert await chosen(pool) == everyone - {broken}
        await until(lambda: not broken.outlier.is_ejected)
        assert await chosen(pool) == everyone
        assert await end_of(broken, script("say b")) == "finished"


async def test_what_a_client_does_wrong_ejects_nobody(targets: list[str]) -> None:
    async with running_pool(targets, eject_s=300) as pool:
        everyone = await chosen(pool)
        worker = next(iter(everyone))
        for _ in range(4):
            assert await end_of(worker, script("say a", max_output_tokens=0)) == "failed"
            assert await end_of(worker, script("say a", model="another")) == "failed"
            assert worker.stream is not None
            sink = TextSink()
            slot = worker.stream.start(script("say a", "hold"), sink)
            await until(sink.has_text)
            worker.stream.cancel(slot)
        assert await chosen(pool) == everyone


async def test_when_most_are_ejected_none_is(targets: list[str]) -> None:
    async with running_pool(targets, eject_s=300) as pool:
        everyone = await chosen(pool)
        first, second, _ = everyone
        await eject(first)
        assert await chosen(pool) == everyone - {first}
        await eject(second)
        assert await chosen(pool) == everyone


async def test_a_request_that_every_other_worker_failed_may_go_to_an_ejected_one(targets: list[str]) -> None:
    async with running_pool(targets, eject_s=300) as pool:
        ejected, *others = await chosen(pool)
        await eject(ejected)
        assert await pool.choose(MODEL, "key", avoid=others) is ejected
