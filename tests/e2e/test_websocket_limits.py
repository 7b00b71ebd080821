"""What bounds a WebSocket connection: age, memory, slow readers, clients and servers that leave."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import grpc
import pytest

from antiphon.inference.v1 import inference_pb2
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.http import output_text
from tests.support.processes import is_established
from tests.support.stack import SCRIPTED, RunningStack, running_stack
from tests.support.websocket import Socket, SocketClosed, SocketError, socket_of

MODEL = "SmolLM2-135M-Instruct"
HELLO = "script:\nsay Hello world."


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    environ = SCRIPTED | {
        "EDGE_WEBSOCKET_LIFETIME_S": "3",
        "EDGE_WEBSOCKET_MEMORY_BYTES": "2000",
        "EDGE_MAX_BODY_BYTES": "100000",
        "EDGE_HEARTBEAT_INTERVAL_S": "0.2",
        "EDGE_SLOW_READER_TIMEOUT_S": "1",
    }
    with running_stack(tmp_path_factory.mktemp("websocket_limits"), environ=environ) as stack:
        yield stack


async def running(stack: RunningStack) -> int:
    """Generations on the engine."""
    async with grpc.aio.insecure_channel(stack.worker_targets[0]) as channel:
        stub = InferenceServiceStub(channel)
        answer: inference_pb2.GetModelResponse = await stub.GetModel(inference_pb2.GetModelRequest(), timeout=10)
        return answer.load.running


async def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds: megabytes may have to be generated first, on a busy machine."""
    async with asyncio.timeout(90):
        while not condition():  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.05)


async def until_running(stack: RunningStack, count: int) -> None:
    async with asyncio.timeout(30):
        while await running(stack) != count:  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.05)


async def first_delta(client: Socket) -> None:
    while (await client.next_event())["type"] != "response.output_text.delta":
        pass


async def assert_limit_reached(client: Socket) -> None:
    with pytest.raises(SocketError) as caught:
        await client.next_event()
    assert (caught.value.status, caught.value.error["code"]) == (400, "websocket_connection_limit_reached")
    with pytest.raises(SocketClosed) as closed:
        await client.next_event()
    assert closed.value.args == (aiohttp.WSCloseCode.OK,)


async def test_an_idle_connection_ends_at_its_greatest_age(stack: RunningStack) -> None:
    async with asyncio.timeout(20), socket_of(stack.base_url) as client:
        assert (await client.turn(model=MODEL, input=HELLO))["status"] == "completed"
        await assert_limit_reached(client)


async def test_a_turn_that_runs_is_not_broken_off_by_age(stack: RunningStack) -> None:
    async with asyncio.timeout(20), socket_of(stack.base_url) as client:
        await client.send(model=MODEL, input="script:\nsay a\nwait 4000\nsay b")
        await client.send(model=MODEL, input=HELLO)  # too late for this one
        assert output_text((await client.events())[-1]["response"]) == "ab"
        await assert_limit_reached(client)


async def test_what_is_too_large_to_remember_is_forgotten(stack: RunningStack) -> None:
    async with socket_of(stack.base_url) as client:
        small = await client.turn(model=MODEL, input=HELLO, store=False)
        large = await client.turn(
            model=MODEL, input=f"script:\nsay {'x' * 2000}", store=False, previous_response_id=small["id"]
        )
        for response in (large, small):
            error = await client.refused(model=MODEL, input=HELLO, previous_response_id=response["id"], store=False)
            assert error.error["code"] == "previous_response_not_found"


async def test_a_frame_that_is_too_large_ends_the_connection(stack: RunningStack) -> None:
    async with asyncio.timeout(10), socket_of(stack.base_url) as client:
        await client.send(model=MODEL, input="x" * 100_000)
        with pytest.raises(SocketClosed) as closed:
            await client.next_event()
        assert closed.value.args == (aiohttp.WSCloseCode.MESSAGE_TOO_BIG,)


async def test_a_quiet_connection_is_pinged(stack: RunningStack) -> None:
    async with asyncio.timeout(10), socket_of(stack.base_url, autoping=False) as client:
        assert (await client.ws.receive()).type == aiohttp.WSMsgType.PING
        await client.send(model=MODEL, input="script:\nsay a\nhold")
        while (await client.ws.receive()).type != aiohttp.WSMsgType.TEXT:
            pass
        while (await client.ws.receive()).type != aiohttp.WSMsgType.PING:
            pass


@pytest.mark.parametrize("farewell", [True, False])
async def test_a_client_that_leaves_frees_the_engine(stack: RunningStack, farewell: bool) -> None:
    async with socket_of(stack.base_url) as client:
        await client.send(model=MODEL, input="script:\nsay a\nhold")
        await first_delta(client)
        await until_running(stack, 1)
        if farewell:
            await client.ws.close()
        else:
            assert client.ws._response.connection is not None
            assert client.ws._response.connection.transport is not None
            client.ws._response.connection.transport.abort()
        await until_running(stack, 0)


async def test_a_reader_that_takes_nothing_is_cut_off(stack: RunningStack) -> None:
    host, port = stack.base_url.removeprefix("http://").split(":")
    turn = {"type": "response.create", "model": MODEL, "store": False, "input": "script:\ntokens 30000"}
    text = json.dumps(turn).encode()
    async with asyncio.timeout(110):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(
            b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 101")
        frame = b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text
        writer.write(frame * 8)  # megabytes each: more than the system's buffers take
        client_port = writer.get_extra_info("sockname")[1]
        await until(lambda: not is_established(int(port), client_port))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    with running_stack(tmp_path, environ=SCRIPTED) as stack:
        async with asyncio.timeout(60), socket_of(stack.base_url) as client:
            await client.send(model=MODEL, input="script:\nsay a\nwait 1000\nsay b")
            await first_delta(client)
            stack.launcher.send_signal(signal.SIGTERM)
            while (event := await client.next_event())["type"] != "response.completed":
                pass
            assert output_text(event["response"]) == "ab"
            with pytest.raises(SocketClosed) as closed:
                await client.next_event()
            assert closed.value.args == (aiohttp.WSCloseCode.GOING_AWAY,)
