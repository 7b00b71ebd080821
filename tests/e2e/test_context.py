"""What of a conversation reaches the model: liberal forms of input, and what truncation drops."""

import json
from typing import Any

import pytest

from tests.support.http import Client, output_text
from tests.support.stream_rules import Json

MODEL = "SmolLM2-135M-Instruct"
ECHO = {"role": "user", "content": "script:\necho"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
SHOWN_CALL = 'assistant\n<tool_call>\n{"name": "f", "arguments": {"a":1}}\n</tool_call>\n'


def output_of(output: Any) -> list[Json]:
    return [CALL, {"type": "function_call_output", "call_id": "c1", "output": output}]


@pytest.mark.parametrize(
    ("items", "seen"),
    [
        ([{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], "user\nA\nassistant\nB\n"),
        ([{"type": None, "role": "user", "content": [{"type": "input_text", "text": "A"}]}], "user\nA\n"),
        ([{"type": "message", "id": None, "status": None, "phase": None, "role": "user", "content": "A"}], "user\nA\n"),
        ([{"role": "user", "content": [{"type": "text", "text": "A"}], "name": "x"}], "user\nA\n"),
        ([{"role": "user", "content": []}], "user\n\n"),
        ([{"role": "assistant", "content": [{"type": "output_text", "text": "A"}]}], "assistant\nA\n"),
        (
            [{"role": "assistant", "content": [{"type": "output_text", "text": "A", "annotations": None}]}],
            "assistant\nA\n",
        ),
        ([{"role": "assistant", "content": [{"type": "input_text", "text": "A"}]}], "assistant\nA\n"),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}], "assistant\nNo.\n"),
        (
            [{"role": role, "content": role[0]} for role in ("system", "user", "developer", "assistant", "system")],
            "system\ns\nuser\nu\nsystem\nd\nassistant\na\nsystem\ns\n",
        ),
        ([{"type": "reasoning", "summary": []}], ""),
        ([{"type": "reasoning", "id": "rs_1", "summary": None, "content": None, "encrypted_content": None}], ""),
        (output_of("42"), f"{SHOWN_CALL}user\n<tool_response>\n42\n</tool_response>\n"),
        (
            output_of([{"type": "input_text", "text": "A"}, {"type": "input_text", "text": "B"}]),
            f"{SHOWN_CALL}user\n<tool_response>\nA\nB\n</tool_response>\n",
        ),
        (output_of([]), f"{SHOWN_CALL}user\n<tool_response>\n\n</tool_response>\n"),
    ],
)
async def test_every_form_of_an_item_reaches_the_model(client: Client, items: list[Json], seen: str) -> None:
    response = await client.create(model=MODEL, input=[*items, ECHO])
    assert output_text(response) == f"{seen}user\nscript:\necho\nassistant\n"


async def test_nulls_are_unset(client: Client) -> None:
    names = (
        "instructions", "tools", "tool_choice", "metadata", "text", "temperature", "top_p", "parallel_tool_calls",
        "stream", "stream_options", "background", "max_output_tokens", "max_tool_calls", "reasoning", "include",
        "safety_identifier", "prompt_cache_key", "truncation", "store", "service_tier", "top_logprobs", "user",
        "previous_response_id", "conversation", "prompt", "presence_penalty", "frequency_penalty",
    )  # fmt: skip
    response = await client.create(model=MODEL, input=[ECHO], **dict.fromkeys(names))
    plain = await client.create(model=MODEL, input=[ECHO])
    changing = {"id", "created_at", "completed_at", "output"}
    assert {name: value for name, value in response.items() if name not in changing} == {
        name: value for name, value in plain.items() if name not in changing
    }


async def test_output_items_sent_back_verbatim_are_what_they_were(client: Client) -> None:
    first = await client.create(model=MODEL, input="script:\nsay HELLO")
    echoed = await client.create(model=MODEL, input=[*first["output"], ECHO])
    assert output_text(echoed).startswith("assistant\nHELLO\n")


async def test_truncation_drops_from_the_front_but_no_rules_and_no_half_of_a_call(client: Client) -> None:
    def call(number: int) -> list[Json]:
        call_id = f"call_{number}"
        answer = f"answer{number} " + "x" * 10_000
        return [
            {"type": "function_call", "call_id": call_id, "name": f"tool{number}", "arguments": "{}"},
            {"type": "function_call_output", "call_id": call_id, "output": answer},
        ]

    items = [
        {"role": "system", "content": "RULES"},
        {"role": "user", "content": "OLDEST" + "x" * 80_000},
        *call(1),
        {"role": "developer", "content": "MORE RULES"},
        *call(2),
        *call(3),
        ECHO,
    ]
    fields = {"model": MODEL, "input": items, "instructions": "INSTRUCTIONS", "max_output_tokens": 50_000}
    error = await client.refused(400, **fields, stream=True)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    response = await client.create(**fields, truncation="auto")
    assert (response["status"], response["truncation"]) == ("completed", "auto")
    seen = output_text(response)
    assert "OLDEST" not in seen
    for words in ("INSTRUCTIONS", "RULES", "MORE RULES", "script:"):
        assert words in seen
    for number in (1, 2, 3):
        assert (f'"tool{number}"' in seen) == (f"answer{number} " in seen)
    assert '"tool3"' in seen


async def test_the_default_models_chain_is_cut_only_if_asked(model_client: Client) -> None:
    """By counting, as generating for thousands of tokens takes a small machine too long."""

    async def count(**fields: Any) -> tuple[int, Json]:
        answer = await model_client.call("POST", "/v1/responses/input_tokens", json={"model": MODEL, **fields})
        return answer.status, answer.body

    rules = {"role": "system", "content": "Be brief."}
    turns = [{"role": "user", "content": f"Turn {number}: " + "word " * 500} for number in range(30)]
    status, body = await count(input=[rules, *turns])
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
    context_window = int(body["error"]["message"].partition("length is ")[2].partition(" ")[0])
    status, body = await count(input=[rules, *turns], truncation="auto")
    assert status == 200, json.dumps(body)
    assert context_window // 2 < body["input_tokens"] < context_window
    status, body = await count(input="word " * 2 * context_window, truncation="auto")
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
