"""Log probabilities through the whole stack, scripted and with the default model."""

import math
from typing import Any

import openai
import pytest

from tests.support.http import Client
from tests.support.stack import RunningStack

MODEL = "SmolLM2-135M-Instruct"
INCLUDE = ["message.output_text.logprobs"]
PARTY = "script:\nsay Hello\nbytes f09f8e89\nsay world\nmarker <|im_end|>"


def part_of(response: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = response["output"][0]["content"][0]
    return part


async def test_every_token_has_its_own_bytes_even_within_a_character(client: Client) -> None:
    part = part_of(await client.create(model=MODEL, input=PARTY, include=INCLUDE))
    assert part["text"] == "Hello🎉world"
    assert [bytes(token["bytes"]) for token in part["logprobs"]] == [
        b"Hello",
        b"\xf0",
        b"\x9f",
        b"\x8e",
        b"\x89",
        b"world",
    ]
    assert [token["token"] for token in part["logprobs"]] == ["Hello", *"\ufffd" * 4, "world"]
    assert all(token["top_logprobs"] == [] and token["logprob"] == -0.5 for token in part["logprobs"])


async def test_deltas_done_and_part_carry_the_same_log_probabilities(client: Client) -> None:
    reader = await client.stream_all(model=MODEL, input=PARTY, include=INCLUDE, top_logprobs=2)
    deltas = [event for event in reader.events if event["type"] == "response.output_text.delta"]
    streamed = [logprob for event in deltas for logprob in event["logprobs"]]
    [done] = [event for event in reader.events if event["type"] == "response.output_text.done"]
    assert streamed == done["logprobs"] == part_of(reader.events[-1]["response"])["logprobs"]
    for event in deltas:
        assert b"".join(bytes(logprob["bytes"]) for logprob in event["logprobs"]).decode() == event["delta"]
    assert all(len(logprob["top_logprobs"]) == 2 for logprob in streamed)


async def test_top_logprobs_alone_asks_for_log_probabilities_too(client: Client) -> None:
    body = await client.create(model=MODEL, input=PARTY, top_logprobs=3)
    assert body["top_logprobs"] == 3
    assert [len(token["top_logprobs"]) for token in part_of(body)["logprobs"]] == [3] * 6


async def test_nobody_gets_them_unasked(client: Client) -> None:
    assert part_of(await client.create(model=MODEL, input=PARTY))["logprobs"] == []


@pytest.mark.parametrize(("top_logprobs", "code"), [(21, "integer_above_max_value"), (-1, "integer_below_min_value")])
async def test_more_than_twenty_or_less_than_none_are_refused(client: Client, top_logprobs: int, code: str) -> None:
    error = await client.refused(400, model=MODEL, input=PARTY, top_logprobs=top_logprobs)
    assert (error["code"], error["param"]) == (code, "top_logprobs")


def test_the_default_model_s_are_probabilities_and_the_openai_client_reads_them(model_stack: RunningStack) -> None:
    with openai.OpenAI(base_url=f"{model_stack.base_url}/v1", api_key="none") as client:
        response = client.responses.create(
            model=MODEL,
            input="Say hello with an emoji.",
            include=["message.output_text.logprobs"],
            top_logprobs=20,
            temperature=0,
            max_output_tokens=24,
        )
    message = response.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert b"".join(bytes(token.bytes) for token in part.logprobs).decode(errors="replace") == part.text
    for token in part.logprobs:
        assert len(token.top_logprobs) == 20
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].token == token.token  # greedy
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-3)
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + 1e-3
