"""Sends the Redis commands of one event-loop tick as one pipeline."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from antiphon.errors import ApiError
from store import tasks
from store.errors import Fault, fault_of, is_read_only, store_unavailable
from store.scripts import with_source

Command = tuple[str | bytes | int, ...]
"""A Redis command and its arguments."""
Reply = Any
"""What redis-py makes of a reply: bytes, int, bool, None, or a list of those, by the command."""

_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4)
"""Waits before another try, each shortened by up to half at random."""
_MAX_WAITING = 4096
"""Requests that wait for a pipeline; more are refused."""
_MAX_BATCH = 256
"""Requests in one pipeline."""
_SCAN_COUNT = 1000
"""Keys that a server looks at in one step of a scan: less than a millisecond."""


class _Request(NamedTuple):
    commands: tuple[Command, ...]
    outcome: asyncio.Future[list[Reply] | Exception]
    """An error is a result here: a caller that leaves at the last moment must not make the loop complain."""


class CommandBatcher:
    """Runs commands for many callers at once: what is asked for in one tick of the event loop shares one pipeline.

    redis-py costs a connection, two system calls and about 100 us for a command sent alone, a tenth of it in a
    pipeline. A few pipelines may be under way, so that a large reply does not hold up the small ones behind it;
    hence nothing is promised about the order between callers. On a cluster redis-py splits a pipeline by node.

    Commands must be idempotent: one whose reply was lost is sent again, within ``timeout_s``. A server that does not
    know a script, as after a failover, is taught it.
    """

    def __init__(self, client: Redis | RedisCluster, *, pipelines: int, timeout_s: float) -> None:
        """Share ``client``, which must allow ``pipelines`` connections; call for no longer than ``timeout_s``."""
        self._client = client
        self._pipelines = pipelines
        self._timeout_s = timeout_s
        self._waiting: asyncio.Queue[_Request] = asyncio.Queue(_MAX_WAITING)
        self._senders: list[asyncio.Task[None]] = []
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        self._senders = [asyncio.create_task(self._send_batches()) for _ in range(self._pipelines)]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop at once; who still waits gets STORE_UNAVAILABLE."""
        self._is_open = False
        await tasks.end(self._senders)
        while not self._waiting.empty():
            _end([self._waiting.get_nowait()], _closed())

    async def execute(self, *commands: Command) -> list[Reply]:
        """Run ``commands`` in one round trip; their replies, in order, once Redis has acknowledged all of them.

        Not a transaction: when it fails, any of the commands may have run.

        Raises:
            ApiError: STORE_UNAVAILABLE, if Redis cannot be reached in time or refuses to serve.
            RedisError: Redis calls one of the commands wrong: a bug.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                for delay_s in _RETRY_DELAYS_S:
                    try:
                        return await self._enqueue(commands)
                    except (RedisError, RedisClusterException, OSError) as error:
                        if is_read_only(error):
                            await self._reconnect()
                        elif fault_of(error) is not Fault.TRANSIENT:
                            raise
                    await asyncio.sleep(delay_s * random.uniform(0.5, 1))
                return await self._enqueue(commands)
        except (RedisError, RedisClusterException, OSError) as error:
            if fault_of(error) is Fault.BUG:
                raise
            raise store_unavailable(error) from error

    async def ping(self) -> None:
        """Return if the server, or one node of the cluster, answers and can write to its disk.

        Raises:
            ApiError: STORE_UNAVAILABLE.
        """
        nodes = {"target_nodes": RedisCluster.RANDOM} if isinstance(self._client, RedisCluster) else {}
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.execute_command("PING", **nodes)
        except (RedisError, RedisClusterException, OSError) as error:
            raise store_unavailable(error) from error

    async def scan(self, pattern: str) -> AsyncGenerator[bytes, None]:
        """Every key that matches ``pattern`` and is there all the while, on all nodes; some may come twice.

        Raises:
            ApiError: STORE_UNAVAILABLE.
        """
        keys = self._client.scan_iter(match=pattern, count=_SCAN_COUNT)
        try:
            while True:
                async with asyncio.timeout(self._timeout_s):
                    key = await anext(keys, None)
                if key is None:
                    return
                yield key
        except (RedisError, RedisClusterException, OSError) as error:
            if fault_of(error) is Fault.BUG:
                raise
            raise store_unavailable(error) from error

    async def _reconnect(self) -> None:
        """Drop connections to what is no primary any more: new ones look the name, or the Sentinels, up again."""
        if isinstance(self._client, Redis):  # a cluster's client follows MOVED
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def _enqueue(self, commands: tuple[Command, ...]) -> list[Reply]:
        if not self._is_open:
            raise _closed()
        request = _Request(commands, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(request)
        except asyncio.QueueFull:
            raise ConnectionRefusedError("too many requests wait for the store") from None
        outcome = await request.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _send_batches(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [request for request in batch if not request.outcome.done()]  # their callers left
            try:
                await self._send(batch)
            except Exception as error:  # bugs too: they are the callers'
                _end(batch, error)
            except asyncio.CancelledError:
                _end(batch, _closed())
                raise

    async def _send(self, batch: list[_Request]) -> None:
        """Run ``batch`` in one pipeline; each request gets its replies, or the first error among them."""
        replies = iter(await self._run([command for request in batch for command in request.commands]))
        for request in batch:
            own = [next(replies) for _ in request.commands]
            unknown = next((i for i, reply in enumerate(own) if isinstance(reply, NoScriptError)), None)
            if unknown is not None:  # from there on, as later commands may build on it
                own[unknown:] = await self._run([with_source(command) for command in request.commands[unknown:]])
            error = next((reply for reply in own if isinstance(reply, Exception)), None)
            _end([request], error or own)

    async def _run(self, commands: Sequence[Command]) -> list[Reply]:
        """The replies to ``commands``, errors among them."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        async with asyncio.timeout(self._timeout_s):
            replies: list[Reply] = await pipeline.execute(raise_on_error=False)
            return replies


def _closed() -> ApiError:
    return store_unavailable(ConnectionAbortedError("closed by this process"))


def _end(batch: list[_Request], outcome: list[Reply] | Exception) -> None:
    for request in batch:
        if not request.outcome.done():  # its caller left
            request.outcome.set_result(outcome)
