"""What an edge writes of a response that it runs, on a real server."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Never

import pytest
from redis.asyncio import Redis

from antiphon.responses.v1.response_pb2 import ResponseStatus
from edge.events import ResponseEvents
from edge.log_writer import LogWriter
from store import ids
from store.lease import Lease, LeaseLost
from tests.support.jobs import EdgeStores, create_held, edge_stores, let_lease_run_out, queued_record, read_events
from tests.support.valkey import server_of_kind

OWNER = "acme"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_of_kind("valkey", tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
async def edges(url: str) -> AsyncGenerator[tuple[EdgeStores, EdgeStores], None]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(edge_stores(url, "edge-1"))
        two = await stack.enter_async_context(edge_stores(url, "edge-2"))
        yield one, two


def unexpected() -> Never:
    raise AssertionError("not to be called")


async def a_writer(
    edge: EdgeStores, *, full: Callable[[], None] = unexpected
) -> tuple[Lease, ResponseEvents, LogWriter]:
    """Of a response that ``edge`` holds and that has two events, both in its log."""
    record = queued_record()
    lease = await create_held(edge, OWNER, record)
    events = ResponseEvents(record.response, new_item_id=lambda _: "msg_1", new_call_id=ids.new_call_id)
    events.open(ResponseStatus.RESPONSE_STATUS_QUEUED)
    return lease, events, LogWriter(edge.log, lease, events, interval_s=0.02, cancelled=unexpected, full=full)


async def test_all_that_is_there_is_flushed(edges: tuple[EdgeStores, EdgeStores]) -> None:
    lease, events, writer = await a_writer(edges[0])
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(writer.run())
        for _ in range(5):
            events.progress(ResponseStatus.RESPONSE_STATUS_IN_PROGRESS)
            await writer.flush()
            logged = await read_events(edges[1].log, OWNER, str(lease.response_id))
            assert [event.sequence_number for event in logged] == list(range(len(events.log)))
        writing.cancel()


async def test_a_flush_ends_with_the_right_to_write(edges: tuple[EdgeStores, EdgeStores], url: str) -> None:
    one, two = edges
    lease, events, writer = await a_writer(one)
    async with Redis.from_url(url) as raw:
        await let_lease_run_out(raw, lease)
    await two.sweeper.requeue_lost()
    taken = await two.jobs.claim()
    assert taken is not None
    assert taken.lease.response_id == lease.response_id
    events.progress(ResponseStatus.RESPONSE_STATUS_IN_PROGRESS)
    async with asyncio.timeout(30):
        flushing = asyncio.create_task(writer.flush())
        with pytest.raises(LeaseLost):
            await writer.run()
        await flushing
        await writer.flush()
    assert len(await read_events(two.log, OWNER, str(lease.response_id))) < len(events.log)
