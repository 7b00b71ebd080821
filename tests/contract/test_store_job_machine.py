"""Jobs, logs and records against a model of them: several processes that crash, sleep and come back, on a real server
that is killed between their steps and under them."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from antiphon.responses.v1.response_pb2 import ResponseStatus
from antiphon.store.v1.event_log_pb2 import EventBatch
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.event_log import LogGone
from store.idempotency import Existing, IdempotencyStore, New
from store.lease import HeldJob, LeaseLost
from tests.support.jobs import (
    CANCELLED,
    COMPLETED,
    FAILED,
    RETENTION_MS,
    EdgeStores,
    deltas,
    edge_stores,
    ended_record,
    ending,
    let_lease_run_out,
    opening,
    queued_record,
    read_events,
)
from tests.support.valkey import ValkeyServer, valkey_process

READY, OWNERS, LEASES, FENCES, CLOCK = keys.QUEUE
EDGES = 3
MOST_KILLS = 4
"""In one run: each takes a while."""

T = TypeVar("T")

any_number = st.integers(0, 2**16)
statuses = st.sampled_from([COMPLETED, FAILED, CANCELLED])


@dataclass
class ModelJob:
    """What must be true of one response."""

    owner: str
    record: ResponseRecord
    texts: list[str] = field(default_factory=list)
    """Of the deltas in the log."""
    writer: int = 0
    """Fence of the one who may write; 0: nobody."""
    is_leased: bool = False
    """Nobody may take it."""
    attempts: int = 0
    """Leases in a row without a token, but for those that were handed over."""
    ended: ResponseRecord | None = None
    is_deleted: bool = False
    is_cancelled: bool = False

    @property
    def id(self) -> str:
        return self.record.response.id

    @property
    def next(self) -> int:
        return 2 + len(self.texts)


@dataclass
class ModelKey:
    """What must be true of an Idempotency-Key."""

    job: ModelJob
    """Made with it, or about to be."""
    is_made: bool
    is_confirmed: bool


@dataclass
class Claimed:
    """A lease as its holder sees it, who may be wrong."""

    edge: int
    held: HeldJob
    job: ModelJob
    last: EventBatch | None = None
    """What it appended last."""

    @property
    def may_write(self) -> bool:
        return not self.job.is_deleted and self.job.ended is None and self.job.writer == self.held.lease.fence


class JobMachine(RuleBasedStateMachine):
    """Rules are steps of processes; invariants hold after each."""

    server: ClassVar[ValkeyServer]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._edges: list[EdgeStores] = []
        self._jobs: list[ModelJob] = []
        self._leases: list[Claimed] = []
        self._keys: dict[str, ModelKey] = {}
        self._kills = 0
        self._run(self._open())

    def _run(self, step: Coroutine[Any, Any, None]) -> None:
        self._runner.run(self._within_a_minute(step))

    async def _within_a_minute(self, step: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(60):
            await step

    async def _open(self) -> None:
        self._raw = Redis.from_url(self.server.url)
        await self._raw.flushall()
        for number in range(EDGES):
            stores = edge_stores(self.server.url, f"edge-{number}", timeout_s=15)
            self._edges.append(await self._stack.enter_async_context(stores))

    def teardown(self) -> None:
        try:
            self._run(self._recover())
        finally:
            self._run(self._stack.aclose())
            self._run(self._raw.aclose())
            self._runner.close()

    async def _recover(self) -> None:
        """All processes but one have died, leases have run out: then every job ends, and the queue holds nothing."""
        edge = self._edges[0]
        held_now: list[Any] = await self._raw.zrange(LEASES, 0, -1)
        for entry in held_now:
            await self._raw.zadd(LEASES, {entry: 1})
        await edge.sweeper.requeue_lost()
        live = {job.id: job for job in self._jobs if job.ended is None and not job.is_deleted}
        assert await edge.sweeper.sweep() == len(live)
        while (held := await edge.jobs.claim()) is not None:
            job = live.pop(str(held.lease.response_id))  # once, and none that has ended or is gone
            assert held.lease.next_sequence_number == job.next
            assert held.lease.is_cancelled == job.is_cancelled
            job.ended = ended_record(job.record, FAILED)
            await edge.log.finish(held.lease, ending(job.next, job.ended), job.ended)
        assert live == {}
        assert [await self._raw.zcard(READY), await self._raw.zcard(LEASES)] == [0, 0]
        assert [await self._raw.zcard(OWNERS), await self._raw.hlen(FENCES)] == [0, 0]
        await self._check_all()
        assert [key async for key in self._raw.scan_iter() if await self._raw.pttl(key) < 0] == [CLOCK.encode()]

    # -- processes at work

    @initialize()
    def is_busy(self) -> None:
        """Most steps need somebody at work."""
        for edge, owner in enumerate(("acme", "other:{}", "acme")):
            self.enqueue(owner, edge)
            self.claim(edge)

    @rule(owner=st.sampled_from(["acme", "other:{}"]), edge=st.integers(0, EDGES - 1))
    def enqueue(self, owner: str, edge: int) -> None:
        job = ModelJob(owner, queued_record())
        self._run(self._edges[edge].jobs.enqueue(owner, job.record, first_events=opening(job.record)))
        self._jobs.append(job)

    @rule(edge=st.integers(0, EDGES - 1))
    def claim(self, edge: int) -> None:
        self._run(self._claim(edge))

    async def _claim(self, edge: int) -> None:
        held = await self._edges[edge].jobs.claim()
        if held is not None:
            self._took(edge, held)

    @rule(owner=st.sampled_from(["acme", "other:{}"]), edge=st.integers(0, EDGES - 1))
    def enqueue_and_claim(self, owner: str, edge: int) -> None:
        self.enqueue(owner, edge)
        self.claim(edge)

    @rule(owner=st.sampled_from(["acme", "other:{}"]), edge=st.integers(0, EDGES - 1))
    def hold(self, owner: str, edge: int) -> None:
        """As for a foreground response: past the queue."""
        self._run(self._hold(ModelJob(owner, queued_record()), edge))

    async def _hold(self, job: ModelJob, edge: int) -> None:
        self._jobs.append(job)
        held = await self._edges[edge].jobs.create_held(job.owner, job.record, first_events=opening(job.record))
        assert held is not None
        self._took(edge, held)

    @rule(
        key=st.sampled_from(["one", "two"]),
        edge=st.integers(0, EDGES - 1),
        dies_when=st.sampled_from(["reserved", "made", "queued", "never"]),
    )
    def enqueue_with_key(self, key: str, edge: int, dies_when: str) -> None:
        self._run(self._enqueue_with_key(key, edge, dies_when))

    async def _enqueue_with_key(self, key: str, edge: int, dies_when: str) -> None:
        there, new = self._keys.get(key), ModelJob("acme", queued_record())
        jobs, idempotency = self._edges[edge].jobs, self._idempotency(edge)
        outcome = await idempotency.reserve("acme", key, "body", new.id)
        if there is not None and (not there.is_confirmed or not there.job.is_deleted):
            is_stored = there.is_made and not there.job.is_deleted
            assert outcome == Existing(there.job.id, is_stored=is_stored)
            if is_stored:
                await jobs.ensure_queued("acme", there.job.id)
                is_queued = [*await self._entries(READY, there.job), *await self._entries(LEASES, there.job)]
                assert is_queued or there.job.ended is not None
                assert await idempotency.confirm("acme", key, there.job.id)
                there.is_confirmed = True
            return
        assert outcome == New()
        self._keys[key] = made = ModelKey(new, is_made=dies_when != "reserved", is_confirmed=dies_when == "never")
        if made.is_made:
            await jobs.enqueue("acme", new.record, first_events=opening(new.record))
            self._jobs.append(new)
        if dies_when == "made":
            await self._raw.zrem(READY, *await self._entries(READY, new))
        if made.is_confirmed:
            assert await idempotency.confirm("acme", key, new.id)

    async def _entries(self, key: str, job: ModelJob) -> list[bytes]:
        """Of ``job``, one at most, in a set of the queue."""
        entries: list[Any] = await self._raw.zrange(key, 0, -1)
        return [entry for entry in entries if entry.endswith(job.id.encode())]

    @rule(key=st.sampled_from(["one", "two"]))
    def reservation_runs_out(self, key: str) -> None:
        there = self._keys.get(key)
        if there is not None and not there.is_confirmed:
            self._run(self._expire(key))
            del self._keys[key]

    async def _expire(self, key: str) -> None:
        assert await self._raw.delete(keys.idempotency("acme", key)) == 1

    def _idempotency(self, edge: int) -> IdempotencyStore:
        return IdempotencyStore(self._edges[edge].commands, retention_ms=RETENTION_MS)

    def _took(self, edge: int, held: HeldJob) -> None:
        job = next(job for job in self._jobs if job.id == str(held.lease.response_id))
        assert job.ended is None
        assert not job.is_deleted
        assert held.lease.fence > job.writer
        assert held.lease.next_sequence_number == job.next
        assert held.lease.is_cancelled == job.is_cancelled
        assert held.record == job.record
        assert not job.is_leased
        job.writer, job.is_leased = held.lease.fence, True
        job.attempts += 1
        assert held.lease.attempts == job.attempts
        self._leases.append(Claimed(edge, held, job))

    @precondition(lambda self: self._leases)
    @rule(number=any_number, texts=st.lists(st.text(max_size=5), min_size=1, max_size=5), is_killed=st.booleans())
    def append(self, number: int, texts: list[str], is_killed: bool) -> None:
        self._run(self._append(self._leases[number % len(self._leases)], texts, is_killed))

    async def _append(self, claimed: Claimed, texts: list[str], is_killed: bool) -> None:
        batch = deltas(claimed.job.next, texts)
        if await self._write(claimed, self._edges[claimed.edge].log.append(claimed.held.lease, batch), is_killed):
            claimed.job.texts += texts
            claimed.job.attempts = 0  # it gets further
            claimed.last = batch

    @precondition(lambda self: any(claimed.last for claimed in self._leases))
    @rule(number=any_number)
    def append_again(self, number: int) -> None:
        """The answer was lost, and the process, perhaps a zombie by now, sends it again."""
        claimed = _pick(number, [claimed for claimed in self._leases if claimed.last is not None])
        assert claimed.last is not None
        if claimed.may_write and claimed.job.next != claimed.last.first_sequence_number + len(
            claimed.last.entries[0].deltas.texts
        ):
            return  # a holder sends nothing older than its last batch again
        step = self._edges[claimed.edge].log.append(claimed.held.lease, claimed.last)
        self._run(self._ignore(self._write(claimed, step, False)))

    @precondition(lambda self: self._leases)
    @rule(number=any_number, status=statuses, is_killed=st.booleans())
    def finish(self, number: int, status: ResponseStatus.ValueType, is_killed: bool) -> None:
        self._run(self._finish(self._leases[number % len(self._leases)], status, is_killed))

    async def _finish(self, claimed: Claimed, status: ResponseStatus.ValueType, is_killed: bool) -> None:
        job, lease = claimed.job, claimed.held.lease
        ended = ended_record(job.record, status)
        step = self._edges[claimed.edge].log.finish(lease, ending(job.next, ended), ended)
        is_again = job.ended == ended and job.writer == lease.fence and not job.is_deleted
        if is_again:
            await step  # the very same end
        elif await self._write(claimed, step, is_killed):
            job.ended = ended

    async def _write(self, claimed: Claimed, step: Coroutine[Any, Any, object], is_killed: bool) -> bool:
        """Whether the write was done, which must be so if and only if the lease is the job's."""
        task = asyncio.create_task(step)
        if is_killed and self._kills < MOST_KILLS:
            await asyncio.sleep(0)  # it is on its way
            self._kill_server()
        if claimed.may_write:
            await task
            return True
        with pytest.raises(LeaseLost):
            await task
        return False

    @precondition(lambda self: self._leases)
    @rule(number=any_number, counts=st.booleans())
    def give_back(self, number: int, counts: bool) -> None:
        claimed = _pick(number, self._leases)
        jobs = self._edges[claimed.edge].jobs
        self._run(jobs.retry_later(claimed.held.lease) if counts else jobs.hand_over(claimed.held.lease))
        if claimed.may_write:
            claimed.job.writer, claimed.job.is_leased = 0, False
            claimed.job.attempts = max(0, claimed.job.attempts - (not counts))

    @precondition(lambda self: self._leases)
    @rule(number=any_number)
    def renew(self, number: int) -> None:
        self._run(self._renew(_pick(number, self._leases)))

    async def _renew(self, claimed: Claimed) -> None:
        (renewal,) = await self._edges[claimed.edge].jobs.renew([claimed.held.lease])
        if renewal.is_held:
            assert claimed.may_write
            assert renewal.is_cancelled == claimed.job.is_cancelled

    @precondition(lambda self: any(claimed.may_write for claimed in self._leases))
    @rule(number=any_number, edge=st.integers(0, EDGES - 1), ends_it=st.booleans())
    def sleep_and_wake_up(self, number: int, edge: int, ends_it: bool) -> None:
        """A holder sleeps until another has taken over, and then writes as if nothing had happened."""
        zombie = _pick(number, [claimed for claimed in self._leases if claimed.may_write])
        self._run(self._lease_runs_out(zombie, edge))
        self._run(self._ignore(self._edges[edge].sweeper.sweep()))
        for _ in self._jobs:
            if zombie.may_write:
                self._run(self._claim(edge))
        assert not zombie.may_write
        self._run(self._finish(zombie, COMPLETED, False) if ends_it else self._append(zombie, ["lost"], False))

    # -- what befalls them

    @precondition(lambda self: self._leases)
    @rule(number=any_number, edge=st.integers(0, EDGES - 1))
    def lease_runs_out(self, number: int, edge: int) -> None:
        """Its holder died, or sleeps: its lease stays in the list, to be used by the zombie."""
        self._run(self._lease_runs_out(_pick(number, self._leases), edge))

    async def _lease_runs_out(self, claimed: Claimed, edge: int) -> None:
        await let_lease_run_out(self._raw, claimed.held.lease)
        claimed.job.is_leased = False
        await self._edges[edge].sweeper.requeue_lost()

    @precondition(lambda self: self._kills < MOST_KILLS)
    @rule()
    def server_is_killed(self) -> None:
        self._kill_server()

    def _kill_server(self) -> None:
        self._kills += 1
        self.server.kill()
        self.server.start()

    @precondition(lambda self: self._jobs)
    @rule(number=any_number)
    def entry_is_lost(self, number: int) -> None:
        """A crash between job and queue, or a failover that lost the last writes."""
        self._run(self._lose_entry(number))

    async def _lose_entry(self, number: int) -> None:
        entries: list[Any] = await self._raw.zrange(READY, 0, -1)
        if entries:
            await self._raw.zrem(READY, _pick(number, entries))

    @rule(edge=st.integers(0, EDGES - 1))
    def sweep(self, edge: int) -> None:
        self._run(self._ignore(self._edges[edge].sweeper.sweep()))

    # -- what clients do

    @precondition(lambda self: self._jobs)
    @rule(number=any_number, edge=st.integers(0, EDGES - 1), ends_it=st.booleans())
    def cancel(self, number: int, edge: int, ends_it: bool) -> None:
        self._run(self._cancel(_pick(number, self._jobs), edge, ends_it))

    async def _cancel(self, job: ModelJob, edge: int, ends_it: bool) -> None:
        there = await self._edges[edge].jobs.cancel(job.owner, job.id)
        if job.is_deleted:
            assert there is None
            return
        assert there is not None
        job.is_cancelled |= job.ended is None
        assert there.is_cancelled == job.is_cancelled
        if ends_it:
            held = await self._edges[edge].jobs.take(job.owner, job.id)
            if held is not None:
                self._took(edge, held)
                await self._finish(self._leases[-1], CANCELLED, False)

    @precondition(lambda self: self._jobs)
    @rule(number=any_number, edge=st.integers(0, EDGES - 1))
    def delete(self, number: int, edge: int) -> None:
        self._run(self._delete(_pick(number, self._jobs), edge))

    async def _delete(self, job: ModelJob, edge: int) -> None:
        assert await self._edges[edge].responses.delete(job.owner, job.id) is not job.is_deleted
        job.is_deleted = True

    # -- what must always hold

    @invariant()
    def every_response_is_as_the_model_says(self) -> None:
        self._run(self._check_all())

    async def _check_all(self) -> None:
        for job in self._jobs:
            await self._check(job, self._edges[-1])

    async def _check(self, job: ModelJob, edge: EdgeStores) -> None:
        stored = await edge.responses.get(job.owner, job.id)
        state = await edge.jobs.get(job.owner, job.id)
        if job.is_deleted:
            assert (stored, state) == (None, None)
            with pytest.raises(LogGone):
                await edge.log.read(job.owner, job.id)
            return
        assert state is not None
        assert stored == (job.ended or job.record)
        assert state.has_ended == (job.ended is not None)
        events = await read_events(edge.log, job.owner, job.id)
        assert [event.sequence_number for event in events] == list(range(job.next + state.has_ended))
        assert [event.output_text_delta.delta for event in events[2 : job.next]] == job.texts
        if job.ended is not None:
            assert state.status == job.ended.response.status
            assert events[-1].WhichOneof("event") in ("completed", "failed", "incomplete")

    @staticmethod
    async def _ignore(step: Coroutine[Any, Any, object]) -> None:
        await step


def _pick(number: int, choices: Sequence[T]) -> T:
    return choices[number % len(choices)]


@pytest.mark.timeout(600)
def test_jobs_behave_as_their_model_whatever_dies(tmp_path: Path) -> None:
    with valkey_process(tmp_path) as server:
        machine = type("OnThisServer", (JobMachine,), {"server": server})
        run_state_machine_as_test(
            machine, settings=settings(max_examples=25, stateful_step_count=40, derandomize=True, deadline=None)
        )
