"""The cases of Open Responses' public compliance suite, under their own names, on the default model.

Bodies and checks are the suite's: no token limit, no temperature, every answer valid and completed. Like its runner,
the last test starts all cases at the same time.
"""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import pytest

from tests.support.http import Client, client_of
from tests.support.openapi import assert_valid_compaction, assert_valid_event, assert_valid_response
from tests.support.stack import MODEL, RunningStack
from tests.support.stream_rules import TERMINAL, Json
from tests.support.websocket import Socket, SocketError, socket_of

_TURN_LIMIT_S: Final = 30
"""How long the public runner waits for a WebSocket turn."""


def message(role: str, content: object, **fields: object) -> Json:
    return {"type": "message", "role": role, "content": content, **fields}


def _png() -> str:
    """A data URL of 32 x 32 pixels, half of them red."""
    rows = b"".join(b"\0" + b"\xff\0\0" * 16 + b"\0\0\xff" * 16 for _ in range(32))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _pdf_without_xref() -> str:
    """A data URL of a one-page PDF that lacks its cross-reference table, as the suite's does."""
    text = b"BT /F1 24 Tf 72 700 Td (Open Responses Fixture) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(text), text),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body = b"".join(b"%d 0 obj\n%b\nendobj\n" % (number, data) for number, data in enumerate(objects, 1))
    pdf = b"%PDF-1.4\n" + body + b"trailer\n<< /Root 1 0 R /Size 6 >>\n%%EOF\n"
    return f"data:application/pdf;base64,{base64.b64encode(pdf).decode()}"


WEATHER_TOOL: Final[Json] = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
        "required": ["location"],
    },
}
WEATHER: Final[Json] = {
    "input": [message("user", "What's the weather like in San Francisco?")],
    "tools": [WEATHER_TOOL],
}

SINGLE: Final[dict[str, tuple[Json, str]]] = {
    "basic-response": ({"input": [message("user", "Say hello in exactly 3 words.")]}, "message"),
    "assistant-phase": (
        {
            "input": [
                message("assistant", "I should answer with the saved number.", phase="commentary"),
                message("assistant", "The number is four.", phase="final_answer"),
                message("user", "Repeat only the number."),
            ]
        },
        "message",
    ),
    "system-prompt": (
        {
            "input": [
                message("system", "You are a pirate. Always respond in pirate speak."),
                message("user", "Say hello."),
            ]
        },
        "message",
    ),
    "tool-calling": (WEATHER, "function_call"),
    "image-input": (
        {
            "input": [
                message(
                    "user",
                    [
                        {"type": "input_text", "text": "What do you see in this image? Answer in one sentence."},
                        {"type": "input_image", "image_url": _png()},
                    ],
                )
            ]
        },
        "message",
    ),
    "multi-turn": (
        {
            "input": [
                message("user", "My name is Alice."),
                message("assistant", "Hello Alice! Nice to meet you. How can I help you today?"),
                message("user", "What is my name?"),
            ]
        },
        "message",
    ),
    "file-input": (
        {
            "input": [
                message(
                    "user",
                    [
                        {"type": "input_text", "text": "Read the attached file and answer with its title only."},
                        {
                            "type": "input_file",
                            "filename": "openresponses-fixture.pdf",
                            "file_data": _pdf_without_xref(),
                        },
                    ],
                )
            ]
        },
        "message",
    ),
}
"""Cases of one request: the body, and the type of an item that must be in the output."""


class Suite:
    """What the runner has: one server, which fills the model in."""

    def __init__(self, client: Client, base_url: str) -> None:
        self.client = client
        self.base_url = base_url

    async def completed(self, **body: Any) -> Json:
        """A response that is valid, completed and has output."""
        response = await self.client.create(model=MODEL, **body)
        _assert_completed(response)
        return response

    async def streamed(self, **body: Any) -> tuple[list[Json], Json]:
        """The events that the suite's parser finds, and the final response."""
        request = {"model": MODEL, "stream": True, **body}
        async with self.client.session.post("/v1/responses", json=request) as response:
            assert response.status == 200, await response.text()
            events = await _events_as_the_suite_reads_them(response)
        for event in events:
            assert_valid_event(event)
        (final,) = [event["response"] for event in events if event["type"] in TERMINAL]
        _assert_completed(final)
        return events, final

    async def compacted(self, **body: Any) -> Json:
        """The CompactResource of POST /responses/compact."""
        answer = await self.client.call("POST", "/v1/responses/compact", json={"model": MODEL, **body})
        assert answer.status == 200, answer.body
        assert_valid_compaction(answer.body)
        assert "compaction" in {item["type"] for item in answer.body["output"]}
        compaction: Json = answer.body
        return compaction

    async def turn(self, socket: Socket, text: str, **fields: Any) -> Json:
        """The response of a WebSocket turn, which must complete in time."""
        async with asyncio.timeout(_TURN_LIMIT_S):
            response = await socket.turn(model=MODEL, input=[message("user", text)], **fields)
        assert_valid_response(response)
        _assert_completed(response)
        return response

    async def assert_not_found(self, socket: Socket, previous_response_id: str) -> None:
        """A turn on top of that response is refused."""
        refusal = await socket.refused(
            model=MODEL, store=False, previous_response_id=previous_response_id, input=[message("user", "Go on.")]
        )
        assert refusal.error["code"] == "previous_response_not_found"


def _assert_completed(response: Json) -> None:
    assert response["status"] == "completed", response
    assert response["output"]


async def _events_as_the_suite_reads_them(response: aiohttp.ClientResponse) -> list[Json]:
    """Like the suite's parser, forget an event that is not whole at the end of a read; only lines are kept."""
    events: list[Json] = []
    rest = ""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data.decode()).split("\n")
        event_type = event_data = ""
        for line in lines:
            if line.startswith("event:"):
                event_type = line[6:].strip()
            elif line.startswith("data:"):
                event_data = line[5:].strip()
            elif line == "" and event_data:
                if event_data != "[DONE]":
                    events.append(json.loads(event_data))
                    assert events[-1]["type"] == event_type
                event_type = event_data = ""
    return events


CASES: dict[str, Callable[[Suite], Awaitable[object]]] = {
    test_id: lambda suite, body=body, kind=kind: _single(suite, body, kind)  # type: ignore[misc]  # bound now
    for test_id, (body, kind) in SINGLE.items()
}


async def _single(suite: Suite, body: Json, item_type: str) -> None:
    response = await suite.completed(**body)
    assert item_type in {item["type"] for item in response["output"]}


def case(test_id: str) -> Callable[[Callable[[Suite], Awaitable[None]]], Callable[[Suite], Awaitable[None]]]:
    """Register a case of more than one request."""

    def register(run: Callable[[Suite], Awaitable[None]]) -> Callable[[Suite], Awaitable[None]]:
        CASES[test_id] = run
        return run

    return register


@case("streaming-response")
async def _streaming(suite: Suite) -> None:
    await suite.streamed(input=[message("user", "Count from 1 to 5.")])


@case("tool-calling-streaming")
async def _tool_calling_streaming(suite: Suite) -> None:
    events, _ = await suite.streamed(**WEATHER)
    seen = {(event["type"], event.get("item", {}).get("type")) for event in events}
    assert seen >= {
        ("response.output_item.added", "function_call"),
        ("response.function_call_arguments.delta", None),
        ("response.function_call_arguments.done", None),
        ("response.output_item.done", "function_call"),
    }


@case("compact-response")
async def _compact(suite: Suite) -> None:
    await suite.compacted(
        prompt_cache_key="openresponses-compact-test",
        input=[
            message("user", "We agreed to launch on Tuesday and notify support first."),
            message("assistant", "Understood. The launch is Tuesday, with support notified beforehand."),
        ],
    )


@case("compact-missing-model")
async def _compact_missing_model(suite: Suite) -> None:
    body = {"input": [message("user", "Compact this conversation.")]}
    answer = await suite.client.call("POST", "/v1/responses/compact", json=body)
    assert answer.status in {400, 422}


@case("function-call-roundtrip")
async def _function_call_roundtrip(suite: Suite) -> None:
    first = await suite.completed(
        input="Use the weather tool to get the temperature in San Francisco.",
        tools=[WEATHER_TOOL],
        tool_choice={"type": "function", "name": "get_weather"},
    )
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "64 degrees and clear"}
    await suite.completed(previous_response_id=first["id"], input=[output])


@case("previous-response-id")
async def _previous_response_id(suite: Suite) -> None:
    first = await suite.completed(input="Remember this code word: papaya. Reply with only OK.")
    await suite.completed(previous_response_id=first["id"], input="What code word did I ask you to remember?")


@case("websocket-response")
async def _websocket(suite: Suite) -> None:
    async with socket_of(suite.base_url) as socket:
        await suite.turn(socket, "Count from 1 to 3.")


@case("websocket-sequential-responses")
async def _websocket_sequential(suite: Suite) -> None:
    async with socket_of(suite.base_url) as socket:
        for word in ("first", "second"):
            await suite.turn(socket, f"Reply with exactly: {word}", store=False)


@case("websocket-continuation")
async def _websocket_continuation(suite: Suite) -> None:
    async with socket_of(suite.base_url) as socket:
        first = await suite.turn(socket, "Remember the code word: cobalt. Reply with OK.", store=False)
        await suite.turn(
            socket,
            "What is the code word? Reply with only the code word.",
            store=False,
            previous_response_id=first["id"],
        )


@case("websocket-reconnect-store-false-recovery")
async def _websocket_reconnect(suite: Suite) -> None:
    async with socket_of(suite.base_url) as socket:
        first = await suite.turn(socket, "Remember the code word: copper. Reply with OK.", store=False)
    async with socket_of(suite.base_url) as socket:
        await suite.assert_not_found(socket, first["id"])
        await suite.turn(socket, "The code word is copper. Reply with only the code word.", store=False)


@case("websocket-previous-response-not-found")
async def _websocket_not_found(suite: Suite) -> None:
    async with socket_of(suite.base_url) as socket:
        await suite.assert_not_found(socket, "resp_openresponses_missing_1764000000000")


@case("websocket-failed-continuation-evicts-cache")
async def _websocket_evicts(suite: Suite) -> None:
    async with socket_of(suite.base_url) as socket:
        first = await suite.turn(socket, "Remember the code word: ember. Reply with OK.", store=False)
        orphan = {"type": "function_call_output", "call_id": "call_openresponses_missing", "output": "x"}
        fields: Json = {"model": MODEL, "store": False, "previous_response_id": first["id"]}
        try:
            failed = await socket.turn(**fields, input=[orphan])
            assert failed["status"] == "failed"
        except SocketError as error:
            assert error.status == 400  # noqa: PT017 - both are failures
        await suite.assert_not_found(socket, first["id"])


@case("websocket-compact-new-chain")
async def _websocket_compact(suite: Suite) -> None:
    compaction = await suite.compacted(
        input=[
            message("user", [{"type": "input_text", "text": "Remember that the launch is on Tuesday."}]),
            message("assistant", [{"type": "output_text", "text": "The launch is on Tuesday."}]),
            message("user", [{"type": "input_text", "text": "Support must be told first."}]),
        ]
    )
    async with socket_of(suite.base_url) as socket, asyncio.timeout(_TURN_LIMIT_S):
        new = message("user", "Continue from here. Reply with exactly: compacted")
        response = await socket.turn(model=MODEL, store=False, tools=[], input=[*compaction["output"], new])
    _assert_completed(response)


_SLOW: Final = {"tool-calling", "function-call-roundtrip", "websocket-compact-new-chain"}
"""Seconds each, and in the main like other cases."""


async def passes(test_id: str, suite: Suite, *, patience_s: float) -> None:
    """Run a case, and once more if its model talked on and on.

    The answers have no limit, and at the API's default temperature so small a model misses its end once in some hundred
    of them: that is for the model to answer for, not for the server.
    """
    try:
        async with asyncio.timeout(patience_s):
            await CASES[test_id](suite)
    except TimeoutError:
        await CASES[test_id](suite)


@pytest.mark.parametrize(
    "test_id", [pytest.param(test_id, marks=[pytest.mark.slow] * (test_id in _SLOW)) for test_id in CASES]
)
async def test_a_case_passes_alone(model_stack: RunningStack, test_id: str) -> None:
    async with client_of(model_stack.base_url) as client:
        await passes(test_id, Suite(client, model_stack.base_url), patience_s=40)


@pytest.mark.slow
async def test_all_cases_pass_when_they_start_together(model_stack: RunningStack) -> None:
    async with client_of(model_stack.base_url) as client:
        suite = Suite(client, model_stack.base_url)
        runs = [passes(test_id, suite, patience_s=60) for test_id in CASES]
        outcomes = await asyncio.gather(*runs, return_exceptions=True)
    failed = {test_id: outcome for test_id, outcome in zip(CASES, outcomes, strict=True) if outcome is not None}
    assert not failed
