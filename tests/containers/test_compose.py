"""compose.yaml as an operator uses it: answers, scaling, deaths, rolling restarts."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import aiohttp
import grpc
import pytest

from antiphon.responses.v1 import responses_service_pb2 as responses_pb
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from tests.support.antiphon import ROOT
from tests.support.compose import ComposeStack, compose_stack, log_lines, run
from tests.support.http import Client, client_of, output_text
from tests.support.processes import wait_until
from tests.support.stream_rules import Json

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

MODEL = "scripted"
COUNTING = "script:\npace 50\n" + "".join(f"say {number} \n" for number in range(100))
COUNTED = "".join(str(number) for number in range(100))


@pytest.fixture(scope="module")
def stack() -> Iterator[ComposeStack]:
    """All services, with workers that obey, and two edge processes in each container."""
    files = ("compose.yaml", "compose.cpu.yaml", "tests/containers/scripted.yaml")
    with compose_stack(*files, EDGE_PROCESSES="2") as stack:
        stack.up()
        yield stack


@pytest.fixture
async def client(stack: ComposeStack) -> AsyncGenerator[Client, None]:
    async with client_of(stack.base_url) as client:
        await until_answered(client)
        yield client


async def until_answered(client: Client) -> None:
    """Wait for the proxy, and its first look at the edges."""
    async with asyncio.timeout(30):
        while True:
            with suppress(aiohttp.ClientConnectionError):  # nobody listens yet
                async with client.session.get("/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.2)


def scale(stack: ComposeStack, service: str, count: int) -> list[str]:
    """The service's containers, once there are so many and all of them are healthy."""
    stack.up(**{service: count})
    wait_until(lambda: stack.health(service) == ["healthy"] * count, timeout_s=120, what=f"{count} of {service}")
    return stack.containers(service)


def generations(container: str, **fields: object) -> int:
    """How many generations have ended in a worker."""
    lines = (line for line in log_lines(container) if line["message"] == "generation ended")
    return sum(all(line[name] == value for name, value in fields.items()) for line in lines)


def responses(container: str) -> int:
    """How many responses have ended in an edge."""
    return sum(line["message"] == "response ended" for line in log_lines(container))


async def until_spread(client: Client, containers: list[str], count: Callable[[str], int]) -> None:
    """Send requests until every one of ``containers`` counts more than it did."""
    before = {container: count(container) for container in containers}
    async with asyncio.timeout(30):
        while any(count(container) == before[container] for container in containers):
            await asyncio.gather(*(client.create(model=MODEL, input=f"script:\nsay {n}") for n in range(24)))


async def counted(client: Client) -> None:
    """A stream from its first to its last number."""
    reader = await client.stream_all(model=MODEL, input=COUNTING)
    final = reader.events[-1]["response"]
    assert final["status"] == "completed"
    assert "".join(reader.text.split()) == "".join(output_text(final).split()) == COUNTED


async def test_both_doors_answer_and_a_chain_goes_on(stack: ComposeStack, client: Client) -> None:
    first = await client.create(model=MODEL, input="script:\nsay one")
    second = await client.create(model=MODEL, input="script:\nsay two", previous_response_id=first["id"])
    assert (output_text(first), output_text(second)) == ("one", "two")
    assert (await client.call("GET", f"/v1/responses/{second['id']}")).body == second

    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as channel:
        doors = ResponsesServiceStub(channel)
        request = responses_pb.GetResponseRequest(response_id=first["id"])
        assert (await doors.GetResponse(request, timeout=10)).response.id == first["id"]


async def test_a_background_response_is_answered_at_once_and_ends_by_itself(client: Client) -> None:
    queued = await client.create(model=MODEL, input="script:\nwait 500\nsay done", background=True)
    assert queued["status"] in {"queued", "in_progress"}
    async with asyncio.timeout(30):
        while True:
            response = (await client.call("GET", f"/v1/responses/{queued['id']}")).body
            if response["status"] not in {"queued", "in_progress"}:
                break
            await asyncio.sleep(0.1)
    assert (response["status"], output_text(response)) == ("completed", "done")


async def test_nothing_runs_as_root_and_the_edges_share_their_container(stack: ComposeStack, client: Client) -> None:
    for service in ("edge", "inference"):
        (container,) = stack.containers(service)
        assert run(["docker", "exec", container, "id", "-u"]).strip() == "10001"
    (edge,) = stack.containers("edge")
    assert sum(line["message"] == "edge started" for line in log_lines(edge)) == 2


async def test_a_client_that_leaves_frees_the_engine(stack: ComposeStack, client: Client) -> None:
    (worker,) = scale(stack, "inference", 1)
    before = generations(worker, outcome="cancelled")
    async with client.stream(model=MODEL, input="script:\nsay a\nhold") as reader:
        await reader.next_event("response.output_text.delta")
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await client.create(model=MODEL, input="script:\nhold")
    async with asyncio.timeout(30):
        while generations(worker, outcome="cancelled") != before + 2:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.2)


async def test_workers_that_are_added_get_requests(stack: ComposeStack, client: Client) -> None:
    workers = scale(stack, "inference", 3)
    assert len(workers) == 3
    await until_spread(client, workers, generations)


async def test_a_worker_container_that_is_killed_costs_no_request(stack: ComposeStack, client: Client) -> None:
    workers = scale(stack, "inference", 3)
    async with asyncio.timeout(120), AsyncExitStack() as streams:
        readers = [await streams.enter_async_context(client.stream(model=MODEL, input=COUNTING)) for _ in range(12)]
        for reader in readers:
            await reader.next_event("response.output_text.delta")
        run(["docker", "kill", workers[0]])
        for reader in readers:
            await reader.rest()
            assert "".join(reader.text.split()) == COUNTED
    run(["docker", "start", workers[0]])
    scale(stack, "inference", 3)


@dataclass
class Load:
    """Clients that ask for one stream after the other."""

    client: Client
    finished: int = 0
    failures: list[Exception] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while not self.stopping.is_set():
            try:
                await counted(self.client)
            except Exception as error:
                self.failures.append(error)
            else:
                self.finished += 1


async def under_load(client: Client, *, streams: int, command: list[str], stack: ComposeStack) -> Load:
    """Run ``command`` while so many clients stream."""
    load = Load(client)
    environ = {**stack.environ, "COMPOSE": " ".join(stack.command), "READY_TIMEOUT_S": "120"}
    async with asyncio.timeout(600), asyncio.TaskGroup() as tasks:
        for _ in range(streams):
            tasks.create_task(load.run())
        try:
            done = await asyncio.to_thread(
                subprocess.run, command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=500
            )
        finally:
            load.stopping.set()
    assert done.returncode == 0, done.stdout + done.stderr
    return load


@pytest.mark.parametrize("service", ["inference", "edge"])
async def test_a_rolling_restart_under_twenty_streams_fails_none(
    stack: ComposeStack, client: Client, service: str
) -> None:
    before = scale(stack, service, 3 if service == "inference" else 2)
    command = ["deploy/compose/rolling-restart", service]
    load = await under_load(client, streams=20, command=command, stack=stack)
    assert load.failures == []
    assert load.finished >= 40
    after = stack.containers(service)
    assert len(after) == len(before)
    assert not set(after) & set(before)


async def test_two_edges_share_the_requests_and_one_of_them_is_enough(stack: ComposeStack, client: Client) -> None:
    edges = scale(stack, "edge", 2)
    await until_spread(client, edges, responses)
    run(["docker", "kill", edges[0]])
    for number in range(20):
        assert output_text(await client.create(model=MODEL, input=f"script:\nsay {number}")) == str(number)
    run(["docker", "start", edges[0]])
    scale(stack, "edge", 2)


def test_the_cpu_variant_answers_with_the_default_model() -> None:
    async def ask(base_url: str) -> Json:
        async with client_of(base_url) as client:
            await until_answered(client)
            return await client.create(model="SmolLM2-135M-Instruct", input="Say hello.", max_output_tokens=16)

    with compose_stack("compose.yaml", "compose.cpu.yaml", INFERENCE_THREADS="1") as stack:
        stack.up()
        answer = asyncio.run(ask(stack.base_url))
        assert output_text(answer)
        assert answer["usage"]["output_tokens"] > 0
