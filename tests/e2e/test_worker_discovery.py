"""Workers that are found by a name: they come, go and come back while requests run."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.tls import TlsFiles
from edge.workers.connection import WorkerConnection
from edge.workers.discovery import Name
from edge.workers.pool import WorkerPool
from tests.support.tls import Authority
from tests.support.worker import MODEL, InProcessWorker, TextSink, in_process_worker, script, until

NAME = Name("inference", 50061)


class Addresses:
    """A name server that knows one name; ``found`` is its next answer."""

    def __init__(self, *found: str) -> None:
        self.found: Collection[str] | OSError = found
        self.answers = 0

    async def resolve(self, name: Name) -> Collection[str]:
        assert name == NAME
        self.answers += 1
        if isinstance(self.found, OSError):
            raise self.found
        return self.found

    async def answered(self) -> None:
        """Wait until an answer has been given that was asked for after now, and acted upon."""
        before = self.answers
        await until(lambda: self.answers >= before + 2)


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncGenerator[list[InProcessWorker], None]:
    """Two workers, each at an address of its own."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    async with in_process_worker(tmp_path / "1") as first, in_process_worker(tmp_path / "2") as second:
        yield [first, second]


@asynccontextmanager
async def running_pool(
    addresses: Addresses, *, wait_s: float = 10, tls: TlsFiles | None = None
) -> AsyncGenerator[WorkerPool, None]:
    pool = WorkerPool(
        [], [NAME], silence_s=10, wait_s=wait_s, tls=tls, resolve=addresses.resolve, resolve_interval_s=0.01
    )
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pool.run())
        try:
            yield pool
        finally:
            running.cancel()


async def chosen(pool: WorkerPool, *, keys: int = 32) -> set[str]:
    """Which workers get requests."""
    return {(await pool.choose(MODEL, str(key))).target for key in range(keys)}


async def until_chosen(pool: WorkerPool, *workers: InProcessWorker) -> None:
    async with asyncio.timeout(10):
        while await chosen(pool) != {worker.target for worker in workers}:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.01)


async def held(pool: WorkerPool) -> tuple[WorkerConnection, TextSink]:
    """A generation that has begun to speak and will not end."""
    worker, sink = await pool.choose(MODEL, "held"), TextSink()
    assert worker.stream is not None
    worker.stream.start(script("say one", "hold"), sink)
    await until(lambda: sink.text == "one")
    return worker, sink


async def test_every_address_behind_a_name_is_a_worker(workers: list[InProcessWorker]) -> None:
    async with running_pool(Addresses(*(worker.target for worker in workers))) as pool:
        await until_chosen(pool, *workers)


async def test_a_worker_that_appears_gets_requests(workers: list[InProcessWorker]) -> None:
    addresses = Addresses(workers[0].target)
    async with running_pool(addresses) as pool:
        await until_chosen(pool, workers[0])
        addresses.found = [worker.target for worker in workers]
        await until_chosen(pool, *workers)


async def test_a_request_waits_for_the_first_worker_that_is_found(workers: list[InProcessWorker]) -> None:
    addresses = Addresses()
    async with running_pool(addresses) as pool, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(pool.choose(MODEL, "key"))
        await addresses.answered()
        assert not waiting.done()
        addresses.found = [workers[0].target]
        assert (await waiting).target == workers[0].target


async def test_a_worker_that_disappears_ends_what_it_has_and_gets_nothing_new(workers: list[InProcessWorker]) -> None:
    addresses = Addresses(*(worker.target for worker in workers))
    async with running_pool(addresses) as pool:
        await until_chosen(pool, *workers)
        leaving, sink = await held(pool)
        addresses.found = [worker.target for worker in workers if worker.target != leaving.target]
        await addresses.answered()
        assert leaving.target not in await chosen(pool)
        assert leaving.stream is not None
        assert (sink.text, sink.end) == ("one", "")
        assert leaving.stream.in_flight == 1

        leaving.stream.cancel(1)  # the last that it had
        await until(lambda: leaving.stream is None)


async def test_a_worker_that_comes_back_before_it_was_idle_is_used_again(workers: list[InProcessWorker]) -> None:
    addresses = Addresses(*(worker.target for worker in workers))
    async with running_pool(addresses) as pool:
        await until_chosen(pool, *workers)
        leaving, _ = await held(pool)
        addresses.found = [worker.target for worker in workers if worker.target != leaving.target]
        await addresses.answered()
        addresses.found = [worker.target for worker in workers]
        await until(lambda: leaving.is_ready)
        await until_chosen(pool, *workers)


@pytest.mark.parametrize("answer", [OSError("no name server"), ()], ids=["an error", "no address"])
async def test_a_name_server_in_trouble_takes_no_worker_away(
    workers: list[InProcessWorker], answer: OSError | tuple[()]
) -> None:
    addresses = Addresses(*(worker.target for worker in workers))
    async with running_pool(addresses) as pool:
        await until_chosen(pool, *workers)
        addresses.found = answer
        await addresses.answered()
        assert await chosen(pool) == {worker.target for worker in workers}


async def test_a_name_without_workers_is_an_error_that_may_be_tried_again() -> None:
    async with running_pool(Addresses(), wait_s=0.05) as pool:
        with pytest.raises(ApiError) as error:
            await pool.choose(MODEL, "key")
    assert error.value.reason == ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE
    assert error.value.retry_after_ms is not None


@pytest.mark.parametrize(("certified", "is_found"), [("inference", True), ("another", False)])
async def test_a_certificate_must_name_what_the_worker_was_found_by(
    tmp_path: Path, certified: str, is_found: bool
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue(certified)
    addresses = Addresses(f"unix:{tmp_path}/worker.sock")
    async with (
        in_process_worker(tmp_path, tls_cert=pair.cert, tls_key=pair.key),
        running_pool(addresses, wait_s=10 if is_found else 0.5, tls=TlsFiles(authority=authority.path)) as pool,
    ):
        if is_found:
            assert (await pool.choose(MODEL, "key")).is_ready
        else:
            with pytest.raises(ApiError):
                await pool.choose(MODEL, "key")
