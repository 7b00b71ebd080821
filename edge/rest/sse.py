"""Events to Server-Sent Events.

An event and its blank line are always in one write. aiohttp writes the head with the first events, and the last events
with the end of the body; writes between go past its payload writer, with the chunk framing done here, because its own
path costs more than all the rest.
"""

from collections.abc import Sequence
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from edge.events import Event
from edge.rest.cursor import EventCursor
from edge.rest.render import EventRenderer
from edge.run import Answer

HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx holds a stream back without it
}

_KEEP_ALIVE: Final = b": keep-alive\n\n"
_DONE: Final = b"data: [DONE]\n\n"


def sse_renderer(*, is_obfuscated: bool) -> EventRenderer:
    """Renders each event as one SSE event with its blank line."""
    return EventRenderer(is_obfuscated=is_obfuscated, head="event: {}\ndata: ".format, tail="\n\n")


class _Answer(web.StreamResponse):
    """An answer whose head waits for the first bytes of its body: one system call for both."""

    _send_headers_immediately = False


class SseStream(EventCursor):
    """The body of one streamed HTTP answer.

    Args:
        request: Its transport is written to.
        run: Its events are read.
        is_obfuscated: See ``EventRenderer``.
        slow_reader_timeout_s: See ``EventCursor``.
    """

    def __init__(self, request: web.Request, run: Answer, *, is_obfuscated: bool, slow_reader_timeout_s: float) -> None:
        assert request.transport is not None
        super().__init__(request.transport, run.events, slow_reader_timeout_s=slow_reader_timeout_s)
        self._is_chunked = request.version >= HttpVersion11
        self._renderer = sse_renderer(is_obfuscated=is_obfuscated)
        self._rest = b""

    async def open(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        """Send the head and the events so far in one write; afterwards ``wake`` may be called."""
        response = _Answer(headers=HEADERS | headers)
        if self._is_chunked:
            response.enable_chunked_encoding()
        else:
            response.force_close()
        first = self._take() or _KEEP_ALIVE  # what fails here can still be answered as an error
        await response.prepare(request)
        await response.write(first)
        return response

    async def rest(self) -> bytes:
        """The last of the body, when all before it is with the transport; nothing if the connection is gone."""
        await self.sent()
        return self._rest

    def keep_alive(self) -> None:
        """Write a comment, unless the connection is behind."""
        if self._may_write:
            self._write(_KEEP_ALIVE)

    def _pack(self, events: Sequence[Event], *, is_end: bool) -> bytes:
        render = self._renderer.render
        data = b"".join([render(event) for event in events])
        return data + _DONE if is_end else data

    def _write(self, data: bytes) -> None:
        if self._events.is_ended:
            self._rest = data
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
