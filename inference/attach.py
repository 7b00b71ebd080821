"""The worker's side of one ``Attach`` stream: many generations, one frame per tick, one writer."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

import grpc
from google.protobuf.message import DecodeError

from antiphon.errors import ApiError, to_message
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.generation import GenerationEvent, Generations
from inference.outbox import Outbox
from inference.output import Delta

log = logging.getLogger(__name__)

_Message = TypeVar("_Message", pb.AttachResponse, pb.GenerateResponse)

Context = grpc.aio.ServicerContext[pb.AttachRequest, pb.AttachResponse]

MAX_START_BYTES = 64 * 1024
"""Larger requests come in chunks, so that a cancel is never stuck behind one."""
MAX_FRAME_BYTES = 1024 * 1024
"""More than this waits for the next frame: gRPC's receivers refuse 4 MiB by default."""
MAX_OUTBOX_BYTES = 64 * 1024 * 1024
"""A peer that lets more than this pile up is cut off."""
MAX_UPLOADS = 1024
"""Requests in chunks that may be on their way at once."""
_STALL_TICKS = 10


@dataclass(frozen=True, slots=True)
class AttachLimits:
    """Bounds of one stream; ``InferenceSettings`` says what they mean."""

    heartbeat_ms: int
    stall_timeout_s: float
    max_request_bytes: int


class AttachStream:
    """The life of one call, from Hello to end. Owns every generation that was started on it.

    Args:
        name: This worker, for the peer's logs.
    """

    def __init__(self, generations: Generations, *, name: str, limits: AttachLimits, context: Context) -> None:
        self._generations = generations
        self._name = name
        self._limits = limits
        self._context = context
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._uploads: dict[int, bytearray | None] = {}
        """Requests that come in chunks, None: refused, the rest of it is ignored."""
        self._uploaded_bytes = 0
        self._outbox = Outbox()
        self._has_output = asyncio.Event()
        self._ended: asyncio.Future[ApiError | None] = asyncio.get_running_loop().create_future()
        self._is_closing = False

    async def serve(self, frames: AsyncIterator[pb.AttachRequest]) -> None:
        """Serve until the peer ends the stream or ``close`` is called; then abort whatever still runs on it.

        Raises:
            ApiError: the peer broke the contract, or stopped reading.
        """
        # Not with the first message: a write that is cancelled would leave gRPC unable to send the status.
        await self._context.send_initial_metadata(())
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(frames, tasks))
            writer = tasks.create_task(self._write())
            error = await self._ended
            for task in (reader, writer, *self._slots.values()):
                task.cancel()
        if error is not None:
            raise error

    def close(self) -> None:
        """End the stream as soon as what waits to be written has been written."""
        self._is_closing = True
        self._has_output.set()

    def _end(self, error: ApiError | None = None) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    async def _read(self, frames: AsyncIterator[pb.AttachRequest], tasks: asyncio.TaskGroup) -> None:
        is_greeted = False
        try:
            async for message in frames:
                frame = message.WhichOneof("frame")
                if is_greeted != (frame != "hello"):
                    raise _violation("Hello must be the first message, and only the first.", "hello")
                match frame:
                    case "hello":
                        is_greeted = True
                        log.info("attached", extra={"peer": message.hello.name})
                    case "start":
                        self._start(message.start.slot, message.start.request, tasks)
                    case "start_chunk":
                        self._add_chunk(message.start_chunk, tasks)
                    case "cancel":
                        self._cancel(message.cancel.slot)
                    case None:
                        raise _violation("A message without a frame.", "frame")
                    case _:
                        assert_never(frame)
        except ApiError as error:
            self._end(error)
        except grpc.aio.BaseError:  # the peer is gone
            self._end()
        else:
            self._end()

    def _start(self, slot: int, request: pb.GenerateRequest, tasks: asyncio.TaskGroup) -> None:
        self._check_unused(slot)
        task = tasks.create_task(self._generate(slot, request))
        self._slots[slot] = task
        task.add_done_callback(lambda _: self._slots.pop(slot))

    def _add_chunk(self, chunk: pb.StartChunk, tasks: asyncio.TaskGroup) -> None:
        slot = chunk.slot
        if slot not in self._uploads:
            self._check_unused(slot)
            if len(self._uploads) >= MAX_UPLOADS:
                raise _violation(f"More than {MAX_UPLOADS} requests in chunks at once.", "start_chunk")
            self._uploads[slot] = bytearray()
        data = self._uploads[slot]
        if data is not None:
            data += chunk.data
            self._uploaded_bytes += len(chunk.data)
            if len(data) > self._limits.max_request_bytes:
                self._refuse_upload(slot, data, _too_large(self._limits.max_request_bytes))
            elif self._uploaded_bytes > 4 * self._limits.max_request_bytes:
                self._refuse_upload(slot, data, _too_many_bytes())
        if chunk.is_last and (data := self._forget_upload(slot)) is not None:
            try:
                request = pb.GenerateRequest.FromString(bytes(data))
            except DecodeError:
                raise _violation("The chunks are not a GenerateRequest.", "start_chunk") from None
            self._start(slot, request, tasks)

    def _refuse_upload(self, slot: int, data: bytearray, error: ApiError) -> None:
        self._uploaded_bytes -= len(data)
        self._uploads[slot] = None
        self._add_event(pb.SlotEvent(slot=slot, failed=to_message(error)))

    def _forget_upload(self, slot: int) -> bytearray | None:
        data = self._uploads.pop(slot, None)
        self._uploaded_bytes -= len(data or b"")
        return data

    def _cancel(self, slot: int) -> None:
        self._forget_upload(slot)
        if (task := self._slots.get(slot)) is not None:
            task.cancel()
        self._outbox.discard(slot)

    def _check_unused(self, slot: int) -> None:
        if slot in self._slots or slot in self._uploads:
            raise _violation(f"Slot {slot} is in use.", "slot")

    async def _generate(self, slot: int, request: pb.GenerateRequest) -> None:
        try:
            async with aclosing(self._generations.run(request)) as events:
                async for event in events:
                    if isinstance(event, Delta) and not event.logprobs:
                        self._outbox.add_delta(slot, event.text, event.token_ids)
                        self._has_output.set()
                    else:
                        self._add_event(_to_slot_event(slot, event))
                    if self._outbox.size > MAX_OUTBOX_BYTES:
                        self._end(_stalled())
        except ApiError as error:
            self._add_event(pb.SlotEvent(slot=slot, failed=to_message(error)))

    def _add_event(self, event: pb.SlotEvent) -> None:
        self._outbox.add_event(event)
        self._has_output.set()

    async def _write(self) -> None:
        hello = pb.Hello(name=self._name, heartbeat_ms=self._limits.heartbeat_ms, max_start_bytes=MAX_START_BYTES)
        try:
            await self._send(pb.AttachResponse(hello=hello))
            while not self._is_closing or self._outbox:
                await self._wait_for_output()
                await self._send(self._outbox.take(MAX_FRAME_BYTES))
                if not self._outbox:
                    self._has_output.clear()
        except ApiError as error:
            self._end(error)
        except grpc.aio.BaseError:  # the peer is gone
            self._end()
        else:
            self._end()

    async def _wait_for_output(self) -> None:
        """Return when there is something to write, or when it is time for a heartbeat."""
        try:
            # half of what was promised: a loop that is late still keeps it
            async with asyncio.timeout(self._limits.heartbeat_ms / 2000):
                await self._has_output.wait()
        except TimeoutError:
            pass

    async def _send(self, frame: pb.AttachResponse) -> None:
        frame.load.CopyFrom(self._generations.admission.load)
        await write(self._context, frame, stall_timeout_s=self._limits.stall_timeout_s)


async def write(context: grpc.aio.ServicerContext[Any, _Message], message: _Message, *, stall_timeout_s: float) -> None:
    """Write ``message`` to a peer that has to take it in time.

    Counts ticks, not time: when this process itself was stopped for a while, the peer is not to blame.

    Raises:
        ApiError: DEADLINE_EXCEEDED: it did not; the call cannot go on.
    """
    writing = asyncio.ensure_future(context.write(message))
    try:
        for _ in range(_STALL_TICKS):
            await asyncio.wait({writing}, timeout=stall_timeout_s / _STALL_TICKS)
            if writing.done():
                return writing.result()
        raise _stalled()
    finally:
        writing.cancel()


def _to_slot_event(slot: int, event: GenerationEvent) -> pb.SlotEvent:
    match event:
        case pb.Accepted():
            return pb.SlotEvent(slot=slot, accepted=event)
        case pb.Started():
            return pb.SlotEvent(slot=slot, started=event)
        case pb.PartStarted():
            return pb.SlotEvent(slot=slot, part_started=event)
        case Delta(text, token_ids, logprobs):
            return pb.SlotEvent(slot=slot, delta=pb.Delta(text=text, token_ids=token_ids, logprobs=logprobs))
        case pb.PartEnded():
            return pb.SlotEvent(slot=slot, part_ended=event)
        case pb.Finished():
            return pb.SlotEvent(slot=slot, finished=event)
        case _:
            assert_never(event)


def _violation(message: str, param: str) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, param)


def _stalled() -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "The stream's output was not read in time.")


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, f"The request is larger than {max_bytes} bytes.")


def _too_many_bytes() -> ApiError:
    return ApiError(
        ErrorReason.ERROR_REASON_OVERLOADED, "Too many large requests at once. Try again later.", retry_after_ms=1000
    )
