"""A reader's view of a logged response, whoever runs it and wherever."""

import asyncio
from contextlib import aclosing
from typing import Final

from antiphon.errors import ApiError, from_message
from antiphon.responses.v1 import event_pb2, response_pb2
from antiphon.store.v1.event_log_pb2 import EventBatch
from edge.event_messages import from_batch
from edge.events import CANCELLED, Event, Snapshot
from edge.run import Reader
from store.event_log import EventLog, LogGone
from store.ids import ResponseId

_MARKS_PER_GRACE: Final = 3


class _LoggedEvents:
    """What has been read of a log. Follows ``edge.run.EventList``."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.is_ended = False


class LogReader:
    """Follows a log from any event on, in place of a run of this process: an ``edge.run.Answer``.

    Events come as they were first sent, with their numbers. If the response is deleted meanwhile, they end as those of
    one that was cancelled.

    Args:
        log: Of all responses.
        response: As it was when this began.
        starting_after: Events after this number.
        heartbeat_interval_s: Readers hear something at least this often.
        grace_s: How long a reader may be away before a response that needs readers is given up.
    """

    def __init__(
        self,
        log: EventLog,
        owner: str,
        response_id: ResponseId,
        response: response_pb2.Response,
        *,
        starting_after: int,
        heartbeat_interval_s: float,
        grace_s: float,
    ) -> None:
        self.warnings: list[str] = []
        self._log = log
        self._owner = owner
        self._response_id = response_id
        self._response = response
        self._next = starting_after + 1
        self._heartbeat_interval_s = heartbeat_interval_s
        self._grace_s = grace_s
        self._events = _LoggedEvents()
        self._error: ApiError | None = None
        self._readers: list[Reader] = []
        self._is_quiet = True

    @property
    def events(self) -> _LoggedEvents:
        return self._events

    @property
    def response(self) -> response_pb2.Response:
        return self._response

    @property
    def error(self) -> ApiError | None:
        return self._error

    def add_reader(self, reader: Reader) -> None:
        self._readers.append(reader)

    async def start(self) -> None:
        """Read what is there.

        Raises:
            LogGone: there is no such log.
            ApiError: STORE_UNAVAILABLE.
        """
        page = await self._log.read(self._owner, str(self._response_id), starting_after=self._next - 1)
        for batch in page.batches:
            self._take(batch)
        self._events.is_ended |= page.has_ended

    async def finish(self) -> response_pb2.Response:
        if not self._events.is_ended:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._keep_alive()), tasks.create_task(self._keep_marked())]
                await self._follow()
                for task in beside:
                    task.cancel()
        self._wake()
        return self._response

    async def _follow(self) -> None:
        batches = self._log.follow(self._owner, str(self._response_id), starting_after=self._next - 1)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    self._take(batch)
                    self._wake()
        except LogGone:
            self._end_deleted()
        self._events.is_ended = True

    def _take(self, batch: EventBatch) -> None:
        self._is_quiet = False
        for event in from_batch(batch, starting_after=self._next - 1):
            self._next = event.sequence_number + 1
            self._events.log.append(event)
            if isinstance(event, Snapshot):
                self._response = event.response
            elif isinstance(event, event_pb2.ResponseEvent) and event.HasField("error"):
                self._error = from_message(event.error)
        self._events.is_ended |= batch.is_last

    def _end_deleted(self) -> None:
        response = response_pb2.Response()
        response.CopyFrom(self._response)
        response.status = CANCELLED
        self._response = response
        self._events.log.append(Snapshot(self._next, "incomplete", response))

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    async def _keep_alive(self) -> None:
        while True:
            self._is_quiet = True
            await asyncio.sleep(self._heartbeat_interval_s)
            if self._is_quiet:
                for reader in self._readers:
                    reader.keep_alive()

    async def _keep_marked(self) -> None:
        while True:
            try:
                await self._log.mark_read(self._owner, self._response_id, lifetime_ms=round(self._grace_s * 1000))
            except ApiError:  # the store is away: who would look at the mark is waiting for it too
                await asyncio.sleep(1)
                continue
            await asyncio.sleep(self._grace_s / _MARKS_PER_GRACE)
