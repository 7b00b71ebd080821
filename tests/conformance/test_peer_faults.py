"""What five other servers got wrong when this project's authors ran them: each must be right here.

What the client of `support.http` checks in every answer (order of events, required keys, string codes, the error
envelope, `[DONE]`, request ids) needs no test of its own.
"""

from typing import Any, Final

import openai
import pytest

from tests.support.http import Client, output_text
from tests.support.stack import MODEL, RunningStack
from tests.support.stream_rules import Json
from tests.support.websocket import socket_of

SHORT: Final[Json] = {"model": MODEL, "max_output_tokens": 16, "temperature": 0}
HI: Final[Json] = {**SHORT, "input": "Hi"}


async def test_items_may_be_sent_again_and_again_with_their_stored_ids(model_client: Client) -> None:
    first = await model_client.create(**HI)
    history = [{"type": "message", "id": "msg_mine", "role": "user", "content": "Hi"}, *first["output"]]
    for _ in range(3):
        second = await model_client.create(**SHORT, input=[*history, {"role": "user", "content": "And?"}])
        history += second["output"]


async def test_a_reference_to_an_unknown_item_is_refused(model_client: Client) -> None:
    error = await model_client.refused(404, **SHORT, input=[{"type": "item_reference", "id": "msg_nothing"}])
    assert error["code"] == "item_not_found"


async def test_an_output_without_its_call_is_refused(model_client: Client) -> None:
    orphan = {"type": "function_call_output", "call_id": "call_nothing", "output": "x"}
    error = await model_client.refused(400, **SHORT, input=[{"role": "user", "content": "x"}, orphan])
    assert error["param"].startswith("input")


async def test_top_logprobs_are_not_empty(model_client: Client) -> None:
    response = await model_client.create(**HI, top_logprobs=3, include=["message.output_text.logprobs"])
    logprobs = response["output"][0]["content"][0]["logprobs"]
    assert len(logprobs) > 1
    assert all(len(logprob["top_logprobs"]) == 3 for logprob in logprobs)


async def test_a_limit_that_was_not_set_is_not_invented(client: Client) -> None:
    response = await client.create(model=MODEL, input="script:\nsay Hi")
    assert (response["max_output_tokens"], response["tool_choice"]) == (None, "auto")


async def test_a_bad_request_for_a_stream_is_no_stream(model_client: Client) -> None:
    answer = await model_client.call("POST", "/v1/responses", json=HI | {"stream": True, "temperature": 9})
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (400, "application/json")


async def test_an_empty_input_is_an_answer_or_a_bad_request_and_no_failure(model_client: Client) -> None:
    answer = await model_client.call("POST", "/v1/responses", json=SHORT | {"input": []})
    assert answer.status in {200, 400}


@pytest.mark.parametrize(
    "body",
    [b'{"model":"m","input":"\\ud83d"}', b'[{"model":"m"}]', b'{"model":"m","input":"x","top_p":NaN}', b"\x00", b"{}"],
)
async def test_broken_bodies_are_bad_requests(model_client: Client, body: bytes) -> None:
    answer = await model_client.call("POST", "/v1/responses", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.body["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", "no"), ("background", "no"), ("parallel_tool_calls", "yes"), ("stream", 1), ("top_logprobs", "3"),
        ("temperature", "hot"), ("max_output_tokens", 16.5), ("metadata", []), ("tools", {}), ("input", {}),
        ("instructions", ["x"]), ("include", "message.output_text.logprobs"), ("text", "json"), ("model", 1),
    ],
)  # fmt: skip
async def test_values_of_a_wrong_type_are_not_taken_silently(model_client: Client, field: str, value: Any) -> None:
    error = await model_client.refused(400, **HI | {field: value})
    assert (error["code"], error["param"]) == ("invalid_type", field)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404), ("POST", "/responses/v1", 404), ("PUT", "/v1/responses", 405),
        ("POST", "/v1/models", 405), ("GET", "/v1/responses/resp_nothing", 404), ("GET", "/v1/models/nothing", 404),
        ("DELETE", "/v1/responses/resp_nothing", 404), ("GET", "/v1/responses/compact", 404),
    ],
)  # fmt: skip
async def test_unknown_paths_ids_and_methods_have_the_error_envelope(
    model_client: Client, method: str, path: str, status: int
) -> None:
    answer = await model_client.call(method, path)
    assert (answer.status, answer.body["error"]["type"]) == (status, "invalid_request_error")


async def test_reasoning_effort_is_taken_by_a_model_that_does_not_think(model_client: Client) -> None:
    for effort in ("none", "low", "medium", "high", "xhigh"):
        response = await model_client.create(**HI, reasoning={"effort": effort})
        assert response["reasoning"]["effort"] == effort


async def test_streamed_and_stored_ids_agree(model_client: Client) -> None:
    reader = await model_client.stream_all(**HI)
    final = reader.events[-1]["response"]
    stored = (await model_client.call("GET", f"/v1/responses/{final['id']}")).body
    assert {event["item_id"] for event in reader.events if "item_id" in event} == {stored["output"][0]["id"]}
    on = await model_client.create(**SHORT, input=[{"id": stored["output"][0]["id"]}, {"role": "user", "content": "x"}])
    assert output_text(on)


async def test_the_websocket_of_a_plain_address_is_served(model_stack: RunningStack) -> None:
    async with socket_of(model_stack.base_url) as socket:
        assert (await socket.turn(**HI))["model"] == MODEL


def test_the_openai_client_reads_codes_as_strings(model_stack: RunningStack) -> None:
    with openai.OpenAI(base_url=f"{model_stack.base_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            client.responses.create(model="nothing", input="x")
        assert caught.value.code == "model_not_found"
        with client.responses.stream(**HI) as stream:
            types = [event.type for event in stream]
    assert types[0] == "response.created"
    assert types[-1] in {"response.completed", "response.incomplete"}
