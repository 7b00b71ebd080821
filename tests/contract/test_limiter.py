"""The edge's limiter over a real Valkey: leases, refusals, and a store that is away."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.errors import RateLimited
from edge.limits import Limiter
from store.connection import connect
from store.limits import Limits, LimitStore
from tests.support.valkey import ValkeyServer, valkey_process

LEASE_MS = 1000


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with valkey_process(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@asynccontextmanager
async def limiter_of(
    valkey: ValkeyServer, limits: Limits, *, lease_ms: int = LEASE_MS
) -> AsyncGenerator[tuple[Limiter, LimitStore], None]:
    """A limiter that runs, as in one edge process."""
    async with connect(valkey.url) as commands:
        store = LimitStore(commands, lease_ms=lease_ms)
        limiter = Limiter(store, lambda owner: limits)
        running = asyncio.create_task(limiter.run())
        try:
            yield limiter, store
        finally:
            running.cancel()
            await asyncio.wait([running])


async def is_admitted(limiter: Limiter, owner: str, request_id: str = "probe", *, is_stored: bool = False) -> bool:
    try:
        async with limiter.admitted(owner, request_id, is_stored=is_stored):
            return True
    except RateLimited:
        return False


async def test_a_place_is_held_beyond_its_lease_and_comes_back_when_its_process_dies(valkey: ValkeyServer) -> None:
    limits = Limits(max_running=1)
    async with limiter_of(valkey, limits) as (other, store):
        async with limiter_of(valkey, limits) as (dying, _), AsyncExitStack() as held:
            await held.enter_async_context(dying.admitted("leased", "held", is_stored=False))
            loop = asyncio.get_running_loop()
            beyond = loop.time() + 2 * LEASE_MS / 1000
            while loop.time() < beyond:
                assert not await is_admitted(other, "leased")
                assert (await store.usage("leased")).running == 1
            held.pop_all()  # it dies: nobody gives the place back
        assert not await is_admitted(other, "leased")
        async with asyncio.timeout(5):
            while not await is_admitted(other, "leased"):
                pass


async def test_a_background_response_is_counted_from_its_creation_to_its_end(valkey: ValkeyServer) -> None:
    limits = Limits(max_running=1)
    async with limiter_of(valkey, limits) as (creator, store), limiter_of(valkey, limits) as (runner, _):

        async def counts(running: int) -> None:
            async with asyncio.timeout(5):
                while (await store.usage("background")).running != running:
                    pass

        async with creator.admitted("background", "req_1", is_stored=True):
            async with creator.handed_over("background", "req_1", "resp_1"):
                pass
            await counts(1)
        await counts(1)
        with runner.held("background", "resp_1"):
            loop = asyncio.get_running_loop()
            beyond = loop.time() + 1.5 * LEASE_MS / 1000
            while loop.time() < beyond:
                assert (await store.usage("background")).running == 1
                assert not await is_admitted(creator, "background")
        await counts(0)
        async with creator.admitted("background", "req_2", is_stored=True):
            with pytest.raises(ValueError, match="not created"):
                async with creator.handed_over("background", "req_2", "resp_2"):
                    raise ValueError("not created")
        await counts(0)


async def test_refused_requests_never_take_a_place_however_many_come(valkey: ValkeyServer) -> None:
    async with limiter_of(valkey, Limits(max_running=1)) as (limiter, store):
        async with limiter.admitted("flooded", "held", is_stored=False):
            loop = asyncio.get_running_loop()
            end = loop.time() + LEASE_MS / 1000
            number = 0
            while loop.time() < end:  # while places are vouched for
                number += 20
                admitted = await asyncio.gather(*(is_admitted(limiter, "flooded", f"{number + n}") for n in range(20)))
                assert not any(admitted)
                assert (await store.usage("flooded")).running == 1
        assert await is_admitted(limiter, "flooded")


async def test_a_client_that_leaves_while_it_waits_takes_no_place_along(valkey: ValkeyServer) -> None:
    async with limiter_of(valkey, Limits(max_running=1), lease_ms=60_000) as (limiter, store):
        leaving = [asyncio.create_task(is_admitted(limiter, "impatient", f"{n}")) for n in range(5)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        async with asyncio.timeout(5):
            while not await is_admitted(limiter, "impatient"):
                pass
            while (await store.usage("impatient")).running:
                pass


async def test_without_the_store_each_edge_counts_what_runs_there(tmp_path: Path) -> None:
    with valkey_process(tmp_path) as valkey:
        async with limiter_of(valkey, Limits(max_running=1, requests_per_minute=1)) as (limiter, _):
            valkey.kill()
            async with limiter.admitted("cut off", "held", is_stored=False) as headers:
                assert headers == {}
                assert not await is_admitted(limiter, "cut off")
                with pytest.raises(ApiError) as caught:
                    await is_admitted(limiter, "cut off", is_stored=True)
                assert caught.value.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
            assert await is_admitted(limiter, "cut off")
            assert await is_admitted(limiter, "cut off")  # the rate is not counted meanwhile
            valkey.start()
            async with asyncio.timeout(10):
                while await is_admitted(limiter, "cut off"):
                    pass


async def test_an_owner_without_limits_asks_nothing_of_the_store(tmp_path: Path) -> None:
    with valkey_process(tmp_path) as valkey:
        async with limiter_of(valkey, Limits()) as (limiter, _):
            valkey.kill()
            async with limiter.admitted("free", "first", is_stored=True) as headers:
                assert headers == {}


@pytest.mark.parametrize("per_minute", [1, 7, 1000])
async def test_the_headers_tell_the_rate_as_openai_does(valkey: ValkeyServer, per_minute: int) -> None:
    async with (
        limiter_of(valkey, Limits(requests_per_minute=per_minute)) as (limiter, _),
        limiter.admitted(f"rated {per_minute}", "first", is_stored=False) as headers,
    ):
        assert headers == {
            "x-ratelimit-limit-requests": str(per_minute),
            "x-ratelimit-remaining-requests": str(per_minute - 1),
            "x-ratelimit-reset-requests": headers["x-ratelimit-reset-requests"],
        }
        reset_s = float(headers["x-ratelimit-reset-requests"].removesuffix("s"))
        assert 0 < reset_s <= 60 / per_minute + 0.01
