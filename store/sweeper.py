"""Brings back what the queue has lost: leases that ran out, and jobs without an entry."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Never

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from store import keys
from store.batcher import CommandBatcher
from store.ids import ResponseId
from store.lease import LONGEST_BACKOFF_MS, entry_of, gap_ms
from store.scripts import Script

log = logging.getLogger(__name__)

_REQUEUE_LOST = Script("requeue_lost", prelude="queue")
_ENQUEUE = Script("enqueue", prelude="queue")
_LIVE_ON = Script("live_on", prelude="job")

_AT_ONCE: Final = 100
_PAUSE_S: Final = 0.05
"""Between so many jobs of a sweep, which takes a small part of a server."""


class Sweeper:
    """Keeps the promises of ``store.jobs`` about what comes after a crash. Every edge runs one."""

    def __init__(
        self,
        commands: CommandBatcher,
        *,
        holder: str,
        lease_ms: int = 5000,
        sweep_interval_s: float = 60,
        unfinished_ms: int = 24 * 3600 * 1000,
    ) -> None:
        """Sweep as ``holder``.

        Args:
            commands: The way to Redis.
            holder: As for ``JobQueue``.
            lease_ms: As for ``JobQueue``.
            sweep_interval_s: How often jobs without an entry are looked for, by all edges together.
            unfinished_ms: As for ``JobQueue``.
        """
        self._commands = commands
        self._holder = holder
        self._lease_ms = lease_ms
        self._sweep_interval_s = sweep_interval_s
        self._unfinished_ms = unfinished_ms

    async def run(self) -> Never:
        """``requeue_lost`` every quarter of a lease, ``sweep`` at its interval, until cancelled.

        Whatever fails is tried again next time: the log says so.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_requeuing())
            tasks.create_task(self._keep_sweeping())
        raise AssertionError("both go on for ever")

    async def requeue_lost(self) -> int:
        """Make ready what nobody holds any more, and what was put off until now; how many.

        Not for a whole lease after an outage, in which living holders could not renew. An outage is when nothing was
        heard of any edge for ``gap_ms``: hence ``run``.
        """
        total = 0
        while True:
            (count,) = await self._commands.execute(
                _REQUEUE_LOST(
                    keys.QUEUE,
                    *(self._lease_ms, gap_ms(self._lease_ms), max(self._lease_ms, LONGEST_BACKOFF_MS)),
                    *(_AT_ONCE, keys.WAKE_CHANNEL),
                )
            )
            total += int(count)
            if count < _AT_ONCE:
                return total

    async def sweep(self) -> int:
        """Queue every job that has not ended and is not in the queue, because a crash or a failover came between.

        All that have not ended live on: none is forgotten while it waits, as long as there is an edge. Looks at every
        key of every node, slowly. Returns how many jobs have not ended.
        """
        live = 0
        found: list[tuple[str, ResponseId]] = []
        async for key in self._commands.scan(keys.ALL_JOBS):
            parsed = keys.parse_job(key.decode(errors="replace"))
            if parsed is not None:
                found.append(parsed)
            if len(found) >= _AT_ONCE:
                live += await self._requeue_missing(found)
                found.clear()
                await asyncio.sleep(_PAUSE_S)
        return live + await self._requeue_missing(found)

    async def _requeue_missing(self, found: Sequence[tuple[str, ResponseId]]) -> int:
        if not found:
            return 0
        replies = await self._commands.execute(
            *(("HMGET", keys.job(owner, response_id), "status", "tier", "created_at") for owner, response_id in found)
        )
        commands = [
            command
            for (owner, response_id), (status, tier, created_at) in zip(found, replies, strict=True)
            if status in (b"queued", b"in_progress")
            for command in (
                _LIVE_ON(keys.of_job(owner, response_id), self._unfinished_ms),
                _ENQUEUE(
                    keys.QUEUE,
                    *(entry_of(owner, response_id, int(tier), int(created_at)), 0, 0, keys.WAKE_CHANNEL),
                ),
            )
        ]
        if commands:
            await self._commands.execute(*commands)
        return len(commands) // 2

    async def _keep_requeuing(self) -> Never:
        while True:
            try:
                if count := await self.requeue_lost():
                    log.info("jobs requeued", extra={"jobs": count})
            except Exception as error:
                _log_unless_away(error)
            await asyncio.sleep(self._lease_ms / 4000)

    async def _keep_sweeping(self) -> Never:
        while True:
            lifetime_ms = round(self._sweep_interval_s * 900)  # ends before the next turn comes
            try:
                (is_ours,) = await self._commands.execute(("SET", keys.SWEEP, self._holder, "NX", "PX", lifetime_ms))
                if is_ours:
                    await self.sweep()
            except Exception as error:
                _log_unless_away(error)
            await asyncio.sleep(self._sweep_interval_s)


def _log_unless_away(error: Exception) -> None:
    is_away = isinstance(error, ApiError) and error.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
    if not is_away:  # which is logged where it was raised
        log.exception("sweep failed")
