"""Everything of the API beside POST /responses: HTTP itself, stored responses, counts and models."""

import json
from typing import Final

import pytest

from tests.support.http import Client, output_text
from tests.support.stack import MODEL
from tests.support.stream_rules import Json

SHORT: Final[Json] = {"model": MODEL, "max_output_tokens": 16, "temperature": 0}
HI: Final[Json] = {**SHORT, "input": "Hi"}


async def test_a_plain_answer_is_json(model_client: Client) -> None:
    answer = await model_client.call("POST", "/v1/responses", json=HI)
    assert answer.headers["content-type"].partition(";")[0] == "application/json"


async def test_every_request_has_its_own_id(model_client: Client) -> None:
    answers = [await model_client.call("GET", "/v1/models") for _ in range(3)]
    answers.append(await model_client.call("GET", "/v1/nothing"))
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer sk-any"}, {"api-key": "any"}, {"Authorization": "any"}, {"Accept": "*/*"}],
)
async def test_a_server_on_loopback_takes_every_kind_of_key(model_client: Client, headers: dict[str, str]) -> None:
    assert (await model_client.call("POST", "/v1/responses", json=HI, headers=headers)).status == 200


async def test_a_form_is_as_good_as_json(model_client: Client) -> None:
    form = {"model": MODEL, "input": "Hi", "max_output_tokens": "16", "store": "false", "metadata": '{"a":"b"}'}
    answer = await model_client.call("POST", "/v1/responses", data=form)
    assert answer.status == 200, answer.body
    assert (answer.body["max_output_tokens"], answer.body["store"], answer.body["metadata"]) == (16, False, {"a": "b"})


async def test_an_unknown_model_is_named_as_openai_names_it(model_client: Client) -> None:
    answer = await model_client.call("POST", "/v1/responses", json=HI | {"model": "fake-model"})
    assert answer.status == 404
    assert answer.body["error"] == {
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
        "message": "The requested model 'fake-model' does not exist.",
    }


async def test_a_chain_is_input_output_input_and_carries_nothing_else_over(model_client: Client) -> None:
    first = await model_client.create(
        **SHORT, input="My name is Alice.", instructions="Be loud.", metadata={"a": "b"}, top_p=0.5
    )
    second = await model_client.create(**SHORT, input="And mine?", previous_response_id=first["id"])
    assert (second["instructions"], second["metadata"], second["top_p"]) == (None, {}, 1.0)
    by_value = [
        {"role": "user", "content": "My name is Alice."},
        *first["output"],
        {"role": "user", "content": "And mine?"},
    ]
    again = await model_client.create(**SHORT, input=by_value)
    assert again["usage"]["input_tokens"] == second["usage"]["input_tokens"]
    assert output_text(again) == output_text(second)


async def test_what_was_not_stored_is_not_there(model_client: Client) -> None:
    body = await model_client.create(**HI, store=False)
    assert (await model_client.call("GET", f"/v1/responses/{body['id']}")).status == 404
    error = await model_client.refused(400, **HI, previous_response_id=body["id"])
    assert (error["code"], error["message"]) == (
        "previous_response_not_found",
        f"Previous response with id '{body['id']}' not found.",
    )


async def test_a_response_is_deleted_once(model_client: Client) -> None:
    body = await model_client.create(**HI)
    path = f"/v1/responses/{body['id']}"
    deleted = await model_client.call("DELETE", path, headers={"Accept": "*/*"})
    assert (deleted.status, deleted.body) == (200, {"id": body["id"], "object": "response", "deleted": True})
    for method in ("GET", "DELETE"):
        answer = await model_client.call(method, path)
        assert (answer.status, answer.body["error"]["code"]) == (404, "response_not_found")


async def test_only_responses_made_in_the_background_can_be_streamed_again(model_client: Client) -> None:
    body = await model_client.create(**HI)
    answer = await model_client.call("GET", f"/v1/responses/{body['id']}?stream=true&starting_after=1")
    assert (answer.status, answer.body["error"]["param"]) == (400, "stream")
    assert "background=true" in answer.body["error"]["message"]


@pytest.mark.parametrize("sent", ["false", "False"])
async def test_booleans_of_a_query_may_be_written_as_clients_do(model_client: Client, sent: str) -> None:
    body = await model_client.create(**HI)
    assert (await model_client.call("GET", f"/v1/responses/{body['id']}?stream={sent}")).body == body


async def test_counted_tokens_are_those_that_are_used(model_client: Client) -> None:
    answer = await model_client.call("POST", "/v1/responses/input_tokens", json={"model": MODEL, "input": "Hi"})
    used = (await model_client.create(**HI))["usage"]["input_tokens"]
    assert (answer.status, answer.body) == (200, {"object": "response.input_tokens", "input_tokens": used})


async def test_models_are_listed_and_shown(model_client: Client) -> None:
    models = (await model_client.call("GET", "/v1/models")).body
    assert (models["object"], [model["id"] for model in models["data"]]) == ("list", [MODEL])
    (model,) = models["data"]
    assert (await model_client.call("GET", f"/v1/models/{MODEL}")).body == model
    assert (model["object"], type(model["created"]), type(model["owned_by"])) == ("model", int, str)


@pytest.mark.parametrize(
    "reply",
    [
        "64 degrees and clear",
        [{"type": "input_text", "text": "64 degrees"}],
        [{"type": "input_text", "text": "see file"}, {"type": "input_image", "image_url": "PNG"}],
        json.dumps({"degrees": 64}),
        "",
    ],
    ids=["text", "part", "image", "json", "empty"],
)
async def test_a_stored_call_is_answered_by_id_without_its_tools(model_client: Client, reply: object) -> None:
    png = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5E"
        "rkJggg=="
    )
    reply = json.loads(json.dumps(reply).replace('"PNG"', json.dumps(png)))
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    first = await model_client.create(
        model=MODEL, input="Weather?", tools=[tool], tool_choice={"type": "function", "name": "weather"}
    )
    (call,) = first["output"]
    assert (call["type"], call["name"], first["status"]) == ("function_call", "weather", "completed")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": reply}
    second = await model_client.create(**SHORT, input=[output], previous_response_id=first["id"])
    assert second["tools"] == []
    assert second["output"][0]["type"] == "message"
