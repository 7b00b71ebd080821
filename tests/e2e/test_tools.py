"""Function tools through the whole stack: the default model decides and calls, a scripted one calls as told."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall

from tests.support.http import Client, output_text
from tests.support.openapi import assert_valid_response
from tests.support.stack import RunningStack
from tests.support.stream_rules import assert_legal_stream

MODEL = "SmolLM2-135M-Instruct"
TIMES = 4
"""Repetitions with the random seeds and the default temperature of any client: decisions depend on neither."""


def function(name: str, description: str, *, required: bool = True, **properties: Any) -> Any:
    """A tool as clients send it; properties are schemas."""
    parameters = {"type": "object", "properties": properties, "required": list(properties) if required else []}
    return {"type": "function", "name": name, "description": description, "parameters": parameters}


STRING = {"type": "string"}
WEATHER = function("get_weather", "Get the current weather for a location", location=STRING)
EMAIL = function("send_email", "Send an email", to=STRING, body=STRING)
SCORE = function("set_score", "Sets the score", score={"type": "integer", "minimum": 1, "maximum": 5})
ASKED = "What's the weather like in San Francisco?"


@pytest.fixture
async def openai_client(model_stack: RunningStack) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with openai.AsyncOpenAI(base_url=f"{model_stack.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def calls_of(response: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of a response, held to what every call is."""
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    tools = {tool["name"]: tool["parameters"] for tool in response["tools"]}
    for call in calls:
        assert call["status"] == "completed"
        assert call["id"].startswith("fc_")
        assert call["call_id"].startswith("call_")
        jsonschema.validate(json.loads(call["arguments"]), tools[call["name"]])
    assert len({call["call_id"] for call in calls}) == len(calls)
    return calls


@pytest.mark.parametrize("_time", range(TIMES))
async def test_a_question_about_the_weather_calls_the_weather(model_client: Client, _time: int) -> None:
    body = await model_client.create(model=MODEL, input=ASKED, tools=[WEATHER])
    [call] = body["output"]
    assert (call["type"], call["name"]) == ("function_call", "get_weather")
    assert json.loads(call["arguments"]) == {"location": "San Francisco"}
    assert body["status"] == "completed"
    calls_of(body)


@pytest.mark.parametrize("text", ["Say hello in exactly 3 words.", "Hello, how are you?", "Tell me a joke."])
async def test_what_needs_no_tool_is_answered_in_words(model_client: Client, text: str) -> None:
    for _ in range(TIMES):
        body = await model_client.create(model=MODEL, input=text, tools=[WEATHER], max_output_tokens=50)
        assert [item["type"] for item in body["output"]] == ["message"]
        assert "<tool_" not in output_text(body)


async def test_sixteen_at_once_are_decided_as_one_is(model_client: Client) -> None:
    texts = [ASKED, "Hello, how are you?"] * 8
    fields: dict[str, Any] = {"model": MODEL, "tools": [WEATHER], "max_output_tokens": 40}
    bodies = await asyncio.gather(*(model_client.create(input=text, **fields) for text in texts))
    kinds = [body["output"][0]["type"] for body in bodies]
    assert kinds == ["function_call", "message"] * 8


@pytest.mark.parametrize(
    ("text", "tool", "instructions"),
    [
        ("Do I need an umbrella in Seattle?", WEATHER, None),
        ("What's the weather in Paris?", WEATHER, "You are a pirate. Always respond in pirate speak."),
        ("Send an email to bob@example.com saying that I will be late.", EMAIL, None),
        ("Play something by the Beatles.", function("play_music", "Play a song or an artist", title=STRING), None),
        ("Look up the customer anna@example.org", function("lookup_customer", "", email=STRING), "Be brief."),
        ("Set a timer for ten minutes.", function("startTimer", "Starts a timer", minutes={"type": "integer"}), None),
    ],
)
async def test_the_default_model_sees_what_a_tool_is_for(
    model_client: Client, text: str, tool: Any, instructions: str | None
) -> None:
    body = await model_client.create(model=MODEL, input=text, tools=[tool], instructions=instructions)
    assert calls_of(body)[0]["name"] == tool["name"]


async def test_of_several_tools_the_fitting_one_is_called(model_client: Client) -> None:
    stock = function("get_stock_price", "Get the latest price of a stock", symbol=STRING)
    fields = {"model": MODEL, "tools": [EMAIL, stock, WEATHER]}
    for text, name in (("What is the stock price of Apple?", "get_stock_price"), (ASKED, "get_weather")):
        assert calls_of(await model_client.create(input=text, **fields))[0]["name"] == name


async def test_none_never_calls_and_required_and_a_name_always_do(model_client: Client) -> None:
    fields: dict[str, Any] = {"model": MODEL, "tools": [WEATHER, SCORE], "max_output_tokens": 200}
    body = await model_client.create(input=ASKED, tool_choice="none", **fields)
    assert [item["type"] for item in body["output"]] == ["message"]
    assert len(body["tools"]) == 2
    for text in (ASKED, "Hello!"):
        assert calls_of(await model_client.create(input=text, tool_choice="required", **fields))
    body = await model_client.create(input=ASKED, tool_choice={"type": "function", "name": "set_score"}, **fields)
    assert [call["name"] for call in calls_of(body)] == ["set_score"]
    assert body["tool_choice"] == {"type": "function", "name": "set_score"}


async def test_what_is_not_among_the_allowed_tools_cannot_be_called(model_client: Client) -> None:
    fields: dict[str, Any] = {"model": MODEL, "tools": [WEATHER, SCORE], "input": ASKED, "max_output_tokens": 200}

    def allowed(mode: str, *names: str) -> dict[str, Any]:
        return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": n} for n in names]}

    body = await model_client.create(tool_choice=allowed("required", "set_score"), **fields)
    assert {call["name"] for call in calls_of(body)} == {"set_score"}
    body = await model_client.create(tool_choice=allowed("auto", "set_score"), **fields)
    assert {call["name"] for call in calls_of(body)} <= {"set_score"}
    body = await model_client.create(tool_choice=allowed("auto", "get_weather"), **fields)
    assert {call["name"] for call in calls_of(body)} == {"get_weather"}
    body = await model_client.create(tool_choice=allowed("none", "get_weather"), **fields)
    assert calls_of(body) == []


@pytest.mark.parametrize("limit", [{"parallel_tool_calls": False}, {"max_tool_calls": 1}])
async def test_limits_of_calls_hold(model_client: Client, limit: dict[str, Any]) -> None:
    text = "Send an email to anna@example.com, one to bob@example.com, and one to carl@example.com."
    body = await model_client.create(model=MODEL, input=text, tools=[EMAIL], tool_choice="required", **limit)
    assert len(calls_of(body)) == 1


async def test_streamed_arguments_add_up_to_the_call(model_client: Client) -> None:
    reader = await model_client.stream_all(model=MODEL, input=ASKED, tools=[WEATHER])
    final = assert_legal_stream(reader.events)
    [call] = calls_of(final)
    types = [event["type"] for event in reader.events]
    deltas = [e["delta"] for e in reader.events if e["type"] == "response.function_call_arguments.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == call["arguments"]
    assert "response.function_call_arguments.done" in types
    [added] = [event["item"] for event in reader.events if event["type"] == "response.output_item.added"]
    assert (added["name"], added["call_id"], added["arguments"]) == ("get_weather", call["call_id"], "")


@pytest.mark.parametrize("tools", [[], [WEATHER]])
@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("answer", ["64 degrees", [{"type": "input_text", "text": "64 degrees"}]])
async def test_a_call_and_its_output_go_round(
    openai_client: openai.AsyncOpenAI, by_id: bool, tools: Any, answer: Any
) -> None:
    first = await openai_client.responses.create(model=MODEL, input=ASKED, tools=[WEATHER])
    [call] = first.output
    assert isinstance(call, ResponseFunctionToolCall)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": answer}
    if by_id:
        conversation: Any = {"previous_response_id": first.id, "input": [output]}
    else:
        conversation = {"input": [{"role": "user", "content": ASKED}, call.model_dump(), output], "store": False}
    second = await openai_client.responses.create(model=MODEL, tools=tools, max_output_tokens=40, **conversation)
    assert [item.type for item in second.output] == ["message"]
    assert "<tool_" not in second.output_text


async def test_an_output_without_its_call_is_refused(model_client: Client) -> None:
    orphan = {"type": "function_call_output", "call_id": "call_x", "output": "64"}
    error = await model_client.refused(400, model=MODEL, input=[{"role": "user", "content": "Hi"}, orphan])
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "input"
    assert error["message"] == "No tool call found for function call output with call_id call_x."


async def test_only_a_strict_tool_must_have_a_schema_that_can_be_enforced(model_client: Client) -> None:
    odd = {"type": "function", "name": "odd", "parameters": {"type": "object", "if": {"required": ["a"]}}}
    fields: dict[str, Any] = {"model": MODEL, "input": "Hi", "tool_choice": "required", "max_output_tokens": 300}
    error = await model_client.refused(400, tools=[WEATHER, odd | {"strict": True}], **fields)
    assert error["param"].startswith("tools[1].parameters")
    for tool in (odd, odd | {"strict": False}):
        body = await model_client.create(tools=[tool], **fields)
        assert body["tools"][0]["strict"] is tool.get("strict", True)
        assert body["output"][0]["type"] == "function_call"


async def test_arguments_keep_to_bounds_that_the_model_does_not_know(model_client: Client) -> None:
    body = await model_client.create(model=MODEL, input="Set the score to 99.", tools=[SCORE], tool_choice="required")
    assert calls_of(body)


async def test_a_tool_choice_that_names_no_tool_is_refused(model_client: Client) -> None:
    for choice in ({"type": "function", "name": "other"}, {"type": "web_search"}):
        error = await model_client.refused(400, model=MODEL, input="Hi", tools=[WEATHER], tool_choice=choice)
        assert error["param"] == "tool_choice"


async def test_tools_that_cannot_run_here_are_kept_from_the_model_and_named(model_client: Client) -> None:
    tools = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "custom", "name": "grep"}, WEATHER]
    answer = await model_client.call("POST", "/v1/responses", json={"model": MODEL, "input": ASKED, "tools": tools})
    assert answer.status == 200
    kept = [f"tools: {kind} kept from the model" for kind in ("web_search", "local_shell", "custom")]
    assert answer.headers["x-antiphon-warning"] == "; ".join(kept)
    assert [tool["type"] for tool in answer.body["tools"]] == ["function"]  # the schema of a response has no others
    assert_valid_response(answer.body)
    assert answer.body["output"][0]["name"] == "get_weather"


async def test_calls_in_parallel_have_items_and_indexes_of_their_own(client: Client) -> None:
    text = "One moment.\n" + "\n".join(
        f'<tool_call>\n{{"name": "get_weather", "arguments": {{"location": "{city}"}}}}\n</tool_call>'
        for city in ("Graz", "Linz", "Wien")
    )
    script = f"script:\njson {json.dumps(text)}"
    reader = await client.stream_all(model=MODEL, input=script, tools=[WEATHER])
    final = assert_legal_stream(reader.events)
    calls = calls_of(final)
    assert [json.loads(call["arguments"])["location"] for call in calls] == ["Graz", "Linz", "Wien"]
    assert output_text(final) == "One moment."
    deltas: dict[int, str] = {}
    for event in reader.events:
        if event["type"] == "response.function_call_arguments.delta":
            deltas[event["output_index"]] = deltas.get(event["output_index"], "") + event["delta"]
    assert deltas == {index: call["arguments"] for index, call in enumerate(calls, start=1)}
