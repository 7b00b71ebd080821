"""One ``Attach`` stream to one worker: many generations, one frame per tick, one writer.

A message costs gRPC about 100 microseconds whatever it holds, so frames carry the deltas of all generations in columns
and reach their sinks by plain calls: no task, queue or future per token.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, islice
from typing import Protocol

import grpc

from antiphon.errors import ApiError, from_message
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.workers.outliers import Outlier

log = logging.getLogger(__name__)

AttachCall = grpc.aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse]


class Sink(Protocol):
    """Where a generation goes. Every call is made on the event loop, in order, and must not block.

    Exactly one of ``finished``, ``failed`` and ``lost`` is called, as the last but ``flush``; none after a cancel.
    """

    def accepted(self, input_tokens: int) -> None: ...

    def started(self) -> None: ...

    def part_started(self, kind: pb.PartKind.ValueType, name: str) -> None: ...

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[content_pb2.Logprob]) -> None: ...

    def part_ended(self) -> None: ...

    def finished(self, finished: pb.Finished) -> None: ...

    def failed(self, error: ApiError) -> None:
        """The worker refused the request (before ``accepted``), or the generation failed."""
        ...

    def lost(self) -> None:
        """The worker, or the way to it, is gone; what was delivered so far stays valid."""
        ...

    def flush(self) -> None:
        """Everything that came in one frame has been delivered."""
        ...


class WorkerSilent(Exception):
    """The worker sent no frame for too long."""


class WorkerStream:
    """The life of one Attach call. Made by ``WorkerConnection`` for each connection, never reused.

    Args:
        call: The opened call.
        name: This edge process, for the worker's logs.
        silence_s: A worker that sends nothing for this long counts as gone.
        opened: Called once, when the worker has said hello.
        outlier: Is told how accepted generations end.
    """

    def __init__(
        self, call: AttachCall, *, name: str, silence_s: float, opened: Callable[[], None], outlier: Outlier
    ) -> None:
        self.load = pb.Load()
        self._call = call
        self._outlier = outlier
        self._accepted: set[int] = set()
        self._silence_s = silence_s
        self._opened = opened
        self._sinks: dict[int, Sink] = {}
        self._next_slot = 1
        self._max_start_bytes = 64 * 1024
        self._outbox: deque[pb.AttachRequest] = deque([pb.AttachRequest(hello=pb.Hello(name=name))])
        self._uploads: deque[_Upload] = deque()
        self._has_output = asyncio.Event()
        self._has_output.set()
        self._ticks_of_silence = 0
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """The worker said hello, and the stream has not ended."""
        return self._is_open

    @property
    def in_flight(self) -> int:
        """Generations of this edge on this worker."""
        return len(self._sinks)

    def start(self, request: pb.GenerateRequest, sink: Sink) -> int:
        """Start a generation; return its slot, for ``cancel``."""
        assert self._is_open
        slot = self._next_slot
        self._next_slot += 1
        self._sinks[slot] = sink
        size = request.ByteSize()
        if size <= self._max_start_bytes:
            self._outbox.append(pb.AttachRequest(start=pb.Start(slot=slot, request=request)))
        else:
            self._uploads.append(_Upload(slot, request.SerializeToString()))
        self._has_output.set()
        return slot

    def cancel(self, slot: int) -> None:
        """Abort a generation: its sink hears nothing more. A slot that has ended is ignored."""
        self._accepted.discard(slot)
        if self._sinks.pop(slot, None) is not None and self._is_open:
            self._abort(slot)

    def _abort(self, slot: int) -> None:
        upload = next((upload for upload in self._uploads if upload.slot == slot), None)
        if upload is not None:
            self._uploads.remove(upload)
        if upload is None or upload.sent:
            self._outbox.append(pb.AttachRequest(cancel=pb.Cancel(slot=slot)))
            self._has_output.set()

    async def run(self) -> None:
        """Serve the stream until it ends; then every generation left on it is lost.

        Raises:
            grpc.aio.AioRpcError: the call failed.
            WorkerSilent: the worker sent nothing for ``silence_s``.
        """
        tasks = [asyncio.ensure_future(part) for part in (self._read(), self._write(), self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._is_open = False
            self._call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            sinks = list(self._sinks.values())
            self._sinks.clear()
            for sink in sinks:
                sink.lost()
                sink.flush()

    async def _read(self) -> None:
        while isinstance(frame := await self._call.read(), pb.AttachResponse):
            self._ticks_of_silence = 0
            if frame.HasField("hello"):
                self._max_start_bytes = frame.hello.max_start_bytes or self._max_start_bytes
                self._is_open = True
                self._opened()
            if frame.HasField("load"):
                self.load = frame.load
            if frame.slots or frame.events:
                self._dispatch(frame)

    async def _write(self) -> None:
        while True:
            await self._has_output.wait()
            if self._outbox:
                request = self._outbox.popleft()
            elif self._uploads:
                upload = self._uploads.popleft()
                chunk = upload.next_chunk(self._max_start_bytes)
                if not chunk.is_last:
                    self._uploads.append(upload)  # behind the others: nothing waits for a large request
                request = pb.AttachRequest(start_chunk=chunk)
            else:
                self._has_output.clear()
                continue
            try:
                await self._call.write(request)
            except asyncio.InvalidStateError:  # the call has ended just now; `_read` knows why
                await asyncio.Event().wait()

    async def _watch(self) -> None:
        # Counts ticks, not time: after this process itself was stopped, frames that wait are read before the next tick.
        ticks = 10
        while self._ticks_of_silence < ticks:
            await asyncio.sleep(self._silence_s / ticks)
            self._ticks_of_silence += 1
        raise WorkerSilent

    def _dispatch(self, frame: pb.AttachResponse) -> None:
        touched: dict[int, Sink] = {}
        ends = list(accumulate(frame.token_counts))
        rows = zip(list(frame.slots), list(frame.texts), [0, *ends], ends, strict=False)
        token_ids = list(frame.token_ids)
        row = 0
        for event in frame.events:
            self._deliver(islice(rows, event.row - row), token_ids, touched)
            row = event.row
            self._deliver_event(event, touched)
        self._deliver(rows, token_ids, touched)
        for slot, sink in touched.items():
            try:
                sink.flush()
            except Exception:
                self._drop(slot, sink)

    def _deliver(
        self, rows: Iterable[tuple[int, str, int, int]], token_ids: list[int], touched: dict[int, Sink]
    ) -> None:
        """Give each of ``rows`` (slot, text, start and end of its token ids) to its sink."""
        for slot, text, start, end in rows:
            sink = self._sinks.get(slot)
            if sink is None:  # cancelled while the frame was on its way
                continue
            touched[slot] = sink
            try:
                sink.delta(text, token_ids[start:end], ())
            except Exception:
                self._drop(slot, sink)

    def _deliver_event(self, event: pb.SlotEvent, touched: dict[int, Sink]) -> None:
        slot = event.slot
        sink = self._sinks.get(slot)
        if sink is None:
            return
        touched[slot] = sink
        try:
            match event.WhichOneof("event"):
                case "accepted":
                    self._accepted.add(slot)
                    sink.accepted(event.accepted.input_tokens)
                case "started":
                    sink.started()
                case "part_started":
                    sink.part_started(event.part_started.kind, event.part_started.name)
                case "delta":
                    sink.delta(event.delta.text, event.delta.token_ids, event.delta.logprobs)
                case "part_ended":
                    sink.part_ended()
                case "finished":
                    del self._sinks[slot]
                    self._accepted.discard(slot)
                    self._outlier.succeeded()
                    sink.finished(event.finished)
                case "failed":
                    del self._sinks[slot]
                    error = from_message(event.failed)
                    if slot in self._accepted and error.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED:
                        self._outlier.failed()
                    self._accepted.discard(slot)
                    sink.failed(error)
                case None:
                    log.warning("unknown event of a worker", extra={"slot": slot})
        except Exception:
            self._drop(slot, sink)

    def _drop(self, slot: int, sink: Sink) -> None:
        """End one generation whose sink is broken; the others go on."""
        log.exception("a generation's sink failed", extra={"slot": slot})
        self._accepted.discard(slot)
        if self._sinks.pop(slot, None) is not None:
            self._abort(slot)
        sink.failed(ApiError(ErrorReason.ERROR_REASON_INTERNAL, "The server had an error processing the request."))


class _Upload:
    """A request on its way in pieces."""

    def __init__(self, slot: int, data: bytes) -> None:
        self.slot = slot
        self.sent = 0
        self._data = memoryview(data)

    def next_chunk(self, size: int) -> pb.StartChunk:
        piece = self._data[self.sent : self.sent + size]
        self.sent += len(piece)
        return pb.StartChunk(slot=self.slot, data=bytes(piece), is_last=self.sent == len(self._data))
