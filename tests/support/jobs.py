"""Background jobs for tests: the stores of one edge process, batches, and a way to let leases run out."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis, RedisCluster

from antiphon.responses.v1.event_pb2 import ResponseEvent, ResponseSnapshot
from antiphon.responses.v1.response_pb2 import ResponseStatus
from antiphon.store.v1.event_log_pb2 import DeltaKind, EventBatch
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.batcher import CommandBatcher
from store.connection import connect, subscribe
from store.event_batch import EventBatchBuilder, expand
from store.event_log import EventLog
from store.ids import ResponseId, new_response_id
from store.jobs import JobQueue
from store.lease import Lease
from store.responses import ResponseStore
from store.subscriber import Subscriber
from store.sweeper import Sweeper
from tests.support.records import finished_record

QUEUED = ResponseStatus.RESPONSE_STATUS_QUEUED
COMPLETED = ResponseStatus.RESPONSE_STATUS_COMPLETED
FAILED = ResponseStatus.RESPONSE_STATUS_FAILED
CANCELLED = ResponseStatus.RESPONSE_STATUS_CANCELLED

RETENTION_MS = 3_600_000
LOG_RETENTION_MS = 600_000
LEASE_MS = 600_000
"""Longer than any test: leases end when a test says so."""

_TERMINAL_EVENTS = {COMPLETED: "completed", FAILED: "failed", CANCELLED: "incomplete"}


@dataclass(frozen=True)
class EdgeStores:
    """What one edge process has of the store."""

    commands: CommandBatcher
    subscriber: Subscriber
    jobs: JobQueue
    log: EventLog
    responses: ResponseStore
    sweeper: Sweeper


@asynccontextmanager
async def edge_stores(
    url: str,
    holder: str = "edge-1",
    *,
    lease_ms: int = LEASE_MS,
    max_waiting_per_owner: int = 1000,
    max_log_bytes: int = 2**20,
    look_again_s: float = 60,
    timeout_s: float = 5,
) -> AsyncGenerator[EdgeStores, None]:
    """The stores of a process called ``holder``. Followers are woken or wait in vain, but for ``look_again_s``."""
    async with AsyncExitStack() as stack:
        commands = await stack.enter_async_context(connect(url, timeout_s=timeout_s))
        subscriber = await stack.enter_async_context(subscribe(url))
        yield EdgeStores(
            commands,
            subscriber,
            JobQueue(commands, holder=holder, lease_ms=lease_ms, max_waiting_per_owner=max_waiting_per_owner),
            EventLog(
                commands,
                subscriber,
                retention_ms=RETENTION_MS,
                log_retention_ms=LOG_RETENTION_MS,
                max_log_bytes=max_log_bytes,
                look_again_s=look_again_s,
            ),
            ResponseStore(commands, retention_ms=RETENTION_MS),
            Sweeper(commands, holder=holder, lease_ms=lease_ms),
        )


async def let_lease_run_out(raw: Redis | RedisCluster, lease: Lease) -> None:
    """As if the lease's time had passed; ``Sweeper.requeue_lost`` may take it from then on."""
    await raw.zadd(keys.QUEUE[2], {lease.entry: 1}, xx=True)


def queued_record(response_id: ResponseId | None = None) -> ResponseRecord:
    """A background response as it is accepted."""
    record = finished_record(response_id or new_response_id())
    del record.response.output[:]
    record.response.status = QUEUED
    return record


def ended_record(record: ResponseRecord, status: ResponseStatus.ValueType = COMPLETED) -> ResponseRecord:
    """``record`` at its end."""
    ended = ResponseRecord()
    ended.CopyFrom(record)
    ended.response.status = status
    return ended


def opening(record: ResponseRecord) -> EventBatch:
    """The first events of a background response: `created`, `queued`."""
    builder = EventBatchBuilder(0)
    snapshot = ResponseSnapshot(response=record.response)
    builder.event(ResponseEvent(sequence_number=0, created=snapshot))
    builder.event(ResponseEvent(sequence_number=1, queued=snapshot))
    return builder.build()


def deltas(first: int, texts: Sequence[str]) -> EventBatch:
    """Deltas of one text part, a token each."""
    builder = EventBatchBuilder(first)
    for number, text in enumerate(texts, first):
        builder.tokens([number])
        builder.delta(DeltaKind.DELTA_KIND_OUTPUT_TEXT, item_id="msg_1", output_index=0, part_index=0, text=text)
    return builder.build()


def ending(first: int, record: ResponseRecord) -> EventBatch:
    """The terminal event of ``record``."""
    builder = EventBatchBuilder(first)
    event = ResponseEvent(sequence_number=first)
    getattr(event, _TERMINAL_EVENTS[record.response.status]).response.CopyFrom(record.response)
    builder.event(event)
    return builder.build(is_last=True)


async def read_events(log: EventLog, owner: str, response_id: str, starting_after: int = -1) -> list[ResponseEvent]:
    """All events that the log holds now."""
    events: list[ResponseEvent] = []
    while True:
        page = await log.read(owner, response_id, starting_after=starting_after)
        events += [event for batch in page.batches for event in expand(batch, starting_after=starting_after)]
        starting_after = page.next_sequence_number - 1
        if page.has_ended or not page.batches:
            return events


async def create_held(edge: EdgeStores, owner: str, record: ResponseRecord) -> Lease:
    """A logged response of ``edge``, with its first events in its log."""
    held = await edge.jobs.create_held(owner, record, first_events=opening(record))
    assert held is not None
    return held.lease
