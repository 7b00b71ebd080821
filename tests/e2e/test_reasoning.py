"""Reasoning through the whole stack: a scripted model whose chat template knows thoughts."""

import base64
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.response_pb2 import INCLUDE_REASONING_ENCRYPTED_CONTENT
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from tests.support.http import Client, client_of, output_text
from tests.support.stack import RunningStack, running_stack

MODEL = "SmolLM2-135M-Instruct"
TEMPLATE = Path(__file__).parent.parent / "templates" / "thinking.jinja"
THINKS = "\n".join(["script:", "marker <think>", 'json "\\nHmm, two"', "marker </think>", 'json "\\n\\n"', "say Hello"])
ECHO = "script:\necho"
ENCRYPTED = "reasoning.encrypted_content"
FOREIGN = "gAAAAABoISQ24OyVRYbkYfukdJoqdzWT-3uiErKInHDC-lgAaXeky44N77j7aibc"


@pytest.fixture(scope="module")
def thinking_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    environ = {"INFERENCE_ENGINE": "scripted", "INFERENCE_CHAT_TEMPLATE": str(TEMPLATE)}
    with running_stack(tmp_path_factory.mktemp("thinking_stack"), edges=2, environ=environ) as stack:
        yield stack


@pytest.fixture
async def client(thinking_stack: RunningStack) -> AsyncGenerator[Client, None]:
    async with client_of(thinking_stack.base_url) as client:
        yield client


def texts(parts: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for part in parts]


async def test_a_reasoning_item_comes_before_the_message_it_belongs_to(client: Client) -> None:
    body = await client.create(model=MODEL, input=THINKS)
    reasoning, message = body["output"]
    assert (reasoning["type"], message["type"]) == ("reasoning", "message")
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hmm, two"}]
    assert reasoning["summary"] == []
    assert "encrypted_content" not in reasoning
    assert output_text(body) == "Hello"
    assert body["usage"]["output_tokens_details"] == {"reasoning_tokens": 8}
    assert body["reasoning"] is None


async def test_the_stream_tells_thoughts_and_their_summary_in_the_specified_order(client: Client) -> None:
    thoughts = THINKS.replace("Hmm, two", r"script:\ntokens 6\nsay In short")
    reader = await client.stream_all(model=MODEL, input=thoughts, reasoning={"summary": "auto"})
    types = [event["type"].removeprefix("response.") for event in reader.events]
    in_order = list(dict.fromkeys(types))
    assert in_order[in_order.index("output_item.added") :] == [
        "output_item.added",
        "content_part.added", "reasoning.delta", "reasoning.done", "content_part.done",
        "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done", "output_text.delta", "output_text.done", "completed",
    ]  # fmt: skip
    final = reader.events[-1]["response"]
    reasoning = final["output"][0]
    assert texts(reasoning["summary"]) == ["In short"]
    assert final["reasoning"] == {"effort": None, "summary": "auto"}


async def test_effort_none_turns_thinking_off(client: Client) -> None:
    closed = "\n".join(["script:", "tokens 6", "say Hello"])  # the engine takes the empty thoughts for generated before
    body = await client.create(model=MODEL, input=closed, reasoning={"effort": "none"})
    assert [item["type"] for item in body["output"]] == ["message"]
    assert output_text(body) == "Hello"
    assert body["reasoning"] == {"effort": "none", "summary": None}


async def test_a_response_cut_within_its_thoughts_is_incomplete(client: Client) -> None:
    long = "\n".join(["script:", "marker <think>", "tokens 100"])
    body = await client.create(model=MODEL, input=long, max_output_tokens=16)
    assert body["status"] == "incomplete"
    assert [item["type"] for item in body["output"]] == ["reasoning"]
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] == 16


async def test_sealed_reasoning_goes_to_the_client_and_comes_back_without_a_store(client: Client) -> None:
    first = await client.create(model=MODEL, input=THINKS, include=[ENCRYPTED], store=False)
    reasoning, message = first["output"]
    assert reasoning["encrypted_content"].startswith("antiphon1.")
    # all that another server would know of the item is its encrypted content
    kept = {
        "type": "reasoning",
        "id": reasoning["id"],
        "summary": [],
        "encrypted_content": reasoning["encrypted_content"],
    }
    ask = {"role": "user", "content": ECHO}
    second = await client.create(
        model=MODEL, input=[{"role": "user", "content": "Hi"}, kept, message, ask], store=False
    )
    before, thoughts, after = second["output"]  # the echo of the prompt is parsed like any output
    assert texts(before["content"]) == ["user\nHi\nassistant\n"]
    assert texts(thoughts["content"]) == ["Hmm, two"]
    assert texts(after["content"])[0].startswith("Hello\nuser")


async def test_the_stream_carries_the_sealed_content_when_the_item_is_done(client: Client) -> None:
    reader = await client.stream_all(model=MODEL, input=THINKS, include=[ENCRYPTED])
    done = next(event["item"] for event in reader.events if event["type"] == "response.output_item.done")
    assert done["encrypted_content"].startswith("antiphon1.")
    final = reader.events[-1]["response"]
    assert final["output"][0] == done
    stored = await client.call("GET", f"/v1/responses/{final['id']}")
    assert stored.body == final
    follow_up = await client.create(model=MODEL, input=ECHO, previous_response_id=final["id"])
    assert "<think>\nHmm, two\n</think>\n\nHello" in output_text(follow_up)


async def test_a_stored_thought_is_sealed_for_who_asks_later(thinking_stack: RunningStack, client: Client) -> None:
    made = await client.create(model=MODEL, input=THINKS)
    path = f"/v1/responses/{made['id']}"
    read = (await client.call("GET", f"{path}?include[]={ENCRYPTED}")).body
    sealed = read["output"][0].pop("encrypted_content")
    assert read == made == (await client.call("GET", path)).body
    async with grpc.aio.insecure_channel(thinking_stack.grpc_target) as channel:
        request = pb.GetResponseRequest(response_id=made["id"], include=[INCLUDE_REASONING_ENCRYPTED_CONTENT])
        answer = await ResponsesServiceStub(channel).GetResponse(request)
    for content in (sealed, answer.response.output[0].reasoning.encrypted_content):
        kept = {"type": "reasoning", "summary": list[Any](), "encrypted_content": content}
        turns = [{"role": "user", "content": "Hi"}, kept, made["output"][1], {"role": "user", "content": ECHO}]
        echoed = await client.create(model=MODEL, input=turns, store=False)
        assert texts(echoed["output"][1]["content"]) == ["Hmm, two"]


@pytest.mark.parametrize("spoil", [lambda sealed: sealed[:-9], lambda sealed: sealed[:40] + "AAAA" + sealed[44:]])
async def test_sealed_reasoning_that_was_changed_is_refused(client: Client, spoil: Any) -> None:
    first = await client.create(model=MODEL, input=THINKS, include=[ENCRYPTED], store=False)
    reasoning = first["output"][0] | {"encrypted_content": spoil(first["output"][0]["encrypted_content"])}
    error = await client.refused(400, model=MODEL, input=[reasoning, {"role": "user", "content": "x"}])
    assert (error["code"], error["param"]) == ("invalid_encrypted_content", "input[0].encrypted_content")


async def test_reasoning_sealed_by_others_is_left_out_with_a_warning(client: Client) -> None:
    foreign = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": FOREIGN}
    items = [{"role": "user", "content": "Hi"}, foreign, {"role": "user", "content": "script:\nsay Hello"}]
    answer = await client.call("POST", "/v1/responses", json={"model": MODEL, "input": items, "store": False})
    assert answer.status == 200, answer.body
    assert answer.headers["x-antiphon-warning"] == "input[1].encrypted_content"


async def test_effort_for_a_model_that_thinks_is_no_warning(client: Client) -> None:
    body = {"model": MODEL, "input": THINKS, "reasoning": {"effort": "high"}}
    answer = await client.call("POST", "/v1/responses", json=body)
    assert answer.status == 200
    assert "x-antiphon-warning" not in answer.headers
    assert answer.body["reasoning"] == {"effort": "high", "summary": None}


def test_the_key_is_made_once_and_is_its_owner_s_alone(thinking_stack: RunningStack) -> None:
    path = thinking_stack.state / "encryption.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(base64.b64decode(path.read_text(), validate=False)) == 32


class TestAModelThatDoesNotThink:
    """The stack that the other tests share: its template knows no thoughts."""

    @pytest.fixture
    async def plain(self, scripted_stack: RunningStack) -> AsyncGenerator[Client, None]:
        async with client_of(scripted_stack.base_url) as client:
            yield client

    @pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh"])
    async def test_takes_any_effort_and_says_that_it_changes_nothing(self, plain: Client, effort: str) -> None:
        body = {"model": MODEL, "input": "script:\nsay Hello", "reasoning": {"effort": effort, "summary": "concise"}}
        answer = await plain.call("POST", "/v1/responses", json=body)
        assert answer.status == 200, answer.body
        assert answer.headers["x-antiphon-warning"] == "reasoning.effort; reasoning.summary"
        assert answer.body["reasoning"] == {"effort": effort, "summary": "concise"}
        assert answer.body["usage"]["output_tokens_details"]["reasoning_tokens"] == 0

    async def test_takes_effort_none_without_a_word(self, plain: Client) -> None:
        body = {"model": MODEL, "input": "script:\nsay Hello", "reasoning": {"effort": "none"}, "include": [ENCRYPTED]}
        answer = await plain.call("POST", "/v1/responses", json=body)
        assert answer.status == 200, answer.body
        assert "x-antiphon-warning" not in answer.headers
        assert [item["type"] for item in answer.body["output"]] == ["message"]
