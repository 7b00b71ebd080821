"""Background jobs: who runs which response, so that every accepted one ends, and only one process at a time writes it.

Two places, each changed by atomic scripts only:

- the **queue**, one slot: what waits, who holds what until when. It hands out leases, each with a higher *fence*.
- the **job**, in the slot of its response, with log and record. Every write names its fence, and is refused when the
  job has seen a higher one (``begin``), has ended, or is gone. So whatever the queue says, one process writes.

No script spans both, so a process, or the server, may die between two steps. Then this holds:

====================================  ================================================================================
died between                          and what comes of it
====================================  ================================================================================
job created | queued                  the client got no answer; ``sweep`` finds the job and queues it
lease granted | begun                 the lease runs out, ``requeue_lost`` makes the entry ready; no attempt is counted
begun | first write ... last write    the same, and the successor goes on after the log's end
ended | entry forgotten               the lease runs out, the entry is claimed, the job found ended, the entry forgotten
released | put back                   the lease runs out instead
deleted | entry forgotten             as ended: the job is found gone
====================================  ================================================================================

An entry without a job is harmless and goes when it is claimed; a job without an entry is found by ``sweep``. What races
with them (a job that ends while it is swept) leaves at most an entry without a job. A process that wakes up with an old
lease finds its fence refused at its next write. Nothing comes between two holders: the successor's ``begin`` reads the
log's end in the same step that shuts the predecessor out.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import Response, ResponseStatus, ServiceTier
from antiphon.store.v1.event_log_pb2 import EventBatch
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.batcher import Command, CommandBatcher
from store.event_batch import encode, next_sequence_number
from store.ids import ResponseId, parse_response_id
from store.lease import LONGEST_BACKOFF_MS, HeldJob, Lease, Renewal, entry_of, gap_ms, parse_entry
from store.packing import CorruptRecord, pack_record, unpack_records
from store.scripts import Script

_CREATE = Script("create", prelude="job")
_BEGIN = Script("begin", prelude="job")
_RELEASE = Script("release", prelude="job")
_CANCEL = Script("cancel", prelude="job")
_ENQUEUE = Script("enqueue", prelude="queue")
_CLAIM = Script("claim", prelude="queue")
_TAKE = Script("take", prelude="queue")
_RENEW = Script("renew", prelude="queue")
_PUT_BACK = Script("put_back", prelude="queue")
_FORGET = Script("forget", prelude="queue")

_UNFINISHED: Final = (b"queued", b"in_progress")
_TIERS: Final = {ServiceTier.SERVICE_TIER_PRIORITY: 0, ServiceTier.SERVICE_TIER_FLEX: 2}
_DEFAULT_TIER: Final = 1

_STALE_AT_ONCE: Final = 16
"""Entries without a job that one claim clears away."""
_FIRST_BACKOFF_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Job:
    """How far a logged response is."""

    status: ResponseStatus.ValueType
    """As committed in the same step as the record, once it is terminal."""
    holder: str | None
    """Who runs it, or ran it last; None while it waits."""
    attempts: int
    """As ``Lease.attempts``."""
    is_cancelled: bool
    """It was asked to be cancelled; it may still end otherwise."""
    next_sequence_number: int
    """Of the event that follows the log."""
    created_at_ms: int
    """Milliseconds since 1970, by the server's clock."""

    @property
    def has_ended(self) -> bool:
        """Its status is terminal."""
        return self.status not in (ResponseStatus.RESPONSE_STATUS_QUEUED, ResponseStatus.RESPONSE_STATUS_IN_PROGRESS)


class JobQueue:
    """Jobs of all owners, on behalf of one edge process.

    Owners take turns; an owner's jobs come by tier, then by time. Times are Redis's own. All edges of a deployment must
    use the same ``lease_ms``; each runs ``Sweeper.run``, and calls ``renew`` every third of it for what it holds.

    Methods raise ApiError STORE_UNAVAILABLE when Redis does not serve.
    """

    def __init__(
        self,
        commands: CommandBatcher,
        *,
        holder: str,
        lease_ms: int = 5000,
        max_attempts: int = 3,
        max_waiting: int = 10_000,
        max_waiting_per_owner: int = 1000,
        unfinished_ms: int = 24 * 3600 * 1000,
        max_record_bytes: int = 64 * 2**20,
    ) -> None:
        """Take jobs as ``holder``.

        Args:
            commands: The way to Redis.
            holder: Unique to this process and its start.
            lease_ms: How long a job stays with a process that does not renew it; at least 6 times a round trip.
            max_attempts: Leases in a row without a token after which a job is given up.
            max_waiting: Jobs that may wait, of all owners.
            max_waiting_per_owner: The same of one owner.
            unfinished_ms: How long a job is kept that nobody touches before its end.
            max_record_bytes: The most bytes of a record, uncompressed.
        """
        self._commands = commands
        self._holder = holder
        self._lease_ms = lease_ms
        self._gap_ms = gap_ms(lease_ms)
        self._max_attempts = max_attempts
        self._limits = (max_waiting, max_waiting_per_owner)
        self._unfinished_ms = unfinished_ms
        self._max_record_bytes = max_record_bytes

    async def enqueue(
        self,
        owner: str,
        record: ResponseRecord,
        *,
        tier: ServiceTier.ValueType = ServiceTier.SERVICE_TIER_UNSPECIFIED,
        request: bytes = b"",
        first_events: EventBatch | None = None,
    ) -> None:
        """Accept a response: once this returns, it will end whatever single process dies.

        Job first, then queue; the caller answers last. When this fails the job may still run, unless the queue is full.

        Args:
            owner: Whose it is.
            record: The response, `queued`, and its input: what GET shows until the end.
            tier: Decides the order among the owner's jobs.
            request: What the runner wants to know besides; forgotten at the end.
            first_events: The log's first batch, from sequence number 0.

        Raises:
            ApiError: OVERLOADED, if too many wait; REQUEST_TOO_LARGE, if the record is.
        """
        response_id, entry = await self._create(owner, record, tier, request, first_events)
        (is_queued,) = await self._commands.execute(
            _ENQUEUE(keys.QUEUE, entry, *self._limits, keys.WAKE_CHANNEL),
        )
        if not is_queued:
            await self._commands.execute(("UNLINK", *keys.of_job(owner, response_id)))
            message = "Too many background responses are waiting. Try again later."
            raise ApiError(ErrorReason.ERROR_REASON_OVERLOADED, message, retry_after_ms=self._lease_ms)

    async def create_held(
        self,
        owner: str,
        record: ResponseRecord,
        *,
        request: bytes = b"",
        first_events: EventBatch | None = None,
    ) -> HeldJob | None:
        """Create a job that this process runs at once, such as a logged foreground response.

        As ``enqueue``, but past the queue: when this process dies, another goes on with it.

        Returns:
            None: the store stumbled, and another process has it already.
        """
        response_id, _ = await self._create(owner, record, ServiceTier.SERVICE_TIER_UNSPECIFIED, request, first_events)
        return await self.take(owner, str(response_id))

    async def claim(self) -> HeldJob | None:
        """Lease the next job; None if nothing is ready. ``keys.WAKE_CHANNEL`` tells when to ask again.

        A claim whose reply is lost is sent again and then gets another job; the first waits for its lease to run out.
        """
        for _ in range(_STALE_AT_ONCE):
            (claimed,) = await self._commands.execute(
                _CLAIM(keys.QUEUE, secrets.token_hex(8), self._lease_ms, self._gap_ms)
            )
            if claimed is None:
                return None
            held = await self._begin(claimed[0].decode(), int(claimed[1]))
            if held is not None:
                return held
        return None

    async def take(self, owner: str, response_id: str) -> HeldJob | None:
        """Lease this job, whether it waits, is put off, or is not in the queue; None if it is held or has ended.

        For who cancels a job that nobody runs, and wants its end at once.
        """
        parsed = parse_response_id(response_id)
        if parsed is None:
            return None
        (values,) = await self._commands.execute(("HMGET", keys.job(owner, parsed), "tier", "created_at"))
        if values[0] is None:
            return None
        entry = entry_of(owner, parsed, int(values[0]), int(values[1]))
        (fence,) = await self._commands.execute(
            _TAKE(keys.QUEUE, entry, secrets.token_hex(8), self._lease_ms, self._gap_ms)
        )
        return await self._begin(entry, int(fence)) if fence is not None else None

    def must_give_up(self, lease: Lease) -> bool:
        """The job was tried too often: its holder must end it as failed, and not run it."""
        return lease.attempts > self._max_attempts

    async def renew(self, leases: Sequence[Lease]) -> list[Renewal]:
        """Prolong ``leases``, in two round trips' time for any number; what became of each, in order.

        Also when ``keys.HOLDER_CHANNEL`` and the holder's name says that something was cancelled or deleted.
        """
        if not leases:
            return []
        named = [value for lease in leases for value in (lease.entry, lease.fence)]
        jobs = [("HMGET", lease.job_keys[0], "fence", "cancel", "status") for lease in leases]
        renewed, *states = await self._commands.execute(_RENEW(keys.QUEUE, self._lease_ms, self._gap_ms, *named), *jobs)
        return [
            Renewal(
                is_held=bool(is_held) and state[0] == b"%d" % lease.fence and state[2] in _UNFINISHED,
                is_cancelled=state[1] is not None,
            )
            for lease, is_held, state in zip(leases, renewed, states, strict=True)
        ]

    async def hand_over(self, lease: Lease) -> None:
        """Give a job back at a checkpoint, to be taken by another process at once; the attempt does not count.

        The log must hold all that readers were shown. Nothing happens if the lease is lost.
        """
        (attempts,) = await self._commands.execute(_RELEASE(lease.job_keys, lease.fence, 1))
        if attempts >= 0:
            await self._put_back(lease, 0)

    async def retry_later(self, lease: Lease, *, is_attempt: bool = True) -> None:
        """Give a job back after a failure that may pass, to be taken again after a delay that doubles each time.

        Args:
            is_attempt: False: it was not even tried, and the attempt does not count.
        """
        (attempts,) = await self._commands.execute(_RELEASE(lease.job_keys, lease.fence, int(not is_attempt)))
        if attempts >= 0:
            await self._put_back(lease, min(_FIRST_BACKOFF_MS * 2 ** max(0, attempts - 1), LONGEST_BACKOFF_MS))

    async def ensure_queued(self, owner: str, response_id: str) -> None:
        """Queue a job that has not ended and is not in the queue: whoever created it may have died before that."""
        parsed = parse_response_id(response_id)
        if parsed is None:
            return
        (values,) = await self._commands.execute(("HMGET", keys.job(owner, parsed), "status", "tier", "created_at"))
        status, tier, created_at = values
        if status in _UNFINISHED:
            entry = entry_of(owner, parsed, int(tier), int(created_at))
            await self._commands.execute(_ENQUEUE(keys.QUEUE, entry, 0, 0, keys.WAKE_CHANNEL))

    async def cancel(self, owner: str, response_id: str) -> Job | None:
        """Ask for a response to be cancelled, however often; the job as it is then, None if there is none.

        Its holder is woken, and hears it at the latest with its next append or renewal. A job that nobody holds is
        ended by whoever takes it: see ``take``.
        """
        parsed = parse_response_id(response_id)
        if parsed is None:
            return None
        _, job = await self._commands.execute(
            _CANCEL(keys.of_job(owner, parsed), keys.HOLDER_CHANNEL),
            _read_job(owner, parsed),
        )
        return _parse_job(job)

    async def get(self, owner: str, response_id: str) -> Job | None:
        """How far a logged response is; None if ``owner`` has none such."""
        parsed = parse_response_id(response_id)
        if parsed is None:
            return None
        (job,) = await self._commands.execute(_read_job(owner, parsed))
        return _parse_job(job)

    async def _create(
        self,
        owner: str,
        record: ResponseRecord,
        tier: ServiceTier.ValueType,
        request: bytes,
        first_events: EventBatch | None,
    ) -> tuple[ResponseId, str]:
        """Create a job; its response and its place in the queue."""
        response_id = parse_response_id(record.response.id)
        assert response_id is not None
        assert first_events is None or first_events.first_sequence_number == 0
        rank = _TIERS.get(tier, _DEFAULT_TIER)
        blob = await pack_record(record, max_bytes=self._max_record_bytes)
        batch = (*encode(first_events), next_sequence_number(first_events)) if first_events else ()
        (created_at,) = await self._commands.execute(
            _CREATE(keys.of_job(owner, response_id), rank, self._unfinished_ms, blob, request, *batch)
        )
        return response_id, entry_of(owner, response_id, rank, int(created_at))

    async def _begin(self, entry: str, fence: int) -> HeldJob | None:
        owner, response_id = parse_entry(entry)
        (reply,) = await self._commands.execute(
            _BEGIN(keys.of_job(owner, response_id), fence, self._holder, self._unfinished_ms)
        )
        match reply:
            case [b"held", attempts, next_number, cancel, request, blob]:
                is_damaged = False
                try:
                    (record,) = await unpack_records([blob], max_bytes=self._max_record_bytes)
                except CorruptRecord:
                    is_damaged, record = True, ResponseRecord(response=Response(id=str(response_id)))
                lease = Lease(
                    owner=owner,
                    response_id=response_id,
                    entry=entry,
                    holder=self._holder,
                    fence=fence,
                    attempts=int(attempts),
                    next_sequence_number=int(next_number),
                    is_cancelled=bool(cancel),
                )
                return HeldJob(lease, record, request, is_damaged)
            case [b"ended"] | [b"gone"]:
                await self._commands.execute(_FORGET(keys.QUEUE, entry, fence))
            case _:  # stale: this lease ran out before it began, and another process holds the job
                pass
        return None

    async def _put_back(self, lease: Lease, delay_ms: int) -> None:
        await self._commands.execute(_PUT_BACK(keys.QUEUE, lease.entry, lease.fence, delay_ms, keys.WAKE_CHANNEL))


def _read_job(owner: str, response_id: ResponseId) -> Command:
    fields = ("status", "holder", "attempts", "cancel", "next", "created_at")
    return ("HMGET", keys.job(owner, response_id), *fields)


def _parse_job(values: Sequence[bytes | None]) -> Job | None:
    status, holder, attempts, cancel, next_number, created_at = values
    if status is None or attempts is None or next_number is None or created_at is None:
        return None
    return Job(
        status=ResponseStatus.Value(f"RESPONSE_STATUS_{status.decode().upper()}"),
        holder=holder.decode() if holder is not None else None,
        attempts=int(attempts),
        is_cancelled=cancel is not None,
        next_sequence_number=int(next_number),
        created_at_ms=int(created_at),
    )
