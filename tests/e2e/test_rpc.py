"""The gRPC door of a running stack, and the examples for its callers."""

import json
import sys
from collections.abc import AsyncGenerator

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from antiphon.errors import ApiError, from_trailing_metadata
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from edge.codec import event_json, response_json
from tests.support.http import Client
from tests.support.openapi import assert_valid_event
from tests.support.programs import SCRIPTS, run
from tests.support.stack import RunningStack
from tests.support.stream_rules import assert_legal_stream

MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture
async def channel(scripted_stack: RunningStack) -> AsyncGenerator[grpc.aio.Channel, None]:
    async with grpc.aio.insecure_channel(scripted_stack.grpc_target) as channel:
        yield channel


def params(text: str, **fields: object) -> response_pb2.ResponseParams:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=text))
    message = item_pb2.Message(role=item_pb2.ROLE_USER, content=[part])
    built = response_pb2.ResponseParams(model=MODEL, input=[item_pb2.Item(message=message)])
    for name, value in fields.items():
        setattr(built, name, value)
    return built


async def error_of(call: "grpc.aio.Call") -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # a unary call can be awaited
    error = from_trailing_metadata(caught.value.trailing_metadata())
    assert error is not None, caught.value
    return error


async def test_both_doors_give_the_same_response(channel: grpc.aio.Channel, client: Client) -> None:
    stub = ResponsesServiceStub(channel)
    created = await stub.CreateResponse(pb.CreateResponseRequest(params=params("script:\nsay Hello.")), timeout=20)
    over_http = (await client.call("GET", f"/v1/responses/{created.response.id}")).body
    assert over_http == json.loads(response_json(created.response))
    fetched = await stub.GetResponse(pb.GetResponseRequest(response_id=created.response.id), timeout=10)
    assert fetched.response == created.response


async def test_streamed_events_are_the_same_as_over_http(channel: grpc.aio.Channel) -> None:
    stub = ResponsesServiceStub(channel)
    request = pb.StreamResponseRequest(params=params("script:\nsay Hello world."))
    events = [json.loads(event_json(answer.event)) async for answer in stub.StreamResponse(request, timeout=20)]
    for event in events:
        assert_valid_event(event)
    final = assert_legal_stream(events)
    assert final["output"][0]["content"][0]["text"] == "Hello world."


async def test_a_cancelled_stream_frees_the_engine(channel: grpc.aio.Channel, client: Client) -> None:
    stub = ResponsesServiceStub(channel)
    call = stub.StreamResponse(pb.StreamResponseRequest(params=params("script:\nsay a\nhold", store=False)))
    async for answer in call:
        if answer.event.HasField("output_text_delta"):
            break
    call.cancel()
    # the same stack still serves: that the engine stopped is proved by test_failures
    assert (await client.create(model=MODEL, input="script:\nsay b"))["status"] == "completed"


async def test_a_deadline_ends_a_response(channel: grpc.aio.Channel) -> None:
    stub = ResponsesServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateResponse(pb.CreateResponseRequest(params=params("script:\nhold")), timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_errors_carry_reason_and_param(channel: grpc.aio.Channel) -> None:
    stub = ResponsesServiceStub(channel)
    error = await error_of(stub.CreateResponse(pb.CreateResponseRequest(params=params("x", temperature=3.0))))
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_DECIMAL_ABOVE_MAX_VALUE, "temperature")
    error = await error_of(stub.CreateResponse(pb.CreateResponseRequest()))
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_MISSING_REQUIRED_PARAMETER, "model")
    error = await error_of(stub.CreateResponse(pb.CreateResponseRequest(params=params("x", model="nothing"))))
    assert error.reason == ErrorReason.ERROR_REASON_MODEL_NOT_FOUND
    error = await error_of(stub.GetResponse(pb.GetResponseRequest(response_id="resp_x")))
    assert error.reason == ErrorReason.ERROR_REASON_RESPONSE_NOT_FOUND
    error = await error_of(stub.DeleteResponse(pb.DeleteResponseRequest(response_id="resp_x")))
    assert error.reason == ErrorReason.ERROR_REASON_RESPONSE_NOT_FOUND


async def test_health_and_reflection(scripted_stack: RunningStack, channel: grpc.aio.Channel) -> None:
    for service in ("", "antiphon.responses.v1.ResponsesService"):
        check = await HealthStub(channel).Check(  # type: ignore[attr-defined]  # its stubs lack it
            health_pb2.HealthCheckRequest(service=service), timeout=10
        )
        assert check.status == health_pb2.HealthCheckResponse.SERVING
    for target, service in (
        (scripted_stack.grpc_target, "antiphon.responses.v1.ResponsesService"),
        (scripted_stack.worker_targets[0], "antiphon.inference.v1.InferenceService"),
    ):
        with grpc.insecure_channel(target) as sync_channel:
            assert service in ProtoReflectionDescriptorDatabase(sync_channel).get_services()


def test_the_examples_run(model_stack: RunningStack) -> None:
    printed = run(sys.executable, "examples/responses_client.py", model_stack.grpc_target)
    assert " events in 2 streams\nDEADLINE_EXCEEDED\nRESPONSE_NOT_FOUND: Response with id 'resp_" in printed
    assert " out\n" in run(sys.executable, "examples/inference_client.py", model_stack.worker_targets[0])


def test_a_caller_without_the_protos_uses_reflection(scripted_stack: RunningStack) -> None:
    def curl(target: str, method: str, request: object) -> str:
        flags = ["--protocol", "grpc", "--http2-prior-knowledge", "-d", json.dumps(request)]
        return run(SCRIPTS / "buf", "curl", *flags, f"http://{target}/{method}")

    content = [{"inputText": {"text": "script:\nsay Hello."}}]
    items = [{"message": {"role": "ROLE_USER", "content": content}}]
    asked = {"params": {"model": MODEL, "input": items}}
    streamed = curl(scripted_stack.grpc_target, "antiphon.responses.v1.ResponsesService/StreamResponse", asked)
    assert '"text": "Hello."' in streamed
    generated = curl(
        scripted_stack.worker_targets[0], "antiphon.inference.v1.InferenceService/Generate", {"items": items}
    )
    assert '"stopReason": "STOP_REASON_END_OF_TURN"' in generated


async def test_tokens_are_counted_as_a_response_uses_them(channel: grpc.aio.Channel) -> None:
    stub = ResponsesServiceStub(channel)
    asked = params("script:\nsay Hello.", instructions="Be kind.")
    counted = await stub.CountInputTokens(pb.CountInputTokensRequest(params=asked), timeout=10)
    created = await stub.CreateResponse(pb.CreateResponseRequest(params=asked), timeout=10)
    assert counted.input_tokens == created.response.usage.input_tokens > 0


async def test_a_conversation_is_compacted_and_goes_on_over_the_other_door(
    channel: grpc.aio.Channel, client: Client
) -> None:
    stub = ResponsesServiceStub(channel)
    answer = await stub.CompactResponse(pb.CompactResponseRequest(params=params("We launch on Tuesday.")), timeout=10)
    *messages, compaction = answer.compacted.output
    assert [message.message.content[0].input_text.text for message in messages] == ["We launch on Tuesday."]
    assert answer.compacted.usage.output_tokens > 0
    sent_back = {"type": "compaction", "encrypted_content": compaction.compaction.encrypted_content}
    response = await client.create(model=MODEL, input=[sent_back, {"role": "user", "content": "script:\necho"}])
    assert "Summary of the earlier conversation:" in response["output"][0]["content"][0]["text"]
    error = await error_of(stub.CompactResponse(pb.CompactResponseRequest(params=params("x", temperature=0.5))))
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER, "temperature")


async def test_what_is_not_done_is_in_the_trailing_metadata(channel: grpc.aio.Channel) -> None:
    stub = ResponsesServiceStub(channel)
    foreign = item_pb2.Item(compaction=item_pb2.Compaction(encrypted_content="from elsewhere"))
    asked = params("script:\nsay Hello.")
    asked.input.insert(0, foreign)
    call = stub.CreateResponse(pb.CreateResponseRequest(params=asked), timeout=10)
    await call
    metadata = dict(await call.trailing_metadata())
    assert metadata["x-antiphon-warning"] == "input[0]: compaction of another server left out"


async def test_an_item_reference_is_resolved(channel: grpc.aio.Channel) -> None:
    stub = ResponsesServiceStub(channel)
    first = await stub.CreateResponse(pb.CreateResponseRequest(params=params("script:\nsay first")), timeout=10)
    reference = item_pb2.Item(id=first.response.output[0].id, item_reference=item_pb2.ItemReference())
    asked = params("script:\necho")
    asked.input.insert(0, reference)
    answer = await stub.CreateResponse(pb.CreateResponseRequest(params=asked), timeout=10)
    assert "first" in answer.response.output[0].message.content[0].output_text.text
    reference.id = "msg_nothing"
    asked = params("x")
    asked.input.append(reference)
    error = await error_of(stub.CreateResponse(pb.CreateResponseRequest(params=asked)))
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_ITEM_NOT_FOUND, "input[1]")
