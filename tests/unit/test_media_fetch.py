"""Fetching against real servers on loopback, which the fetcher is told to allow."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.media.fetch import Fetched, FetchLimits, UrlFetcher
from edge.media.networks import Networks, parse_networks
from tests.support.media import answer, file_server, redirect

LIMITS = FetchLimits(max_bytes=100_000, timeout_s=10, max_redirects=3, at_once=4)
ONLY_ONE = Networks(parse_networks("127.0.0.1/32"), (80, 443))


class FixedResolver(AbstractResolver):
    """Names are what a test says they are, one look-up after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = self._answers.pop(0)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def fetch(
    url: str, *, limits: FetchLimits = LIMITS, networks: Networks = ONLY_ONE, resolver: AbstractResolver | None = None
) -> Fetched:
    async with asyncio.timeout(20), UrlFetcher(networks, limits, resolver=resolver) as fetcher:
        return await fetcher.fetch(url, ("text/",))


async def refused(url: str, **options: object) -> str:
    """The message of a fetch that must fail."""
    with pytest.raises(ApiError) as refusal:
        await fetch(url, **options)  # type: ignore[arg-type]
    assert refusal.value.reason == ErrorReason.ERROR_REASON_FAILED_TO_DOWNLOAD
    return refusal.value.message


async def test_a_body_comes_with_its_declared_type() -> None:
    async with file_server({"/a": answer(b"hello", "Text/Plain; charset=latin-1")}) as url:
        assert await fetch(f"{url}/a#part") == Fetched(b"hello", "text/plain", "latin-1")


async def test_nothing_of_ours_is_sent_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    seen: list[set[str]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append({name.lower() for name in request.headers})
        return web.Response(text="x", headers={"Set-Cookie": "a=b"})

    async with file_server({"/": handle}) as url, UrlFetcher(ONLY_ONE, LIMITS) as fetcher:
        for _ in range(2):
            await fetcher.fetch(url, ("text/",))
    assert seen == [{"host", "user-agent", "accept", "accept-encoding", "connection"}] * 2


async def test_redirects_are_followed_up_to_the_limit() -> None:
    paths = {f"/{number}": redirect(f"/{number + 1}", 301 + number % 3) for number in range(4)}
    async with file_server({**paths, "/4": answer(b"end", "text/plain")}) as url:
        assert (await fetch(f"{url}/1")).data == b"end"
        assert "redirected more than 3 times" in await refused(f"{url}/0")


async def test_a_loop_of_redirects_ends() -> None:
    async with file_server({"/": redirect("/")}) as url:
        assert "redirected more than 3 times" in await refused(url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/", "http://user@127.0.0.1/", "", "http://[::1"])
async def test_a_redirect_to_no_url_of_ours_is_refused(target: str) -> None:
    async with file_server({"/": redirect(target)}) as url:
        with pytest.raises(ApiError):
            await fetch(url)


async def forbidden_server(stack: AsyncExitStack) -> tuple[int, Callable[[], bool]]:
    """A server on an address that is not allowed: its port, and whether anybody reached it."""
    was_reached = False

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal was_reached
        was_reached = True
        writer.close()

    server = await stack.enter_async_context(await asyncio.start_server(connected, "127.0.0.2", 0))
    return server.sockets[0].getsockname()[1], lambda: was_reached


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    async with AsyncExitStack() as stack:
        port, was_reached = await forbidden_server(stack)
        url = await stack.enter_async_context(file_server({"/": redirect(f"http://127.0.0.2:{port}/")}))
        assert "may fetch from" in await refused(url)
    assert not was_reached()


async def test_a_name_of_a_private_address_is_refused() -> None:
    async with AsyncExitStack() as stack:
        port, was_reached = await forbidden_server(stack)
        for addresses in (["127.0.0.2"], ["127.0.0.2", "127.0.0.2"], ["169.254.169.254"]):
            resolver = FixedResolver(addresses)
            assert "may fetch from" in await refused(f"http://innocent.example:{port}/", resolver=resolver)
    assert not was_reached()


async def test_a_name_that_changes_between_two_requests_is_refused() -> None:
    async with AsyncExitStack() as stack:
        port, was_reached = await forbidden_server(stack)
        paths = {"/": redirect(f"http://innocent.example:{port}/again")}
        url = await stack.enter_async_context(file_server(paths))
        resolver = FixedResolver(["127.0.0.1"], ["127.0.0.2"])
        assert "may fetch from" in await refused(url.replace("127.0.0.1", "innocent.example"), resolver=resolver)
    assert not was_reached()


async def test_of_several_addresses_only_allowed_ones_are_tried() -> None:
    async with AsyncExitStack() as stack:
        port, was_reached = await forbidden_server(stack)
        url = await stack.enter_async_context(file_server({"/": answer(b"x", "text/plain")}))
        resolver = FixedResolver(["127.0.0.2", "127.0.0.1"])
        assert (await fetch(url.replace("127.0.0.1", "mixed.example"), resolver=resolver)).data == b"x"
        assert "cannot be reached" in await refused(
            f"http://mixed.example:{port}/", resolver=FixedResolver(["127.0.0.2", "127.0.0.1"])
        )
    assert not was_reached()


async def test_what_is_larger_than_declared_or_not_declared_at_all_is_cut_off() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)
            sent += 10_000

    async with file_server({"/endless": endless, "/large": answer(b"x" * 100_001, "text/plain")}) as url:
        assert "more than 100000 bytes" in await refused(f"{url}/large")
        assert "more than 100000 bytes" in await refused(f"{url}/endless")
    assert sent < 50_000_000


async def test_a_body_of_just_the_limit_is_taken() -> None:
    async with file_server({"/": answer(b"x" * 100_000, "text/plain")}) as url:
        assert len((await fetch(url)).data) == 100_000


async def test_a_slow_drip_meets_the_timeout() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    async with file_server({"/": drip}) as url:
        assert "more than 0.3 seconds" in await refused(url, limits=LIMITS._replace(timeout_s=0.3))


async def test_a_server_that_never_answers_meets_the_timeout() -> None:
    async with AsyncExitStack() as stack:
        gone = asyncio.Event()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1000):
                pass
            writer.close()
            gone.set()

        server = await stack.enter_async_context(await asyncio.start_server(connected, "127.0.0.1", 0))
        port = server.sockets[0].getsockname()[1]
        limits = LIMITS._replace(timeout_s=0.3)
        assert "more than 0.3 seconds" in await refused(f"http://127.0.0.1:{port}/", limits=limits)
        async with asyncio.timeout(10):
            await gone.wait()


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (answer(b"x", "video/mp4"), "media type"),
        (answer(b"", "text/plain"), "empty"),
        (answer(b"x", "text/plain", Content_Encoding="gzip"), "compresses"),
        (answer(b"x", "image/png"), "media type"),
        (redirect("/", 404), "status 404"),
        (redirect("/", 304), "status 304"),
    ],
)
async def test_other_answers_are_refused(handler: Callable[..., object], message: str) -> None:
    async with file_server({"/": handler}) as url:  # type: ignore[dict-item]
        assert message in await refused(url)


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx", b""])
async def test_a_broken_answer_is_refused(raw: bytes) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        await refused(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def test_more_fetches_than_there_are_places_wait_for_one_or_give_up() -> None:
    entered = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    limits = LIMITS._replace(at_once=1, timeout_s=10)
    async with file_server({"/": hang}) as url, asyncio.timeout(20), UrlFetcher(ONLY_ONE, limits) as fetcher:
        first = asyncio.ensure_future(fetcher.fetch(url, ("text/",)))
        await entered.wait()
        impatient = asyncio.ensure_future(fetcher.fetch(url, ("text/",)))
        first.cancel()
        entered.clear()
        await entered.wait()  # the place that the first one left was taken
        impatient.cancel()
    limits = LIMITS._replace(at_once=0, timeout_s=0.1)
    async with UrlFetcher(ONLY_ONE, limits) as fetcher:
        with pytest.raises(ApiError) as overload:
            await fetcher.fetch("http://127.0.0.1/", ("text/",))
    assert overload.value.reason == ErrorReason.ERROR_REASON_OVERLOADED


async def test_a_cancelled_fetch_closes_its_connection() -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError("unreachable")

    async with file_server({"/": hang}) as url, UrlFetcher(ONLY_ONE, LIMITS) as fetcher, asyncio.timeout(20):
        fetching = asyncio.ensure_future(fetcher.fetch(url, ("text/",)))
        await entered.wait()
        fetching.cancel()
        await left.wait()
        with pytest.raises(asyncio.CancelledError):
            await fetching
