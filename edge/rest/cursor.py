"""Readers of a response's events that write straight into their connection's transport, with a bound on what waits."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from edge.events import Event
from edge.run import EventList

_HIGH_WATER_BYTES: Final = 64 * 1024
"""A connection with more than this unsent gets nothing until it has taken some."""

_SLOW_READER_POLL_S: Final = 0.05


class EventCursor(ABC):
    """One connection's cursor on a response's events: an ``edge.run.Reader``.

    All events that are there go out in one write: one system call for each stream and frame.

    Args:
        transport: Is written to.
        events: Are read.
        slow_reader_timeout_s: A connection that takes nothing of what waits for it for this long is cut.
    """

    def __init__(self, transport: asyncio.WriteTransport, events: EventList, *, slow_reader_timeout_s: float) -> None:
        self._transport = transport
        self._events = events
        self._timeout_s = slow_reader_timeout_s
        self._cursor = 0
        self._waiting_bytes = 0
        self._progress_at = 0.0
        self._poll: asyncio.TimerHandle | None = None
        self._sent = asyncio.Event()

    @abstractmethod
    def _pack(self, events: Sequence[Event], *, is_end: bool) -> bytes:
        """``events`` as this transport sends them; ``is_end``: the terminal event is the last of them."""

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Give packed events to the transport."""

    def wake(self) -> None:
        """Write what is new, unless the connection is behind."""
        is_behind = self._cursor < len(self._events.log)
        if self._poll is None and (is_behind or (self._events.is_ended and not self._sent.is_set())):
            self._write_or_wait()

    @property
    def _may_write(self) -> bool:
        """Nothing waits, and the connection is there."""
        return self._poll is None and not self._transport.is_closing()

    async def sent(self) -> None:
        """Return when everything up to the end of the stream is with the transport, or the connection is gone."""
        await self._sent.wait()

    def close(self) -> None:
        """Write no more."""
        if self._poll is not None:
            self._poll.cancel()

    def _take(self) -> bytes:
        log = self._events.log
        events = log[self._cursor :]
        self._cursor = len(log)
        is_end = self._events.is_ended
        if is_end:
            self._sent.set()
        return self._pack(events, is_end=is_end)

    def _write_or_wait(self) -> None:
        self._poll = None
        transport = self._transport
        if transport.is_closing():
            self._sent.set()
            return
        waiting = transport.get_write_buffer_size()
        if waiting <= _HIGH_WATER_BYTES:
            self._write(self._take())
            self._waiting_bytes = 0
            return
        now = time.monotonic()
        if not self._waiting_bytes or waiting < self._waiting_bytes:
            self._waiting_bytes, self._progress_at = waiting, now
        if now - self._progress_at > self._timeout_s:
            transport.abort()
            self._sent.set()
            return
        self._poll = asyncio.get_running_loop().call_later(_SLOW_READER_POLL_S, self._write_or_wait)
