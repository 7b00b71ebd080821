"""The WebSocket transport: one connection, many turns (Open Responses specification 2026-04-24, "WebSocket transport").

The client sends `{"type": "response.create", ...}` in text frames; each is a turn. Turns run one after the other, in
the order of their frames. A turn's events are those of a stream over HTTP, numbered from 0, one JSON text frame each; a
request that is refused is answered by one `{"type": "error", "status": ..., "error": {...}}`, and the socket stays.
What over HTTP is said in headers, a warning about fields, is a member of the first event.
"""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.context import ConnectionMemory
from edge.core import Core
from edge.errors import error_headers, error_object, http_status
from edge.events import Event
from edge.limits import Limiter, is_stored
from edge.offload import in_thread_if_large
from edge.rest.bearer import offered_protocols
from edge.rest.body import CreateRequest, decode_fields, is_strict, parse_object
from edge.rest.cursor import EventCursor
from edge.rest.render import EventRenderer
from edge.rest.schema import invalid_type
from edge.run import EventList
from edge.settings import EdgeSettings

log = logging.getLogger(__name__)

_MAX_QUEUED: Final = 32
"""Turns that may wait behind the one that runs."""
_CLOSE_TIMEOUT_S: Final = 5.0
"""How long to wait for the client's half of the closing handshake."""
_TEXT: Final = 0x81
"""First byte of a text frame that is whole."""


class FrameWriter(EventCursor):
    """One turn's cursor: each event becomes one text frame. Arguments as ``EventCursor``'s, and what renders them."""

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        events: EventList,
        renderer: EventRenderer,
        *,
        slow_reader_timeout_s: float,
    ) -> None:
        super().__init__(transport, events, slow_reader_timeout_s=slow_reader_timeout_s)
        self._renderer = renderer

    def keep_alive(self) -> None:
        """The connection's pings do that."""

    def _pack(self, events: Sequence[Event], *, is_end: bool) -> bytes:
        render = self._renderer.render
        return b"".join([_text_frame(render(event)) for event in events])

    def _write(self, data: bytes) -> None:
        self._transport.write(data)


class WebSocketConnection:
    """One upgraded connection.

    Args:
        request: The upgrade request.
        owner: Who made it, and all that comes over the connection.
        request_id: Its id, from which those of its turns are made.
    """

    def __init__(
        self,
        request: web.Request,
        core: Core,
        settings: EdgeSettings,
        limiter: Limiter,
        *,
        owner: str,
        request_id: str,
    ) -> None:
        self._request = request
        self._owner = owner
        self._core = core
        self._settings = settings
        self._limiter = limiter
        self._request_id = request_id
        self._is_strict = is_strict(request.headers, default=settings.strict_fields)
        self._turns = 0
        self._memory = ConnectionMemory(max_bytes=settings.websocket_memory_bytes)
        self._frames: deque[bytes | None] = deque()
        self._queued_bytes = 0
        self._has_frames = asyncio.Event()
        self._is_retired = False
        self._is_leaving = asyncio.Event()
        self._socket = web.WebSocketResponse(
            timeout=_CLOSE_TIMEOUT_S,
            compress=False,  # so that `FrameWriter` may write frames itself; tokens hardly compress one by one
            protocols=offered_protocols(request),
            max_msg_size=settings.max_body_bytes,
            decode_text=False,
        )

    def retire(self) -> None:
        """End the connection when the turns that have come are over: this process is to stop."""
        self._is_retired = True
        self._has_frames.set()

    def leave(self) -> None:
        """End the connection: this process stops."""
        self._is_leaving.set()

    async def serve(self) -> web.WebSocketResponse:
        """Serve the connection to its end; leaving it early aborts its turn."""
        await self._socket.prepare(self._request)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read())
            running = tasks.create_task(self._run_turns())
            leaving = tasks.create_task(self._is_leaving.wait())
            pinging = tasks.create_task(self._ping())
            await asyncio.wait({reading, running, leaving}, return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, running, leaving, pinging):
                task.cancel()
        is_going_away = self._is_retired or self._is_leaving.is_set()
        if running.done() and not running.cancelled() and not is_going_away:
            minutes = round(self._settings.websocket_lifetime_s / 60)
            message = f"This WebSocket connection has reached its limit of {minutes} minutes. Open a new one to go on."
            await self._send_error(ApiError(ErrorReason.ERROR_REASON_WEBSOCKET_CONNECTION_LIMIT_REACHED, message))
        await self._socket.close(code=WSCloseCode.GOING_AWAY if is_going_away else WSCloseCode.OK)
        return self._socket

    async def _read(self) -> None:
        """Queue what the client sends, until it closes or breaks the connection."""
        while True:
            message = await self._socket.receive()
            match message.type:
                case WSMsgType.TEXT:
                    data: bytes | None = message.data
                case WSMsgType.BINARY:
                    data = None
                case _:
                    return
            size = len(data or b"")
            if len(self._frames) >= _MAX_QUEUED or self._queued_bytes + size > self._settings.max_body_bytes:
                text = "Too many turns wait on this WebSocket connection."
                await self._send_error(ApiError(ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED, text))
                continue
            self._frames.append(data)
            self._queued_bytes += size
            self._has_frames.set()

    async def _run_turns(self) -> None:
        """Run turns until the connection is too old, but never break one off for that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.websocket_lifetime_s
        while loop.time() < deadline:
            if not self._frames:
                if self._is_retired:
                    return
                self._has_frames.clear()
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._has_frames.wait()
                except TimeoutError:
                    return
            if not self._frames:  # it retires
                return
            data = self._frames.popleft()
            self._queued_bytes -= len(data or b"")
            await self._turn(data)

    async def _turn(self, data: bytes | None) -> None:
        """Run one turn, ``None`` being a binary frame; whatever fails is told to the client."""
        self._turns += 1
        request_id = f"{self._request_id}.{self._turns}"
        previous_id = ""
        try:
            fields = await _parse(data)
            given = fields.get("previous_response_id")
            previous_id = given if isinstance(given, str) else ""
            generate = _pop_generate(fields)
            create = await in_thread_if_large(len(data or b""), _decode, fields, strict=self._is_strict)
            failure = await self._respond(create, request_id, generate=generate)
        except ApiError as error:
            failure = error
            await self._send_error(error)
        except Exception:
            log.exception("turn failed", extra={"request_id": request_id})
            failure = ApiError(ErrorReason.ERROR_REASON_INTERNAL, "The server had an error processing your request.")
            await self._send_error(failure)
        if failure is not None:
            self._memory.evict(previous_id)  # a failed continuation makes what it continued unusable, by the rule

    async def _respond(self, create: CreateRequest, request_id: str, *, generate: bool) -> ApiError | None:
        """Send a response's events; return why it failed, if it did.

        Raises:
            ApiError: it was refused, and no event was sent.
        """
        transport = self._request.transport
        if transport is None:  # the client has left; the reader ends the connection
            return None
        async with (
            self._limiter.admitted(self._owner, request_id, is_stored=is_stored(create.params)),
            self._core.respond_here(
                self._owner, create.params, request_id=request_id, memory=self._memory, generate=generate
            ) as run,
        ):
            warnings = "; ".join(create.warnings + run.warnings)
            renderer = EventRenderer(
                is_obfuscated=create.is_obfuscated,
                created_extra={"x_antiphon_warning": warnings} if warnings else None,
            )
            writer = FrameWriter(
                transport, run.events, renderer, slow_reader_timeout_s=self._settings.slow_reader_timeout_s
            )
            try:
                run.add_reader(writer)
                writer.wake()
                await run.finish()
                await writer.sent()
            finally:
                writer.close()
            return run.error

    async def _send_error(self, error: ApiError) -> None:
        frame: dict[str, Any] = {"type": "error", "status": http_status(error), "error": error_object(error)}
        if headers := error_headers(error):
            frame["headers"] = headers
        try:
            async with asyncio.timeout(self._settings.slow_reader_timeout_s):
                await self._socket.send_frame(msgspec.json.encode(frame), WSMsgType.TEXT)
        except ConnectionResetError:
            log.debug("error not sent: the client has left")
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()

    async def _ping(self) -> None:
        """Keep proxies from taking a quiet connection for a dead one.

        A missing pong proves nothing: a client that works on a tool's output may not read.
        """
        try:
            while True:
                await asyncio.sleep(self._settings.heartbeat_interval_s)
                await self._socket.ping()
        except ConnectionResetError:
            log.debug("ping not sent: the client has left")


def is_upgrade(request: web.Request) -> bool:
    """The request asks for a WebSocket."""
    return request.headers.get("Upgrade", "").strip().lower() == "websocket"


async def _parse(data: bytes | None) -> dict[str, Any]:
    if data is None:
        message = "Binary frames are not supported: send JSON in text frames."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message)
    return await in_thread_if_large(len(data), parse_object, data, None)


def _pop_generate(fields: dict[str, Any]) -> bool:
    """OpenAI's addition: with `generate: false` a turn only fills the KV cache, for the turn that continues it."""
    generate = fields.pop("generate", None)
    if generate is not None and not isinstance(generate, bool):
        raise invalid_type("generate", "a boolean", generate)
    return generate is not False


def _decode(fields: dict[str, Any], *, strict: bool) -> CreateRequest:
    """The turn that ``fields`` ask for.

    `stream` and `background` belong to HTTP. What says the same as this transport does is dropped, as clients send one
    body over both; what asks for something else is refused. `stream_options` are honoured: they hide nothing.
    """
    kind = fields.pop("type", None)
    if kind is None:
        raise ApiError(
            ErrorReason.ERROR_REASON_MISSING_REQUIRED_PARAMETER, "Missing required parameter: 'type'.", "type"
        )
    if kind != "response.create":
        message = "Invalid value for 'type'. Supported values are: 'response.create'."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "type")
    for name, natural in (("stream", True), ("background", False)):
        value = fields.pop(name, None)
        if value is not None and value is not natural:
            message = f"Unsupported parameter: '{name}' can only be {str(natural).lower()} over a WebSocket."
            raise ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER, message, name)
    return decode_fields({**fields, "stream": True}, strict=strict)


def _text_frame(payload: bytes) -> bytes:
    """A whole, unmasked text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", _TEXT, size) + payload
    if size < 65536:
        return struct.pack("!BBH", _TEXT, 126, size) + payload
    return struct.pack("!BBQ", _TEXT, 127, size) + payload
