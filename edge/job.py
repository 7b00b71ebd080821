"""One logged response at the process that runs it."""

import asyncio
from collections.abc import Callable
from typing import Final

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.store.v1.record_pb2 import ResponseRecord
from edge.log_writer import LogWriter
from edge.run import ResponseRun
from store.lease import HeldJob, Lease

_MAX_RESPONSE_BYTES: Final = 32 * 2**20
"""A response with more output fails: its record could not be stored."""


class LoggedRun(ResponseRun):
    """A run that ends in its log."""

    writer: LogWriter
    """Set before it runs."""
    record: ResponseRecord
    """Of the response, as it was accepted. Set before it runs."""
    leave: Callable[[], None]
    """Gives back the place that it has among those that its owner runs. Set before it runs."""

    async def _end(self, now: int) -> None:
        if self.error is None and self.response.ByteSize() > _MAX_RESPONSE_BYTES:
            message = "The response is too large to be stored."
            self.error = ApiError(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, message)
            self._close_failed(self.error, now)
            del self.response.output[:]
        self._end_events()
        self.record.response.CopyFrom(self.response)
        self.leave()
        await self.writer.finish(self.record)


class Job:
    """One job that this process holds.

    Args:
        held: It.
        is_claimed: It came from the queue; False: somebody waits for it here.
    """

    def __init__(self, held: HeldJob, *, is_claimed: bool) -> None:
        self.held = held
        self.is_claimed = is_claimed
        self.run: LoggedRun | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = held.lease.is_cancelled

    @property
    def lease(self) -> Lease:
        return self.held.lease

    @property
    def is_ending(self) -> bool:
        """All of it is there, and is being written."""
        return self.run is not None and self.run.events.is_ended

    @property
    def is_patient(self) -> bool:
        """It waits for room at the workers, however long that takes: in the background, or as a part of it was seen."""
        has_output = self.run is not None and self.run.events.has_output
        return has_output or self.held.record.response.params.background

    def cancel(self) -> None:
        """End its response as cancelled."""
        self.is_cancelled = True
        if self.run is not None:
            self.run.cancel()

    def drop(self) -> None:
        """Stop at once, and write nothing more."""
        if self.task is not None:
            self.task.cancel()
