"""A primary that Sentinels replace: commands, scripts and subscriptions go on at the new one."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ResponseError

from antiphon.errors import ApiError
from store.connection import connect, open_client
from store.event_batch import expand
from store.ids import new_response_id
from store.responses import ResponseStore
from tests.support.jobs import (
    RETENTION_MS,
    create_held,
    deltas,
    edge_stores,
    ended_record,
    ending,
    queued_record,
)
from tests.support.records import finished_record
from tests.support.valkey import ValkeyServer, free_ports, sentinel_process

NAME = "antiphon-primary"


@dataclass(frozen=True)
class Replicated:
    """A primary, its replica, and a Sentinel that watches them."""

    primary: ValkeyServer
    replica: ValkeyServer
    url: str
    sentinel_url: str


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    ports = free_ports(3)
    with ExitStack() as stack:
        servers: list[ValkeyServer] = []
        for port in ports[:2]:
            files = tmp_path / str(port)
            files.mkdir()
            replicaof = ("--replicaof", "127.0.0.1", str(ports[0])) if servers else ()
            server = ValkeyServer(
                files,
                f"redis://127.0.0.1:{port}",
                *("--bind", "127.0.0.1", "--port", str(port), "--repl-diskless-sync-delay", "0"),
                *replicaof,
            )
            stack.callback(server.kill)
            server.start()
            servers.append(server)
        stack.enter_context(sentinel_process(tmp_path, port=ports[2], name=NAME, primary_port=ports[0]))
        sentinel = f"127.0.0.1:{ports[2]}"
        yield Replicated(servers[0], servers[1], f"redis+sentinel://{sentinel}/{NAME}", f"redis://{sentinel}")


async def is_replicated(replicated: Replicated) -> None:
    """Return once the replica follows, has all there is, and the Sentinel knows it."""
    async with asyncio.timeout(30):
        async with (
            Redis.from_url(replicated.primary.url) as primary,
            Redis.from_url(replicated.sentinel_url) as sentinel,
        ):
            while not has_all(await primary.info("replication")) or not await sentinel.sentinel_slaves(NAME):
                pass


def has_all(replication: dict[str, Any]) -> bool:
    """What a primary says of its one replica: it has every byte."""
    replica = replication.get("slave0", {})
    return bool(replica.get("state") == "online" and replica["offset"] >= replication["master_repl_offset"])


async def fails_over(sentinel: Redis) -> bool:
    """Whether the Sentinel finds a replica that it trusts, and begins."""
    try:
        await sentinel.sentinel_failover(NAME)
    except ResponseError as error:
        if "NOGOODSLAVE" not in str(error):
            raise
        return False
    return True


async def is_primary(server: Redis) -> bool:
    try:
        return str((await server.info("replication"))["role"]) == "master"
    except ConnectionError:  # a server whose role changes cuts its connections
        return False


@pytest.mark.timeout(180)
async def test_a_job_goes_on_at_the_new_primary(replicated: Replicated) -> None:
    async with edge_stores(replicated.url, look_again_s=0.5) as edge:
        record = queued_record()
        lease = await create_held(edge, "acme", record)
        assert await edge.log.append(lease, deltas(2, ["a"])) is False
        await is_replicated(replicated)
        numbers: list[int] = []

        async def follow() -> None:
            async for batch in edge.log.follow("acme", record.response.id):
                numbers.extend(event.sequence_number for event in expand(batch))

        async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
            tasks.create_task(follow())
            replicated.primary.kill()
            while True:  # the new primary knows none of the scripts
                try:
                    await edge.log.append(lease, deltas(3, ["b"]))
                    break
                except ApiError:
                    continue
            ended = ended_record(record)
            await edge.log.finish(lease, ending(4, ended), ended)
        assert numbers == [0, 1, 2, 3, 4]
        assert await edge.responses.get("acme", record.response.id) == ended


@pytest.mark.timeout(180)
async def test_a_primary_that_was_demoted_is_left_for_the_new_one(replicated: Replicated) -> None:
    """Nothing died: the old one answers READONLY over connections that are still open."""
    async with connect(replicated.url) as commands:
        store = ResponseStore(commands, retention_ms=RETENTION_MS)
        record = finished_record(new_response_id())
        await store.save("acme", record)
        await is_replicated(replicated)
        async with (
            asyncio.timeout(60),
            Redis.from_url(replicated.sentinel_url) as sentinel,
            Redis.from_url(replicated.replica.url) as replica,
        ):
            while not await fails_over(sentinel):
                pass
            while not await is_primary(replica):
                pass
        async with asyncio.timeout(60):
            while True:
                try:
                    await store.save("acme", finished_record(new_response_id()))
                    break
                except ApiError:
                    continue
        assert await store.get("acme", record.response.id) == record


async def test_the_address_of_a_plain_url_is_looked_up_again_when_it_is_read_only(replicated: Replicated) -> None:
    await is_replicated(replicated)
    async with (
        Redis.from_url(replicated.replica.url) as replica,
        connect(replicated.replica.url, timeout_s=10) as commands,
    ):
        await commands.ping()
        before = (await replica.info("stats"))["total_connections_received"]
        with pytest.raises(ApiError):
            await ResponseStore(commands, retention_ms=RETENTION_MS).save("acme", finished_record(new_response_id()))
        assert (await replica.info("stats"))["total_connections_received"] >= before + 2


async def test_without_a_sentinel_the_store_is_away(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with connect(f"redis+sentinel://127.0.0.1:{port}/{NAME}", timeout_s=2) as commands:
        with pytest.raises(ApiError):
            await commands.ping()


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1", "redis+sentinel://127.0.0.1/", "redis+sentinel:///x"])
async def test_a_url_that_names_no_primary_or_no_sentinel_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the URL"):
        open_client(url)
