"""``python -m bench.load JSON``: many streaming clients in one process, as cheap as Python can make them.

Nothing is parsed: events and tokens are counted in the bytes as they come. Prints one ``Result`` as JSON; with
``Load.is_held`` it does so once every stream has its first token, and then keeps them open until its input ends.
"""

import asyncio
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import msgspec
import uvloop

from bench.processes import MODEL, ROOT, Server

_TIMEOUT_S = 60.0
_TOKEN = b" token"
_END_OF_BODY = b"\n\n\r\n0\r\n\r\n"  # of a last event and its chunk: a head may end in the last five, too
_DELTA = b"output_text.delta"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What the clients do."""

    streams: int
    """Clients, each with one connection."""
    responses: int = 1
    """How many each of them asks for, one after the other."""
    tokens: int = 1
    """Length of each response."""
    tokens_per_s: int = 0
    """Pace of each stream; 0: as fast as they come."""
    store: bool = False
    is_held: bool = False
    """Streams stay open after their first token."""
    port: int = 0

    def body(self) -> bytes:
        """Of each request."""
        script = ["script:", f"pace {self.tokens_per_s}", f"tokens {self.tokens}"]
        if self.is_held:
            script.append("hold")
        fields = {"model": MODEL, "input": "\n".join(script), "stream": True, "store": self.store}
        return msgspec.json.encode(fields)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came back."""

    events: int
    """Without ``[DONE]``."""
    tokens: int
    wall_s: float
    late_p99_ms: float
    """Of all tokens of a pace: how much later one came than the earliest of its stream, each against its own place in
    the pace."""


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load) -> None:
        body = load.body()
        self._load = load
        self._request = (
            b"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        self._left = load.responses
        self._last = b""
        self._loop = asyncio.get_running_loop()
        self.events = 0
        self.arrivals: list[tuple[float, int]] = []
        """Time in seconds, and how many tokens came then: of the last response."""
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by class
        self._send()

    def data_received(self, data: bytes) -> None:
        if not self._last and not data.startswith(b"HTTP/1.1 200 ") and not self.ended.done():
            self.ended.set_exception(RuntimeError(data.decode(errors="replace")))
        self.events += data.count(b"\n\n") + (self._last[-1:] == b"\n" and data[:1] == b"\n")
        if _DELTA in data:
            self.arrivals.append((self._loop.time(), data.count(_TOKEN)))
            if not self.started.done():
                self.started.set_result(None)
        self._last = (self._last + data)[-len(_END_OF_BODY) :]
        if self._last == _END_OF_BODY:
            self._left -= 1
            self.events -= 1  # [DONE]
            if self._left:
                self._send()
            else:
                self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or EOFError("the server closed the connection"))

    def lateness_s(self) -> list[float]:
        """Of each token of the last response, against the earliest."""
        if not self._load.tokens_per_s:
            return []
        late: list[float] = []
        for time, count in self.arrivals:
            late.extend(time - place / self._load.tokens_per_s for place in range(len(late), len(late) + count))
        late = late[: self._load.tokens]  # the rest is the whole text in the last events
        return [each - min(late) for each in late]

    def _send(self) -> None:
        self._last = b""
        self.arrivals.clear()
        self._transport.write(self._request)


async def run(load: Load) -> None:
    """Do it, and print the result."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    clients = []
    for number in range(load.streams):
        _, client = await loop.create_connection(lambda: Client(load), "127.0.0.1", load.port)
        clients.append(client)
        if load.tokens_per_s and number % 8 == 7:
            await asyncio.sleep(0.5 / load.streams * 8)  # spread over half a second, like users
    async with asyncio.timeout(_TIMEOUT_S):
        await asyncio.gather(*(client.started if load.is_held else client.ended for client in clients))
    late = sorted(each for client in clients for each in client.lateness_s())
    result = Result(
        events=sum(client.events for client in clients),
        tokens=load.streams * load.responses * load.tokens,
        wall_s=loop.time() - start,
        late_p99_ms=1000 * late[len(late) * 99 // 100] if late else 0.0,
    )
    print(msgspec.json.encode(result).decode(), flush=True)
    if load.is_held:
        await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def loading(server: Server, load: Load) -> Generator[Result, None, None]:
    """``load`` on ``server``; streams that are held stay open until the end of the context."""
    described = msgspec.json.encode(msgspec.structs.replace(load, port=server.port)).decode()
    command = [sys.executable, "-m", "bench.load", described]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator failed: {described}")
        yield msgspec.json.decode(line, type=Result)


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Load)))
