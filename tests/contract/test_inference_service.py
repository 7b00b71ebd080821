"""InferenceService over real gRPC, with the scripted engine behind it: Generate, CountTokens, GetModel, health."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from antiphon.errors import ApiError, from_trailing_metadata, grpc_code
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2 import PartKind, StopReason
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2, tool_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import Usage
from antiphon.serving import answer_errors
from inference.engines.base import EnginePrompt, SamplingParams, Step
from inference.engines.scripted import ScriptedEngine
from inference.server import SERVICE
from tests.support.worker import MODEL, SERVING, InProcessWorker, in_process_worker, script, until, user_message

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncGenerator[InProcessWorker, None]:
    async with in_process_worker(tmp_path) as worker:
        yield worker


async def generate(worker: InProcessWorker, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
    return [message async for message in worker.stub.Generate(request, timeout=10)]


async def refused(worker: InProcessWorker, request: pb.GenerateRequest) -> ApiError:
    """The ApiError that ``request`` ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await generate(worker, request)
    error = from_trailing_metadata(list(failed.value.trailing_metadata()))
    assert error is not None, failed.value
    assert failed.value.code() == grpc_code(error.reason)
    assert failed.value.details() == error.message
    return error


def text_of(messages: list[pb.GenerateResponse]) -> str:
    return "".join(message.delta.text for message in messages)


async def test_a_generation_reads_accepted_started_part_deltas_part_ended_finished(worker: InProcessWorker) -> None:
    messages = await generate(worker, script("say Hello world"))
    assert [message.WhichOneof("event") for message in messages] == [
        "accepted", "started", "part_started", "delta", "delta", "part_ended", "finished",
    ]  # fmt: skip
    accepted, _, part, *deltas, _, finished = messages
    assert part.part_started.kind == PartKind.PART_KIND_TEXT
    assert [delta.delta.text for delta in deltas] == ["Hello", " world"]
    token_ids = [token_id for delta in deltas for token_id in delta.delta.token_ids]
    assert worker.engine.tokenizer.decode(token_ids) == b"Hello world"
    assert finished.finished == pb.Finished(
        stop_reason=StopReason.STOP_REASON_END_OF_TURN,
        usage=Usage(input_tokens=accepted.accepted.input_tokens, output_tokens=2),
    )


async def test_characters_split_over_tokens_arrive_whole(worker: InProcessWorker) -> None:
    messages = await generate(worker, script("say a", "bytes f09f8e89", "say b"))
    assert text_of(messages) == "a🎉b"
    assert "�" not in text_of(messages)


async def test_a_second_generation_finds_its_prompt_in_the_cache(worker: InProcessWorker) -> None:
    await generate(worker, script("say one"))
    *_, last = await generate(worker, script("say one"))
    usage = last.finished.usage
    assert usage.cached_tokens == usage.input_tokens - 1


@pytest.mark.parametrize(
    ("fields", "reason", "text"),
    [
        ({"max_output_tokens": 3}, StopReason.STOP_REASON_MAX_OUTPUT_TOKENS, " token token token"),
        ({"stop": ["ken token"]}, StopReason.STOP_REASON_STOP_SEQUENCE, " to"),
    ],
)
async def test_limits_and_stop_sequences_end_the_text(
    worker: InProcessWorker, fields: dict[str, object], reason: StopReason.ValueType, text: str
) -> None:
    messages = await generate(worker, script("tokens 10", **fields))
    assert text_of(messages) == text
    assert messages[-1].finished.stop_reason == reason
    await until(lambda: worker.engine.running == 0)


async def test_a_request_that_sets_no_limit_has_the_workers_own(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, default_max_output_tokens=5) as worker:
        for fields, count in (({}, 5), ({"max_output_tokens": 7}, 7)):
            messages = await generate(worker, script("tokens 10", **fields))
            assert messages[-1].finished.stop_reason == StopReason.STOP_REASON_MAX_OUTPUT_TOKENS
            assert messages[-1].finished.usage.output_tokens == count


async def test_the_context_window_ends_what_no_other_limit_ends(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, context_window=100) as worker:
        messages = await generate(worker, script("tokens 1000"))
        usage = messages[-1].finished.usage
        assert messages[-1].finished.stop_reason == StopReason.STOP_REASON_CONTEXT_WINDOW
        assert usage.input_tokens + usage.output_tokens == 100


async def test_log_probabilities_come_when_asked_for(worker: InProcessWorker) -> None:
    messages = await generate(worker, script("say Hello world", top_logprobs=2))
    logprobs = [logprob for message in messages for logprob in message.delta.logprobs]
    assert [logprob.token for logprob in logprobs] == ["Hello", " world"]
    assert all(len(logprob.top_logprobs) == 2 for logprob in logprobs)


async def test_a_generation_goes_on_after_resumed_tokens(worker: InProcessWorker) -> None:
    known = worker.engine.tokenizer.encode("Hello world")
    request = script("say Hello world!!", resume_token_ids=known, max_output_tokens=len(known) + 1)
    messages = await generate(worker, request)
    assert text_of(messages) == "!"
    assert not any(message.HasField("part_started") for message in messages)
    assert messages[-1].finished.usage.output_tokens == len(known) + 1
    assert messages[-1].finished.stop_reason == StopReason.STOP_REASON_MAX_OUTPUT_TOKENS
    assert messages[-1].finished.usage.input_tokens == messages[0].accepted.input_tokens


async def test_count_tokens_counts_what_generate_accepts(worker: InProcessWorker) -> None:
    request = script("say Hello")
    counted = await worker.stub.CountTokens(pb.CountTokensRequest(request=request), timeout=5)
    assert counted.input_tokens == (await generate(worker, request))[0].accepted.input_tokens


async def test_get_model_says_what_is_served_and_how_busy_it_is(worker: InProcessWorker) -> None:
    call = worker.stub.Generate(script("hold"), timeout=10)
    await until(lambda: worker.engine.running == 1)
    response = await worker.stub.GetModel(pb.GetModelRequest(), timeout=5)
    assert response.load == pb.Load(running=1, waiting=0, capacity=64)
    assert (response.model.id, response.model.engine) == (MODEL, "scripted")
    assert response.model.context_window == 32768
    assert response.model.capabilities.max_top_logprobs == 20
    assert len(response.model.fingerprint) == 64
    call.cancel()


async def test_workers_of_one_model_have_one_fingerprint(worker: InProcessWorker, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with in_process_worker(tmp_path / "other") as other:
        assert worker.server.generations.model.fingerprint == other.server.generations.model.fingerprint


async def test_cancelling_the_call_aborts_at_the_engine(worker: InProcessWorker) -> None:
    call = worker.stub.Generate(script("say one", "hold"), timeout=30)
    async for message in call:
        if message.HasField("delta"):
            break
    assert worker.engine.running == 1
    call.cancel()
    await until(lambda: worker.engine.running == 0, what="engine free")
    await until(lambda: worker.server.admission.load == pb.Load(capacity=64), what="place free")


async def test_a_deadline_that_passes_aborts_at_the_engine(worker: InProcessWorker) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in worker.stub.Generate(script("hold"), timeout=0.3):
            pass
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: worker.engine.running == 0)


async def test_what_waits_for_its_turn_is_accepted_first_and_starts_when_a_place_is_free(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, parallel=1) as worker:
        first = worker.stub.Generate(script("hold"), timeout=10)
        await until(lambda: worker.engine.running == 1)
        second = aiter(worker.stub.Generate(script("say two"), timeout=10))
        assert (await anext(second)).HasField("accepted")
        await until(lambda: worker.server.admission.load.waiting == 1)
        first.cancel()
        assert text_of([message async for message in second]) == "two"


async def test_owners_take_turns_in_the_queue(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, parallel=1) as worker, asyncio.TaskGroup() as tasks:
        order: list[str] = []

        async def run(owner: str, accepted: asyncio.Event) -> None:
            async for message in worker.stub.Generate(script("say x", owner=owner), timeout=30):
                if message.HasField("accepted"):
                    accepted.set()
                if message.HasField("started"):
                    order.append(owner)

        first = worker.stub.Generate(script("hold"), timeout=30)
        await until(lambda: worker.server.admission.running == 1)
        for owner in "aaaaab":
            accepted = asyncio.Event()
            tasks.create_task(run(owner, accepted))
            await accepted.wait()
            await worker.stub.GetModel(pb.GetModelRequest(), timeout=30)  # by then it has lined up
        first.cancel()
    assert "".join(order) == "abaaaa"


async def test_beyond_capacity_and_queue_a_call_is_refused_and_told_when_to_come_again(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, parallel=1, max_waiting=1) as worker:
        calls = [worker.stub.Generate(script("hold"), timeout=10) for _ in range(2)]
        await until(lambda: worker.server.admission.load == pb.Load(running=1, waiting=1, capacity=1))
        error = await refused(worker, script("say x"))
        assert error.reason == ErrorReason.ERROR_REASON_OVERLOADED
        assert error.retry_after_ms is not None
        for call in calls:
            call.cancel()


FUNCTION = tool_pb2.Tool(function=tool_pb2.FunctionTool(name="f"))
JSON_FORMAT = response_pb2.TextConfig(format=response_pb2.TextFormat(json_object=response_pb2.TextFormatJsonObject()))
UNSUPPORTED = ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER


@pytest.mark.parametrize(
    ("fields", "reason", "param"),
    [
        ({"model": "other"}, ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, "model"),
        ({"owner": "x" * 2049}, ErrorReason.ERROR_REASON_STRING_ABOVE_MAX_LENGTH, "owner"),
        ({"request_id": "x" * 129}, ErrorReason.ERROR_REASON_STRING_ABOVE_MAX_LENGTH, "request_id"),
        ({"max_output_tokens": 0}, ErrorReason.ERROR_REASON_INTEGER_BELOW_MIN_VALUE, "max_output_tokens"),
        ({"max_tool_calls": 0}, ErrorReason.ERROR_REASON_INTEGER_BELOW_MIN_VALUE, "max_tool_calls"),
        ({"stop": ["x"] * 17}, ErrorReason.ERROR_REASON_ARRAY_ABOVE_MAX_LENGTH, "stop"),
        ({"stop": ["x", ""]}, ErrorReason.ERROR_REASON_STRING_BELOW_MIN_LENGTH, "stop[1]"),
        ({"stop": ["x" * 257]}, ErrorReason.ERROR_REASON_STRING_ABOVE_MAX_LENGTH, "stop[0]"),
        ({"top_logprobs": 21}, ErrorReason.ERROR_REASON_INTEGER_ABOVE_MAX_VALUE, "top_logprobs"),
        ({"resume_token_ids": [10**6]}, ErrorReason.ERROR_REASON_INVALID_VALUE, "resume_token_ids"),
        ({"sampling": {"temperature": 2.1}}, ErrorReason.ERROR_REASON_DECIMAL_ABOVE_MAX_VALUE, "temperature"),
        ({"sampling": {"temperature": float("nan")}}, ErrorReason.ERROR_REASON_DECIMAL_BELOW_MIN_VALUE, "temperature"),
        ({"sampling": {"top_p": -0.1}}, ErrorReason.ERROR_REASON_DECIMAL_BELOW_MIN_VALUE, "top_p"),
        (
            {"sampling": {"presence_penalty": -2.5}},
            ErrorReason.ERROR_REASON_DECIMAL_BELOW_MIN_VALUE,
            "presence_penalty",
        ),
        (
            {"sampling": {"frequency_penalty": 2.5}},
            ErrorReason.ERROR_REASON_DECIMAL_ABOVE_MAX_VALUE,
            "frequency_penalty",
        ),
        ({"tools": [FUNCTION], "tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED"}}, UNSUPPORTED, "tool_choice"),
        ({"tools": [FUNCTION], "parallel_tool_calls": False}, UNSUPPORTED, "parallel_tool_calls"),
        ({"tools": [FUNCTION], "max_tool_calls": 1}, UNSUPPORTED, "max_tool_calls"),
        ({"tool_choice": {"function": {"name": "f"}}}, UNSUPPORTED, "tool_choice"),
        ({"text": JSON_FORMAT}, UNSUPPORTED, "text.format"),
        ({"text": {"verbosity": "VERBOSITY_LOW"}}, UNSUPPORTED, "text.verbosity"),
    ],
)
async def test_what_the_model_cannot_do_is_refused_before_it_is_accepted(
    worker: InProcessWorker, fields: dict[str, object], reason: ErrorReason.ValueType, param: str
) -> None:
    error = await refused(worker, script("say x", **fields))
    assert (error.reason, error.param) == (reason, param)
    assert worker.engine.running == 0


async def test_a_prompt_longer_than_the_context_window_is_refused(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, context_window=50) as worker:
        error = await refused(worker, pb.GenerateRequest(items=[user_message("token " * 100)]))
        assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, "input")


async def test_an_item_that_is_no_conversation_is_refused(worker: InProcessWorker) -> None:
    image = content_pb2.ContentPart(input_image=content_pb2.InputImage(image_url="data:image/png;base64,"))
    message = item_pb2.Message(role=item_pb2.Role.ROLE_USER, content=[image])
    error = await refused(worker, pb.GenerateRequest(items=[item_pb2.Item(message=message)]))
    assert error.param is not None
    assert error.param.startswith("input[0]")


REASONS = [reason for reason in ErrorReason.values() if reason != ErrorReason.ERROR_REASON_UNSPECIFIED]


@pytest.mark.parametrize("reason", REASONS, ids=ErrorReason.Name)
async def test_every_reason_passes_through_grpc_unchanged(reason: ErrorReason.ValueType, tmp_path: Path) -> None:
    error = ApiError(reason, "Why it is so: ünïcode.", "input[0].content[1].type", retry_after_ms=1500)

    async def fail(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        async with answer_errors(context):
            raise error

    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Fail": grpc.unary_unary_rpc_method_handler(fail)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Errors", handlers),))
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/socket") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/test.Errors/Fail", bytes, bytes)(b"", timeout=5)
    await server.stop(None)
    received = from_trailing_metadata(list(failed.value.trailing_metadata()))
    assert received is not None
    assert received.args == error.args
    assert failed.value.code() == grpc_code(reason)


class FaultyEngine(ScriptedEngine):
    """Breaks its contract."""

    async def generate(
        self, request_id: str, prompt: EnginePrompt, params: SamplingParams
    ) -> AsyncGenerator[Step, None]:
        async for step in super().generate(request_id, prompt, params):
            if step.token_ids:
                raise RuntimeError("secret path")
            yield step


async def test_a_fault_of_ours_is_internal_shows_nothing_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_process_worker(tmp_path, engine_class=FaultyEngine) as worker:
        error = await refused(worker, script("say x"))
    assert error.reason == ErrorReason.ERROR_REASON_INTERNAL
    assert "secret" not in error.message
    faults = [record for record in caplog.records if record.exc_info and record.name.startswith("inference")]
    assert len(faults) == 1
    assert "secret path" in str(faults[0].exc_info)


async def test_a_generation_that_the_engine_fails_leaves_the_others_alone(worker: InProcessWorker) -> None:
    other = worker.stub.Generate(script("say one", "wait 200", "say two"), timeout=10)
    await until(lambda: worker.engine.running == 1)
    error = await refused(worker, script("say x", "fail secret"))
    assert error.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED
    assert "secret" not in error.message
    assert text_of([message async for message in other]) == "onetwo"
    assert not worker.engine.died.is_set()


async def test_a_dead_engine_fails_every_generation_and_is_noticed(worker: InProcessWorker) -> None:
    async with asyncio.TaskGroup() as tasks:
        holding = [tasks.create_task(refused(worker, script("say x", "hold"))) for _ in range(3)]
        await until(lambda: worker.engine.running == 3)
        errors = [await refused(worker, script("die")), *[await task for task in holding]]
    assert {error.reason for error in errors} == {ErrorReason.ERROR_REASON_ENGINE_FAILED}
    assert worker.engine.died.is_set()


async def test_one_line_is_logged_for_each_generation_without_prompt_or_output(
    worker: InProcessWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inference")
    await generate(worker, script("say Hello world", request_id="resp_1"))
    [record] = [record for record in caplog.records if record.__dict__.get("request_id") == "resp_1"]
    assert record.__dict__["outcome"] == "finished"
    assert record.__dict__["output_tokens"] == 2
    assert "Hello" not in str(record.__dict__)


async def test_health_serves_the_worker_and_the_service_until_it_drains(worker: InProcessWorker) -> None:
    assert await worker.health() == SERVING
    assert await worker.health(SERVICE) == SERVING
    running = worker.stub.Generate(script("say one", "wait 300", "say two"), timeout=10)
    await until(lambda: worker.engine.running == 1)
    drained = asyncio.ensure_future(worker.server.drain(10))
    await until(lambda: worker.server.admission.is_draining)
    assert await worker.health() == NOT_SERVING
    assert await worker.health(SERVICE) == NOT_SERVING
    assert (await refused(worker, script("say x"))).reason == ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE
    assert text_of([message async for message in running]) == "onetwo"
    assert await drained


async def test_a_drain_gives_up_on_what_does_not_end(worker: InProcessWorker) -> None:
    call = worker.stub.Generate(script("hold"), timeout=10)
    await until(lambda: worker.engine.running == 1)
    assert not await worker.server.drain(0.05)
    await worker.server.stop()
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    await until(lambda: worker.engine.running == 0)


async def test_reflection_names_the_services(worker: InProcessWorker) -> None:
    call = worker.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(timeout=5)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    response = await call.read()
    assert isinstance(response, reflection_pb2.ServerReflectionResponse)
    names = {service.name for service in response.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    call.cancel()
