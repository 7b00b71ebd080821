"""Two models behind one edge: what calls by gRPC may cost, how they end, and what their metadata do."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import pytest
from grpc_health.v1 import health_pb2

from antiphon.errors import ApiError, from_trailing_metadata
from antiphon.inference.v1 import inference_pb2
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from antiphon.responses.v1 import item_pb2, response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from tests.support.edge import EdgeProcess, edge_process
from tests.support.http import client_of
from tests.support.owners import error_of
from tests.support.valkey import valkey_server
from tests.support.worker import WorkerProcess, script, until, user_message, worker_process

if TYPE_CHECKING:
    from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub
    from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceAsyncStub

Workers: TypeAlias = dict[str, "InferenceServiceAsyncStub"]

SMALL, LARGE = "small", "large"
"""Models. The small one runs one generation at a time, and lets one more wait."""
MAX_RUNNING = 8
BACKGROUND_ATTEMPTS = 2
MAX_BODY_BYTES = 1_000_000
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class TwoModels:
    """A running edge and its workers."""

    edge: EdgeProcess
    workers: dict[str, WorkerProcess]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoModels]:
    folder = tmp_path_factory.mktemp("two_models")
    (folder / "valkey").mkdir()
    with (
        valkey_server(folder / "valkey") as redis_url,
        worker_process(folder / "s", model_name=SMALL, parallel="1", max_waiting="1") as small,
        worker_process(folder / "l", model_name=LARGE, context_window="100000") as large,
        edge_process(
            folder / "edge",
            workers=[small.target, large.target],
            redis_url=redis_url,
            max_running=str(MAX_RUNNING),
            background_attempts=str(BACKGROUND_ATTEMPTS),
            max_body_bytes=str(MAX_BODY_BYTES),
            slow_reader_timeout_s="1",
        ) as edge,
    ):
        yield TwoModels(edge, {SMALL: small, LARGE: large})


@pytest.fixture
async def workers(stack: TwoModels) -> AsyncGenerator[Workers, None]:
    """The worker of each model, called directly."""
    async with AsyncExitStack() as channels:
        yield {
            model: InferenceServiceStub(await channels.enter_async_context(grpc.aio.insecure_channel(worker.target)))
            for model, worker in stack.workers.items()
        }


async def until_running(worker: "InferenceServiceAsyncStub", running: int, waiting: int = 0) -> None:
    """Wait until ``worker`` has so many generations."""
    async with asyncio.timeout(30):
        while True:
            load = (await worker.GetModel(inference_pb2.GetModelRequest())).load
            if (load.running, load.waiting) == (running, waiting):
                return
            await asyncio.sleep(0.02)


@pytest.fixture
async def stub(stack: TwoModels) -> AsyncGenerator["ResponsesServiceAsyncStub", None]:
    async with grpc.aio.insecure_channel(stack.edge.grpc_target) as channel:
        yield ResponsesServiceStub(channel)


def params(*commands: str, model: str = LARGE, **fields: Any) -> response_pb2.ResponseParams:
    message: item_pb2.Item = user_message("\n".join(["script:", *commands]))
    return response_pb2.ResponseParams(model=model, input=[message], **fields)


def create(*commands: str, **fields: Any) -> pb.CreateResponseRequest:
    return pb.CreateResponseRequest(params=params(*commands, **fields))


async def failure(call: Any) -> ApiError:
    """What a call that fails says."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


async def test_requests_go_to_the_worker_of_their_model(
    stack: TwoModels, workers: Workers, stub: "ResponsesServiceAsyncStub"
) -> None:
    async with client_of(stack.edge.base_url) as client:
        models = (await client.call("GET", "/v1/models")).body["data"]
        assert [model["id"] for model in models] == [LARGE, SMALL]
    for model, other in ((SMALL, LARGE), (LARGE, SMALL)):
        call = stub.StreamResponse(pb.StreamResponseRequest(params=params("hold", model=model)), timeout=30)
        await until_running(workers[model], 1)
        await until_running(workers[other], 0)
        call.cancel()
        await until_running(workers[model], 0)
    error = await failure(stub.CreateResponse(create("say a", model="medium"), timeout=10))
    assert error.reason == ErrorReason.ERROR_REASON_MODEL_NOT_FOUND


async def test_a_deadline_ends_the_work_at_the_engine(workers: Workers, stub: "ResponsesServiceAsyncStub") -> None:
    request = params("say a", "hold")
    calls: list[Callable[[], grpc.aio.Call]] = [
        lambda: stub.CreateResponse(pb.CreateResponseRequest(params=request), timeout=1),
        lambda: stub.StreamResponse(pb.StreamResponseRequest(params=request), timeout=1),
        lambda: workers[LARGE].Generate(script("say a", "hold"), timeout=1),
    ]
    for start in calls:
        call = start()
        await until_running(workers[LARGE], 1)
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until_running(workers[LARGE], 0)


async def test_when_every_queue_is_full_both_doors_say_when_to_come_again(
    stack: TwoModels, workers: Workers, stub: "ResponsesServiceAsyncStub"
) -> None:
    async with AsyncExitStack() as held:
        for running, waiting in ((1, 0), (1, 1)):
            call = stub.StreamResponse(pb.StreamResponseRequest(params=params("hold", model=SMALL)), timeout=60)
            held.callback(call.cancel)
            await until_running(workers[SMALL], running, waiting)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateResponse(create("say a", model=SMALL), timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        error = error_of(caught.value)
        assert error.reason == ErrorReason.ERROR_REASON_OVERLOADED
        assert error.retry_after_ms is not None
        async with client_of(stack.edge.base_url) as client:
            answer = await client.call("POST", "/v1/responses", json={"model": SMALL, "input": "script:\nsay a"})
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
        # the other model's queue is another one
        assert (await stub.CreateResponse(create("say b"), timeout=10)).response.output
    await until_running(workers[SMALL], 0)


async def test_a_message_that_is_too_large_is_refused_before_it_is_read(
    stack: TwoModels, stub: "ResponsesServiceAsyncStub"
) -> None:
    await stub.CreateResponse(create("say a"), timeout=10)
    before = peak_memory_bytes(stack.edge.process.pid)
    huge = create("say " + "a" * 20_000_000)
    for _ in range(3):
        assert await stub.CreateResponse(huge, timeout=30).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_memory_bytes(stack.edge.process.pid) - before < 10_000_000
    assert (await stub.CreateResponse(create("say b"), timeout=10)).response.output


def peak_memory_bytes(pid: int) -> int:
    """The most that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


async def test_a_caller_that_takes_nothing_slows_nobody_and_is_cut_off(
    stack: TwoModels, workers: Workers, stub: "ResponsesServiceAsyncStub"
) -> None:
    flood = params("tokens 90000", "hold", store=False)
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    async with grpc.aio.insecure_channel(stack.edge.grpc_target, options=small_window) as channel:
        slow = ResponsesServiceStub(channel).StreamResponse(pb.StreamResponseRequest(params=flood), timeout=60)
        numbers = [(await _read(slow)).event.sequence_number]
        assert (await stub.CreateResponse(create("tokens 100"))).response.output
        await until_running(workers[LARGE], 0)
        while (answer := await _read(slow)) is not None:
            numbers.append(answer.event.sequence_number)
        assert numbers == list(range(len(numbers)))
        error = from_trailing_metadata(await slow.trailing_metadata())
        assert error is not None
        assert error.reason == ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED


async def _read(call: Any) -> Any:
    """The next message; None at the end, whatever it is."""
    try:
        message = await call.read()
    except grpc.aio.AioRpcError:
        return None
    return None if message is grpc.aio.EOF else message


async def test_calls_at_once_are_bounded(stack: TwoModels) -> None:
    async with grpc.aio.insecure_channel(stack.edge.grpc_target) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

        async def is_taken() -> bool:
            try:
                await watch(health_pb2.HealthCheckRequest(), timeout=5).read()
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return False
            return True

        calls = [watch(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(MAX_RUNNING + 64)]
        for call in calls:
            assert await call.read() == health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        assert await watch(health_pb2.HealthCheckRequest()).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        calls[0].cancel()
        async with asyncio.timeout(10):
            while not await is_taken():  # noqa: ASYNC110 - it is another process's state
                await asyncio.sleep(0.02)


async def test_metadata_fill_what_a_request_leaves_open(stub: "ResponsesServiceAsyncStub") -> None:
    metadata = (("x-antiphon-routing-key", "customer-7"), ("x-antiphon-service-tier", "flex"))
    filled = (await stub.CreateResponse(create("say a"), metadata=metadata, timeout=10)).response.params
    assert (filled.prompt_cache_key, filled.service_tier) == ("customer-7", response_pb2.SERVICE_TIER_FLEX)
    own = create("say a", prompt_cache_key="mine", service_tier=response_pb2.SERVICE_TIER_PRIORITY)
    kept = (await stub.CreateResponse(own, metadata=metadata, timeout=10)).response.params
    assert (kept.prompt_cache_key, kept.service_tier) == ("mine", response_pb2.SERVICE_TIER_PRIORITY)


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ([("x-antiphon-service-tier", "fastest")], "x-antiphon-service-tier"),
        ([("x-antiphon-service-tier", "")], "x-antiphon-service-tier"),
        ([("x-antiphon-service-tier", "flex"), ("x-antiphon-service-tier", "flex")], "x-antiphon-service-tier"),
        ([("x-antiphon-routing-key", "a"), ("x-antiphon-routing-key", "b")], "x-antiphon-routing-key"),
    ],
)
async def test_metadata_that_mean_nothing_are_refused(
    stub: "ResponsesServiceAsyncStub", metadata: list[tuple[str, str]], param: str
) -> None:
    error = await failure(stub.CreateResponse(create("say a"), metadata=tuple(metadata), timeout=10))
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_INVALID_VALUE, param)


async def test_a_trace_is_in_the_logs_of_edge_and_worker(stack: TwoModels, stub: "ResponsesServiceAsyncStub") -> None:
    async with client_of(stack.edge.base_url) as client:
        by_grpc = {
            given: (await stub.CreateResponse(create("say a"), metadata=metadata, timeout=10)).response.id
            for given, metadata in (
                (TRACEPARENT, (("traceparent", TRACEPARENT),)),
                (None, (("traceparent", "00-0-0-0"),)),
            )
        }
        body = {"model": LARGE, "input": "script:\nsay a"}
        trace = {"traceparent": TRACEPARENT}
        over_http = [
            (await client.call("POST", "/v1/responses", json=fields, headers=trace)).body["id"]
            for fields in (body, body | {"background": True})
        ]
        untraced = (await client.call("POST", "/v1/responses", json=body)).body["id"]
    expected = {by_grpc[TRACEPARENT]: TRACEPARENT, by_grpc[None]: None, untraced: None}
    expected |= dict.fromkeys(over_http, TRACEPARENT)

    def logged(path: Path, message: str, name: str) -> dict[str, str | None]:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return {
            line[name]: line["traceparent"] for line in lines if message in line["message"] and line[name] in expected
        }

    await until(lambda: logged(stack.edge.log, "response ended", "response_id") == expected)
    worker = stack.workers[LARGE]
    await until(lambda: logged(worker.log, "generation ended", "request_id") == expected)


async def test_a_background_response_waits_for_room_however_often_it_is_refused(
    stack: TwoModels, workers: Workers, stub: "ResponsesServiceAsyncStub"
) -> None:
    def refusals(request_id: str) -> int:
        lines = stack.workers[SMALL].log_lines()
        return sum(line.get("request_id") == request_id and line.get("outcome") == "overloaded" for line in lines)

    holders = [workers[SMALL].Generate(script("hold")) for _ in range(2)]
    await until_running(workers[SMALL], 1, waiting=1)
    accepted = await stub.CreateResponse(create("say a", model=SMALL, background=True), timeout=10)
    response_id = accepted.response.id
    await until(lambda: refusals(response_id) > BACKGROUND_ATTEMPTS)
    for holder in holders:
        holder.cancel()
    async with asyncio.timeout(30):
        resumed = stub.ResumeResponse(pb.ResumeResponseRequest(response_id=response_id))
        events = [answer.event.WhichOneof("event") async for answer in resumed]
    assert events[-1] == "completed"
