"""One connection of a process that is told when something has changed in Redis."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Never, Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisClusterException, RedisError

from store import tasks

log = logging.getLogger(__name__)

_PING_INTERVAL_S: Final = 1.0
_SILENCE_S: Final = 3.5
"""A connection that does not answer its PINGs for so long is given up."""
_RECONNECT_S: Final = 0.5
_CHANNELS_AT_ONCE: Final = 500


class Signal:
    """Something may have changed. Changes that come while nobody waits are one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake who waits, or the next who does."""
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next change, or after ``timeout_s``: messages may be lost, so look in either case."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()


class Subscriber:
    """Plain PUBLISH and SUBSCRIBE over one connection, whatever the number of channels; on a cluster to any node.

    Messages may be lost, and are only wake-ups: what they are about is read from where it is kept. Whoever listens is
    also woken once the subscription stands, and again after every reconnection, so nothing that happened before that is
    missed. On a cluster each message goes to every node: the price of one connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        """Use connections that ``connect`` makes."""
        self._connect = connect
        self._signals: dict[bytes, set[Signal]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[Never] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        await tasks.end([self._task])
        if not self._task.cancelled():
            self._task.result()

    @contextmanager
    def listen(self, channel: str) -> Iterator[Signal]:
        """A signal that is set whenever something is published on ``channel``."""
        name = channel.encode()
        signal = Signal()
        listeners = self._signals.setdefault(name, set())
        listeners.add(signal)
        if len(listeners) == 1:
            self._changed.set()
        else:
            signal.set()  # the subscription may stand already
        try:
            yield signal
        finally:
            listeners.discard(signal)
            if not listeners and self._signals.get(name) is listeners:
                del self._signals[name]
                self._changed.set()

    async def _run(self) -> Never:
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._serve(connection)
                finally:
                    await connection.disconnect(nowait=True)
            except* (RedisError, RedisClusterException, OSError) as errors:
                log.warning("subscription lost", extra={"error": str(errors.exceptions[0])})
            await asyncio.sleep(_RECONNECT_S)

    async def _serve(self, connection: AbstractConnection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
        connection.socket_timeout = None  # its wait_for may swallow a cancellation; a silent peer is noticed by _read
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(connection))
            group.create_task(self._write(connection))

    async def _read(self, connection: AbstractConnection) -> Never:
        while True:
            match await connection.read_response(timeout=_SILENCE_S, disconnect_on_error=False):
                case [b"message" | b"subscribe", bytes(channel), _]:
                    for signal in self._signals.get(channel, ()):
                        signal.set()
                case None:
                    raise TimeoutError(f"silent for {_SILENCE_S} s")
                case _:  # a PONG, or the end of a subscription
                    pass

    async def _write(self, connection: AbstractConnection) -> Never:
        """Subscribe to what is listened to, and to nothing else; PING in between, which is answered to ``_read``."""
        subscribed: set[bytes] = set()
        while True:
            self._changed.clear()
            wanted = set(self._signals)
            for command, channels in (("SUBSCRIBE", wanted - subscribed), ("UNSUBSCRIBE", subscribed - wanted)):
                names = list(channels)
                while names:
                    await connection.send_command(command, *names[:_CHANNELS_AT_ONCE], check_health=False)
                    del names[:_CHANNELS_AT_ONCE]
            subscribed = wanted
            await connection.send_command("PING", check_health=False)
            try:
                async with asyncio.timeout(_PING_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
