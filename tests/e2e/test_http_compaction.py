"""Compaction of a running stack: the public suite's cases, what comes back as input, and what does not."""

import json
import re
from typing import Any

import pytest

from tests.support.http import Answer, Client, output_text
from tests.support.openapi import assert_valid_item
from tests.support.stack import RunningStack
from tests.support.websocket import socket_of

MODEL = "SmolLM2-135M-Instruct"
HELLO = "script:\nsay Hello world."

Json = dict[str, Any]


def user(text: str) -> Json:
    return {"type": "message", "role": "user", "content": text}


def assistant(text: str) -> Json:
    return {"type": "message", "role": "assistant", "content": text}


LAUNCH = [
    user("We agreed to launch on Tuesday and notify support first."),
    assistant("Understood. The launch is Tuesday, with support notified beforehand."),
]


async def post(client: Client, **fields: Any) -> Answer:
    return await client.call("POST", "/v1/responses/compact", json={"model": MODEL, **fields})


async def compact(client: Client, **fields: Any) -> Json:
    """A compaction that must succeed."""
    answer = await post(client, **fields)
    assert answer.status == 200, answer.body
    body: Json = answer.body
    assert body.keys() == {"id", "object", "created_at", "output", "usage"}
    assert body["object"] == "response.compaction"
    for item in body["output"]:
        assert_valid_item(item)
    assert [item["type"] for item in body["output"]][-1:] == ["compaction"]
    assert all(item["role"] == "user" for item in body["output"][:-1])
    assert body["usage"]["input_tokens"] > 0
    assert body["usage"]["output_tokens"] > 0
    return body


async def test_a_conversation_becomes_its_user_messages_and_a_summary(model_client: Client) -> None:
    body = await compact(model_client, prompt_cache_key="openresponses-compact-test", input=LAUNCH)
    message, compaction = body["output"]
    assert message["content"] == [{"type": "input_text", "text": LAUNCH[0]["content"]}]
    assert "Tuesday" not in json.dumps(compaction)
    answer = await model_client.create(
        model=MODEL, input=[*body["output"], user("When do we launch?")], max_output_tokens=64
    )
    assert answer["status"] in {"completed", "incomplete"}


async def test_the_model_reads_the_summary_that_it_wrote(client: Client) -> None:
    # without a script the engine repeats the last user message: the summary is the request for it, but for its first
    # tokens, which it takes for generated before, as empty thoughts end the prompt
    body = await compact(client, input=LAUNCH)
    answer = await client.create(model=MODEL, input=[*body["output"], user("script:\necho")])
    prompt = output_text(answer)
    assert LAUNCH[0]["content"] in prompt
    assert LAUNCH[1]["content"] not in prompt
    assert "Summary of the earlier conversation:\n" in prompt
    assert "Keep the goal, the facts, names, numbers and decisions" in prompt


async def test_a_chain_can_be_compacted(client: Client) -> None:
    first = await client.create(model=MODEL, input="script:\nsay one")
    second = await client.create(model=MODEL, input="script:\nsay two", previous_response_id=first["id"])
    body = await compact(client, previous_response_id=second["id"], instructions="Be brief.", input="and three")
    texts = [item["content"][0]["text"] for item in body["output"][:-1]]
    assert texts == ["script:\nsay one", "script:\nsay two", "and three"]
    # and again, from where it stands
    again = await compact(client, input=[*body["output"], user("four")])
    assert len(again["output"]) == 5
    # a stored response that began with a compaction is continued like any other
    stored = await client.create(model=MODEL, input=[*again["output"], user(HELLO)])
    on = await client.create(model=MODEL, input="script:\necho", previous_response_id=stored["id"])
    assert output_text(on).count("Summary of the earlier conversation:") == 1


async def test_a_compaction_that_was_changed_is_refused(client: Client) -> None:
    compaction = (await compact(client, input=LAUNCH))["output"][-1]
    sealed = compaction["encrypted_content"]
    for forged in (sealed[:-4] + "AAAA", sealed[:30], sealed + "A"):
        items = [user("x"), compaction | {"encrypted_content": forged}]
        error = await client.refused(400, model=MODEL, input=items)
        assert (error["code"], error["param"]) == ("invalid_encrypted_content", "input[1].encrypted_content")
    # for another purpose it is none either
    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": sealed}
    error = await client.refused(400, model=MODEL, input=[reasoning, user("x")])
    assert error["code"] == "invalid_encrypted_content"


async def test_a_compaction_of_another_server_is_left_out_with_a_warning(client: Client) -> None:
    foreign = {"type": "compaction", "encrypted_content": "gAAAAABfromElsewhere"}
    answer = await client.call("POST", "/v1/responses", json={"model": MODEL, "input": [foreign, user(HELLO)]})
    assert output_text(answer.body) == "Hello world."
    assert answer.headers["x-antiphon-warning"] == "input[0]: compaction of another server left out"
    without = await client.create(model=MODEL, input=[user(HELLO)])
    assert answer.body["usage"]["input_tokens"] == without["usage"]["input_tokens"]


async def test_a_long_conversation_is_cut_to_leave_room_for_its_summary(client: Client) -> None:
    window = (await client.call("GET", "/v1/capabilities")).body["models"][0]["context_window"]
    words = "word " * (window // 20)
    conversation = [item for n in range(30) for item in (user(f"Turn {n}."), assistant(f"Answer {n}. {words}"))]
    answer = await post(client, input=conversation)
    assert answer.status == 200, answer.body
    assert len(answer.body["output"]) == 31
    dropped = re.fullmatch(r"summary: without the first (\d+) items", answer.headers["x-antiphon-warning"])
    assert dropped is not None
    # no turn more than must be: one more would not fit beside the summary
    used, turn = answer.body["usage"]["input_tokens"], window // 20
    assert window - 1024 - turn * 1.1 < used <= window - 1024


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": None, "input": "Compact this conversation."}, 400, "missing_required_parameter", "model"),
        ({}, 400, "missing_required_parameter", "input"),
        ({"input": "x", "model": "nothing"}, 404, "model_not_found", "model"),
        ({"input": 7}, 400, "invalid_type", "input"),
        ({"input": "x", "prompt_cache_key": "x" * 65}, 400, "string_above_max_length", "prompt_cache_key"),
        ({"previous_response_id": "resp_x"}, 400, "previous_response_not_found", "previous_response_id"),
        ({"input": [user("x"), {"id": "msg_x"}]}, 404, "item_not_found", "input[1]"),
    ],
)
async def test_what_cannot_be_compacted_is_refused(
    client: Client, fields: Json, status: int, code: str, param: str
) -> None:
    answer = await post(client, **fields)
    assert (answer.status, answer.body["error"]["code"], answer.body["error"]["param"]) == (status, code, param)


async def test_an_unknown_field_of_a_compaction_is_told_or_refused(client: Client) -> None:
    answer = await post(client, input="x", temperature=0.5)
    assert answer.headers["x-antiphon-warning"] == "temperature"
    fields = {"model": MODEL, "input": "x", "temperature": 0.5}
    path, headers = "/v1/responses/compact", {"x-antiphon-strict": "true"}
    answer = await client.call("POST", path, json=fields, headers=headers)
    assert (answer.status, answer.body["error"]["code"]) == (400, "unknown_parameter")


async def test_a_new_chain_begins_with_a_compaction_over_a_websocket(
    scripted_stack: RunningStack, client: Client
) -> None:
    body = await compact(
        client,
        input=[
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go on."}]},
        ],
    )
    async with socket_of(scripted_stack.base_url) as socket:
        final = await socket.turn(
            model=MODEL, store=False, tools=[], input=[*body["output"], user("script:\nsay compacted")]
        )
    assert output_text(final) == "compacted"
