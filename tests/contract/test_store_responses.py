"""The response store on every kind of server. Tests share servers, so each has an owner of its own."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
import zstandard
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ResponseError

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.store.v1.record_pb2 import ResponseRecord
from store import keys
from store.batcher import CommandBatcher
from store.connection import connect, open_client
from store.ids import ItemIds, ItemKind, ResponseId, new_response_id, parse_response_id
from store.packing import CorruptRecord
from store.responses import ResponseStore
from tests.support.records import chain_of_records, finished_record
from tests.support.valkey import redis_binary, valkey_cluster, valkey_server
from tests.support.wire import counting_proxy

RETENTION_MS = 60_000
GARBAGE_IDS = [
    "",
    "resp_",
    "resp_" + "A" * 32,
    "resp_" + "a" * 31,
    "resp_" + "a" * 33,
    "resp_" + "a" * 32 + "\n",
    "resp_{" + "a" * 30 + "}",
    "resp_openresponses_missing_1700000000",
    "msg_" + "a" * 32 + "000000",
    "*",
    "\x00\r\n",
    "\ud800",
    "a" * 1_000_000,
]


@pytest.fixture(scope="module", params=["valkey", "redis", "cluster"])
def server_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "cluster":
        with valkey_cluster(directory) as url:
            yield url
        return
    binary = redis_binary() if request.param == "redis" else None
    if request.param == "redis" and binary is None:
        pytest.skip("no redis-server on the PATH")
    with valkey_server(directory, binary=binary) as url:
        yield url


@pytest.fixture
async def commands(server_url: str) -> AsyncGenerator[CommandBatcher, None]:
    async with connect(server_url) as commands:
        yield commands


@pytest.fixture
async def raw(server_url: str) -> AsyncGenerator[Redis | RedisCluster, None]:
    """A client beside the store, to look at the server and to meddle with it."""
    client = open_client(server_url)
    yield client
    await client.aclose()


@pytest.fixture
def store(commands: CommandBatcher) -> ResponseStore:
    return ResponseStore(commands, retention_ms=RETENTION_MS, max_depth=100)


@pytest.fixture
def owner() -> str:
    return f"owner:{{{secrets.token_hex(8)}}}"  # colons and braces are the worst that a name can hold


def key_of(owner: str, record: ResponseRecord) -> str:
    response_id = parse_response_id(record.response.id)
    assert response_id is not None
    return keys.response(owner, response_id)


async def save_all(store: ResponseStore, owner: str, records: list[ResponseRecord]) -> None:
    await asyncio.gather(*(store.save(owner, record) for record in records))


async def assert_not_continuable(store: ResponseStore, owner: str, response_id: str) -> None:
    with pytest.raises(ApiError) as caught:
        await store.load_chain(owner, response_id)
    assert caught.value.reason == ErrorReason.ERROR_REASON_PREVIOUS_RESPONSE_NOT_FOUND
    assert caught.value.message == f"Previous response with id '{response_id}' not found."
    assert caught.value.param == "previous_response_id"


async def test_a_saved_record_is_read_back_equal(store: ResponseStore, owner: str) -> None:
    record = finished_record(new_response_id())
    await store.save(owner, record)
    assert await store.get(owner, record.response.id) == record


async def test_saving_twice_is_harmless(store: ResponseStore, owner: str) -> None:
    record = finished_record(new_response_id())
    await save_all(store, owner, [record, record])
    assert await store.get(owner, record.response.id) == record


async def test_a_record_of_megabytes_is_read_back_equal(store: ResponseStore, owner: str) -> None:
    records = [finished_record(new_response_id(), question=secrets.token_hex(2**20), answer="a" * 2**23)]
    await save_all(store, owner, records)
    assert await store.get(owner, records[0].response.id) == records[0]


@pytest.mark.parametrize("depth", [1, 2, 100])
async def test_a_chain_is_loaded_root_first(store: ResponseStore, owner: str, depth: int) -> None:
    records = chain_of_records(depth)
    await save_all(store, owner, records)
    chain = await store.load_chain(owner, records[-1].response.id)
    assert list(chain.records) == records
    assert chain.response_ids == [record.response.id for record in records]
    texts = [item.message.content[0] for item in chain.items()]
    assert [text.input_text.text or text.output_text.text for text in texts] == [
        text for turn in range(depth) for text in (f"{turn}?", f"{turn}!")
    ]


async def test_a_chain_over_the_limit_is_refused_by_name(store: ResponseStore, owner: str) -> None:
    records = chain_of_records(101)
    await save_all(store, owner, records)
    assert await store.get(owner, records[-1].response.id) == records[-1]
    with pytest.raises(ApiError, match="is longer than 100 responses") as caught:
        await store.load_chain(owner, records[-1].response.id)
    assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_VALUE
    assert caught.value.param == "previous_response_id"


async def test_a_chain_of_too_many_bytes_is_refused(commands: CommandBatcher, owner: str) -> None:
    store = ResponseStore(commands, retention_ms=RETENTION_MS, max_chain_bytes=1000)
    records = chain_of_records(20)
    await save_all(store, owner, records)
    with pytest.raises(ApiError, match="takes more than 1000 bytes") as caught:
        await store.load_chain(owner, records[-1].response.id)
    assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_VALUE


async def test_branches_share_their_ancestors(store: ResponseStore, owner: str) -> None:
    trunk = chain_of_records(3)
    parent = parse_response_id(trunk[-1].response.id)
    ancestor_ids = [record.response.id for record in trunk]
    branches = [finished_record(new_response_id(parent), ancestor_ids=ancestor_ids) for _ in range(2)]
    await save_all(store, owner, trunk + branches)
    for branch in branches:
        assert list((await store.load_chain(owner, branch.response.id)).records) == [*trunk, branch]


@pytest.mark.parametrize("deleted", [0, 2, 3])
async def test_descendants_of_a_deleted_response_are_readable_but_not_continuable(
    store: ResponseStore, owner: str, deleted: int
) -> None:
    records = chain_of_records(5)
    await save_all(store, owner, records)
    assert await store.delete(owner, records[deleted].response.id) is True
    assert await store.delete(owner, records[deleted].response.id) is False
    assert await store.get(owner, records[deleted].response.id) is None
    await assert_not_continuable(store, owner, records[deleted].response.id)
    for descendant in records[deleted + 1 :]:
        assert await store.get(owner, descendant.response.id) == descendant
        await assert_not_continuable(store, owner, descendant.response.id)
    for ancestor in records[:deleted]:
        await store.load_chain(owner, ancestor.response.id)


async def test_a_foreign_response_is_absent(store: ResponseStore, owner: str) -> None:
    records = chain_of_records(2)
    await save_all(store, owner, records)
    last = records[-1].response
    assert await store.get("someone else", last.id) is None
    assert await store.find_item("someone else", last.output[0].id) is None
    assert await store.delete("someone else", last.id) is False
    await assert_not_continuable(store, "someone else", last.id)
    assert len((await store.load_chain(owner, last.id)).records) == 2


@pytest.mark.parametrize("garbage", GARBAGE_IDS, ids=lambda garbage: ascii(garbage)[:20])
async def test_a_made_up_id_is_absent(store: ResponseStore, owner: str, garbage: str) -> None:
    assert await store.get(owner, garbage) is None
    assert await store.find_item(owner, garbage) is None
    assert await store.delete(owner, garbage) is False
    with pytest.raises(ApiError, match="Previous response with id") as caught:
        await store.load_chain(owner, garbage)
    assert caught.value.reason == ErrorReason.ERROR_REASON_PREVIOUS_RESPONSE_NOT_FOUND
    assert len(caught.value.message) < 200


async def test_an_item_is_found_by_its_id(store: ResponseStore, owner: str) -> None:
    response_id = new_response_id()
    record = finished_record(response_id)
    await store.save(owner, record)
    for item in (record.input[0], record.response.output[0]):
        assert await store.find_item(owner, item.id) == item
    unknown = ItemIds(response_id)
    assert await store.find_item(owner, unknown.new(ItemKind.REASONING)) is None
    assert await store.find_item(owner, ItemIds(new_response_id()).new(ItemKind.MESSAGE)) is None


async def test_continuing_a_chain_prolongs_all_of_it(
    commands: CommandBatcher, raw: Redis | RedisCluster, owner: str
) -> None:
    records = chain_of_records(10)
    await save_all(ResponseStore(commands, retention_ms=RETENTION_MS), owner, records)

    async def lifetimes(records: list[ResponseRecord]) -> list[int]:
        return [await raw.pttl(key_of(owner, record)) for record in records]

    longer = ResponseStore(commands, retention_ms=10 * RETENTION_MS)
    await longer.get(owner, records[-1].response.id)
    assert all(0 < lifetime <= RETENTION_MS for lifetime in await lifetimes(records))

    await longer.load_chain(owner, records[5].response.id)
    assert all(9 * RETENTION_MS < lifetime <= 10 * RETENTION_MS for lifetime in await lifetimes(records[:6]))
    assert all(0 < lifetime <= RETENTION_MS for lifetime in await lifetimes(records[6:]))

    longest = ResponseStore(commands, retention_ms=100 * RETENTION_MS)
    await longest.save(owner, records[-1])
    assert all(99 * RETENTION_MS < lifetime <= 100 * RETENTION_MS for lifetime in await lifetimes(records))


async def test_a_record_over_its_limit_is_refused(commands: CommandBatcher, owner: str) -> None:
    store = ResponseStore(commands, retention_ms=RETENTION_MS, max_record_bytes=1000)
    record = finished_record(new_response_id(), question="q" * 1000)
    with pytest.raises(ApiError, match="at most 1000 can be stored") as caught:
        await store.save(owner, record)
    assert caught.value.reason == ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE
    assert await store.get(owner, record.response.id) is None


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"", "no zstd frame"),
        (b"something else", "no zstd frame"),
        (zstandard.ZstdCompressor().compress(b"\xff no message"), "cannot be read"),
        (zstandard.ZstdCompressor().compress(bytes(2**27)), f"would take {2**27} bytes"),  # from 4 KB
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**27)), "does not say its size"),
    ],
    ids=["empty", "other", "no message", "bomb", "bomb without size"],
)
async def test_what_is_no_record_is_refused_and_a_bomb_before_it_is_unpacked(
    store: ResponseStore, raw: Redis | RedisCluster, owner: str, blob: bytes, why: str
) -> None:
    response_id = new_response_id()
    await raw.set(keys.response(owner, response_id), blob)
    with pytest.raises(CorruptRecord, match=why):
        await store.get(owner, str(response_id))


async def test_callers_of_one_tick_share_pipelines_and_get_their_own_replies(
    store: ResponseStore, raw: Redis | RedisCluster, owner: str
) -> None:
    async def reads_processed() -> int:
        if isinstance(raw, RedisCluster):
            infos = await raw.info("stats", target_nodes=RedisCluster.ALL_NODES)
            return sum(int(info["total_reads_processed"]) for info in infos.values())
        return int((await raw.info("stats"))["total_reads_processed"])

    records = [finished_record(new_response_id(), answer=str(number)) for number in range(500)]
    before = await reads_processed()
    await save_all(store, owner, records)
    assert await asyncio.gather(*(store.get(owner, record.response.id) for record in records)) == records
    assert await reads_processed() - before < 200  # 1000 if each had been sent alone


async def test_a_caller_gets_its_own_error_and_no_one_elses(
    store: ResponseStore, raw: Redis | RedisCluster, owner: str
) -> None:
    good, bad = finished_record(new_response_id()), new_response_id()
    await store.save(owner, good)
    await raw.execute_command("RPUSH", keys.response(owner, bad), "not a string")
    first, wrong, last = await asyncio.gather(
        store.get(owner, good.response.id),
        store.get(owner, str(bad)),
        store.get(owner, good.response.id),
        return_exceptions=True,
    )
    assert (first, last) == (good, good)
    assert isinstance(wrong, ResponseError)


async def test_a_caller_that_leaves_disturbs_no_one(store: ResponseStore, owner: str) -> None:
    record = finished_record(new_response_id())
    async with asyncio.TaskGroup() as tasks:
        leaving = [tasks.create_task(store.save(owner, finished_record(new_response_id()))) for _ in range(50)]
        staying = tasks.create_task(store.save(owner, record))
        await asyncio.sleep(0)  # one tick: all of them wait now
        for task in leaving:
            task.cancel()
    assert staying.done()
    assert await store.get(owner, record.response.id) == record


async def test_the_server_answers_a_health_check(commands: CommandBatcher) -> None:
    await commands.ping()


@pytest.mark.parametrize("depth", [1, 100])
async def test_a_chain_is_loaded_within_three_round_trips(tmp_path: Path, depth: int) -> None:
    records = chain_of_records(depth)
    proxy = tmp_path / "proxy.sock"
    with valkey_server(tmp_path) as url:
        async with counting_proxy(proxy, url.removeprefix("unix://")) as trips, connect(f"unix://{proxy}") as commands:
            store = ResponseStore(commands, retention_ms=RETENTION_MS)
            for record in records:
                await store.save("acme", record)
            before = trips.count
            assert list((await store.load_chain("acme", records[-1].response.id)).records) == records
            assert 1 <= trips.count - before <= 3


def test_the_ids_of_a_chain_are_in_one_slot() -> None:
    parsed = [parse_response_id(record.response.id) for record in chain_of_records(20)]
    assert len({response_id.tag for response_id in parsed if isinstance(response_id, ResponseId)}) == 1
