"""The smaller endpoints of a running stack: token counts, models, and the query of a stored response."""

import pytest

from tests.support.http import Client, client_of
from tests.support.stack import RunningStack

MODEL = "SmolLM2-135M-Instruct"
HELLO = "script:\nsay Hello world."
QUESTION = "Name three colours."


async def count(client: Client, **fields: object) -> int:
    answer = await client.call("POST", "/v1/responses/input_tokens", json={"model": MODEL, **fields})
    assert answer.status == 200, answer.body
    assert answer.body.keys() == {"object", "input_tokens"}
    assert answer.body["object"] == "response.input_tokens"
    tokens: int = answer.body["input_tokens"]
    return tokens


async def test_counted_tokens_are_those_that_a_response_uses(model_stack: RunningStack) -> None:
    async with client_of(model_stack.base_url) as client:
        fields = {"input": QUESTION, "instructions": "Be kind."}
        counted = await count(client, **fields)
        first = await client.create(model=MODEL, max_output_tokens=16, **fields)
        assert first["usage"]["input_tokens"] == counted
        on = {"input": "More?", "previous_response_id": first["id"]}
        counted_on = await count(client, **on)
        second = await client.create(model=MODEL, max_output_tokens=16, **on)
        assert second["usage"]["input_tokens"] == counted_on > counted


async def test_counting_stores_nothing_and_generates_nothing(client: Client) -> None:
    assert await count(client, input="script:\nhold") > 0


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": "x", "model": None}, 400, "missing_required_parameter", "model"),
        ({}, 400, "missing_required_parameter", "input"),
        ({"input": "x", "model": "nothing"}, 404, "model_not_found", "model"),
        ({"input": "x", "temperature": 3}, 400, "decimal_above_max_value", "temperature"),
        ({"input": "x", "previous_response_id": "resp_x"}, 400, "previous_response_not_found", "previous_response_id"),
        ({"input": "word " * 120_000}, 400, "context_length_exceeded", "input"),
    ],
)
async def test_counting_checks_what_a_response_would(
    client: Client, fields: dict[str, object], status: int, code: str, param: str
) -> None:
    answer = await client.call("POST", "/v1/responses/input_tokens", json={"model": MODEL, **fields})
    assert (answer.status, answer.body["error"]["code"], answer.body["error"]["param"]) == (status, code, param)


async def test_a_model_can_be_asked_for(client: Client) -> None:
    models = (await client.call("GET", "/v1/models")).body["data"]
    answer = await client.call("GET", f"/v1/models/{MODEL}")
    assert answer.status == 200
    assert answer.body in models
    for unknown in ("nothing", "org/nothing", "x" * 300):
        answer = await client.call("GET", f"/v1/models/{unknown}")
        assert (answer.status, answer.body["error"]["code"]) == (404, "model_not_found")
        assert answer.body["error"]["message"].startswith(f"The requested model '{unknown[:128]}")


async def test_the_query_of_a_stored_response_is_checked(client: Client) -> None:
    response = await client.create(model=MODEL, input=HELLO)
    path = f"/v1/responses/{response['id']}"
    for query in (
        "include=reasoning.encrypted_content",
        "include[]=message.output_text.logprobs&include[]=file_search_call.results",
        "stream=false",
        "include_obfuscation=True",
        "starting_after=0",
    ):
        assert (await client.call("GET", f"{path}?{query}")).body == response, query
    for query, param in (
        ("include=nothing", "include[0]"),
        ("include[]=reasoning.encrypted_content&include[]=x", "include[1]"),
        ("stream=perhaps", "stream"),
        ("include_obfuscation=", "include_obfuscation"),
        ("starting_after=x", "starting_after"),
        ("starting_after=-1", "starting_after"),
        ("stream=true", "stream"),
    ):
        answer = await client.call("GET", f"{path}?{query}")
        assert (answer.status, answer.body["error"]["param"]) == (400, param), query


async def test_references_stand_for_stored_items(client: Client) -> None:
    first = await client.create(model=MODEL, input="script:\nsay the first answer")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    by_value = await count(client, input=[{"role": "assistant", "content": "the first answer"}, user("x")])
    for form in (reference, {"id": reference["id"]}, {"type": None, "id": reference["id"]}):
        assert await count(client, input=[form, user("x")]) == by_value
    # in its own chain as well, and what a response was given can be continued
    on = await client.create(model=MODEL, previous_response_id=first["id"], input=[reference, user(HELLO)])
    assert on["status"] == "completed"
    await client.call("DELETE", f"/v1/responses/{first['id']}")
    answer = await client.create(model=MODEL, input=[{"id": on["output"][0]["id"]}, user(HELLO)])
    assert answer["status"] == "completed"


async def test_a_reference_to_nothing_is_refused(client: Client) -> None:
    unstored = await client.create(model=MODEL, input=HELLO, store=False)
    for item_id in (unstored["output"][0]["id"], "msg_nothing", "x" * 1000):
        error = await client.refused(404, model=MODEL, input=[user("x"), {"type": "item_reference", "id": item_id}])
        assert error["message"] == f"Item with id '{item_id[:128]}' not found."
        assert (error["code"], error["param"]) == ("item_not_found", "input[1]")


async def test_strictness_is_the_requests_own_choice(client: Client) -> None:
    fields = {"model": MODEL, "input": [user(HELLO) | {"x": 1}], "user": "me"}
    answer = await client.call("POST", "/v1/responses", json=fields)
    assert (answer.status, answer.headers["x-antiphon-warning"]) == (200, "input[0].x; user")
    strict = {"x-antiphon-strict": "true"}
    answer = await client.call("POST", "/v1/responses", json=fields, headers=strict)
    assert answer.status == 400
    assert answer.body["error"] == {
        "type": "invalid_request_error",
        "code": "unknown_parameter",
        "message": "Unknown parameter: 'input[0].x'.",
        "param": "input[0].x",
    }
    answer = await client.call("POST", "/v1/responses", json={"model": MODEL, "input": HELLO}, headers=strict)
    assert answer.status == 200
    answer = await client.call("POST", "/v1/responses", json=fields, headers={"x-antiphon-strict": "maybe"})
    assert answer.status == 400


async def test_a_phase_is_kept_and_never_made_up(client: Client) -> None:
    thought = {"role": "assistant", "content": "hm", "phase": "commentary"}
    first = await client.create(model=MODEL, input=[thought, user(HELLO)])
    assert "phase" not in first["output"][0]
    answer = await client.call(
        "POST", "/v1/responses", json={"model": MODEL, "input": [thought | {"phase": "other"}, user(HELLO)]}
    )
    assert (answer.status, answer.body["error"]["param"]) == (400, "input[0].phase")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
