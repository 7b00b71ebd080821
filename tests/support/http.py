"""An HTTP client that believes nothing: every answer and every byte of a stream is held to the specification."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy

from tests.support.openapi import assert_valid_error, assert_valid_event, assert_valid_response
from tests.support.stream_rules import Json, assert_legal_stream


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str]
    body: Any


class SseReader:
    """Reads a stream event by event and checks its framing."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[Json] = []
        self.comments = 0
        self.is_done = False

    async def next_event(self, event_type: str | None = None) -> Json:
        """The next event, or the next one of a type.

        Raises:
            EOFError: the stream ended first.
        """
        while True:
            block = (await self.response.content.readuntil(b"\n\n")).decode()
            if not block:
                raise EOFError(f"no {event_type or 'event'} came")
            assert block.endswith("\n\n")
            assert "\r" not in block
            if block.startswith(":"):
                self.comments += 1
                continue
            if block == "data: [DONE]\n\n":
                self.is_done = True
                assert await self.response.content.read() == b""
                raise EOFError(f"no {event_type or 'event'} came")
            head, data = block[:-2].split("\n")
            event: Json = json.loads(data.removeprefix("data: "))
            assert head == f"event: {event['type']}"
            assert_valid_event(event)
            self.events.append(event)
            if event_type in {None, event["type"]}:
                return event

    async def drain(self) -> list[Json]:
        """Read to the end; return all events."""
        try:
            while True:
                await self.next_event()
        except EOFError:
            assert self.is_done, "the stream ended without [DONE]"
        return self.events

    async def rest(self) -> Json:
        """Read to the end; the whole stream must be legal. Return the final response."""
        return assert_legal_stream(await self.drain())

    @property
    def text(self) -> str:
        """The output text so far."""
        return "".join(e["delta"] for e in self.events if e["type"] == "response.output_text.delta")


class Client:
    """Calls one edge.

    Args:
        session: Its base URL is the edge's.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """Any call; errors must be the API's error object, and a request id must be there."""
        async with self.session.request(method, path, **options) as response:
            assert response.headers["x-request-id"].startswith("req_")
            raw = await response.read()
            body = json.loads(raw) if raw else None
            if response.status >= 400 and method != "HEAD":
                assert_valid_error(body)
            return Answer(response.status, response.headers, body)

    async def create(self, **fields: Any) -> Json:
        """A response that must succeed."""
        answer = await self.call("POST", "/v1/responses", json=fields)
        assert answer.status == 200, answer.body
        assert_valid_response(answer.body)
        body: Json = answer.body
        return body

    async def refused(self, status: int, **fields: Any) -> Json:
        """The error of a request that must be refused with ``status``."""
        answer = await self.call("POST", "/v1/responses", json=fields)
        assert answer.status == status, answer.body
        error: Json = answer.body["error"]
        return error

    @asynccontextmanager
    async def stream(self, **fields: Any) -> AsyncGenerator[SseReader, None]:
        """The events of a response."""
        async with self.session.post("/v1/responses", json=fields | {"stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert response.headers["x-request-id"].startswith("req_")
            yield SseReader(response)

    async def stream_all(self, **fields: Any) -> SseReader:
        """A whole stream, checked."""
        async with self.stream(**fields) as reader:
            await reader.rest()
            return reader


@asynccontextmanager
async def client_of(base_url: str, *, api_key: str | None = None) -> AsyncGenerator[Client, None]:
    """A client with as many connections as it takes."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(base_url, connector=connector, timeout=timeout, headers=headers) as session:
        yield Client(session)


def output_text(response: Json) -> str:
    """The text of all messages."""
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])
