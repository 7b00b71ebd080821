"""What a client sees when a part is killed, stopped or slow."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import grpc
import pytest

from antiphon.inference.v1 import inference_pb2
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.http import Client, client_of, output_text
from tests.support.stack import SCRIPTED, RunningStack, running_stack

MODEL = "SmolLM2-135M-Instruct"
COUNTING = "script:\npace 50\n" + "".join(f"say {number} \n" for number in range(100))
COUNTED = "".join(str(number) for number in range(100))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Two workers behind one edge that gives a silent worker up after a second."""
    environ = SCRIPTED | {
        "EDGE_WORKER_SILENCE_S": "1",
        "EDGE_HEARTBEAT_INTERVAL_S": "0.5",
        "EDGE_BODY_TIMEOUT_S": "1",
        "INFERENCE_HEARTBEAT_MS": "100",
    }
    with running_stack(tmp_path_factory.mktemp("failures"), workers=2, environ=environ) as stack:
        yield stack


@pytest.fixture
async def client(stack: RunningStack) -> AsyncGenerator[Client, None]:
    async with client_of(stack.base_url) as client:
        await until(lambda: is_whole(stack, client))
        yield client


async def is_whole(stack: RunningStack, client: Client) -> bool:
    """Both workers and the edge are there again, whatever the test before did to them."""
    try:
        return len(await loads(stack)) == 2 and await is_ready(client, True)
    except (aiohttp.ClientError, grpc.aio.AioRpcError):
        return False


async def loads(stack: RunningStack) -> list[inference_pb2.Load]:
    found = []
    for target in stack.worker_targets:
        async with grpc.aio.insecure_channel(target) as channel:
            stub = InferenceServiceStub(channel)
            found.append((await stub.GetModel(inference_pb2.GetModelRequest(), timeout=10)).load)
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.05)


async def until_idle(stack: RunningStack) -> None:
    """Wait until no engine has work."""

    async def is_idle() -> bool:
        return not any(load.running or load.waiting for load in await loads(stack))

    await until(is_idle)


def digits(text: str) -> str:
    return "".join(text.split())


async def test_a_killed_worker_is_replaced_in_the_middle_of_a_stream(stack: RunningStack, client: Client) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as streams:
        readers = [
            await streams.enter_async_context(client.stream(model=MODEL, input=COUNTING, store=bool(number % 2)))
            for number in range(8)
        ]
        for reader in readers:
            while len(digits(reader.text)) < 10:
                await reader.next_event("response.output_text.delta")
        os.kill(stack.pids("worker")[0], signal.SIGKILL)
        for reader in readers:
            final = await reader.rest()
            assert final["status"] == "completed"
            assert digits(reader.text) == digits(output_text(final)) == COUNTED
            assert final["usage"]["output_tokens"] > 100


async def test_a_request_that_kills_worker_after_worker_fails_and_the_stack_recovers(
    stack: RunningStack, client: Client
) -> None:
    async with asyncio.timeout(60):
        reader = await client.stream_all(model=MODEL, input="script:\nsay so far\nwait 100\ndie")
        final = reader.events[-1]["response"]
        assert (final["status"], final["error"]["code"]) == ("failed", "server_error")
        assert reader.text == "so far"
        assert output_text(await client.create(model=MODEL, input="script:\nsay again")) == "again"


async def test_a_stopped_worker_is_given_up_and_its_streams_go_on(stack: RunningStack, client: Client) -> None:
    async with asyncio.timeout(60), client.stream(model=MODEL, input=COUNTING) as reader:
        await reader.next_event("response.output_text.delta")
        busy = [load.running for load in await loads(stack)].index(1)
        # workers are started in the order of their ports, so their process ids have it too
        worker = sorted(stack.pids("worker"))[busy]
        os.kill(worker, signal.SIGSTOP)
        try:
            final = await reader.rest()
        finally:
            os.kill(worker, signal.SIGCONT)
        assert digits(output_text(final)) == COUNTED
        await until_idle(stack)  # the worker that was given up noticed it


async def test_a_worker_that_was_stopped_for_a_moment_is_kept(tmp_path: Path) -> None:
    with running_stack(tmp_path, environ=SCRIPTED) as stack:
        async with (
            asyncio.timeout(60),
            client_of(stack.base_url) as client,
            client.stream(model=MODEL, input=COUNTING) as reader,
        ):
            await reader.next_event("response.output_text.delta")
            (worker,) = stack.pids("worker")
            os.kill(worker, signal.SIGSTOP)
            assert (await client.call("GET", "/healthz")).status == 200
            os.kill(worker, signal.SIGCONT)
            final = await reader.rest()
        assert digits(output_text(final)) == COUNTED
        assert "reissued" not in (stack.state / "logs" / "edge-1.log").read_text()


async def test_a_client_that_leaves_frees_the_engine(stack: RunningStack, client: Client) -> None:
    for script in ("script:\nsay a\nhold", "script:\nhold", "script:\npace 5\ntokens 1000"):
        async with client.stream(model=MODEL, input=script) as reader:
            await reader.next_event("response.in_progress")
        await until_idle(stack)


async def test_a_plain_request_whose_client_leaves_frees_the_engine(stack: RunningStack, client: Client) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await client.create(model=MODEL, input="script:\nhold")
    await until_idle(stack)


async def test_a_killed_edge_leaves_no_work_on_the_engines(stack: RunningStack, client: Client) -> None:
    async with client.stream(model=MODEL, input="script:\nsay a\nhold") as reader:
        await reader.next_event("response.output_text.delta")
        os.kill(stack.pids("edge")[0], signal.SIGKILL)
        with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError, EOFError)):
            await reader.next_event("response.completed")
    await until_idle(stack)


async def test_a_reader_that_takes_nothing_does_not_slow_the_others(stack: RunningStack, client: Client) -> None:
    flood = "script:\ntokens 60000"
    async with asyncio.timeout(90), client.stream(model=MODEL, input=flood, store=False) as slow:
        await slow.next_event()
        reader = await client.stream_all(model=MODEL, input=COUNTING)
        assert digits(reader.text) == COUNTED
        final = await slow.rest()  # nothing was dropped, merged or renumbered
        assert slow.text == output_text(final)


async def test_life_is_shown_while_nothing_comes(stack: RunningStack, client: Client) -> None:
    async with asyncio.timeout(30):
        async with client.stream(model=MODEL, input="script:\nwait 1200\nsay a") as reader:
            await reader.rest()
            assert len([e for e in reader.events if e["type"] == "response.in_progress"]) >= 2
        async with client.stream(model=MODEL, input="script:\nsay a\nwait 1200\nsay b") as reader:
            await reader.rest()
            assert reader.comments >= 1


async def test_without_the_store_only_what_need_not_be_stored_goes_on(stack: RunningStack, client: Client) -> None:
    stored = await client.create(model=MODEL, input="script:\nsay a")
    (valkey,) = stack.pids("valkey")
    os.kill(valkey, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            assert output_text(await client.create(model=MODEL, input="script:\nsay b", store=False)) == "b"
            await until(lambda: is_ready(client, False))
            error = await client.refused(503, model=MODEL, input="script:\nsay c")
            assert error["code"] == "store_unavailable"
            assert (await client.call("GET", "/readyz")).status == 503
    finally:
        os.kill(valkey, signal.SIGCONT)
    await until(lambda: is_ready(client, True))
    assert (await client.call("GET", f"/v1/responses/{stored['id']}")).body == stored


async def is_ready(client: Client, expected: bool) -> bool:
    return ((await client.call("GET", "/readyz")).status == 200) == expected


async def test_a_commit_waits_for_a_store_that_comes_back(stack: RunningStack, client: Client) -> None:
    async with asyncio.timeout(60), client.stream(model=MODEL, input="script:\nsay a\nwait 500\nsay b") as reader:
        await reader.next_event("response.output_text.delta")
        os.kill(stack.pids("valkey")[0], signal.SIGKILL)  # the launcher starts it again
        final = await reader.rest()
        assert final["status"] == "completed"
        assert (await client.call("GET", f"/v1/responses/{final['id']}")).body == final


async def test_a_body_that_does_not_come_is_a_timeout_and_the_end_of_the_connection(client: Client) -> None:
    hurry = asyncio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        yield b'{"model": "m", "input": "'
        await hurry.wait()
        yield b'x"}'

    answer = await client.call("POST", "/v1/responses", data=body())
    assert (answer.status, answer.body["error"]["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
