"""A response whose worker cannot go on with it: another one, the same one later, or a failure in bounded time."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.run import ResponseRun
from edge.runs import Runs, keep_nothing
from edge.sealing import Sealer
from edge.settings import EdgeSettings
from edge.workers.pool import WorkerPool
from inference.engines.base import EngineInfo
from inference.engines.scripted import ScriptedEngine
from store import ids
from tests.support.media import png
from tests.support.worker import MODEL, InProcessWorker, in_process_worker, script, until


class BlindEngine(ScriptedEngine):
    """Says that it takes images, and fails at each."""

    @property
    def info(self) -> EngineInfo:
        info = super().info
        return replace(info, capabilities=replace(info.capabilities, images=True))


@asynccontextmanager
async def running_pool(*workers: InProcessWorker) -> AsyncGenerator[WorkerPool, None]:
    pool = WorkerPool([worker.target for worker in workers], silence_s=10, wait_s=10)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pool.run())
        try:
            await until(lambda: all(pool_worker.is_ready for pool_worker in pool._workers()))
            yield pool
        finally:
            running.cancel()


class Listener:
    """A ``Reader`` that counts signs of life."""

    def __init__(self) -> None:
        self.signs = 0

    def wake(self) -> None:
        """There may be new events, which are not what is listened for."""

    def keep_alive(self) -> None:
        self.signs += 1


def new_run(pool: WorkerPool, request: pb.GenerateRequest, *, heartbeat_interval_s: float = 15) -> ResponseRun:
    """Of a response that is not stored, and may go to any worker."""
    runs = Runs(EdgeSettings(heartbeat_interval_s=heartbeat_interval_s), pool, Sealer(()))
    response = response_pb2.Response(id=str(ids.new_response_id()))
    request.model, request.request_id = MODEL, response.id
    return runs.run(runs.events("acme", response, input_items=1), request, "", keep_nothing, ResponseRun)


async def test_what_fails_before_a_worker_accepts_it_is_not_reissued_for_ever(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, engine_class=BlindEngine) as worker, running_pool(worker) as pool:
        request = script("say a")
        image = content_pb2.ContentPart(input_image=content_pb2.InputImage(data=png(), media_type="image/png"))
        request.items[0].message.content.append(image)
        run = new_run(pool, request)
        with pytest.raises(ApiError) as refused:
            await run.start()
        assert refused.value.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED


@pytest.mark.parametrize("commands", [("wait 800", "say Hello"), ("say Hel", "wait 800", "say lo")])
async def test_a_response_that_lost_its_worker_waits_for_room_at_a_full_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, commands: tuple[str, ...]
) -> None:
    """Before its first token it is refused there, and asks again; after it, it has a place in front."""
    caplog.set_level(logging.INFO)
    folders = [tmp_path / name for name in ("small", "wide")]
    for folder in folders:
        folder.mkdir()
    async with (
        in_process_worker(folders[0], parallel=1, max_waiting=0) as small,
        in_process_worker(folders[1]) as wide,
        running_pool(small) as pool,
        running_pool(small, wide) as both,
        asyncio.TaskGroup() as tasks,
    ):
        holder = new_run(pool, script("hold"))
        await holder.start()
        with pytest.raises(ApiError) as refused:  # nobody was told anything
            await new_run(pool, script("say Hello")).start()
        assert refused.value.reason == ErrorReason.ERROR_REASON_OVERLOADED
        run = new_run(both, script(*commands))

        def refusals() -> int:
            """How often a worker had no room for it, as it logs it."""
            ends = [vars(record) for record in caplog.records if vars(record).get("outcome") == "overloaded"]
            return sum(end["request_id"] == run.response.id for end in ends)

        await run.start()
        finishing = tasks.create_task(run.finish())
        await until(lambda: wide.server.admission.running == 1 and run.events.has_output == (len(commands) == 3))
        before = refusals()
        await wide.server.stop()
        if run.events.has_output:
            await until(lambda: small.server.admission.load.waiting == 1)
        else:
            await until(lambda: refusals() > before)
        holder.abort()
        final = await finishing
    assert final.status == response_pb2.RESPONSE_STATUS_COMPLETED
    assert final.output[0].message.content[0].output_text.text == "Hello"


async def test_readers_of_a_response_without_a_worker_hear_that_it_lives(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path) as worker, running_pool(worker) as pool, asyncio.TaskGroup() as tasks:
        run = new_run(pool, script("say Hel", "hold"), heartbeat_interval_s=0.05)
        await run.start()
        finishing = tasks.create_task(run.finish())
        await until(lambda: run.events.has_output)
        await worker.server.stop()
        await until(lambda: not pool.is_ready)
        listener = Listener()
        run.add_reader(listener)
        await until(lambda: listener.signs >= 3)
        finishing.cancel()
