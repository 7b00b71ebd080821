"""Response records, and the chains that ``previous_response_id`` makes of them."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item
from antiphon.responses.v1.response_pb2 import ResponseStatus
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.batcher import Command, CommandBatcher
from store.ids import ResponseId, parse_item_id, parse_response_id
from store.packing import CorruptRecord, pack_record, unpack_records
from store.retention import Retention, retention_ms_of
from store.scripts import Script

_SHOWN_ID_LENGTH = 128
"""Characters of a client's id that a message repeats: it travels in gRPC's trailers, which are limited."""

_ACCOUNT = Script("account", prelude="owner")
_DISCOUNT = Script("discount", prelude="owner")
_DELETE = Script("delete", prelude="job")

_UNFINISHED = (ResponseStatus.RESPONSE_STATUS_QUEUED, ResponseStatus.RESPONSE_STATUS_IN_PROGRESS)

_TOUCH = "for _, key in ipairs(KEYS) do redis.pcall('PEXPIRE', key, ARGV[1]) end"
"""Lua: starts the lifetime of KEYS anew, ARGV[1] milliseconds. One script, as redis-py costs 15 us for each command. A
server that takes no writes leaves it: what is there can still be read and continued."""

_PROBE_MS = 1000


@dataclass(frozen=True, slots=True)
class Chain:
    """Responses of which each continues the one before it."""

    records: tuple[ResponseRecord, ...]
    """The root first, at least one."""

    @property
    def response_ids(self) -> list[str]:
        """The ids, root first: the ``ancestor_ids`` of a response that continues this chain."""
        return [record.response.id for record in self.records]

    @property
    def record_bytes(self) -> int:
        """Bytes of all records: the ``ancestor_bytes`` of a response that continues this chain."""
        return _chain_bytes(self.records[-1])

    def items(self) -> Iterator[Item]:
        """The conversation: of every response its input and then its output, root first.

        Instructions and tools are not carried over (OpenAI's reference, ``previous_response_id``).
        """
        for record in self.records:
            yield from record.input
            yield from record.response.output


class ResponseStore:
    """The records of finished responses, by owner.

    Records are immutable and live for ``retention_ms``, counted from their commit or from the last time that a chain
    they are in was continued: the whole chain is refreshed at once, so a record never outlives its ancestors.

    What a method has returned from is seen by all edges, and is as durable as Redis is told to make it. With AOF and
    ``appendfsync always`` it is on disk, and survives the death of the server process. ``everysec`` does not promise
    that: while its background fsync runs, Redis keeps acknowledged writes in its own memory for up to 2 seconds
    (``aof_buffer_length`` in INFO), and loses them if it is killed then: seen with Redis 7.0 and Valkey 9.1. A failover
    may lose what was not replicated yet.

    Every id that a client may have made up is a string here and is parsed before it becomes part of a key. A record of
    another owner is absent, nothing else. Methods raise ApiError STORE_UNAVAILABLE when Redis does not serve.
    """

    def __init__(
        self,
        commands: CommandBatcher,
        *,
        retention_ms: Retention,
        max_depth: int = 1000,
        max_record_bytes: int = 64 * 2**20,
        max_chain_bytes: int = 256 * 2**20,
    ) -> None:
        """Keep records for ``retention_ms``.

        Args:
            commands: The way to Redis.
            retention_ms: A record's lifetime after its last use, in milliseconds.
            max_depth: The most responses of a chain that can be continued.
            max_record_bytes: The most bytes of a record, uncompressed.
            max_chain_bytes: The most bytes of all records of a chain, uncompressed.
        """
        self._commands = commands
        self._retention_ms = retention_ms
        self._max_depth = max_depth
        self._max_record_bytes = max_record_bytes
        self._max_chain_bytes = max_chain_bytes

    async def save(self, owner: str, record: ResponseRecord) -> None:
        """Commit ``record`` and start the lifetime of its chain anew; whoever asks after this returns, finds it.

        Saving the same record twice is harmless; it is sent again when the acknowledgement was lost. The caller must
        not change ``record`` before this returns.

        Raises:
            ApiError: REQUEST_TOO_LARGE, if the record is over its limit.
        """
        response_id = _allocated(record.response.id)
        ancestors = self._keys(owner, record.ancestor_ids)
        blob = await pack_record(record, max_bytes=self._max_record_bytes)
        commands: list[Command] = [
            ("SET", keys.response(owner, response_id), blob, "PX", retention_ms_of(owner, self._retention_ms)),
            self._account(owner, str(response_id), len(blob), record.ancestor_ids),
        ]
        if ancestors:
            commands.append(self._touch(owner, ancestors))
        await self._commands.execute(*commands)

    async def check_writable(self) -> None:
        """Return if a record could be saved now: a server that is full or read-only still answers all else.

        Of a cluster only one node is asked, any.
        """
        await self._commands.execute(("SET", random.choice(keys.PROBES), "", "PX", _PROBE_MS))

    async def get(self, owner: str, response_id: str) -> ResponseRecord | None:
        """The record of ``response_id``; None if ``owner`` has none. Does not prolong its life."""
        parsed = parse_response_id(response_id)
        if parsed is None:
            return None
        (blob,) = await self._commands.execute(("GET", keys.response(owner, parsed)))
        if blob is None:
            return None
        return (await unpack_records([blob], max_bytes=self._max_record_bytes))[0]

    async def load_chain(self, owner: str, previous_response_id: str) -> Chain:
        """The chain that ends with ``previous_response_id``, for a response that continues it.

        Two round trips, whatever the depth: the last record names its ancestors, all of which are read at once. The
        lifetime of the whole chain starts anew.

        Raises:
            ApiError: PREVIOUS_RESPONSE_NOT_FOUND, if it or any of its ancestors is absent, foreign or deleted;
                INVALID_VALUE, if it has not ended, or the chain is too long or too large to be continued. Both name
                the parameter.
        """
        last = await self.get(owner, previous_response_id)
        if last is None:
            raise _previous_response_not_found(previous_response_id)
        if last.response.status in _UNFINISHED:
            raise _not_continuable(previous_response_id, "has not ended")
        if len(last.ancestor_ids) >= self._max_depth:
            raise _not_continuable(previous_response_id, f"is longer than {self._max_depth} responses")
        if _chain_bytes(last) > self._max_chain_bytes:
            raise _not_continuable(previous_response_id, f"takes more than {self._max_chain_bytes} bytes")
        ancestors = self._keys(owner, last.ancestor_ids)
        touch = self._touch(owner, [*ancestors, *self._keys(owner, [previous_response_id])])
        account = self._account(owner, "", 0, [*last.ancestor_ids, previous_response_id])
        if not ancestors:
            await self._commands.execute(touch, account)
            return Chain((last,))
        blobs, _, _ = await self._commands.execute(("MGET", *ancestors), touch, account)
        if None in blobs:
            raise _previous_response_not_found(previous_response_id)
        return Chain((*await unpack_records(blobs, max_bytes=self._max_record_bytes), last))

    async def delete(self, owner: str, response_id: str) -> bool:
        """Erase all of ``response_id``: record, log and job; return whether ``owner`` had it.

        Who writes it loses the lease, who reads its log is woken. Responses that continue it stay readable, but can no
        longer be continued themselves. If the acknowledgement is lost, the deletion is sent again and may then find
        nothing. What the queue holds of it is dropped when its turn comes (``JobQueue.claim``).
        """
        parsed = parse_response_id(response_id)
        if parsed is None:
            return False
        deleted, _ = await self._commands.execute(
            _DELETE(keys.of_job(owner, parsed), keys.HOLDER_CHANNEL, keys.log_channel(owner, parsed)),
            _DISCOUNT(keys.of_owner(owner), response_id),
        )
        return bool(deleted)

    async def find_item(self, owner: str, item_id: str) -> Item | None:
        """The stored item that an ``item_reference`` names, input or output; None if ``owner`` has none such."""
        parsed = parse_item_id(item_id)
        record = await self.get(owner, str(parsed.response_id)) if parsed else None
        if record is None:
            return None
        return next((item for item in (*record.input, *record.response.output) if item.id == item_id), None)

    def _keys(self, owner: str, allocated_ids: Iterable[str]) -> list[str]:
        return [keys.response(owner, _allocated(response_id)) for response_id in allocated_ids]

    def _account(self, owner: str, response_id: str, size: int, used: Iterable[str]) -> Command:
        """Count ``response_id`` among what ``owner`` has stored, and start the lifetime of ``used`` anew there too."""
        return _ACCOUNT(keys.of_owner(owner), retention_ms_of(owner, self._retention_ms), response_id, size, *used)

    def _touch(self, owner: str, names: Sequence[str]) -> Command:
        return ("EVAL", _TOUCH, len(names), *names, retention_ms_of(owner, self._retention_ms))


def _chain_bytes(last: ResponseRecord) -> int:
    return last.ancestor_bytes + last.ByteSize()


def _allocated(response_id: str) -> ResponseId:
    """An id that this server wrote itself, parsed."""
    parsed = parse_response_id(response_id)
    if parsed is None:
        raise CorruptRecord("a record names a response by an id that was not allocated here")
    return parsed


def _previous_response_not_found(previous_response_id: str) -> ApiError:
    return ApiError(
        ErrorReason.ERROR_REASON_PREVIOUS_RESPONSE_NOT_FOUND,
        f"Previous response with id '{previous_response_id[:_SHOWN_ID_LENGTH]}' not found.",
        "previous_response_id",
    )


def _not_continuable(previous_response_id: str, why: str) -> ApiError:
    return ApiError(
        ErrorReason.ERROR_REASON_INVALID_VALUE,
        f"The conversation up to response '{previous_response_id}' {why} and cannot be continued by id; "
        "start a new one with its items as input.",
        "previous_response_id",
    )
