"""The stream of events over HTTP, on the default model; `support.stream_rules` holds each whole stream to the rules."""

import asyncio
import json
from typing import Final

import aiohttp
import pytest

from tests.support.http import Client
from tests.support.stack import MODEL, RunningStack
from tests.support.stream_rules import Json

SHORT: Final[Json] = {"model": MODEL, "max_output_tokens": 24, "temperature": 0}
STORY: Final[Json] = {**SHORT, "input": "Tell me a long story about the sea."}
TOOL: Final[Json] = {
    "type": "function",
    "name": "get_time",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]},
}
CALL: Final[Json] = {**SHORT, "input": "What time is it in Rome?", "tools": [TOOL], "max_output_tokens": 200}


async def test_a_message_comes_in_the_specified_order(model_client: Client) -> None:
    reader = await model_client.stream_all(**STORY)
    types = [event["type"].removeprefix("response.") for event in reader.events]
    assert list(dict.fromkeys(name for name in types if name != "queued")) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip
    added = next(event for event in reader.events if event["type"] == "response.output_item.added")
    assert (added["item"]["role"], added["item"]["content"], added["item"]["status"]) == (
        "assistant",
        [],
        "in_progress",
    )
    part = next(event for event in reader.events if event["type"] == "response.content_part.added")
    assert part["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


async def test_a_function_call_comes_in_the_specified_order(model_client: Client) -> None:
    reader = await model_client.stream_all(**CALL, tool_choice="required", parallel_tool_calls=False)
    types = [event["type"].removeprefix("response.") for event in reader.events]
    assert list(dict.fromkeys(name for name in types if name != "queued")) == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    added = next(event["item"] for event in reader.events if event["type"] == "response.output_item.added")
    (call,) = reader.events[-1]["response"]["output"]
    assert (added["name"], added["call_id"], added["arguments"]) == (call["name"], call["call_id"], "")
    assert json.loads(call["arguments"]).keys() == {"city"}


async def test_the_stream_the_plain_answer_and_the_stored_response_are_equal(model_client: Client) -> None:
    reader = await model_client.stream_all(**STORY)
    final = reader.events[-1]["response"]
    assert (await model_client.call("GET", f"/v1/responses/{final['id']}")).body == final
    plain = await model_client.create(**STORY)
    texts = [response["output"][0]["content"][0]["text"] for response in (final, plain)]
    assert texts[0] == texts[1] == reader.text


@pytest.mark.parametrize("body", [STORY, {**CALL, "tool_choice": "required"}], ids=["text", "arguments"])
async def test_deltas_are_padded_by_default_and_not_on_request(model_client: Client, body: Json) -> None:
    padded = await model_client.stream_all(**body)
    bare = await model_client.stream_all(**body, stream_options={"include_obfuscation": False})
    assert all("obfuscation" in event for event in padded.events if "delta" in event)
    assert not any("obfuscation" in event for event in bare.events)


async def test_logprobs_are_an_empty_list_unless_asked_for(model_client: Client) -> None:
    reader = await model_client.stream_all(**STORY)
    texts = [event for event in reader.events if event["type"].startswith("response.output_text.")]
    assert all(event["logprobs"] == [] for event in texts)
    asked = await model_client.stream_all(**STORY, include=["message.output_text.logprobs"], top_logprobs=2)
    deltas = [event for event in asked.events if event["type"] == "response.output_text.delta"]
    logprobs = [logprob for event in deltas for logprob in event["logprobs"]]
    assert logprobs
    assert all(len(logprob["top_logprobs"]) == 2 for logprob in logprobs)
    assert b"".join(bytes(logprob["bytes"]) for logprob in logprobs).decode() == asked.text


async def test_a_failure_in_the_middle_is_an_error_event_then_a_failed_response(client: Client) -> None:
    reader = await client.stream_all(model=MODEL, input="script:\nsay so far\nfail")
    error, failed = reader.events[-2:]
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert error["error"].keys() == {"type", "code", "message", "param"}
    assert failed["response"]["error"].keys() == {"code", "message"}


async def test_no_stream_carries_ids_of_events_or_carriage_returns(model_stack: RunningStack) -> None:
    async with (
        aiohttp.ClientSession(model_stack.base_url) as session,
        session.post("/v1/responses", json=STORY | {"stream": True}) as response,
    ):
        lines = (await response.read()).decode().split("\n")
    assert {line.partition(":")[0] for line in lines} == {"event", "data", ""}
    assert lines[-3:] == ["data: [DONE]", "", ""]
    assert not any("\r" in line for line in lines)


async def test_the_body_ends_at_once_after_done(model_client: Client) -> None:
    async with model_client.stream(**STORY) as reader:
        await reader.rest()  # reads on until the body's end
        async with asyncio.timeout(1):
            assert await reader.response.content.read() == b""


async def test_a_connection_carries_one_stream_after_the_other(model_stack: RunningStack) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(model_stack.base_url, connector=connector) as session:
        client = Client(session)
        for _ in range(3):
            await client.stream_all(**STORY)
        await client.create(**STORY)
