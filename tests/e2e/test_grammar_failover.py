"""Workers of the default model are killed in the middle of what a grammar holds: another one ends it validly."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.test_failures import MODEL, is_whole, loads, until
from tests.support.http import Client, client_of, output_text
from tests.support.stack import RunningStack, running_stack

KNOWN_DELTAS = 5
REISSUED = "generation reissued"
COLOURS: dict[str, Any] = {
    "type": "object",
    "properties": {"colours": {"type": "array", "items": {"enum": ["red", "rosé"]}, "minItems": 12, "maxItems": 12}},
    "required": ["colours"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Two workers with the default model."""
    with running_stack(tmp_path_factory.mktemp("failover"), workers=2) as stack:
        yield stack


@pytest.fixture
async def client(stack: RunningStack) -> AsyncGenerator[Client, None]:
    async with client_of(stack.base_url) as client:
        await until(lambda: is_whole(stack, client))
        yield client


async def survive(stack: RunningStack, client: Client, delta: str, **request: Any) -> tuple[str, dict[str, Any]]:
    """The text of all deltas and the final response of a stream whose worker is killed after some of them."""
    log = stack.state / "logs" / "edge-1.log"
    reissued = log.read_text().count(REISSUED)
    async with asyncio.timeout(90), client.stream(model=MODEL, **request) as reader:
        for _ in range(KNOWN_DELTAS):
            await reader.next_event(delta)
        busy = [load.running for load in await loads(stack)].index(1)
        os.kill(worker_pid(stack, stack.worker_targets[busy]), signal.SIGKILL)
        final = await reader.rest()
    assert log.read_text().count(REISSUED) == reissued + 1
    return "".join(event["delta"] for event in reader.events if event["type"] == delta), final


def worker_pid(stack: RunningStack, target: str) -> int:
    """The process that listens at ``target``."""
    return next(pid for pid in stack.pids("worker") if target in Path(f"/proc/{pid}/environ").read_text())


async def test_structured_output_outlives_its_worker(stack: RunningStack, client: Client) -> None:
    text = {"format": {"type": "json_schema", "name": "colours", "schema": COLOURS, "strict": True}}
    streamed, final = await survive(
        stack, client, "response.output_text.delta", input="Name twelve colours.", text=text
    )
    assert final["status"] == "completed"
    assert output_text(final) == streamed
    jsonschema.validate(json.loads(streamed), COLOURS)


async def test_a_function_call_outlives_its_worker(stack: RunningStack, client: Client) -> None:
    tool = {"type": "function", "name": "paint", "description": "Paint in colours", "parameters": COLOURS}
    required = {"tools": [tool], "tool_choice": "required", "max_tool_calls": 1}
    delta = "response.function_call_arguments.delta"
    streamed, final = await survive(stack, client, delta, input="Paint it!", **required)
    assert final["status"] == "completed"
    (call,) = final["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "paint", streamed)
    jsonschema.validate(json.loads(streamed), COLOURS)
