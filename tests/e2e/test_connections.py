"""What bounds a connection of the HTTP door on which nothing happens."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.edge import EdgeProcess, edge_process
from tests.support.http import client_of
from tests.support.processes import is_established
from tests.support.stack import MODEL, RunningStack

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def edge(scripted_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    with edge_process(
        tmp_path_factory.mktemp("connections") / "edge",
        workers=scripted_stack.worker_targets,
        redis_url=f"unix://{scripted_stack.state}/valkey.sock",
        idle_timeout_s="1",
        slow_reader_timeout_s="1",
    ) as edge:
        yield edge


@asynccontextmanager
async def connected(edge: EdgeProcess) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("sent", [b"", HEALTH], ids=["nothing", "half of the headers"])
async def test_a_connection_that_brings_no_request_is_closed(edge: EdgeProcess, sent: bytes) -> None:
    async with connected(edge) as (reader, writer):
        writer.write(sent)
        assert await reader.read() == b""


async def test_headers_that_come_byte_by_byte_gain_no_time(edge: EdgeProcess) -> None:
    async with connected(edge) as (reader, writer):
        closed = asyncio.ensure_future(reader.read())
        writer.write(HEALTH + b"X: ")
        while not closed.done():
            writer.write(b"y")
            await asyncio.wait([closed], timeout=0.1)
        with suppress(ConnectionResetError):  # a byte came when it was closed
            assert await closed == b""


async def test_a_connection_is_closed_some_time_after_an_answer(edge: EdgeProcess) -> None:
    async with connected(edge) as (reader, writer):
        for _ in range(2):
            writer.write(HEALTH + b"\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        assert await reader.read() == b""


async def test_a_stream_may_be_quiet_for_longer(edge: EdgeProcess) -> None:
    async with asyncio.timeout(30), client_of(edge.base_url) as client:
        reader = await client.stream_all(model=MODEL, input="script:\nsay a\nwait 1500\nsay b", store=False)
        assert reader.text == "ab"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it")
async def test_a_client_that_takes_no_plain_answers_is_cut_off(edge: EdgeProcess) -> None:
    async with asyncio.timeout(60):
        _, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=1024)
        writer.write(b"GET /v1/capabilities HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)  # more than the buffers take
        client_port = writer.get_extra_info("sockname")[1]
        while is_established(edge.port, client_port):  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.05)
        writer.transport.abort()
