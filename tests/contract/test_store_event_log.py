"""Event logs on every kind of server: nothing lost, nothing twice, and no reader that waits for ever."""

import asyncio
from collections.abc import AsyncGenerator, Iterator

import pytest
from redis.asyncio import Redis, RedisCluster

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.event_pb2 import ResponseEvent
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.connection import connect, open_client
from store.event_batch import expand
from store.event_log import EventLog, LogFull, LogGone
from store.ids import new_response_id
from store.lease import Lease, LeaseLost
from tests.support.jobs import (
    FAILED,
    EdgeStores,
    create_held,
    deltas,
    edge_stores,
    ended_record,
    ending,
    queued_record,
    read_events,
)
from tests.support.valkey import SERVER_KINDS, server_of_kind, valkey_process


@pytest.fixture(scope="module", params=SERVER_KINDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_of_kind(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


@pytest.fixture
async def writer(url: str) -> AsyncGenerator[EdgeStores, None]:
    async with edge_stores(url, "writer") as edge:
        yield edge


@pytest.fixture
async def reader(url: str) -> AsyncGenerator[EdgeStores, None]:
    """Another process. It looks by itself so rarely that whoever is not woken fails the test."""
    async with edge_stores(url, "reader") as edge:
        yield edge


@pytest.fixture
async def raw(url: str) -> AsyncGenerator[Redis | RedisCluster, None]:
    client = open_client(url)
    yield client
    await client.aclose()


async def start(edge: EdgeStores) -> tuple[Lease, ResponseRecord]:
    record = queued_record()
    return await create_held(edge, "acme", record), record


async def finish(edge: EdgeStores, lease: Lease, record: ResponseRecord, first: int) -> ResponseRecord:
    ended = ended_record(record)
    await edge.log.finish(lease, ending(first, ended), ended)
    return ended


async def follow(log: EventLog, record: ResponseRecord, starting_after: int = -1) -> list[ResponseEvent]:
    events: list[ResponseEvent] = []
    async with asyncio.timeout(20):
        async for batch in log.follow("acme", record.response.id, starting_after=starting_after):
            events += expand(batch, starting_after=starting_after)
    return events


async def test_a_log_is_read_from_any_number_by_any_process(writer: EdgeStores, reader: EdgeStores) -> None:
    lease, record = await start(writer)
    for first in range(2, 302, 3):  # more batches than a page holds
        await writer.log.append(lease, deltas(first, ["a", "b", "c"]))
    await finish(writer, lease, record, 302)
    whole = await read_events(reader.log, "acme", record.response.id)
    assert [event.sequence_number for event in whole] == list(range(303))
    for starting_after in (-1, 0, 1, 2, 3, 100, 300, 301):
        assert await follow(reader.log, record, starting_after) == whole[starting_after + 1 :]
        assert await read_events(reader.log, "acme", record.response.id, starting_after) == whole[starting_after + 1 :]


async def test_a_reader_that_starts_at_or_after_the_end_does_not_wait(writer: EdgeStores, reader: EdgeStores) -> None:
    lease, record = await start(writer)
    await finish(writer, lease, record, 2)
    for starting_after in (2, 3, 2**40):
        assert await follow(reader.log, record, starting_after) == []


async def test_followers_hear_every_event_once_whenever_they_come(writer: EdgeStores, reader: EdgeStores) -> None:
    lease, record = await start(writer)
    async with asyncio.TaskGroup() as tasks:
        followers = []
        for first in range(2, 42, 2):
            followers.append(tasks.create_task(follow(reader.log, record)))
            followers.append(tasks.create_task(follow(reader.log, record, starting_after=first)))
            await writer.log.append(lease, deltas(first, ["a", "b"]))
        await finish(writer, lease, record, 42)
    for number, follower in enumerate(followers):
        expected = range(0 if number % 2 == 0 else number + 2, 43)
        assert [event.sequence_number for event in follower.result()] == list(expected)


async def test_a_follower_whose_connection_is_cut_goes_on(
    writer: EdgeStores, reader: EdgeStores, raw: Redis | RedisCluster
) -> None:
    lease, record = await start(writer)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(reader.log, record))
        await writer.log.append(lease, deltas(2, ["a"]))
        nodes = {"target_nodes": RedisCluster.ALL_NODES} if isinstance(raw, RedisCluster) else {}
        await raw.execute_command("CLIENT KILL", "TYPE", "pubsub", **nodes)
        await writer.log.append(lease, deltas(3, ["b"]))
        await finish(writer, lease, record, 4)
    assert [event.sequence_number for event in following.result()] == list(range(5))


async def test_appending_and_ending_again_after_a_lost_answer_changes_nothing(writer: EdgeStores) -> None:
    lease, record = await start(writer)
    batch = deltas(2, ["a", "b"])
    for _ in range(3):
        assert await writer.log.append(lease, batch) is False
    for _ in range(3):
        await finish(writer, lease, record, 4)
    events = await read_events(writer.log, "acme", record.response.id)
    assert [event.sequence_number for event in events] == list(range(5))


async def test_a_response_ends_once(writer: EdgeStores) -> None:
    lease, record = await start(writer)
    ended = await finish(writer, lease, record, 2)
    other = ended_record(record, FAILED)
    with pytest.raises(LeaseLost):
        await writer.log.finish(lease, ending(2, other), other)
    with pytest.raises(LeaseLost):
        await writer.log.append(lease, deltas(3, ["late"]))
    assert await writer.responses.get("acme", record.response.id) == ended
    assert [event.WhichOneof("event") for event in await follow(writer.log, record)] == [
        "created",
        "queued",
        "completed",
    ]


@pytest.mark.parametrize("first", [0, 1, 3, 5])
async def test_a_batch_that_does_not_follow_the_log_is_a_bug(writer: EdgeStores, first: int) -> None:
    lease, record = await start(writer)
    await writer.log.append(lease, deltas(2, ["a", "b"]))
    with pytest.raises(AssertionError, match="does not follow"):
        await writer.log.append(lease, deltas(first, ["x", "y"]))
    with pytest.raises(AssertionError, match="does not follow"):
        await finish(writer, lease, record, first)
    assert [event.sequence_number for event in await read_events(writer.log, "acme", record.response.id)] == [
        0,
        1,
        2,
        3,
    ]


async def test_record_status_and_terminal_event_appear_together(writer: EdgeStores, reader: EdgeStores) -> None:
    lease, record = await start(writer)
    ended = ended_record(record)

    async def observe() -> None:
        response_id = record.response.id
        while True:
            page = await reader.log.read("acme", response_id, starting_after=1)
            stored = await reader.responses.get("acme", response_id)
            job = await reader.jobs.get("acme", response_id)
            assert job is not None
            if page.has_ended:
                assert stored == ended
                assert job.has_ended
                return

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(observe())
        await writer.log.finish(lease, ending(2, ended), ended)


async def test_what_ended_can_be_continued_at_once_from_any_process(writer: EdgeStores, reader: EdgeStores) -> None:
    lease, record = await start(writer)
    ended = await finish(writer, lease, record, 2)
    assert (await reader.responses.load_chain("acme", record.response.id)).records == (ended,)


async def test_a_full_log_refuses_more_and_can_still_be_ended(url: str) -> None:
    async with edge_stores(url, "writer", max_log_bytes=500) as edge:
        lease, record = await start(edge)
        first = 2
        while await fits(edge, lease, first):
            first += 1
        assert 5 < first < 30
        await finish(edge, lease, record, first)
        assert len(await follow(edge.log, record)) == first + 1


async def fits(edge: EdgeStores, lease: Lease, first: int) -> bool:
    try:
        await edge.log.append(lease, deltas(first, ["a" * 20]))
    except LogFull:
        return False
    return True


async def test_a_follower_of_a_deleted_response_is_told(writer: EdgeStores, reader: EdgeStores) -> None:
    _, record = await start(writer)
    events = reader.log.follow("acme", record.response.id)
    async with asyncio.timeout(10):
        first = await anext(events)
        assert first.first_sequence_number == 0
        assert await writer.responses.delete("acme", record.response.id)
        with pytest.raises(LogGone):
            await anext(events)


async def test_logs_that_are_absent_foreign_or_expired_are_gone(writer: EdgeStores, raw: Redis | RedisCluster) -> None:
    lease, record = await start(writer)
    await finish(writer, lease, record, 2)
    for owner, response_id in (("other", record.response.id), ("acme", str(new_response_id())), ("acme", "garbage")):
        with pytest.raises(LogGone):
            await writer.log.read(owner, response_id)
        with pytest.raises(LogGone):
            await anext(writer.log.follow(owner, response_id))
    await raw.delete(keys.events("acme", lease.response_id))
    with pytest.raises(LogGone):
        await follow(writer.log, record)


async def test_a_store_that_is_away_does_not_end_a_follower(tmp_path_factory: pytest.TempPathFactory) -> None:
    with valkey_process(tmp_path_factory.mktemp("away")) as server:
        async with edge_stores(server.url, look_again_s=0.1, timeout_s=1) as edge:
            lease, record = await start(edge)
            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                following = tasks.create_task(follow(edge.log, record))
                server.kill()
                with pytest.raises(ApiError) as caught:
                    await edge.log.append(lease, deltas(2, ["a"]))
                assert caught.value.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
                server.start()
                await edge.log.append(lease, deltas(2, ["a"]))
                await finish(edge, lease, record, 3)
            assert [event.sequence_number for event in following.result()] == [0, 1, 2, 3]


async def test_one_connection_serves_all_followers(url: str, raw: Redis | RedisCluster) -> None:
    async with edge_stores(url) as edge, connect(url) as commands:
        await commands.ping()
        started = [await start(edge) for _ in range(20)]
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follow(edge.log, record)) for _, record in started for _ in range(3)]
            nodes = {"target_nodes": RedisCluster.ALL_NODES} if isinstance(raw, RedisCluster) else {}
            while await subscribed_channels(raw, nodes) < 20:
                pass
            assert await subscribers(raw, nodes) == 1
            for lease, record in started:
                await finish(edge, lease, record, 2)
        assert [len(follower.result()) for follower in followers] == [3] * 60
        async with asyncio.timeout(10):
            while await subscribed_channels(raw, nodes) > 0:  # and leave nothing behind
                pass


async def subscribed_channels(raw: Redis | RedisCluster, nodes: dict[str, str]) -> int:
    reply = await raw.execute_command("PUBSUB CHANNELS", "acme:*", **nodes)
    replies = reply.values() if isinstance(reply, dict) else [reply]
    return sum(len(each) for each in replies)


async def subscribers(raw: Redis | RedisCluster, nodes: dict[str, str]) -> int:
    reply = await raw.execute_command("CLIENT LIST", "TYPE", "pubsub", **nodes)
    replies = reply.values() if isinstance(reply, dict) else [reply]
    return sum(len(each) for each in replies)
