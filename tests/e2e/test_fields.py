"""Fields whose effect can be seen from outside."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from antiphon.inference.v1 import inference_pb2
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.http import Client, client_of, output_text
from tests.support.stack import SCRIPTED, RunningStack, running_stack

MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def narrow_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One generation at a time."""
    environ = SCRIPTED | {"INFERENCE_PARALLEL": "1", "INFERENCE_CONTEXT_WINDOW": "1000"}
    with running_stack(tmp_path_factory.mktemp("narrow_stack"), environ=environ) as stack:
        yield stack


async def until_waiting(stack: RunningStack, count: int) -> None:
    """Wait until so many generations wait for the engine."""
    async with asyncio.timeout(30), grpc.aio.insecure_channel(stack.worker_targets[0]) as channel:
        stub = InferenceServiceStub(channel)
        while (await stub.GetModel(inference_pb2.GetModelRequest())).load.waiting != count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # it is another process's state


async def test_the_tier_decides_who_is_next(narrow_stack: RunningStack) -> None:
    ended: list[str] = []
    async with client_of(narrow_stack.base_url) as client, asyncio.timeout(60), asyncio.TaskGroup() as tasks:

        async def run(tier: str) -> None:
            final = await client.create(model=MODEL, input="script:\nsay a\nwait 200", service_tier=tier)
            assert final["service_tier"] == tier
            ended.append(tier)

        async with client.stream(model=MODEL, input="script:\nsay a\nhold", store=False) as first:
            await first.next_event("response.output_text.delta")
            for count, tier in enumerate(("flex", "default", "priority"), start=1):
                tasks.create_task(run(tier))
                await until_waiting(narrow_stack, count)
    assert ended == ["priority", "default", "flex"]


async def test_truncation_drops_from_the_front_and_keeps_the_rules(narrow_stack: RunningStack) -> None:
    items = [
        {"role": "system", "content": "the rules"},
        {"role": "user", "content": "the first " + "word " * 500},
        {"role": "assistant", "content": "the answer " + "word " * 500},
        {"role": "user", "content": "script:\necho"},
    ]
    async with client_of(narrow_stack.base_url) as client:
        final = await client.create(model=MODEL, input=items, truncation="auto", max_output_tokens=300)
        assert "the rules" in output_text(final)
        assert "the first" not in output_text(final)
        error = await client.refused(400, model=MODEL, input=items, truncation="disabled")
        assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


async def test_the_verbosity_asked_for_reaches_the_model(client: Client) -> None:
    low = await client.create(model=MODEL, input="script:\necho", instructions="Rules.", text={"verbosity": "low"})
    assert "Rules.\n\nAnswer as briefly as you can." in output_text(low)
    assert low["instructions"] == "Rules."
    assert low["text"]["verbosity"] == "low"
    high = await client.create(model=MODEL, input="script:\necho", text={"verbosity": "high"})
    assert "in detail" in output_text(high)
    assert high["instructions"] is None


async def test_instructions_are_of_one_response_only(client: Client) -> None:
    first = await client.create(model=MODEL, input="script:\nsay a", instructions="Be a pirate.")
    second = await client.create(model=MODEL, input="script:\necho", previous_response_id=first["id"])
    assert "pirate" not in output_text(second)
    assert second["instructions"] is None


async def test_penalties_change_what_the_model_says(model_client: Client) -> None:
    fields = {"model": MODEL, "input": "Say the word yes fifty times.", "temperature": 0, "max_output_tokens": 64}
    plain = await model_client.create(**fields)
    for name in ("frequency_penalty", "presence_penalty"):
        assert output_text(await model_client.create(**fields, **{name: 2})) != output_text(plain)


async def test_a_prompt_cache_key_keeps_requests_on_one_worker(client: Client) -> None:
    rules = "word " * 300
    for number in range(4):
        answer = await client.create(
            model=MODEL,
            instructions=rules,
            input=[{"role": "user", "content": f"{number}"}, {"role": "user", "content": "script:\nsay a"}],
            prompt_cache_key="one",
        )
        if number:
            assert answer["usage"]["input_tokens_details"]["cached_tokens"] > 250
