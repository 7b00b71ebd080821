"""Clients that want their responses whatever breaks, what befalls the processes that serve them, and what must be true
when it is over."""

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
import grpc
from redis.asyncio import Redis

from antiphon.inference.v1 import inference_pb2
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from store import keys
from tests.support.fleet import Fleet
from tests.support.stream_rules import Json, assert_legal_stream

TERMINAL: Final = {"completed", "failed", "incomplete", "cancelled"}
_UNAVAILABLE: Final = {429, 500, 502, 503}
_SILENCE_S: Final = 5.0
"""Edges show life every half second: one that is silent for so long is left for another."""
_PAUSE_S: Final = 0.1
_MARK: Final = "chaos_client"


Deed = Callable[[int], Awaitable[None]]
"""Something that befalls one of the processes of a kind, by its index."""


class _Unavailable(Exception):
    """This edge cannot answer now."""


@dataclass(frozen=True)
class Wish:
    """What a client asks for."""

    number: int
    params: Json
    background: bool = True
    stream: bool = True
    store: bool = True
    key: str | None = None
    """Idempotency-Key."""
    is_resumable: bool = True
    """Its events are logged."""


class Wanted:
    """One response, asked for until an edge accepts it, and followed over any edge until it has ended.

    Args:
        edges: Where to ask: any of them may be gone at any time.
        wish: What to ask for.
        seed: Decides which edge is asked.
    """

    def __init__(
        self, session: aiohttp.ClientSession, edges: Callable[[], Sequence[str]], wish: Wish, *, seed: int
    ) -> None:
        self.wish = wish
        self.events: list[Json] = []
        self.ids: set[str] = set()
        """Of all answers."""
        self.final: Json | None = None
        self.accepted_at = ""
        """The edge that answered first."""
        self.is_broken_off = False
        """It could not be resumed, and its connection broke."""
        self.longest_wait_s = 0.0
        """Between two events of a stream, or from the connection's end to the next event."""
        self._session = session
        self._edges = edges
        self._random = random.Random(seed)
        self._heard_at = 0.0

    @property
    def id(self) -> str:
        (response_id,) = self.ids
        return response_id

    async def run(self) -> None:
        """Return at its end, whatever that is."""
        while self.final is None and not self.is_broken_off:
            url = self._random.choice(self._edges())
            try:
                if not self.ids:
                    await self._ask(url)
                elif self.wish.stream:
                    await self._resume(url)
                else:
                    await self._poll(url)
            except (aiohttp.ClientError, asyncio.IncompleteReadError, TimeoutError, _Unavailable):
                self.is_broken_off = bool(self.ids) and not self.wish.is_resumable
                await asyncio.sleep(_PAUSE_S)

    async def _ask(self, url: str) -> None:
        wish = self.wish
        body = {
            **wish.params,
            "background": wish.background,
            "stream": wish.stream,
            "store": wish.store,
            "metadata": {_MARK: str(wish.number)},
        }
        headers = {"Idempotency-Key": wish.key} if wish.key else {}
        async with self._session.post(f"{url}/v1/responses", json=body, headers=headers) as response:
            self.accepted_at = url
            await self._read(response)

    async def _resume(self, url: str) -> None:
        query = {"stream": "true"}
        if self.events:
            query["starting_after"] = str(self.events[-1]["sequence_number"])
        async with self._session.get(f"{url}/v1/responses/{self.id}", params=query) as response:
            await self._read(response)

    async def _poll(self, url: str) -> None:
        async with self._session.get(f"{url}/v1/responses/{self.id}") as response:
            await self._read(response)
        if self.final is None:
            await asyncio.sleep(_PAUSE_S)

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        if response.status in _UNAVAILABLE:
            raise _Unavailable(await response.text())
        assert response.status == 200, f"{response.status}: {await response.text()}"
        if not self.wish.stream:
            self._take_response(await response.json())
            return
        async for event in events_of(response):
            self._take_event(event)
        if self.final is None:
            raise _Unavailable("a stream without an end")

    def _take_event(self, event: Json) -> None:
        now = time.monotonic()
        if self.events:
            self.longest_wait_s = max(self.longest_wait_s, now - self._heard_at)
        self._heard_at = now
        assert event["sequence_number"] == len(self.events), "an event is lost or doubled"
        self.events.append(event)
        if "response" in event:
            self._take_response(event["response"])

    def _take_response(self, response: Json) -> None:
        self.ids.add(response["id"])
        if response["status"] in TERMINAL:
            self.final = response


async def events_of(response: aiohttp.ClientResponse) -> AsyncGenerator[Json, None]:
    """The whole events of a stream that may break off anywhere; ends after the last one."""
    while True:
        block = await response.content.readuntil(b"\n\n")
        if not block.endswith(b"\n\n"):
            raise aiohttp.ClientPayloadError("broken off")
        if block == b"data: [DONE]\n\n":
            return
        if not block.startswith(b":"):
            yield json.loads(block.partition(b"\ndata: ")[2])


@asynccontextmanager
async def chaos_session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Connections that are given up when nothing comes over them."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


class Mischief:
    """What befalls the processes of a fleet: one thing at a time, undone before the next.

    Args:
        stop_s: How long a process sleeps.
    """

    def __init__(self, fleet: Fleet, *, stop_s: float) -> None:
        self.fleet = fleet
        self.stop_s = stop_s
        self.done: list[str] = []

    @property
    def deeds(self) -> list[Deed]:
        """All of them."""
        return [
            *(self.kill_edge, self.stop_edge, self.drain_edge, self.kill_worker, self.stop_worker),
            *(self.kill_store, self.stop_store),
        ]

    async def kill_edge(self, index: int) -> None:
        """kill -9; another one takes its place."""
        self._note(f"kill edge {index}")
        self.fleet.kill_edge(index)
        await asyncio.to_thread(self.fleet.restart_edge, index)

    async def stop_edge(self, index: int) -> None:
        """It sleeps, longer than its leases if ``stop_s`` is."""
        await self._stop(f"stop edge {index}", self.fleet.edges[index].process.pid)

    async def drain_edge(self, index: int) -> None:
        """SIGTERM; another one takes its place."""
        self._note(f"drain edge {index}")
        await asyncio.to_thread(self.fleet.drain_edge, index)
        await asyncio.to_thread(self.fleet.restart_edge, index)

    async def kill_worker(self, index: int) -> None:
        """kill -9; another one takes its place."""
        self._note(f"kill worker {index}")
        self.fleet.kill_worker(index)
        await asyncio.to_thread(self.fleet.restart_worker, index)

    async def stop_worker(self, index: int) -> None:
        """It sleeps."""
        await self._stop(f"stop worker {index}", self.fleet.workers[index].pid)

    async def kill_store(self, index: int) -> None:
        """kill -9, and again over the same files after a while; an edge is killed and started meanwhile."""
        self._note(f"kill store, with edge {index}")
        self.fleet.valkey.kill()
        self.fleet.kill_edge(index)
        starting = asyncio.create_task(asyncio.to_thread(self.fleet.restart_edge, index))
        await asyncio.sleep(self.stop_s)
        await asyncio.to_thread(self.fleet.valkey.start)
        await starting

    async def stop_store(self, _index: int) -> None:
        """It sleeps: connections stay, and nothing answers."""
        self._note("stop store")
        self.fleet.valkey.stop()
        try:
            await asyncio.sleep(self.stop_s)
        finally:
            self.fleet.valkey.resume()

    async def _stop(self, what: str, pid: int) -> None:
        self._note(what)
        self.fleet.signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.stop_s)
        finally:
            self.fleet.signal(pid, signal.SIGCONT)

    def _note(self, what: str) -> None:
        self.done.append(what)


async def assert_all_is_well(
    fleet: Fleet, session: aiohttp.ClientSession, wanted: Sequence[Wanted], expected: Callable[[Json], None]
) -> None:
    """Nothing is lost, doubled or spliced; everything has ended and nothing is held, here and on every edge.

    Args:
        expected: Checks the final response of each.
    """
    for each in wanted:
        if each.is_broken_off:
            assert each.accepted_at not in [edge.base_url for edge in fleet.edges], "broken off by an edge that lives"
        else:
            assert each.final is not None
        if each.final is not None:
            if each.events:
                assert assert_legal_stream(each.events) == each.final
            try:
                expected(each.final)
            except AssertionError as error:
                error.add_note(fleet.story(each.final["id"]))
                raise
    async with Redis.from_url(fleet.valkey.url) as raw:
        await _until_quiet(fleet, raw)
        jobs = [parsed async for key in raw.scan_iter(keys.ALL_JOBS) if (parsed := keys.parse_job(key.decode()))]
    stored = {str(response_id) for _, response_id in jobs}
    by_client: dict[str, set[str]] = {}
    for edge in fleet.edges:
        for response_id in stored:
            final = await _get(session, f"{edge.base_url}/v1/responses/{response_id}")
            assert final["status"] in TERMINAL, final
            by_client.setdefault(final["metadata"][_MARK], set()).add(response_id)
        for each in wanted:
            await _assert_kept(session, edge.base_url, each, is_logged=bool(each.ids & stored))
    for each in wanted:
        if each.wish.key is not None:
            assert by_client[str(each.wish.number)] == each.ids, "a key made more than one response"


async def _assert_kept(session: aiohttp.ClientSession, url: str, wanted: Wanted, *, is_logged: bool) -> None:
    assert is_logged == wanted.wish.is_resumable
    if wanted.final is None or not wanted.wish.store:
        return
    path = f"{url}/v1/responses/{wanted.id}"
    assert await _get(session, path) == wanted.final
    items = (await _get(session, f"{path}/input_items"))["data"]
    item_ids = [item["id"] for item in (*items, *wanted.final["output"])]
    assert len(set(item_ids)) == len(item_ids)
    if is_logged:
        async with session.get(path, params={"stream": "true"}) as response:
            replayed = [event async for event in events_of(response)]
        assert assert_legal_stream(replayed) == wanted.final
        if wanted.events:
            assert plain(replayed) == plain(wanted.events)


def plain(events: Sequence[Json]) -> list[Json]:
    """Events without their padding, which may differ."""
    return [{name: value for name, value in event.items() if name != "obfuscation"} for event in events]


async def _get(session: aiohttp.ClientSession, url: str) -> Json:
    async with session.get(url) as response:
        assert response.status == 200, await response.text()
        body: Json = await response.json()
        return body


async def _until_quiet(fleet: Fleet, raw: Redis) -> None:
    """Wait until the queue holds nothing, and no engine has work."""
    *queue, _clock = keys.QUEUE
    async with asyncio.timeout(60):
        while await raw.exists(*queue) or await _load(fleet):  # noqa: ASYNC110 - it is other processes' state
            await asyncio.sleep(0.1)


async def _load(fleet: Fleet) -> int:
    """Generations that the workers have."""
    load = 0
    for worker in fleet.workers:
        async with grpc.aio.insecure_channel(worker.target) as channel:
            model = await InferenceServiceStub(channel).GetModel(inference_pb2.GetModelRequest(), timeout=10)
            load += model.load.running + model.load.waiting
    return load
