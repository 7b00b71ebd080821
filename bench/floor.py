"""``python -m bench.floor PORT``: what one system call for each event costs at least, a bare uvloop writer.

It parses nothing but the number of tokens that a request asks for, and has every byte ready: a head, a chunk like that
of one delta, an end. All streams are on one timer of 100 ticks a second.
"""

import asyncio
import re
import sys
from typing import cast

import uvloop

_TICK_S = 0.01
_TOKENS = re.compile(rb"tokens (\d+)")

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":100,'
    b'"item_id":"msg_aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb000001","output_index":0,"content_index":0,"delta":" token",'
    b'"obfuscation":"0123456789","logprobs":[]}\n\n'
)
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_DONE = b"data: [DONE]\n\n"
_END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_DONE), _DONE)


class Writer(asyncio.Protocol):
    """One connection: an event for each token of its current request, one a tick."""

    def __init__(self, running: set["Writer"]) -> None:
        self._running = running
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        tokens = _TOKENS.search(data)  # a request is small enough to come in one piece
        assert tokens is not None
        self._left = int(tokens[1])
        self._transport.write(_HEAD)
        self._running.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._running.discard(self)

    def tick(self) -> None:
        """Write the next event."""
        self._transport.write(_CHUNK)
        self._left -= 1
        if not self._left:
            self._transport.write(_END)
            self._running.remove(self)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    running: set[Writer] = set()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Writer(running), "127.0.0.1", port):
        next_tick = loop.time()
        while True:
            next_tick += _TICK_S
            await asyncio.sleep(next_tick - loop.time())
            for writer in list(running):
                writer.tick()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
