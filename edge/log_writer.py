"""What a logged response's run writes: its events in batches, and its end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.store.v1.record_pb2 import ResponseRecord
from edge.event_messages import to_batch
from edge.events import ResponseEvents
from store.event_batch import next_sequence_number
from store.event_log import EventLog, LogFull
from store.lease import Lease

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 1.0


class LogWriter:
    """Writes what follows the log's end, one call after the other, for as long as the lease holds.

    An ``edge.run.Reader`` of its run. The first event after a pause is written at once, others at most every
    ``interval_s``. While the store is away the same write is tried again: nothing is lost, and readers see nothing
    that is not there.

    Args:
        log: Of all responses.
        lease: Allows to write.
        events: Of the response; all of them that the log holds are there.
        interval_s: The least time between two writes.
        cancelled: Called when the response is to be cancelled.
        full: Called when the log takes no more: the response must end.
    """

    def __init__(
        self,
        log: EventLog,
        lease: Lease,
        events: ResponseEvents,
        *,
        interval_s: float,
        cancelled: Callable[[], None],
        full: Callable[[], None],
    ) -> None:
        self.lease = lease
        self._log = log
        self._events = events
        self._interval_s = interval_s
        self._cancelled = cancelled
        self._full = full
        self._written = len(events.log)
        self._tokens = len(events.token_ids)
        self._is_full = False
        self._is_over = False
        self._changed = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()
        self._record: ResponseRecord | None = None

    def wake(self) -> None:
        """There are new events."""
        self._changed.set()

    def keep_alive(self) -> None:
        """Nothing happened, and nothing is written: readers have signs of life of their own."""

    async def flush(self) -> None:
        """Return when all events so far are in the log, or no more will be: it is full, or ``run`` has ended."""
        while self._written < len(self._events.log) and not (self._is_full or self._is_over):
            self._caught_up.clear()
            self._changed.set()
            await self._caught_up.wait()

    async def finish(self, record: ResponseRecord) -> None:
        """Write the last events, among them the terminal one, with the record; return when they are there."""
        self._record = record
        self._ending.set()
        self._changed.set()
        await self._ended.wait()

    async def run(self) -> None:
        """Write until ``finish`` has been done.

        Raises:
            LeaseLost: another process goes on, or the response was deleted.
            ApiError: the end cannot be stored, such as REQUEST_TOO_LARGE.
        """
        try:
            await self._write()
        finally:
            self._is_over = True
            self._caught_up.set()

    async def _write(self) -> None:
        while self._record is None:
            await self._changed.wait()
            self._changed.clear()
            if self._written < len(self._events.log) and not (self._is_full or self._ending.is_set()):
                await self._append()
                try:
                    async with asyncio.timeout(self._interval_s):
                        await self._ending.wait()
                except TimeoutError:
                    continue
        record = self._record
        batch = to_batch(self._events, start=self._written, tokens=self._tokens, is_last=True)
        await self._persist(lambda: self._log.finish(self.lease, batch, record))
        self._ended.set()

    async def _append(self) -> None:
        batch = to_batch(self._events, start=self._written, tokens=self._tokens)
        try:
            is_cancelled = await self._persist(lambda: self._log.append(self.lease, batch))
        except LogFull:
            self._is_full = True  # its last batch may still hold all the rest
            self._caught_up.set()
            self._full()
            return
        self._written = next_sequence_number(batch)
        self._tokens += len(batch.token_ids)
        self._caught_up.set()
        if is_cancelled:
            self._cancelled()

    async def _persist(self, write: Callable[[], Awaitable[_T]]) -> _T:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                return await write()
            except ApiError as error:
                if error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE:
                    raise
                log.warning("log write retried", extra={"response_id": str(self.lease.response_id)})
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _LAST_RETRY_S)
