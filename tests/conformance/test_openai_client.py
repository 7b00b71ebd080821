"""OpenAI's own Python client, synchronous and asynchronous, on the default model."""

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any, Final

import openai
import pytest
from openai.types.responses import FunctionToolParam, ResponseFunctionToolCall
from pydantic import BaseModel, Field

from tests.support.stack import MODEL, RunningStack

FAST: Final[dict[str, Any]] = {"model": MODEL, "temperature": 0, "max_output_tokens": 16}
TOOL: Final[FunctionToolParam] = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "strict": True,
    "parameters": {
        "type": "object",
        "title": "Add",
        "properties": {
            "a": {"type": "integer", "title": "A", "minimum": 0, "maximum": 99},
            "b": {"type": "integer", "title": "B", "minimum": 0, "maximum": 99},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=12)
    is_large: bool


@pytest.fixture
def sync_client(model_stack: RunningStack) -> Generator[openai.OpenAI, None, None]:
    with openai.OpenAI(base_url=f"{model_stack.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(model_stack: RunningStack) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with openai.AsyncOpenAI(base_url=f"{model_stack.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_create_retrieve_and_delete(sync_client: openai.OpenAI) -> None:
    created = sync_client.responses.create(**FAST, input="Hi", metadata={"a": "b"})
    assert created._request_id
    assert created.output_text
    assert sync_client.responses.retrieve(created.id).to_dict() == created.to_dict()
    sync_client.responses.delete(created.id)
    with pytest.raises(openai.NotFoundError):
        sync_client.responses.retrieve(created.id)


async def test_create_and_go_on_by_id_asynchronously(async_client: openai.AsyncOpenAI) -> None:
    first = await async_client.responses.create(**FAST, input="My name is Alice.")
    second = await async_client.responses.create(**FAST, input="And mine?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    history: list[Any] = [{"role": "user", "content": "My name is Alice."}, *(item.to_dict() for item in first.output)]
    by_value = await async_client.responses.create(**FAST, input=[*history, {"role": "user", "content": "And mine?"}])
    assert by_value.output_text == second.output_text


def test_the_stream_helper_follows_every_event(sync_client: openai.OpenAI) -> None:
    with sync_client.responses.stream(model=MODEL, input="Say hi.", temperature=0, max_output_tokens=400) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text


async def test_plain_streams_one_after_the_other_asynchronously(async_client: openai.AsyncOpenAI) -> None:
    for _ in range(3):  # a body that did not end would hang the second
        async with await async_client.responses.create(**FAST, input="Hi", stream=True) as stream:
            numbers = [event.sequence_number async for event in stream]
        assert numbers == list(range(len(numbers)))


async def test_parse_with_pydantic(async_client: openai.AsyncOpenAI) -> None:
    parsed = await async_client.responses.parse(
        model=MODEL, input="Name a city.", text_format=City, temperature=0, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, City)


def test_a_function_call_and_its_result(sync_client: openai.OpenAI) -> None:
    question: Any = {"role": "user", "content": "What is 17 plus 25?"}
    first = sync_client.responses.create(
        model=MODEL, input=[question], tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = first.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert json.loads(call.arguments).keys() == {"a", "b"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
    history: list[Any] = [question, call.to_dict(), result]
    on: dict[str, Any] = {**FAST, "tools": [TOOL], "tool_choice": "none"}
    by_id = sync_client.responses.create(**on, input=history[2:], previous_response_id=first.id)
    by_value = sync_client.responses.create(**on, input=history)
    assert by_id.output_text == by_value.output_text != ""


def test_a_streamed_function_call_is_put_together(sync_client: openai.OpenAI) -> None:
    with sync_client.responses.stream(
        model=MODEL, input="What is 17 plus 25?", tools=[TOOL], tool_choice={"type": "function", "name": "add"}
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.arguments == "".join(pieces)


def test_count_input_tokens(sync_client: openai.OpenAI) -> None:
    counted = sync_client.responses.input_tokens.count(model=MODEL, input="Hi")
    used = sync_client.responses.create(**FAST, input="Hi").usage
    assert used is not None
    assert counted.input_tokens == used.input_tokens


def test_compact_and_go_on(sync_client: openai.OpenAI) -> None:
    compacted = sync_client.responses.compact(model=MODEL, input="We launch on Tuesday.")
    assert [item.type for item in compacted.output] == ["message", "compaction"]
    # the client's types know no compacted messages with input text, and it warns
    compaction: list[Any] = [item.to_dict(warnings=False) for item in compacted.output]
    history = [*compaction, {"role": "user", "content": "When?"}]
    assert sync_client.responses.create(**FAST, input=history).output_text


def test_models(sync_client: openai.OpenAI) -> None:
    assert [model.id for model in sync_client.models.list()] == [MODEL]
    assert sync_client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize(
    ("fields", "error", "code", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": 9}, openai.BadRequestError, "decimal_above_max_value", "temperature"),
        ({"previous_response_id": "resp_x"}, openai.BadRequestError, "previous_response_not_found", None),
        ({"input": "word " * 120_000}, openai.BadRequestError, "context_length_exceeded", "input"),
    ],
)
def test_errors_are_typed(
    sync_client: openai.OpenAI,
    fields: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str,
    param: str | None,
) -> None:
    for stream in (False, True):
        with pytest.raises(error) as caught:
            sync_client.responses.create(**{**FAST, "input": "Hi", "stream": stream, **fields})
        assert caught.value.code == code
        assert param in {None, caught.value.param}
        assert caught.value.request_id


def test_a_failure_in_the_middle_of_a_stream_is_an_api_error(scripted_stack: RunningStack) -> None:
    with (
        openai.OpenAI(base_url=f"{scripted_stack.base_url}/v1", api_key="none", max_retries=0) as client,
        client.responses.create(model=MODEL, input="script:\nsay so far\nfail", stream=True) as stream,
        pytest.raises(openai.APIError),
    ):
        list(stream)
