"""What owners may use, their idempotency keys, and the end of all that is theirs, on every kind of server."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator

import pytest
from redis.asyncio import Redis, RedisCluster

from store import keys
from store.connection import open_client
from store.idempotency import Conflict, Existing, IdempotencyStore, New
from store.ids import new_response_id, parse_response_id
from store.lease import LeaseLost
from store.limits import Limits, LimitStore, Refusal
from store.owners import OwnerStore
from tests.support.jobs import (
    EdgeStores,
    create_held,
    deltas,
    edge_stores,
    ended_record,
    ending,
    opening,
    queued_record,
)
from tests.support.records import chain_of_records, finished_record
from tests.support.valkey import SERVER_KINDS, server_of_kind

NO_LIMITS = Limits()


@pytest.fixture(scope="module", params=SERVER_KINDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_of_kind(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


@pytest.fixture
async def edge(url: str) -> AsyncGenerator[EdgeStores, None]:
    async with edge_stores(url) as edge:
        yield edge


@pytest.fixture
async def raw(url: str) -> AsyncGenerator[Redis | RedisCluster, None]:
    client = open_client(url)
    yield client
    await client.aclose()


@pytest.fixture
def limits(edge: EdgeStores) -> LimitStore:
    return LimitStore(edge.commands)


@pytest.fixture
def idempotency(edge: EdgeStores) -> IdempotencyStore:
    return IdempotencyStore(edge.commands, retention_ms=3_600_000)


@pytest.fixture
def owner() -> str:
    return f"owner:{{{secrets.token_hex(8)}}}*"


def new_id() -> str:
    return str(new_response_id())


async def test_a_minutes_requests_may_come_at_once_and_no_more(limits: LimitStore, owner: str) -> None:
    admissions = [await limits.admit(owner, new_id(), Limits(requests_per_minute=6)) for _ in range(7)]
    assert [admission.refusal for admission in admissions] == [None] * 6 + [Refusal.RATE]
    assert [admission.remaining_requests for admission in admissions] == [5, 4, 3, 2, 1, 0, 0]
    assert 55_000 < admissions[-1].reset_ms <= 60_000
    assert 5_000 < admissions[-1].retry_after_ms <= 10_000


async def test_the_rate_comes_back_as_time_passes(limits: LimitStore, owner: str, raw: Redis | RedisCluster) -> None:
    rate = keys.of_owner(owner)[2]
    limit = Limits(requests_per_minute=2)
    for _ in range(2):
        assert (await limits.admit(owner, new_id(), limit)).refusal is None
    used_until = await raw.get(rate)
    assert used_until is not None
    await raw.set(rate, float(used_until) - 30_000)  # as if half a minute had passed
    assert [(await limits.admit(owner, new_id(), limit)).refusal for _ in range(2)] == [None, Refusal.RATE]
    assert 0 < await raw.pttl(rate) <= 60_000
    await raw.set(rate, float(used_until) + 3_600_000)  # as if the clock had been set back
    assert (await limits.admit(owner, new_id(), limit)).retry_after_ms <= 30_000


async def test_a_request_sent_again_after_a_lost_answer_is_counted_once(limits: LimitStore, owner: str) -> None:
    response_id, limit = new_id(), Limits(requests_per_minute=2, max_running=1)
    first, again = [await limits.admit(owner, response_id, limit) for _ in range(2)]
    assert (first.refusal, again.refusal) == (None, None)
    assert again.remaining_requests == 1


async def test_only_so_many_run_at_once_and_a_refused_one_costs_nothing(limits: LimitStore, owner: str) -> None:
    limit = Limits(requests_per_minute=100, max_running=2)
    running = [new_id(), new_id()]
    for response_id in running:
        assert (await limits.admit(owner, response_id, limit)).refusal is None
    refused = await limits.admit(owner, new_id(), limit)
    assert (refused.refusal, refused.retry_after_ms, refused.remaining_requests) == (Refusal.RUNNING, 1000, 98)
    await limits.leave({owner: [running[0]]})
    assert (await limits.admit(owner, new_id(), limit)).refusal is None


async def test_concurrent_requests_do_not_slip_through_together(limits: LimitStore, owner: str) -> None:
    admissions = await asyncio.gather(*(limits.admit(owner, new_id(), Limits(max_running=5)) for _ in range(40)))
    assert sum(admission.refusal is None for admission in admissions) == 5


async def test_what_a_dead_process_ran_is_not_counted_for_ever(
    limits: LimitStore, owner: str, raw: Redis | RedisCluster
) -> None:
    dead, alive = new_id(), new_id()
    for response_id in (dead, alive):
        await limits.admit(owner, response_id, NO_LIMITS)
    running = keys.of_owner(owner)[3]
    await raw.zadd(running, {dead: 1, alive: 1})  # both leases ran out
    await limits.vouch({owner: [alive]})
    assert (await limits.usage(owner)).running == 1
    assert (await limits.admit(owner, new_id(), Limits(max_running=2))).refusal is None
    assert (await limits.admit(owner, new_id(), Limits(max_running=2))).refusal is Refusal.RUNNING
    assert await raw.pttl(running) > 0


async def test_owners_do_not_use_each_others_limits(limits: LimitStore, owner: str) -> None:
    limit = Limits(requests_per_minute=1, max_running=1)
    for each in (owner, owner + "2", "queue"):
        assert (await limits.admit(each, new_id(), limit)).refusal is None
    await limits.leave({"queue": [""]})


async def test_stored_bytes_follow_commits_and_deletions(edge: EdgeStores, limits: LimitStore, owner: str) -> None:
    records = [
        finished_record(new_response_id(), question=secrets.token_hex(500 * (number + 1))) for number in range(3)
    ]
    sizes = []
    for record in records:
        before = (await limits.usage(owner)).stored_bytes
        await edge.responses.save(owner, record)
        await edge.responses.save(owner, record)
        sizes.append((await limits.usage(owner)).stored_bytes - before)
    assert sizes[0] < sizes[1] < sizes[2]
    assert (await limits.usage(owner)).stored_responses == 3
    refused = await limits.admit(owner, new_id(), Limits(max_stored_bytes=sum(sizes)))
    assert (refused.refusal, refused.retry_after_ms > 1000) == (Refusal.BYTES, True)
    await edge.responses.delete(owner, records[1].response.id)
    await edge.responses.delete(owner, records[1].response.id)
    usage = await limits.usage(owner)
    assert (usage.stored_bytes, usage.stored_responses) == (sizes[0] + sizes[2], 2)
    assert (await limits.admit(owner, new_id(), Limits(max_stored_bytes=sum(sizes)))).refusal is None


async def test_stored_bytes_of_a_job_are_counted_at_its_end(edge: EdgeStores, limits: LimitStore, owner: str) -> None:
    record = queued_record()
    lease = await create_held(edge, owner, record)
    assert (await limits.usage(owner)).stored_responses == 0
    ended = ended_record(record)
    await edge.log.finish(lease, ending(2, ended), ended)
    assert (await limits.usage(owner)).stored_responses == 1


async def test_stored_bytes_of_a_job_that_was_deleted_before_its_end_are_not_counted(
    edge: EdgeStores, limits: LimitStore, owner: str
) -> None:
    record = queued_record()
    lease = await create_held(edge, owner, record)
    ended = ended_record(record)
    await edge.responses.delete(owner, record.response.id)
    with pytest.raises(LeaseLost):
        await edge.log.finish(lease, ending(2, ended), ended)
    assert (await limits.usage(owner)).stored_responses == 0


async def test_expired_records_are_not_counted_and_continued_ones_are(
    edge: EdgeStores, limits: LimitStore, owner: str, raw: Redis | RedisCluster
) -> None:
    chain, other = chain_of_records(3), finished_record(new_response_id())
    for record in (*chain, other):
        await edge.responses.save(owner, record)
    stored = keys.of_owner(owner)[0]
    soon = {record.response.id: 4e12 for record in (*chain, other)}  # a time that no retention reaches
    await raw.zadd(stored, dict.fromkeys(soon, 1.0))
    await raw.zadd(stored, {record.response.id: 2e12 for record in chain})
    await edge.responses.load_chain(owner, chain[-1].response.id)
    assert (await limits.usage(owner)).stored_responses == 3
    assert 0 < await raw.pttl(stored) <= 3_600_000


async def test_a_key_makes_one_response_however_often_it_is_sent(idempotency: IdempotencyStore, owner: str) -> None:
    ids = [new_id() for _ in range(20)]
    outcomes = await asyncio.gather(*(idempotency.reserve(owner, "key", "body", each) for each in ids))
    (winner,) = [each for each, outcome in zip(ids, outcomes, strict=True) if outcome == New()]
    assert outcomes.count(Existing(winner, is_stored=False)) == 19
    assert await idempotency.reserve(owner, "key", "body", winner) == New()  # its own answer was lost
    assert await idempotency.reserve(owner, "key", "other", new_id()) == Conflict(winner)
    assert await idempotency.reserve(owner + "2", "key", "other", new_id()) == New()


async def test_a_key_lives_as_long_as_its_response(edge: EdgeStores, idempotency: IdempotencyStore, owner: str) -> None:
    record = finished_record(new_response_id())
    assert await idempotency.reserve(owner, "key", "body", record.response.id) == New()
    await edge.responses.save(owner, record)
    assert await idempotency.confirm(owner, "key", record.response.id)
    assert await idempotency.reserve(owner, "key", "body", new_id()) == Existing(record.response.id, is_stored=True)
    await edge.responses.delete(owner, record.response.id)
    successor = new_id()
    assert await idempotency.reserve(owner, "key", "other", successor) == New()
    assert not await idempotency.confirm(owner, "key", record.response.id)
    assert await idempotency.reserve(owner, "key", "other", new_id()) == Existing(successor, is_stored=False)


async def test_a_key_is_free_again_when_its_response_failed_or_its_process_died(
    idempotency: IdempotencyStore, owner: str, raw: Redis | RedisCluster
) -> None:
    first, second, third = new_id(), new_id(), new_id()
    await idempotency.reserve(owner, "key", "body", first)
    await idempotency.release(owner, "key", second)
    assert await idempotency.reserve(owner, "key", "body", second) == Existing(first, is_stored=False)
    await idempotency.release(owner, "key", first)
    assert await idempotency.reserve(owner, "key", "body", second) == New()
    assert await idempotency.reserve(owner, "key", "body", third) == Existing(second, is_stored=False)
    await let_reservation_run_out(raw, owner)
    assert await idempotency.reserve(owner, "key", "body", third) == New()
    assert await idempotency.reserve(owner, "key", "body", new_id()) == Existing(third, is_stored=False)
    assert not await idempotency.confirm(owner, "key", second)


async def let_reservation_run_out(raw: Redis | RedisCluster, owner: str) -> None:
    await raw.hset(keys.idempotency(owner, "key"), "until", 1)


async def test_a_key_whose_process_died_before_it_was_confirmed_has_the_response_that_is_there(
    edge: EdgeStores, idempotency: IdempotencyStore, owner: str, raw: Redis | RedisCluster
) -> None:
    record = queued_record()
    assert await idempotency.reserve(owner, "key", "body", record.response.id) == New()
    await edge.jobs.enqueue(owner, record)
    await let_reservation_run_out(raw, owner)
    assert 15_000 < await raw.pttl(keys.idempotency(owner, "key")) <= 3_600_000
    assert await idempotency.reserve(owner, "key", "body", new_id()) == Existing(record.response.id, is_stored=True)


async def test_the_lifetime_of_a_key_is_bounded(edge: EdgeStores, owner: str, raw: Redis | RedisCluster) -> None:
    idempotency = IdempotencyStore(edge.commands, retention_ms=10**12)
    response_id = new_id()
    await idempotency.reserve(owner, "key", "body", response_id)
    await idempotency.confirm(owner, "key", response_id)
    assert 86_000_000 < await raw.pttl(keys.idempotency(owner, "key")) <= 86_400_000


@pytest.mark.parametrize("key", ["", "a" * 100_000, "{}:*\n\x00", "\ud800"])
async def test_any_text_is_a_key(idempotency: IdempotencyStore, owner: str, key: str) -> None:
    response_id = new_id()
    assert await idempotency.reserve(owner, key, "body", response_id) == New()
    assert await idempotency.reserve(owner, key, "body", new_id()) == Existing(response_id, is_stored=False)


async def test_erasing_an_owner_leaves_nothing_of_it_and_all_of_the_others(
    edge: EdgeStores, limits: LimitStore, idempotency: IdempotencyStore, owner: str, raw: Redis | RedisCluster
) -> None:
    other = owner + "2"
    kept = finished_record(new_response_id())
    await edge.responses.save(other, kept)
    for record in chain_of_records(150):
        await edge.responses.save(owner, record)
    record = queued_record()
    lease = await create_held(edge, owner, record)
    await edge.jobs.enqueue(owner, queued_record())
    await limits.admit(owner, record.response.id, Limits(requests_per_minute=1))
    await idempotency.reserve(owner, "key", "body", record.response.id)
    owners = OwnerStore(edge.commands)
    assert await owners.erase(owner) > 150
    encoded = keys.encode_owner(owner)
    assert [key async for key in raw.scan_iter(match=f"*{encoded}[:}}]*")] == []
    assert await edge.responses.get(other, kept.response.id) == kept
    assert (await limits.usage(owner)).stored_bytes == 0
    with pytest.raises(LeaseLost):
        await edge.log.append(lease, deltas(2, ["late"]))
    while (held := await edge.jobs.claim()) is not None:
        assert held.lease.owner != owner
    assert await owners.erase(owner) == 0


async def test_every_key_of_the_store_is_named_in_one_place(
    edge: EdgeStores, limits: LimitStore, idempotency: IdempotencyStore, owner: str, raw: Redis | RedisCluster
) -> None:
    record = queued_record()
    await edge.jobs.enqueue(owner, record, first_events=opening(record))
    response_id = parse_response_id(record.response.id)
    assert response_id is not None
    await edge.responses.save(owner, finished_record(response_id))
    await limits.admit(owner, record.response.id, Limits(requests_per_minute=1))
    await idempotency.reserve(owner, "key", "body", record.response.id)
    named = {*keys.of_job(owner, response_id), *keys.of_owner(owner), keys.idempotency(owner, "key")}
    found = {key.decode() async for key in raw.scan_iter(match=f"*{keys.encode_owner(owner)}*")}
    assert found == named
    assert all([await raw.pttl(key) > 0 for key in found])
