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

_MAX_DEATHS: Final = 3
"""A request that so many workers in a row died over goes to no other: it may be what killed them."""
_INNOCENT_TOKENS: Final = 16
"""A worker that generated so many tokens for a request before it died did not die of it."""
_FULL_PAUSE_S: Final = 1.0
"""How long a response that was let in before waits until it asks full workers again."""

_REFUSALS: Final = frozenset({ErrorReason.ERROR_REASON_OVERLOADED, ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE})
"""Another worker may still take the request."""

_INCOMPLETE: Final = {
    pb.STOP_REASON_MAX_OUTPUT_TOKENS: response_pb2.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
    pb.STOP_REASON_CONTEXT_WINDOW: response_pb2.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
    pb.STOP_REASON_CONTENT_FILTER: response_pb2.INCOMPLETE_REASON_CONTENT_FILTER,
}


class EventList(Protocol):
    """Numbered events, of which there may come more."""

    @property
    def log(self) -> Sequence[events.Event]:
        """Those so far."""
        ...

    @property
    def is_ended(self) -> bool:
        """The last of them is the terminal one, or none will come for another reason."""
        ...


class Reader(Protocol):
    """A cursor on a response's events. Calls are made on the event loop and must not block."""

    def wake(self) -> None:
        """There are new events."""
        ...

    def keep_alive(self) -> None:
        """Nothing happened for a while."""
        ...


class Answer(Protocol):
    """A response on its way, as a door sees it: a run of this process, or the log of one somewhere else."""

    warnings: list[str]
    """What was asked for and is not done, for the client: short and safe in a header."""

    @property
    def events(self) -> EventList:
        """What a reader of events reads."""
        ...

    @property
    def response(self) -> response_pb2.Response:
        """The response as it is now; with output only at the end."""
        ...

    @property
    def error(self) -> ApiError | None:
        """Why it failed, once it has."""
        ...

    def add_reader(self, reader: Reader) -> None:
        """Wake ``reader`` for every event from now on; it reads earlier ones by itself."""
        ...

    async def finish(self) -> response_pb2.Response:
        """Return at the end, whatever it is: ``error`` tells."""
        ...


class ResponseRun:
    """What the worker's deltas go into and readers read from. Follows ``edge.workers.stream.Sink``.

    Args:
        events: The response's events: none yet, or those of a run that ended with its process.
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
        self.warnings: list[str] = []
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
        self._deaths = 0
        self._begun_at: int | None = None
        """How many tokens there were when the worker began to prepare or to generate it; None: it only waits there."""
        self._refused: dict[WorkerConnection, ApiError] = {}
        self._changed = asyncio.Event()
        self._needs_worker = True
        self._issuing: asyncio.Timeout | None = None
        self.is_accepted = False
        """A worker has taken the request, at least once."""
        self._is_cancelled = False
        self._is_started = events.response.status == response_pb2.RESPONSE_STATUS_IN_PROGRESS
        self._input_tokens: int | None = None
        self._finished: pb.Finished | None = None
        if events.has_summary:
            self._begin_no_summary()

    @property
    def response(self) -> response_pb2.Response:
        return self.events.response

    @property
    def traceparent(self) -> str | None:
        """W3C Trace Context of the call that asked for it."""
        return self._request.traceparent or None

    def add_reader(self, reader: Reader) -> None:
        self._readers.append(reader)

    async def start(self) -> None:
        """Bring the request to a worker that accepts it; afterwards the first events are in the log.

        Raises:
            ApiError: the request was refused, or no worker could take it.
        """
        await self._until(lambda: self.is_accepted or self._is_cancelled)
        if self.error is not None:
            raise self.error

    async def finish(self) -> response_pb2.Response:
        """Run to the end: commit the response, then emit its terminal event.

        Never raises for what happens to the response: ``error`` tells. A worker that dies in the middle is replaced by
        another one, which goes on after the tokens so far: readers see one stream without a gap.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._until(lambda: self._finished is not None or self._is_cancelled)
        except TimeoutError:
            self.abort()
            self.error = ApiError(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "The response took too long.")
        now = int(time.time())
        if self.error is not None:
            self._close_failed(self.error, now)
        elif self._finished is not None:
            self._close(self._finished, now)
        else:
            self._close_cancelled(now)
        await self._end(now)
        return self.response

    def cancel(self) -> None:
        """End it as cancelled, unless it has ended."""
        if self._finished is None:
            self._is_cancelled = True
            self._interrupt()

    def fail(self, error: ApiError) -> None:
        """End it as failed, unless it has ended."""
        if self._finished is None:
            self.error = error
            self._interrupt()

    def _interrupt(self) -> None:
        self.abort()
        self._changed.set()
        if self._issuing is not None:
            self._issuing.reschedule(asyncio.get_running_loop().time())

    async def _end(self, now: int) -> None:
        """Commit the response, which is closed, and emit its terminal event."""
        if self.error is None:
            if self.response.params.store:  # that takes a while
                self._wake()
            try:
                await self._commit(self.response)
            except ApiError as error:
                self.error = error
                self._close_failed(error, now)
        if self.error is not None and self.error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE:
            try:
                await self._commit(self.response)
            except ApiError as error:
                log.warning("failed response not stored", extra={"reason": str(error)})
        self._end_events()

    def _end_events(self) -> None:
        self.events.end(None if self.error is None else to_message(self.error))
        self._wake()

    def _close(self, finished: pb.Finished, now: int) -> None:
        incomplete_reason = _INCOMPLETE.get(finished.stop_reason, response_pb2.INCOMPLETE_REASON_UNSPECIFIED)
        self.events.close(
            events.INCOMPLETE if incomplete_reason else events.COMPLETED,
            at=now,
            usage=finished.usage,
            incomplete_reason=incomplete_reason,
        )

    def _close_failed(self, error: ApiError, now: int) -> None:
        usage = self._finished.usage if self._finished is not None else None
        self.events.close(events.FAILED, at=now, usage=usage, error=response_error(error))

    def _close_cancelled(self, now: int) -> None:
        usage = None
        if self._input_tokens is not None:
            usage = response_pb2.Usage(input_tokens=self._input_tokens, output_tokens=len(self.events.token_ids))
        self._open()
        self.events.close(events.CANCELLED, at=now, usage=usage)

    def abort(self) -> None:
        """Stop the engine's work for this response, if there still is any."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.stream is not None:
            worker.stream.cancel(self._slot)

    def accepted(self, input_tokens: int) -> None:
        self.is_accepted = True
        self._begun_at = None
        self._refused.clear()  # that was then
        self._input_tokens = input_tokens
        self._changed.set()

    def started(self) -> None:
        self._begun_at = len(self.events.token_ids)
        if not self._is_started:
            self._is_started = True
            if self.events.is_open:
                self.events.progress(events.IN_PROGRESS)

    def part_started(self, kind: pb.PartKind.ValueType, name: str) -> None:
        self._open()
        if kind == pb.PART_KIND_REASONING_SUMMARY:
            self._begin_no_summary()
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
            self._lose(worker)
            self._needs_worker = True
        elif worker is not None and error.reason in _REFUSALS and worker not in self._refused:
            self._refused[worker] = error
            self._needs_worker = True
        else:
            self.error = error
        self._changed.set()

    def lost(self) -> None:
        if self._worker is not None:
            self._lose(self._worker)
        self._worker = None
        self._needs_worker = True
        self._changed.set()

    def _lose(self, worker: WorkerConnection) -> None:
        self._lost.append(worker)
        if self._begun_at is not None:
            is_innocent = len(self.events.token_ids) - self._begun_at >= _INNOCENT_TOKENS
            self._deaths = 0 if is_innocent else self._deaths + 1

    def flush(self) -> None:
        if not self.events.is_open and self.is_accepted and self._worker is not None:
            self._open()
        self._wake()

    def _begin_no_summary(self) -> None:
        """A successor of this worker must not begin the summary again."""
        self._request.reasoning.ClearField("summary")

    def _open(self) -> None:
        if not self.events.is_open:
            self.events.open(events.IN_PROGRESS if self._is_started else events.QUEUED)

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        """Wait until a state, or an error, is reached, with a worker under the request all the time."""
        self._beat_later()
        try:
            while self.error is None and not is_reached():
                if self._needs_worker:
                    await self._issue_unless_interrupted()
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._heartbeat.cancel()

    def _beat_later(self) -> None:
        self._heartbeat = asyncio.get_running_loop().call_later(self._heartbeat_interval_s, self._beat)

    def _beat(self) -> None:
        self._beat_later()
        if self.events.is_open and not self.events.has_output:
            self.events.progress(self.response.status)
            self._wake()
        else:
            for reader in self._readers:
                reader.keep_alive()

    async def _issue_unless_interrupted(self) -> None:
        try:
            async with asyncio.timeout(None) as self._issuing:
                await self._issue()
        except ApiError as error:
            self.error = error
        except TimeoutError:
            log.debug("no worker needed any more", extra={"response_id": self.response.id})
        finally:
            self._issuing = None

    async def _issue(self) -> None:
        """Send the request, with the tokens so far, to a worker; or wait a moment, if those are full that are there.

        Raises:
            ApiError: no worker can take it.
        """
        if self._deaths >= _MAX_DEATHS:
            message = "The inference worker failed while processing the request. Try again."
            raise ApiError(ErrorReason.ERROR_REASON_ENGINE_FAILED, message)
        worker = await self._choose([*self._lost, *self._refused])
        if worker in self._refused:  # the others are away, or lost it before: those come next
            worker = await self._choose([*self._refused])
        if worker in self._refused:
            if not self.is_accepted:
                raise self._refused[worker]
            self._refused.clear()  # readers were told that it runs: it waits for room
            await asyncio.sleep(_FULL_PAUSE_S)
            return
        if self._lost:
            tokens = len(self.events.token_ids)
            log.warning("generation reissued", extra={"response_id": self.response.id, "tokens": tokens})
        assert worker.stream is not None  # it was ready, and nothing was awaited since
        del self._request.resume_token_ids[:]
        self._request.resume_token_ids.extend(self.events.token_ids)
        self._needs_worker, self._begun_at = False, len(self.events.token_ids)
        self._worker, self._slot = worker, worker.stream.start(self._request, self)


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
