"""Structured output of the default model: always valid, whatever the model makes of it."""

import asyncio
import json
from enum import Enum
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.support.http import Client, output_text
from tests.support.stack import RunningStack

MODEL = "SmolLM2-135M-Instruct"
TOKENS = 400


class Color(Enum):
    RED = "red"
    GREEN = "green"


class Step(BaseModel):
    explanation: str = Field(max_length=60)
    output: str = Field(max_length=30)


class Solution(BaseModel):
    """Nested, with a list."""

    steps: list[Step] = Field(max_length=3)
    final_answer: int


class Person(BaseModel):
    """Enums, optional fields, bounds, patterns."""

    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=130)
    favourite: Color
    role: Literal["admin", "user"]
    email: str | None = Field(default=None, pattern=r"^[a-z]{1,12}@example\.com$")
    score: float | None = Field(gt=0, le=1)


def schema_format(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "name": "answer", "schema": schema, **fields}}


@pytest.mark.parametrize("answer", [Solution, Person])
async def test_the_openai_client_parses_models_of_pydantic(model_stack: RunningStack, answer: type[BaseModel]) -> None:
    async with openai.AsyncOpenAI(base_url=f"{model_stack.base_url}/v1", api_key="none", max_retries=0) as client:
        for question in ("Tell me of Anna.", "Who are you?", "What is 2 + 2?"):
            response = await client.responses.parse(
                model=MODEL, input=question, text_format=answer, max_output_tokens=TOKENS, temperature=0
            )
            assert response.status == "completed"
            assert isinstance(response.output_parsed, answer)


async def test_a_stream_is_parsed_as_it_comes(model_stack: RunningStack) -> None:
    async with openai.AsyncOpenAI(base_url=f"{model_stack.base_url}/v1", api_key="none", max_retries=0) as client:
        async with client.responses.stream(
            model=MODEL, input="Tell me of Anna.", text_format=Person, max_output_tokens=TOKENS
        ) as stream:
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert len(deltas) > 5
        assert final.output_text == "".join(deltas)
        assert isinstance(final.output_parsed, Person)


POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "integer", "minimum": -10, "maximum": 10},
        "label": {"type": "string", "maxLength": 12, "title": "Label"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["x", "label", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(("strict", "count"), [(True, 16), (False, 3), (None, 3)])
async def test_every_answer_is_valid(model_client: Client, strict: bool | None, count: int) -> None:
    schema_of_text = schema_format(POINT, strict=strict)
    asked = [model_client.create(model=MODEL, input=f"Point {n}", text=schema_of_text) for n in range(count)]
    async with asyncio.timeout(110):
        for response in await asyncio.gather(*asked):
            assert response["status"] == "completed"
            jsonschema.validate(json.loads(output_text(response)), POINT)
            assert response["text"]["format"] == {
                "type": "json_schema", "name": "answer", "description": None, "schema": POINT, "strict": bool(strict),
            }  # fmt: skip


async def test_a_stream_under_a_schema_is_legal_and_valid(model_client: Client) -> None:
    reader = await model_client.stream_all(model=MODEL, input="A point, please.", text=schema_format(POINT))
    jsonschema.validate(json.loads(reader.text), POINT)


EMPLOYEE = {
    "$defs": {
        "employee": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "boss": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/employee"}]},
            },
            "required": ["name", "boss"],
        }
    },
    "$ref": "#/$defs/employee",
}


async def test_a_recursive_schema_holds_at_every_depth(model_client: Client) -> None:
    asked = [
        model_client.create(model=MODEL, input="Who is Anna?", text=schema_format(EMPLOYEE), max_output_tokens=250)
        for _ in range(5)
    ]
    completed = [response for response in await asyncio.gather(*asked) if response["status"] == "completed"]
    assert completed, "every one of them went on to the token limit"
    for response in completed:
        jsonschema.validate(json.loads(output_text(response)), EMPLOYEE)


async def test_json_mode_yields_an_object(model_client: Client) -> None:
    asked = [
        model_client.create(
            model=MODEL,
            input=f"The capital of country number {number}, as a JSON object.",
            text={"format": {"type": "json_object"}},
            max_output_tokens=120,
        )
        for number in range(4)
    ]
    for response in await asyncio.gather(*asked):
        assert response["text"]["format"] == {"type": "json_object"}
        if response["status"] == "completed":
            assert isinstance(json.loads(output_text(response)), dict)
        else:
            assert response["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_an_answer_that_the_token_limit_cuts_is_incomplete(model_client: Client) -> None:
    response = await model_client.create(
        model=MODEL,
        input="Write.",
        text=schema_format({"type": "string", "minLength": 300}),
        max_output_tokens=16,
    )
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert output_text(response).startswith('"')


@pytest.mark.parametrize("how", [{"stream": True}, {}, {"background": True}])
async def test_a_schema_that_cannot_be_enforced_is_refused_before_any_event(
    model_client: Client, how: dict[str, Any]
) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": "zero"}}}
    error = await model_client.refused(400, model=MODEL, input="Hi.", text=schema_format(schema), **how)
    assert (error["code"], error["param"]) == ("invalid_json_schema", "text.format.schema.properties.age.minimum")
    assert error["type"] == "invalid_request_error"


async def test_logprobs_and_penalties_go_with_a_schema(model_client: Client) -> None:
    response = await model_client.create(
        model=MODEL, input="A colour.", text=schema_format({"enum": ["é漢字", "blau"]}), frequency_penalty=1.0,
        include=["message.output_text.logprobs"], top_logprobs=2,
    )  # fmt: skip
    (item,) = response["output"]
    (part,) = item["content"]
    assert json.loads(part["text"]) in ("é漢字", "blau")
    assert bytes(byte for logprob in part["logprobs"] for byte in logprob["bytes"]).decode() == part["text"]
