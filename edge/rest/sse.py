"""Events to Server-Sent Events, straight into the connection's transport.

An event and its blank line are always in one write, and all events that are there go out in one write: one system call
for each stream and frame. aiohttp writes the head with the first events; later writes go past its payload writer, with
the chunk framing done here, because its own path costs more than all the rest.
"""

import asyncio
import secrets
import time
from json.encoder import encode_basestring
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.http import HttpVersion11

from antiphon.inference.v1.inference_pb2 import PartKind
from antiphon.responses.v1 import response_pb2
from edge import codec
from edge.codec.content import encode_logprobs
from edge.events import Delta, Event, Part, Snapshot
from edge.run import ResponseRun

HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx holds a stream back without it
}

_KEEP_ALIVE: Final = b": keep-alive\n\n"
_DONE: Final = b"data: [DONE]\n\n"

_HIGH_WATER_BYTES: Final = 64 * 1024
"""A connection with more than this unsent gets nothing until it has taken some."""

_SLOW_READER_POLL_S: Final = 0.05

_PADDING_STEP: Final = 16
"""A delta's text and its obfuscation have a multiple of this many characters together."""
_PADDING: Final = secrets.token_urlsafe(4096)
_PADDING_STARTS: Final = len(_PADDING) - _PADDING_STEP

_DELTA_TYPES: Final = {
    PartKind.PART_KIND_TEXT: "response.output_text.delta",
    PartKind.PART_KIND_REFUSAL: "response.refusal.delta",
    PartKind.PART_KIND_REASONING: "response.reasoning.delta",
    PartKind.PART_KIND_REASONING_SUMMARY: "response.reasoning_summary_text.delta",
    PartKind.PART_KIND_FUNCTION_CALL: "response.function_call_arguments.delta",
}


class EventRenderer:
    """Renders the events of one stream; remembers what follows an event like the last one.

    Args:
        is_obfuscated: Pad deltas, so that the sizes on the wire do not tell the lengths of tokens.
    """

    def __init__(self, *, is_obfuscated: bool) -> None:
        self._is_obfuscated = is_obfuscated
        self._part: Part | None = None
        self._head = self._middle = ""
        self._response: response_pb2.Response | None = None
        self._response_json = b""

    def render(self, event: Event) -> bytes:
        """``event`` as one SSE event with its blank line."""
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, Snapshot):
            return self._snapshot(event)
        return b"event: %s\ndata: %s\n\n" % (codec.event_type(event).encode(), codec.event_json(event))

    def _delta(self, event: Delta) -> bytes:
        part = event.part
        if part is not self._part:
            self._open(part)
        text = event.text
        tail = "}\n\n"
        if part.kind == PartKind.PART_KIND_TEXT:
            logprobs = msgspec.json.encode(encode_logprobs(event.logprobs)).decode() if event.logprobs else "[]"
            tail = f',"logprobs":{logprobs}}}\n\n'
        if self._is_obfuscated and part.kind != PartKind.PART_KIND_REFUSAL:
            start = event.sequence_number * 37 % _PADDING_STARTS
            padding = _PADDING[start : start + _PADDING_STEP - len(text) % _PADDING_STEP]
            tail = f',"obfuscation":"{padding}"{tail}'
        return f"{self._head}{event.sequence_number}{self._middle}{encode_basestring(text)}{tail}".encode()

    def _open(self, part: Part) -> None:
        event_type = _DELTA_TYPES[part.kind]
        self._part = part
        self._head = f'event: {event_type}\ndata: {{"type":"{event_type}","sequence_number":'
        self._middle = f',"item_id":"{part.item_id}","output_index":{part.output_index}'
        if part.kind == PartKind.PART_KIND_REASONING_SUMMARY:
            self._middle += f',"summary_index":{part.part_index}'
        elif part.kind != PartKind.PART_KIND_FUNCTION_CALL:
            self._middle += f',"content_index":{part.part_index}'
        self._middle += ',"delta":'

    def _snapshot(self, event: Snapshot) -> bytes:
        if event.response is not self._response:
            self._response = event.response
            self._response_json = codec.response_json(event.response)
        name = event.name.encode()
        return b'event: response.%s\ndata: {"type":"response.%s","sequence_number":%d,"response":%s}\n\n' % (
            name,
            name,
            event.sequence_number,
            self._response_json,
        )


class SseStream:
    """One connection's cursor on a response's events.

    Args:
        request: Its transport is written to.
        run: Its events are read.
        is_obfuscated: See ``EventRenderer``.
        slow_reader_timeout_s: A connection that takes nothing of what waits for it for this long is cut.
    """

    def __init__(
        self, request: web.Request, run: ResponseRun, *, is_obfuscated: bool, slow_reader_timeout_s: float
    ) -> None:
        assert request.transport is not None
        self._transport: asyncio.WriteTransport = request.transport
        self._is_chunked = request.version >= HttpVersion11
        self._events = run.events
        self._renderer = EventRenderer(is_obfuscated=is_obfuscated)
        self._timeout_s = slow_reader_timeout_s
        self._cursor = 0
        self._waiting_bytes = 0
        self._progress_at = 0.0
        self._poll: asyncio.TimerHandle | None = None
        self._sent = asyncio.Event()

    async def open(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        """Send the head and the events so far in one write; afterwards ``wake`` may be called."""
        response = web.StreamResponse(headers=HEADERS | headers)
        if self._is_chunked:
            response.enable_chunked_encoding()
        else:
            response.force_close()
        await response.prepare(request)
        await response.write(self._take())
        return response

    def wake(self) -> None:
        """Write what is new, unless the connection is behind."""
        if self._poll is None and self._cursor < len(self._events.log):
            self._write_or_wait()

    def keep_alive(self) -> None:
        """Write a comment, unless the connection is behind."""
        if self._poll is None and not self._transport.is_closing():
            self._write(_KEEP_ALIVE)

    async def sent(self) -> None:
        """Return when everything up to the end of the stream is with the transport, or the connection is gone."""
        await self._sent.wait()

    def close(self) -> None:
        """Write no more."""
        if self._poll is not None:
            self._poll.cancel()

    def _take(self) -> bytes:
        log = self._events.log
        render = self._renderer.render
        data = b"".join([render(event) for event in log[self._cursor :]])
        self._cursor = len(log)
        if self._events.is_ended:
            self._sent.set()
            return data + _DONE
        return data

    def _write(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def _write_or_wait(self) -> None:
        self._poll = None
        transport = self._transport
        if transport.is_closing():
            self._sent.set()
            return
        waiting = transport.get_write_buffer_size()
        if waiting <= _HIGH_WATER_BYTES:
            self._write(self._take())
            self._waiting_bytes = 0
            return
        now = time.monotonic()
        if not self._waiting_bytes or waiting < self._waiting_bytes:
            self._waiting_bytes, self._progress_at = waiting, now
        if now - self._progress_at > self._timeout_s:
            transport.abort()
            self._sent.set()
            return
        self._poll = asyncio.get_running_loop().call_later(_SLOW_READER_POLL_S, self._write_or_wait)
