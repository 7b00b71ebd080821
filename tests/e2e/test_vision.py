"""A model that sees, behind the whole stack: a tiny untrained one, so what it says is not looked at."""

import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from tests.support.antiphon import antiphon, clean_environ
from tests.support.gguf import IMAGE_TOKENS
from tests.support.http import Client, client_of, output_text
from tests.support.media import answer, data_uri, file_server, png
from tests.support.stack import RunningStack, running_stack
from tests.support.stream_rules import Json
from tests.support.vision import vision_model

MODEL = "vision"
RED = data_uri(png(colour=(255, 0, 0)), "image/png")
BLUE = data_uri(png(300, 40, colour=(0, 0, 255)), "image/png")
LIMITS = {"model": MODEL, "max_output_tokens": 16, "temperature": 0}


@pytest.fixture(scope="module")
def vision_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("vision")
    files = vision_model(folder)
    arguments = ("--model", str(files.model), "--projector", str(files.projector))
    environ = {"INFERENCE_CONTEXT_WINDOW": "4096", "EDGE_FETCH_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with running_stack(folder / "stack", *arguments, environ=environ) as stack:
        yield stack


@pytest.fixture
async def client(vision_stack: RunningStack) -> AsyncGenerator[Client, None]:
    async with client_of(vision_stack.base_url) as client:
        yield client


def user(*contents: str | Json) -> Json:
    parts = [{"type": "input_text", "text": part} if isinstance(part, str) else part for part in contents]
    return {"type": "message", "role": "user", "content": parts}


def image(url: str) -> Json:
    return {"type": "input_image", "image_url": url}


async def test_an_image_is_seen_and_nobody_is_warned(client: Client) -> None:
    asked = {**LIMITS, "input": [user("What is this?", image(RED))], "top_logprobs": 2}
    asked["include"] = ["message.output_text.logprobs"]
    first = await client.call("POST", "/v1/responses", json=asked)
    assert first.status == 200, first.body
    assert "x-antiphon-warning" not in first.headers
    counted = await client.call("POST", "/v1/responses/input_tokens", json={"model": MODEL, "input": asked["input"]})
    text = await client.create(**LIMITS, input=[user("What is this?")])
    assert first.body["usage"]["input_tokens"] == counted.body["input_tokens"]
    assert counted.body["input_tokens"] == text["usage"]["input_tokens"] + IMAGE_TOKENS + len("\n")

    async def content(url: str) -> Json:
        response = await client.create(**{**asked, "input": [user("What is this?", image(url))]})
        return dict(response["output"][0]["content"][0])

    assert await content(RED) == first.body["output"][0]["content"][0]
    assert await content(BLUE) != first.body["output"][0]["content"][0]


async def test_a_conversation_keeps_its_images_in_their_order(client: Client) -> None:
    async with file_server({"/a": answer(png(7, 7), "image/png")}) as url:
        first = await client.create(**LIMITS, input=[user(image(f"{url}/a"), "and", image(RED))])
    second = await client.create(**LIMITS, input=[user(image(BLUE))], previous_response_id=first["id"])
    tokens = first["usage"]["input_tokens"]
    assert second["usage"]["input_tokens"] > tokens + IMAGE_TOKENS
    assert second["usage"]["input_tokens_details"]["cached_tokens"] >= tokens - 1


async def test_answers_about_images_hold_to_a_schema_and_call_functions(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["rouge", "bleu 🎨"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "seen", "schema": schema, "strict": True}}
    limits = {**LIMITS, "max_output_tokens": 400, "input": [user(image(RED), image(BLUE), "Which?")]}
    seen = await client.create(**limits, text=form)
    assert json.loads(output_text(seen))["colour"] in ("rouge", "bleu 🎨")
    tools = [{"type": "function", "name": name, "parameters": schema, "strict": True} for name in ("paint", "mix")]
    called = await client.create(**limits, tools=tools, tool_choice="required", parallel_tool_calls=False)
    (call,) = called["output"]
    assert (call["type"], call["name"] in ("paint", "mix")) == ("function_call", True)
    assert json.loads(call["arguments"])["colour"] in ("rouge", "bleu 🎨")


async def test_hostile_images_are_client_errors_and_the_worker_lives(
    client: Client, vision_stack: RunningStack
) -> None:
    worker = vision_stack.pids("worker")
    whole = png(64, 64, colour=(1, 2, 3))
    hostile = [
        whole[:60],
        whole.replace(b"IDAT", b"IDAU"),
        png(20_000, 1),
        png(1, 1000),
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03" + b"\0" * 50,
        b"GIF89a\x10\x00\x10\x00\xff" + b"\0" * 40,
        b"P6 2 2 255\n" + bytes(12),
    ]
    for data in hostile:
        parts = user("x", image(data_uri(data, "image/png")))
        refused = await client.call("POST", "/v1/responses", json={**LIMITS, "input": [parts]})
        assert refused.status == 400, (data[:16], refused.body)
        assert refused.body["error"]["param"] == "input[0].content[1].image_url"
    assert (await client.create(**LIMITS, input=[user(image(RED), "?")]))["usage"]["output_tokens"] > 0
    assert vision_stack.pids("worker") == worker


async def test_capabilities_say_that_images_are_seen(client: Client) -> None:
    answered = await client.call("GET", "/v1/capabilities")
    assert "input: input_image" in json.dumps(answered.body)
    (model,) = answered.body["models"]
    assert "input: input_image" not in [claim["field"] for claim in model["differing_fields"]]


def test_a_missing_projector_is_named_before_anything_starts(tmp_path: Path) -> None:
    failed = antiphon("up", "--state", tmp_path, "--projector", tmp_path / "none.gguf", environ=clean_environ())
    assert failed.returncode != 0
    assert f"there is no projector {tmp_path / 'none.gguf'}" in failed.stderr
