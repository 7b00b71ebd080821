"""A WebSocket client that believes nothing: every frame is held to the specification."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.openapi import assert_valid_event
from tests.support.stream_rules import TERMINAL, Json, assert_legal_stream


class SocketClosed(Exception):
    """The server closed the connection; the argument is the close code."""


class SocketError(Exception):
    """The server answered a turn with an error frame.

    Attributes:
        status: As an HTTP status.
        error: The error object.
    """

    def __init__(self, frame: Json) -> None:
        super().__init__(frame)
        self.status: int = frame["status"]
        self.error: Json = frame["error"]
        assert self.error.keys() == {"type", "code", "message", "param"}


class Socket:
    """One connection."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def send(self, **fields: Any) -> None:
        """Ask for a turn."""
        await self.ws.send_str(json.dumps({"type": "response.create", **fields}))

    async def next_event(self) -> Json:
        """The next event of a turn.

        Raises:
            SocketError: an error frame came.
            SocketClosed: the connection ended.
        """
        message = await self.ws.receive(timeout=60)
        if message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING}:
            raise SocketClosed(self.ws.close_code)
        assert message.type == aiohttp.WSMsgType.TEXT, message
        event: Json = json.loads(message.data)
        if event["type"] == "error" and "status" in event:
            raise SocketError(event)
        assert_valid_event(event)
        return event

    async def events(self) -> list[Json]:
        """The events of the turn that runs, which must be a legal stream from its beginning."""
        events = [await self.next_event()]
        while events[-1]["type"] not in TERMINAL:
            events.append(await self.next_event())
        assert_legal_stream(events)
        return events

    async def turn(self, **fields: Any) -> Json:
        """The final response of a whole turn."""
        await self.send(**fields)
        response: Json = (await self.events())[-1]["response"]
        return response

    async def refused(self, **fields: Any) -> SocketError:
        """The error frame that answers a turn."""
        await self.send(**fields)
        try:
            event = await self.next_event()
        except SocketError as error:
            return error
        raise AssertionError(f"not refused: {event}")


@asynccontextmanager
async def socket_of(base_url: str, **options: Any) -> AsyncGenerator[Socket, None]:
    """A connection to /v1/responses; ``options`` go to aiohttp's ``ws_connect``."""
    async with (
        aiohttp.ClientSession(base_url) as session,
        session.ws_connect("/v1/responses", max_msg_size=0, **options) as ws,
    ):
        yield Socket(ws)
