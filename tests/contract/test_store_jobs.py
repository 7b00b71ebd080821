"""Background jobs on every kind of server: who may run what, and what comes after a crash at any step."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis, RedisCluster

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ServiceTier
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.connection import open_client
from store.ids import parse_response_id
from store.lease import HeldJob, LeaseLost, Renewal
from tests.support.jobs import (
    CANCELLED,
    FAILED,
    LEASE_MS,
    EdgeStores,
    create_held,
    deltas,
    edge_stores,
    ended_record,
    ending,
    let_lease_run_out,
    opening,
    queued_record,
    read_events,
)
from tests.support.valkey import SERVER_KINDS, server_of_kind

READY, OWNERS, LEASES, FENCES, CLOCK = keys.QUEUE


@pytest.fixture(scope="module", params=SERVER_KINDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_of_kind(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


@pytest.fixture
async def raw(url: str) -> AsyncGenerator[Redis | RedisCluster, None]:
    """A client beside the stores, over an empty server that knows no scripts."""
    client = open_client(url)
    nodes = {"target_nodes": RedisCluster.ALL_NODES} if isinstance(client, RedisCluster) else {}
    await client.execute_command("FLUSHALL", **nodes)
    await client.execute_command("SCRIPT FLUSH", **nodes)
    yield client
    await client.aclose()


@pytest.fixture
async def edges(url: str, raw: Redis | RedisCluster) -> AsyncGenerator[tuple[EdgeStores, EdgeStores], None]:
    """Two processes over the same server."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(edge_stores(url, "edge-1", max_waiting_per_owner=5))
        two = await stack.enter_async_context(edge_stores(url, "edge-2", max_waiting_per_owner=5))
        yield one, two


@pytest.fixture
def edge(edges: tuple[EdgeStores, EdgeStores]) -> EdgeStores:
    return edges[0]


async def enqueue(edge: EdgeStores, owner: str = "acme", tier: ServiceTier.ValueType = 0) -> ResponseRecord:  # type: ignore[assignment]
    record = queued_record()
    await edge.jobs.enqueue(owner, record, tier=tier, request=b"request", first_events=opening(record))
    return record


async def claim(edge: EdgeStores) -> HeldJob:
    held = await edge.jobs.claim()
    assert held is not None
    return held


async def claim_id(edge: EdgeStores) -> str:
    return str((await claim(edge)).lease.response_id)


async def finish(edge: EdgeStores, held: HeldJob) -> ResponseRecord:
    ended = ended_record(held.record)
    await edge.log.finish(held.lease, ending(held.lease.next_sequence_number, ended), ended)
    return ended


async def lose(raw: Redis | RedisCluster, edge: EdgeStores, held: HeldJob) -> None:
    """The lease runs out, and another process notices."""
    await let_lease_run_out(raw, held.lease)
    assert await edge.sweeper.requeue_lost() == 1


async def assert_queue_is_empty(raw: Redis | RedisCluster) -> None:
    assert [await raw.zcard(READY), await raw.zcard(LEASES), await raw.hlen(FENCES)] == [0, 0, 0]


async def test_a_job_is_claimed_with_all_that_it_was_created_with(edge: EdgeStores) -> None:
    record = await enqueue(edge)
    held = await claim(edge)
    assert (held.record, held.request) == (record, b"request")
    assert (held.lease.owner, str(held.lease.response_id), held.lease.holder) == (
        "acme",
        record.response.id,
        "edge-1",
    )
    assert (held.lease.attempts, held.lease.next_sequence_number, held.lease.is_cancelled) == (1, 2, False)
    assert await edge.jobs.claim() is None


async def test_a_queued_response_can_be_read_and_not_be_continued(edge: EdgeStores) -> None:
    record = await enqueue(edge)
    assert await edge.responses.get("acme", record.response.id) == record
    with pytest.raises(ApiError, match="has not ended") as caught:
        await edge.responses.load_chain("acme", record.response.id)
    assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_VALUE


async def test_every_job_is_claimed_by_exactly_one_of_many_takers(edges: tuple[EdgeStores, EdgeStores]) -> None:
    records = [await enqueue(edges[0], f"owner-{number % 4}") for number in range(20)]
    claimed = await asyncio.gather(*(claim_id(edges[number % 2]) for number in range(20)))
    assert sorted(claimed) == sorted(record.response.id for record in records)
    assert await edges[0].jobs.claim() is None


async def test_owners_take_turns_however_much_one_has_waiting(edge: EdgeStores) -> None:
    many = [await enqueue(edge, "many") for _ in range(4)]
    few = [await enqueue(edge, "few") for _ in range(2)]
    late = await enqueue(edge, "many{}:*")
    claimed = [await claim_id(edge) for _ in range(7)]
    expected = [many[0], few[0], late, many[1], few[1], many[2], many[3]]
    assert claimed == [record.response.id for record in expected]


async def test_an_owners_jobs_come_by_tier_and_then_by_time(edge: EdgeStores) -> None:
    flex = await enqueue(edge, tier=ServiceTier.SERVICE_TIER_FLEX)
    first = await enqueue(edge)
    async with asyncio.timeout(5):  # times are in milliseconds: the next job must be created in a later one
        while await created_at(edge, second := await enqueue(edge)) == await created_at(edge, first):
            await edge.responses.delete("acme", second.response.id)
    urgent = await enqueue(edge, tier=ServiceTier.SERVICE_TIER_PRIORITY)
    claimed: list[str] = []
    while (held := await edge.jobs.claim()) is not None:
        claimed.append(str(held.lease.response_id))
    assert claimed == [record.response.id for record in (urgent, first, second, flex)]


async def created_at(edge: EdgeStores, record: ResponseRecord) -> int:
    job = await edge.jobs.get("acme", record.response.id)
    assert job is not None
    return job.created_at_ms


async def test_a_full_queue_refuses_and_leaves_nothing(edge: EdgeStores, raw: Redis | RedisCluster) -> None:
    for _ in range(5):
        await enqueue(edge)
    record = queued_record()
    with pytest.raises(ApiError) as caught:
        await edge.jobs.enqueue("acme", record)
    assert caught.value.reason == ErrorReason.ERROR_REASON_OVERLOADED
    assert caught.value.retry_after_ms
    assert await edge.responses.get("acme", record.response.id) is None
    assert await edge.jobs.get("acme", record.response.id) is None
    await enqueue(edge, "other")


async def test_a_job_that_ended_is_gone_from_the_queue_and_stays_readable(
    edge: EdgeStores, raw: Redis | RedisCluster
) -> None:
    record = await enqueue(edge)
    ended = await finish(edge, await claim(edge))
    assert await edge.responses.get("acme", record.response.id) == ended
    job = await edge.jobs.get("acme", record.response.id)
    assert job is not None
    assert job.has_ended
    await assert_queue_is_empty(raw)


async def test_a_renewed_lease_is_kept_and_a_lost_one_is_refused(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster
) -> None:
    one, two = edges
    await enqueue(one)
    held = await claim(one)
    await let_lease_run_out(raw, held.lease)
    assert await one.jobs.renew([held.lease]) == [Renewal(is_held=True, is_cancelled=False)]
    assert await two.sweeper.requeue_lost() == 0
    await lose(raw, two, held)
    assert await one.jobs.renew([held.lease]) == [Renewal(is_held=False, is_cancelled=False)]


async def test_a_successor_goes_on_where_the_log_ends_and_the_zombie_cannot_write(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster
) -> None:
    one, two = edges
    record = await enqueue(one)
    zombie = await claim(one)
    await one.log.append(zombie.lease, deltas(2, ["a", "b"]))
    await lose(raw, two, zombie)
    await one.log.append(zombie.lease, deltas(4, ["c"]))  # nobody has taken over yet
    held = await claim(two)
    assert held.lease.fence > zombie.lease.fence
    assert (held.lease.next_sequence_number, held.lease.attempts) == (5, 1)  # it got further: nothing to give up
    with pytest.raises(LeaseLost):
        await one.log.append(zombie.lease, deltas(5, ["lost"]))
    with pytest.raises(LeaseLost):
        await finish(one, zombie)
    assert (await one.jobs.renew([zombie.lease]))[0].is_held is False
    await one.jobs.hand_over(zombie.lease)
    await one.jobs.retry_later(zombie.lease)
    await two.log.append(held.lease, deltas(5, ["d"]))
    events = await read_events(one.log, "acme", record.response.id)
    assert [event.output_text_delta.delta for event in events[2:]] == ["a", "b", "c", "d"]
    assert [event.sequence_number for event in events] == list(range(6))


@pytest.mark.parametrize("successor", [0, 1])
async def test_a_zombie_that_began_late_does_not_shut_the_successor_out(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster, successor: int
) -> None:
    """It stopped between the two steps of its claim; the successor may be of the same process."""
    edge = edges[successor]
    await enqueue(edges[0])
    first = await claim(edges[0])
    await lose(raw, edge, first)
    held = await claim(edge)
    assert await begin(edges[0], first) == [b"stale"]
    await edge.log.append(held.lease, deltas(2, ["a"]))


async def begin(edge: EdgeStores, held: HeldJob) -> object:
    from store.jobs import _BEGIN  # the step alone

    (reply,) = await edge.commands.execute(_BEGIN(held.lease.job_keys, held.lease.fence, "edge-1", LEASE_MS))
    return reply


async def test_beginning_twice_counts_one_attempt(edge: EdgeStores) -> None:
    await enqueue(edge)
    held = await claim(edge)
    reply = await begin(edge, held)
    assert isinstance(reply, list)
    assert reply[:3] == [b"held", 1, 2]


async def test_a_crash_between_lease_and_begin_costs_a_lease_and_no_attempt(
    edge: EdgeStores, raw: Redis | RedisCluster
) -> None:
    from store.jobs import _CLAIM

    await enqueue(edge)
    (claimed,) = await edge.commands.execute(_CLAIM(keys.QUEUE, "claim", LEASE_MS, LEASE_MS // 2))
    assert await edge.jobs.claim() is None
    await raw.zadd(LEASES, {claimed[0]: 1})
    assert await edge.sweeper.requeue_lost() == 1
    assert (await claim(edge)).lease.attempts == 1


async def test_a_crash_between_job_and_queue_is_repaired_by_a_sweep(
    edge: EdgeStores, raw: Redis | RedisCluster
) -> None:
    record = await enqueue(edge)
    await raw.delete(READY)
    await raw.delete(OWNERS)
    assert await edge.jobs.claim() is None
    assert await edge.sweeper.sweep() == 1
    assert await claim_id(edge) == record.response.id


async def test_a_job_that_waits_is_not_forgotten_and_one_that_has_ended_is(
    edge: EdgeStores, raw: Redis | RedisCluster
) -> None:
    waiting, ended = queued_record(), queued_record()
    await edge.jobs.enqueue("acme", waiting, first_events=opening(waiting))
    lease = await create_held(edge, "acme", ended)
    final = ended_record(ended)
    await edge.log.finish(lease, ending(lease.next_sequence_number, final), final)
    lifetimes = {}
    for record in (waiting, ended):
        response_id = parse_response_id(record.response.id)
        assert response_id is not None
        for key in keys.of_job("acme", response_id):
            await raw.pexpire(key, 60_000)
            lifetimes[key] = record
    await edge.sweeper.sweep()
    for key, record in lifetimes.items():
        assert (await raw.pttl(key) > 60_000) is (record is waiting)


async def test_a_sweep_changes_nothing_when_nothing_is_wrong(edge: EdgeStores, raw: Redis | RedisCluster) -> None:
    for owner in ("acme", "other:{}"):
        for _ in range(3):
            await enqueue(edge, owner)
    held = await claim(edge)
    await finish(edge, await claim(edge))
    before = [await raw.zrange(READY, 0, -1), await raw.zrange(LEASES, 0, -1)]
    assert await edge.sweeper.sweep() == 5
    assert [await raw.zrange(READY, 0, -1), await raw.zrange(LEASES, 0, -1)] == before
    assert before[1] == [held.lease.entry.encode()]


async def test_a_crash_between_end_and_queue_leaves_an_entry_that_goes_when_it_is_claimed(
    edge: EdgeStores, raw: Redis | RedisCluster
) -> None:
    await enqueue(edge)
    held = await claim(edge)
    await finish(edge, held)
    await raw.zadd(LEASES, {held.lease.entry: 1})
    await raw.hset(FENCES, held.lease.entry, f"{held.lease.fence} claim")
    assert await edge.sweeper.requeue_lost() == 1
    assert await edge.jobs.claim() is None
    await assert_queue_is_empty(raw)


async def test_a_job_without_its_record_is_dropped(edge: EdgeStores, raw: Redis | RedisCluster) -> None:
    record = await enqueue(edge)
    response_id = parse_response_id(record.response.id)
    assert response_id is not None
    await raw.delete(keys.response("acme", response_id))
    assert await edge.jobs.claim() is None
    assert await edge.jobs.get("acme", record.response.id) is None
    await assert_queue_is_empty(raw)


async def test_after_an_outage_leases_are_left_alone_for_a_whole_lease(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster
) -> None:
    one, two = edges
    await enqueue(one)
    held = await claim(one)
    await let_lease_run_out(raw, held.lease)
    await raw.hincrby(CLOCK, "seen", -LEASE_MS)  # nobody was heard of for so long
    assert await two.sweeper.requeue_lost() == 0
    assert await two.sweeper.requeue_lost() == 0
    assert await one.jobs.renew([held.lease]) == [Renewal(is_held=True, is_cancelled=False)]
    await raw.hset(CLOCK, "quiet_until", 1)  # and then that lease has passed too
    assert await two.sweeper.requeue_lost() == 0
    await lose(raw, two, held)


async def test_when_the_clock_is_set_back_the_leases_of_the_dead_run_out_all_the_same(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster
) -> None:
    one, two = edges
    await enqueue(one)
    await enqueue(one)
    alive, dead = await claim(one), await claim(one)
    hour_ms = 3_600_000
    await raw.hincrby(CLOCK, "seen", hour_ms)
    for held in (alive, dead):
        await raw.zincrby(LEASES, hour_ms, held.lease.entry)
    assert await two.sweeper.requeue_lost() == 0  # first who lives has time to renew
    assert (await one.jobs.renew([alive.lease]))[0].is_held
    await raw.hset(CLOCK, "quiet_until", 1)
    assert await two.sweeper.requeue_lost() == 1
    assert (await claim(two)).lease.response_id == dead.lease.response_id


async def test_a_renewal_that_comes_first_after_an_outage_does_not_hide_it(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster
) -> None:
    one, two = edges
    await enqueue(one)
    await enqueue(one)
    early, late = await claim(one), await claim(two)
    await let_lease_run_out(raw, late.lease)
    await raw.hincrby(CLOCK, "seen", -LEASE_MS)
    await one.jobs.renew([early.lease])
    assert await one.sweeper.requeue_lost() == 0
    assert (await two.jobs.renew([late.lease]))[0].is_held


async def test_fences_grow_even_when_the_last_one_was_lost(edge: EdgeStores, raw: Redis | RedisCluster) -> None:
    await enqueue(edge)
    first = await claim(edge)
    await raw.hdel(CLOCK, "fence")
    await edge.jobs.hand_over(first.lease)
    assert (await claim(edge)).lease.fence > first.lease.fence


async def test_a_job_that_is_handed_over_is_taken_at_once_and_counts_no_attempt(
    edges: tuple[EdgeStores, EdgeStores],
) -> None:
    one, two = edges
    await enqueue(one)
    held = await claim(one)
    await one.log.append(held.lease, deltas(2, ["a"]))
    await one.jobs.hand_over(held.lease)
    await one.jobs.hand_over(held.lease)  # as if the first answer was lost
    with pytest.raises(LeaseLost):
        await one.log.append(held.lease, deltas(3, ["b"]))
    successor = await claim(two)
    assert (successor.lease.attempts, successor.lease.next_sequence_number) == (1, 3)


async def test_a_job_that_failed_comes_back_later_each_time_and_is_given_up_at_last(
    edge: EdgeStores, raw: Redis | RedisCluster
) -> None:
    await enqueue(edge)
    delays: list[float] = []
    held = await claim(edge)
    while not edge.jobs.must_give_up(held.lease):
        await edge.jobs.retry_later(held.lease)
        assert await edge.jobs.claim() is None
        server_time = await raw.time(**node_of(raw))
        due = await raw.zscore(LEASES, held.lease.entry)
        assert due is not None
        delays.append((due - (server_time[0] * 1000 + server_time[1] / 1000)) / 1000)
        await let_lease_run_out(raw, held.lease)
        assert await edge.sweeper.requeue_lost() == 1
        held = await claim(edge)
    assert [round(delay + 0.45) for delay in delays] == [1, 2, 4]
    assert held.lease.attempts == 4
    ended = ended_record(held.record, FAILED)
    await edge.log.finish(held.lease, ending(2, ended), ended)
    await assert_queue_is_empty(raw)


def node_of(raw: Redis | RedisCluster) -> dict[str, object]:
    return {"target_nodes": raw.get_node_from_key(LEASES)} if isinstance(raw, RedisCluster) else {}


async def test_a_waiting_job_can_be_taken_to_end_it_and_a_held_one_cannot(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster
) -> None:
    one, two = edges
    record = await enqueue(one)
    cancelled = await one.jobs.cancel("acme", record.response.id)
    assert cancelled is not None
    assert (cancelled.is_cancelled, cancelled.holder, cancelled.has_ended) == (True, None, False)
    held = await one.jobs.take("acme", record.response.id)
    assert held is not None
    assert held.lease.is_cancelled
    assert await two.jobs.take("acme", record.response.id) is None
    assert await two.jobs.claim() is None
    ended = ended_record(held.record, CANCELLED)
    await one.log.finish(held.lease, ending(2, ended), ended)
    assert await one.jobs.take("acme", record.response.id) is None
    again = await two.jobs.cancel("acme", record.response.id)
    assert again is not None
    assert again.status == CANCELLED
    await assert_queue_is_empty(raw)


async def test_a_holder_is_woken_by_a_cancellation_and_by_a_deletion(edges: tuple[EdgeStores, EdgeStores]) -> None:
    one, two = edges
    record = await enqueue(one)
    with one.subscriber.listen(keys.HOLDER_CHANNEL + "edge-1") as signal:
        async with asyncio.timeout(10):
            await signal.wait(60)  # the subscription stands
            held = await claim(one)
            await two.jobs.cancel("acme", record.response.id)
            await signal.wait(60)
            assert await one.jobs.renew([held.lease]) == [Renewal(is_held=True, is_cancelled=True)]
            assert await one.log.append(held.lease, deltas(2, ["a"])) is True
            assert await two.responses.delete("acme", record.response.id)
            await signal.wait(60)
            assert await one.jobs.renew([held.lease]) == [Renewal(is_held=False, is_cancelled=False)]


async def test_takers_are_woken_by_a_new_job_and_by_one_that_is_handed_over(
    edges: tuple[EdgeStores, EdgeStores],
) -> None:
    one, two = edges
    with two.subscriber.listen(keys.WAKE_CHANNEL) as signal:
        async with asyncio.timeout(10):
            await signal.wait(60)
            await enqueue(one)
            await signal.wait(60)
            held = await claim(one)
            await one.jobs.hand_over(held.lease)
            await signal.wait(60)
            await claim(two)


async def test_nothing_of_a_deleted_job_comes_back(edge: EdgeStores, raw: Redis | RedisCluster) -> None:
    waiting = await enqueue(edge)
    assert await edge.responses.delete("acme", waiting.response.id)
    assert await edge.jobs.claim() is None
    await enqueue(edge)
    held = await claim(edge)
    response_id = str(held.lease.response_id)
    await edge.log.append(held.lease, deltas(2, ["a"]))
    assert await edge.responses.delete("acme", response_id)
    with pytest.raises(LeaseLost):
        await edge.log.append(held.lease, deltas(3, ["b"]))
    with pytest.raises(LeaseLost):
        await finish(edge, held)
    assert await edge.responses.get("acme", response_id) is None
    assert await edge.jobs.get("acme", response_id) is None
    assert await edge.jobs.cancel("acme", response_id) is None
    await lose(raw, edge, held)
    assert await edge.jobs.claim() is None
    assert await edge.sweeper.sweep() == 0
    await assert_queue_is_empty(raw)
    assert not await edge.responses.delete("acme", response_id)


async def test_a_job_created_held_is_run_here_and_goes_to_another_after_a_crash(
    edges: tuple[EdgeStores, EdgeStores], raw: Redis | RedisCluster
) -> None:
    one, two = edges
    record = queued_record()
    lease = await create_held(one, "acme", record)
    assert await two.jobs.claim() is None
    await one.log.append(lease, deltas(2, ["a"]))
    await let_lease_run_out(raw, lease)
    await two.sweeper.requeue_lost()
    assert (await claim(two)).lease.next_sequence_number == 3


@pytest.mark.parametrize("foreign", ["other", "acme:job"])
async def test_another_owners_job_is_absent(edge: EdgeStores, foreign: str) -> None:
    record = await enqueue(edge)
    assert await edge.jobs.get(foreign, record.response.id) is None
    assert await edge.jobs.cancel(foreign, record.response.id) is None
    assert await edge.jobs.take(foreign, record.response.id) is None
    assert not await edge.responses.delete(foreign, record.response.id)
    job = await edge.jobs.get("acme", record.response.id)
    assert job is not None
    assert not job.is_cancelled


@pytest.mark.parametrize("garbage", ["", "resp_", "*", "resp_{}", "a" * 1000])
async def test_ids_that_were_never_allocated_are_absent(edge: EdgeStores, garbage: str) -> None:
    assert await edge.jobs.get("acme", garbage) is None
    assert await edge.jobs.cancel("acme", garbage) is None
    assert await edge.jobs.take("acme", garbage) is None


async def test_every_key_of_a_job_has_a_lifetime(edge: EdgeStores, raw: Redis | RedisCluster) -> None:
    await enqueue(edge)
    held = await claim(edge)
    await edge.log.append(held.lease, deltas(2, ["a"]))
    assert all([await raw.pttl(key) > 3_600_000 for key in held.lease.job_keys])
    ended = ended_record(held.record)
    await edge.log.finish(held.lease, ending(3, ended), ended)
    lifetimes = [await raw.pttl(key) for key in held.lease.job_keys]
    assert [0 < lifetime <= limit for lifetime, limit in zip(lifetimes, (600_000, 600_000, 3_600_000), strict=True)]
