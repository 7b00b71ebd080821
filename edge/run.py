"""One running response, from the worker's acceptance to its terminal event.

A run belongs to the coroutine that opened it (``Core.respond``): leaving that before the end aborts it at the engine.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from antiphon.errors import ApiError, to_message
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge import events
from edge.errors import response_error
from edge.events import ResponseEvents
from edge.workers.connection import WorkerConnection

log = logging.getLogger(__name__)

_MAX_LOST_WORKERS: Final = 2
"""A request that was on this many workers when they died goes to no other: it may be what killed them."""

_REFUSALS: Final = frozenset({ErrorReason.ERROR_REASON_OVERLOADED, ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE})
"""Another worker may still take the request."""

_INCOMPLETE: Final = {
    pb.STOP_REASON_MAX_OUTPUT_TOKENS: response_pb2.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
    pb.STOP_REASON_CONTEXT_WINDOW: response_pb2.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
    pb.STOP_REASON_CONTENT_FILTER: response_pb2.INCOMPLETE_REASON_CONTENT_FILTER,
}


class Reader(Protocol):
    """A cursor on a response's events. Calls are made on the event loop and must not block."""

    def wake(self) -> None:
        """There are new events."""
        ...

    def keep_alive(self) -> None:
        """Nothing happened for a while."""
        ...


class ResponseRun:
    """What the worker's deltas go into and readers read from. Follows ``edge.workers.stream.Sink``.

    Args:
        events: The response's events, none yet.
        request: What the worker gets.
        choose: Picks a worker, any but the given ones if there are others. Raises ApiError if there is none.
        commit: Stores the final response; does nothing if it is not to be stored. Raises ApiError.
        heartbeat_interval_s: Readers hear something at least this often.
        timeout_s: The longest that a response may take.
    """

    def __init__(
        self,
        events: ResponseEvents,
        request: pb.GenerateRequest,
        *,
        choose: Callable[[Sequence[WorkerConnection]], Awaitable[WorkerConnection]],
        commit: Callable[[response_pb2.Response], Awaitable[None]],
        heartbeat_interval_s: float,
        timeout_s: float,
    ) -> None:
        self.events = events
        self.error: ApiError | None = None
        """Why it failed, once it has."""
        self.warnings: list[str] = []
        """What was asked for and is not done, for the client: short and safe in a header."""
        self.first_delta_at: float | None = None
        """Monotonic time of the first token, in seconds."""
        self._request = request
        self._choose = choose
        self._commit = commit
        self._heartbeat_interval_s = heartbeat_interval_s
        self._timeout_s = timeout_s
        self._readers: list[Reader] = []
        self._worker: WorkerConnection | None = None
        self._slot = 0
        self._lost: list[WorkerConnection] = []
        self._refused: dict[WorkerConnection, ApiError] = {}
        self._changed = asyncio.Event()
        self._needs_worker = True
        self._is_accepted = self._is_started = False
        self._finished: pb.Finished | None = None

    @property
    def response(self) -> response_pb2.Response:
        """The response as it is now; with output only at the end."""
        return self.events.response

    def add_reader(self, reader: Reader) -> None:
        """Wake ``reader`` for every event from now on; it reads earlier ones by itself."""
        self._readers.append(reader)

    async def start(self) -> None:
        """Bring the request to a worker that accepts it; afterwards the first events are in the log.

        Raises:
            ApiError: the request was refused, or no worker could take it.
        """
        await self._until(lambda: self._is_accepted)
        if self.error is not None:
            raise self.error

    async def finish(self) -> response_pb2.Response:
        """Run to the end: commit the response, then emit its terminal event.

        Never raises for what happens to the response: ``error`` tells. A worker that dies in the middle is replaced by
        another one, which goes on after the tokens so far: readers see one stream without a gap.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._until(lambda: self._finished is not None)
        except TimeoutError:
            self.abort()
            self.error = ApiError(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "The response took too long.")
        now = int(time.time())
        if self.error is None:
            assert self._finished is not None
            self._close(self._finished, now)
            if self.response.params.store:  # that takes a while
                self._wake()
            try:
                await self._commit(self.response)
            except ApiError as error:
                self.error = error
        if self.error is not None:
            await self._fail(self.error, now)
        self.events.end(None if self.error is None else to_message(self.error))
        self._wake()
        return self.response

    def _close(self, finished: pb.Finished, now: int) -> None:
        incomplete_reason = _INCOMPLETE.get(finished.stop_reason, response_pb2.INCOMPLETE_REASON_UNSPECIFIED)
        self.events.close(
            events.INCOMPLETE if incomplete_reason else events.COMPLETED,
            at=now,
            usage=finished.usage,
            incomplete_reason=incomplete_reason,
        )

    async def _fail(self, error: ApiError, now: int) -> None:
        usage = self._finished.usage if self._finished is not None else None
        self.events.close(events.FAILED, at=now, usage=usage, error=response_error(error))
        if error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE:
            try:
                await self._commit(self.response)
            except ApiError as commit_error:
                log.warning("failed response not stored", extra={"reason": str(commit_error)})

    def abort(self) -> None:
        """Stop the engine's work for this response, if there still is any."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.stream is not None:
            worker.stream.cancel(self._slot)

    def accepted(self, input_tokens: int) -> None:
        self._is_accepted = True
        self._changed.set()

    def started(self) -> None:
        if not self._is_started:
            self._is_started = True
            if self.events.is_open:
                self.events.progress(events.IN_PROGRESS)

    def part_started(self, kind: pb.PartKind.ValueType, name: str) -> None:
        self._open()
        if kind == pb.PART_KIND_REASONING_SUMMARY:
            self._request.reasoning.ClearField("summary")  # a successor of this worker must not begin it again
        self.events.part_started(kind, name)

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[content_pb2.Logprob]) -> None:
        if self.first_delta_at is None:
            self.first_delta_at = time.monotonic()
        self.events.delta(text, token_ids, logprobs)

    def part_ended(self) -> None:
        self.events.part_ended()

    def finished(self, finished: pb.Finished) -> None:
        self._open()
        self._worker = None
        self._finished = finished
        self._changed.set()

    def failed(self, error: ApiError) -> None:
        worker, self._worker = self._worker, None
        if worker is not None and error.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED:
            self._lost.append(worker)
            self._needs_worker = True
        elif worker is not None and error.reason in _REFUSALS and worker not in self._refused:
            self._refused[worker] = error
            self._needs_worker = True
        else:
            self.error = error
        self._changed.set()

    def lost(self) -> None:
        if self._worker is not None:
            self._lost.append(self._worker)
        self._worker = None
        self._needs_worker = True
        self._changed.set()

    def flush(self) -> None:
        if not self.events.is_open and self._is_accepted and self._worker is not None:
            self._open()
        self._wake()

    def _open(self) -> None:
        if not self.events.is_open:
            self.events.open(events.IN_PROGRESS if self._is_started else events.QUEUED)

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        """Wait until a state, or an error, is reached, with a worker under the request all the time."""
        while self.error is None and not is_reached():
            if self._needs_worker:
                try:
                    await self._issue()
                except ApiError as error:
                    self.error = error
                continue
            self._changed.clear()
            try:
                async with asyncio.timeout(self._heartbeat_interval_s):
                    await self._changed.wait()
            except TimeoutError:
                self._show_life()

    async def _issue(self) -> None:
        """Send the request, with the tokens so far, to a worker.

        Raises:
            ApiError: no worker can take it.
        """
        if len(self._lost) >= _MAX_LOST_WORKERS:
            message = "The inference worker failed while processing the request. Try again."
            raise ApiError(ErrorReason.ERROR_REASON_ENGINE_FAILED, message)
        worker = await self._choose([*self._lost, *self._refused])
        if worker in self._refused:  # all others refused as well
            raise self._refused[worker]
        if self._lost:
            tokens = len(self.events.token_ids)
            log.warning("generation reissued", extra={"response_id": self.response.id, "tokens": tokens})
        assert worker.stream is not None  # it was ready, and nothing was awaited since
        del self._request.resume_token_ids[:]
        self._request.resume_token_ids.extend(self.events.token_ids)
        self._needs_worker = False
        self._worker, self._slot = worker, worker.stream.start(self._request, self)

    def _show_life(self) -> None:
        if self.events.is_open and not self.events.has_output:
            self.events.progress(self.response.status)
            self._wake()
        else:
            for reader in self._readers:
                reader.keep_alive()


class WarmUpRun(ResponseRun):
    """A run without output: what it generates, one token at most by its request, is only there to fill the KV cache."""

    def part_started(self, kind: pb.PartKind.ValueType, name: str) -> None:
        """Nothing of it is shown."""

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[content_pb2.Logprob]) -> None:
        """Nothing of it is shown."""

    def part_ended(self) -> None:
        """Nothing of it is shown."""

    def _close(self, finished: pb.Finished, now: int) -> None:
        self.events.close(events.COMPLETED, at=now, usage=finished.usage, may_be_empty=True)
