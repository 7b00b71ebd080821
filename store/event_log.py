"""Event logs: what a response's readers see, kept so that any edge can show it again, and a successor can go on."""

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ResponseStatus
from antiphon.store.v1.event_log_pb2 import EventBatch
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.batcher import CommandBatcher
from store.event_batch import decode, encode, next_sequence_number
from store.ids import ResponseId, parse_response_id
from store.lease import Lease, LeaseLost
from store.packing import pack_record
from store.retention import Retention, retention_ms_of
from store.scripts import Script
from store.subscriber import Subscriber

_APPEND = Script("append", prelude="job")
_FINISH = Script("finish", prelude="job")
_FORGET = Script("forget", prelude="queue")
_ACCOUNT = Script("account", prelude="owner")
_DISCOUNT = Script("discount", prelude="owner")

_BATCHES_AT_ONCE: Final = 64


class LogFull(Exception):
    """The log has its greatest size: the response must be ended, which is always possible."""


class LogGone(Exception):
    """There is no such log, or no longer: never logged, deleted, expired, or another owner's."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of a log."""

    batches: list[EventBatch]
    """In order and without gaps. The first may begin before what was asked for: see ``event_batch.expand``."""
    next_sequence_number: int
    """Where to go on."""
    has_ended: bool
    """Nothing comes after this page, or ever will."""


class EventLog:
    """Logs of all owners. Sequence number + 1 is the position: ``starting_after`` needs no index.

    Only the holder of a response's lease writes, one call after the other, and only what follows the end of the log.
    An event may be shown to readers once the call that holds it has returned. Methods raise ApiError STORE_UNAVAILABLE
    when Redis does not serve; whether an append or an end then happened is unknown, and the very same call may be made
    again: what is there already is not written twice.
    """

    def __init__(
        self,
        commands: CommandBatcher,
        subscriber: Subscriber,
        *,
        retention_ms: Retention,
        log_retention_ms: int,
        unfinished_ms: int = 24 * 3600 * 1000,
        max_log_bytes: int = 64 * 2**20,
        max_record_bytes: int = 64 * 2**20,
        look_again_s: float = 1.0,
    ) -> None:
        """Keep logs for ``log_retention_ms`` after their end.

        Args:
            commands: The way to Redis.
            subscriber: Wakes followers.
            retention_ms: A record's lifetime, as for ``ResponseStore``.
            log_retention_ms: How long log and job stay after the end, if the record does; it then stays alone.
            unfinished_ms: How long they stay when nothing is appended.
            max_log_bytes: The most bytes of a log, as it is stored, without its last batch.
            max_record_bytes: The most bytes of a record, uncompressed.
            look_again_s: A follower that is not woken looks this often.
        """
        self._commands = commands
        self._subscriber = subscriber
        self._retention_ms = retention_ms
        self._log_retention_ms = log_retention_ms
        self._unfinished_ms = unfinished_ms
        self._max_log_bytes = max_log_bytes
        self._max_record_bytes = max_record_bytes
        self._look_again_s = look_again_s

    async def append(self, lease: Lease, batch: EventBatch) -> bool:
        """Append ``batch``, wake followers and start the lifetime of all of the response anew.

        The entry's id is the number of the event that follows, as Redis refuses ``0-0``: ids and numbers cannot part.

        Returns:
            Whether the response is to be cancelled.

        Raises:
            LeaseLost: another process holds the job, or the response is gone; the caller must stop at once.
            LogFull: the log would grow over its limit; nothing was written.
        """
        field, value = encode(batch)
        (reply,) = await self._commands.execute(
            _APPEND(
                lease.job_keys,
                *(lease.fence, batch.first_sequence_number, next_sequence_number(batch), field, value),
                *(self._unfinished_ms, self._max_log_bytes, lease.log_channel, int(bool(batch.token_ids))),
            )
        )
        if reply == -3:
            raise LogFull(f"the log of {lease.response_id} has {self._max_log_bytes} bytes")
        _check(reply, lease)
        return bool(reply)

    async def finish(self, lease: Lease, batch: EventBatch, record: ResponseRecord) -> None:
        """End a response: its last events, its record and its status become visible in one step.

        The terminal status is that of ``record.response``. Its bytes are counted before anybody can see, and so delete,
        it. Afterwards the job leaves the queue; if that fails it leaves when its lease has run out.

        Raises:
            LeaseLost: as ``append``; also when it has ended otherwise.
            ApiError: REQUEST_TOO_LARGE, if the record is over its limit; nothing was written.
        """
        assert batch.is_last
        status = ResponseStatus.Name(record.response.status).removeprefix("RESPONSE_STATUS_").lower()
        field, value = encode(batch)
        blob = await pack_record(record, max_bytes=self._max_record_bytes)
        retention_ms = retention_ms_of(lease.owner, self._retention_ms)
        digest = hashlib.sha256(b"%d:%b%b" % (len(value), value, blob)).digest()
        own = keys.of_owner(lease.owner)
        _, reply = await self._commands.execute(
            _ACCOUNT(own, retention_ms, record.response.id, len(blob), *record.ancestor_ids),
            _FINISH(
                lease.job_keys,
                *(lease.fence, batch.first_sequence_number, next_sequence_number(batch), field, value),
                *(blob, digest, status, retention_ms, min(retention_ms, self._log_retention_ms), lease.log_channel),
            ),
        )
        if reply == -1:
            (is_there,) = await self._commands.execute(("EXISTS", keys.response(lease.owner, lease.response_id)))
            if not is_there:  # it was deleted, and its bytes were counted since
                await self._commands.execute(_DISCOUNT(own, record.response.id))
        _check(reply, lease)
        try:
            await self._commands.execute(_FORGET(keys.QUEUE, lease.entry, lease.fence))
        except ApiError as error:
            if error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE:  # it has ended all the same
                raise

    async def read(self, owner: str, response_id: str, *, starting_after: int = -1) -> LogPage:
        """What is in the log after event ``starting_after``, as far as one page holds it.

        Raises:
            LogGone: there is no such log.
        """
        parsed = parse_response_id(response_id)
        if parsed is None:
            raise LogGone(response_id[:64])
        position = starting_after + 1
        job, entries = await self._commands.execute(
            ("HMGET", keys.job(owner, parsed), "status", "next"),
            ("XRANGE", keys.events(owner, parsed), f"({position}-0", "+", "COUNT", _BATCHES_AT_ONCE),
        )
        status, end = job
        if status is None:
            raise LogGone(response_id)
        batches = [decode(*next(iter(fields.items()))) for _, fields in entries]
        if batches:
            position = next_sequence_number(batches[-1])
        is_terminal = status not in (b"queued", b"in_progress")
        if is_terminal and not batches and position < int(end):
            raise LogGone(response_id)  # evicted or expired before its job
        return LogPage(batches, position, is_terminal and position >= int(end))

    async def follow(
        self, owner: str, response_id: str, *, starting_after: int = -1
    ) -> AsyncGenerator[EventBatch, None]:
        """The batches of the log after event ``starting_after``, those to come as well, until its end.

        Never waits at or after the terminal event. Ends without a last batch only by an exception. When the store
        is away it goes on where it was once the store is back, unless the caller leaves.

        Raises:
            LogGone: there is no such log, or it was deleted meanwhile.
        """
        parsed = parse_response_id(response_id)
        if parsed is None:
            raise LogGone(response_id[:64])
        with self._subscriber.listen(keys.log_channel(owner, parsed)) as signal:
            while True:
                try:
                    page = await self.read(owner, response_id, starting_after=starting_after)
                except ApiError as error:
                    if error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE:
                        raise
                    await signal.wait(self._look_again_s)
                    continue
                for batch in page.batches:
                    yield batch
                starting_after = page.next_sequence_number - 1
                if page.has_ended:
                    return
                if not page.batches:
                    await signal.wait(self._look_again_s)

    async def mark_read(self, owner: str, response_id: ResponseId, *, lifetime_ms: int) -> None:
        """Somebody reads this log now, and is taken to do so for ``lifetime_ms``."""
        await self._commands.execute(("SET", keys.reader(owner, response_id), "", "PX", lifetime_ms))

    async def is_read(self, owner: str, response_id: ResponseId) -> bool:
        """Somebody reads this log, or did just now: see ``mark_read``."""
        (count,) = await self._commands.execute(("EXISTS", keys.reader(owner, response_id)))
        return bool(count)


def _check(reply: int, lease: Lease) -> None:
    if reply == -1:
        raise LeaseLost(f"{lease.response_id} is no longer held under fence {lease.fence}")
    if reply == -2:
        raise AssertionError(f"a batch does not follow the log of {lease.response_id}")
