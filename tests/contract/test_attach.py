"""The multiplexed stream over real gRPC, with the scripted engine behind it."""

import asyncio
import random
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest

from antiphon.errors import from_message, from_trailing_metadata
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2 import PartKind, StopReason
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.attach import MAX_START_BYTES
from tests.support.attach import AttachClient, attach
from tests.support.worker import InProcessWorker, in_process_worker, script, until, user_message


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncGenerator[InProcessWorker, None]:
    async with in_process_worker(tmp_path, max_request_bytes=1024 * 1024, heartbeat_ms=100) as worker:
        yield worker


@pytest.fixture
async def client(worker: InProcessWorker) -> AsyncGenerator[AttachClient, None]:
    async with attach(worker.stub) as client:
        yield client


async def end_of(client: AttachClient) -> grpc.aio.AioRpcError:
    """The error that the stream ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await client.read_to_end()
    return failed.value


async def test_both_sides_say_hello_first(client: AttachClient) -> None:
    [frame] = client.frames
    assert frame.hello.heartbeat_ms == 100
    assert frame.hello.max_start_bytes == MAX_START_BYTES
    assert frame.hello.name
    assert frame.load == pb.Load(capacity=64)


async def test_one_generation_reads_as_generate_would_tell_it(client: AttachClient, worker: InProcessWorker) -> None:
    await client.start(7, script("say Hello world"))
    await client.read_ended(7)
    slot = client.slots[7]
    assert slot.kinds == ["accepted", "started", "part_started", "part_ended", "finished"]
    assert slot.events[2].part_started.kind == PartKind.PART_KIND_TEXT
    assert slot.text == "Hello world"
    assert worker.engine.tokenizer.decode(slot.token_ids) == b"Hello world"
    assert slot.events[-1].finished.usage.output_tokens == 2
    assert slot.events[-1].finished.stop_reason == StopReason.STOP_REASON_END_OF_TURN


async def test_log_probabilities_travel_as_events(client: AttachClient) -> None:
    await client.start(1, script("say Hello world", top_logprobs=1))
    await client.read_ended(1)
    deltas = [event.delta for event in client.slots[1].events if event.HasField("delta")]
    assert [(delta.text, len(delta.token_ids), len(delta.logprobs)) for delta in deltas] == [
        ("Hello", 1, 1),
        (" world", 1, 1),
    ]


async def test_sixty_four_streams_at_once_are_unmixed_and_share_frames(client: AttachClient) -> None:
    texts = {slot: f"{slot} " + " ".join(random.Random(slot).sample("abcdefghijklmnop", 16)) for slot in range(1, 65)}
    for slot, text in texts.items():
        await client.start(slot, script("pace 200", f"say {text}"))
    await client.read_ended(*texts)
    assert {slot: client.slots[slot].text for slot in texts} == texts
    tokens = sum(len(client.slots[slot].token_ids) for slot in texts)
    assert len(client.frames) < tokens / 4


async def test_a_cancelled_slot_falls_silent_and_frees_its_place_while_others_go_on(
    client: AttachClient, worker: InProcessWorker
) -> None:
    await client.start(1, script("pace 500", "tokens 20000"))
    await client.start(2, script("pace 100", "tokens 50"))
    await client.read_until(lambda: client.slots[1].text and client.slots[2].text)
    await client.cancel(1)
    await until(lambda: worker.engine.running == 1, what="engine free of slot 1")
    await client.start(3, script("say mark"))
    await client.read_ended(3)
    heard = client.slots[1].text
    await client.read_ended(2)
    assert client.slots[1].text == heard
    assert not client.slots[1].has_ended
    assert client.slots[2].text == " token" * 50
    await until(lambda: worker.server.admission.load == pb.Load(capacity=64))


async def test_cancels_of_unknown_and_ended_slots_are_ignored(client: AttachClient) -> None:
    await client.cancel(99)
    await client.start(1, script("say one"))
    await client.read_ended(1)
    await client.cancel(1)
    await client.start(2, script("say two"))
    await client.read_ended(2)
    assert client.slots[2].text == "two"


async def test_large_requests_come_in_chunks_that_alternate(client: AttachClient) -> None:
    large = {slot: script(f"say {slot}", instructions="word " * 6000) for slot in (1, 2)}
    pieces = {slot: request.SerializeToString() for slot, request in large.items()}
    size = 4000
    for position in range(0, len(pieces[1]), size):
        for slot, data in pieces.items():
            chunk = pb.StartChunk(
                slot=slot, data=data[position : position + size], is_last=position + size >= len(data)
            )
            await client.send(start_chunk=chunk)
    await client.read_ended(1, 2)
    assert [client.slots[slot].text for slot in (1, 2)] == ["1", "2"]
    assert client.slots[1].events[0].accepted.input_tokens > 6000


async def test_a_request_that_is_too_large_is_refused_and_the_stream_goes_on(client: AttachClient) -> None:
    await client.start_in_chunks(1, pb.GenerateRequest(items=[user_message("x" * 1_500_000)]), size=MAX_START_BYTES)
    await client.start(2, script("say two"))
    await client.read_ended(1, 2)
    assert client.slots[1].kinds == ["failed"]
    assert from_message(client.slots[1].events[0].failed).reason == ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE
    assert client.slots[2].text == "two"


async def test_an_upload_that_is_cancelled_is_forgotten(client: AttachClient) -> None:
    await client.send(start_chunk=pb.StartChunk(slot=1, data=b"half"))
    await client.cancel(1)
    await client.start(2, script("say two"))
    await client.read_ended(2)
    assert client.slots[1].events == []


async def test_a_refused_request_fails_its_slot_alone(client: AttachClient) -> None:
    await client.start(1, script("say x", model="other"))
    await client.start(2, script("say two"))
    await client.read_ended(1, 2)
    error = from_message(client.slots[1].events[0].failed)
    assert client.slots[1].kinds == ["failed"]
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, "model")
    assert client.slots[2].text == "two"


async def test_a_generation_that_the_engine_fails_fails_its_slot_alone(client: AttachClient) -> None:
    await client.start(1, script("say x", "fail"))
    await client.start(2, script("say one", "wait 100", "say two"))
    await client.read_ended(1, 2)
    assert client.slots[1].kinds == ["accepted", "started", "part_started", "failed"]
    assert client.slots[1].events[-1].failed.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED
    assert client.slots[2].text == "onetwo"


async def test_a_dead_engine_fails_every_slot(client: AttachClient) -> None:
    for slot in (1, 2, 3):
        await client.start(slot, script("say x", "hold"))
    await client.read_until(lambda: all(client.slots[slot].text == "x" for slot in (1, 2, 3)))
    await client.start(4, script("die"))
    await client.read_ended(1, 2, 3, 4)
    reasons = {client.slots[slot].events[-1].failed.reason for slot in (1, 2, 3, 4)}
    assert reasons == {ErrorReason.ERROR_REASON_ENGINE_FAILED}


async def test_beyond_its_bounds_the_worker_refuses_and_says_when_to_come_again(tmp_path: Path) -> None:
    async with in_process_worker(tmp_path, parallel=1, max_waiting=2) as worker, attach(worker.stub) as client:
        for slot in range(1, 6):
            await client.start(slot, script("hold"))
        await client.read_ended(4, 5)
        for slot in (4, 5):
            assert client.slots[slot].kinds == ["failed"]
            error = from_message(client.slots[slot].events[0].failed)
            assert error.reason == ErrorReason.ERROR_REASON_OVERLOADED
            assert error.retry_after_ms is not None
        await client.read_until(lambda: client.frames[-1].load == pb.Load(running=1, waiting=2, capacity=1))


async def test_a_silent_stream_carries_a_heartbeat_with_the_load(client: AttachClient) -> None:
    loop = asyncio.get_running_loop()
    await client.start(1, script("hold"))
    await client.read_until(lambda: client.frames[-1].load.running == 1)
    seen, start = len(client.frames), loop.time()
    await client.read_until(lambda: len(client.frames) >= seen + 10)
    assert loop.time() - start < 10 * 0.1 + 1
    assert all(frame.load == pb.Load(running=1, capacity=64) for frame in client.frames[seen:])
    assert not any(frame.slots or frame.events for frame in client.frames[seen:])


@pytest.mark.parametrize("how", ["cancelled", "half-closed"])
async def test_the_end_of_the_stream_aborts_every_generation_on_it(worker: InProcessWorker, how: str) -> None:
    async with attach(worker.stub) as other, attach(worker.stub) as client:
        await other.start(1, script("hold"))
        for slot in range(1, 9):
            await client.start(slot, script("hold"))
        await until(lambda: worker.engine.running == 9)
        if how == "cancelled":
            client.call.cancel()
        else:
            await client.call.done_writing()
            await client.read_to_end()
            assert await client.call.code() == grpc.StatusCode.OK
        await until(lambda: worker.engine.running == 1, what="engine free of the ended stream")


@pytest.mark.parametrize(
    ("frames", "param"),
    [
        ([{"start": pb.Start(slot=1)}], "hello"),
        ([{"hello": pb.Hello()}, {"hello": pb.Hello()}], "hello"),
        ([{"hello": pb.Hello()}, {}], "frame"),
        ([{"hello": pb.Hello()}, *[{"start": pb.Start(slot=1, request=script("hold"))}] * 2], "slot"),
        (
            [
                {"hello": pb.Hello()},
                {"start": pb.Start(slot=1, request=script("hold"))},
                {"start_chunk": pb.StartChunk(slot=1)},
            ],
            "slot",
        ),
        ([{"hello": pb.Hello()}, {"start_chunk": pb.StartChunk(slot=1, data=b"\xff", is_last=True)}], "start_chunk"),
    ],
    ids=["no hello", "two hellos", "no frame", "slot used twice", "chunk of a used slot", "chunks of nonsense"],
)
async def test_a_peer_that_breaks_the_contract_loses_its_stream(
    worker: InProcessWorker, frames: list[dict[str, object]], param: str
) -> None:
    async with attach(worker.stub, hello=False) as client:
        for frame in frames:
            await client.send(**frame)
        failed = await end_of(client)
        error = from_trailing_metadata(list(failed.trailing_metadata()))
        assert failed.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error is not None
        assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_INVALID_VALUE, param)
        await until(lambda: worker.engine.running == 0)


async def test_a_peer_that_stops_reading_is_cut_off_and_its_generations_end(tmp_path: Path) -> None:
    async with (
        in_process_worker(tmp_path, stall_timeout_s=0.5) as worker,
        attach(worker.stub) as healthy,
        attach(worker.stub) as stalled,
    ):
        for slot in range(1, 33):
            await stalled.start(slot, script("tokens 30000", "hold"))
        await healthy.start(1, script("pace 20", "tokens 20"))
        await until(lambda: worker.engine.running == 33)
        await healthy.read_ended(1)
        assert healthy.slots[1].text == " token" * 20
        await until(lambda: worker.engine.running == 0, what="generations of the stalled stream ended")
        assert (await end_of(stalled)).code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_draining_worker_says_so_refuses_the_new_and_ends_the_stream_after_the_old(
    client: AttachClient, worker: InProcessWorker
) -> None:
    await client.start(1, script("say one", "wait 300", "say two"))
    await client.read_until(lambda: client.slots[1].text)
    draining = asyncio.ensure_future(worker.server.drain(10))
    await client.read_until(lambda: client.frames[-1].load.draining)
    await client.start(2, script("say x"))
    await client.read_ended(1, 2)
    assert client.slots[1].text == "onetwo"
    assert client.slots[2].events[0].failed.reason == ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE
    assert await draining
    stopping = asyncio.ensure_future(worker.server.stop())
    await client.read_to_end()
    assert await client.call.code() == grpc.StatusCode.OK
    await stopping
