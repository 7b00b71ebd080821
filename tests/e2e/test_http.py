"""The HTTP door of a running stack: what it answers to good, odd and bad requests."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.http import Client, output_text
from tests.support.openapi import assert_valid_error
from tests.support.stack import RunningStack

MODEL = "SmolLM2-135M-Instruct"  # the name that the launcher gives its workers, whatever runs in them
HELLO = "script:\nsay Hello world."


async def test_a_response_and_its_stream_say_the_same(client: Client) -> None:
    plain = await client.create(model=MODEL, input=HELLO)
    assert output_text(plain) == "Hello world."
    assert plain["status"] == "completed"
    reader = await client.stream_all(model=MODEL, input=HELLO)
    assert reader.text == "Hello world."
    final = reader.events[-1]["response"]
    assert final.keys() == plain.keys()
    stored = await client.call("GET", f"/v1/responses/{final['id']}")
    assert stored.body == final


async def test_the_echo_holds_what_was_asked_and_the_defaults_of_the_rest(client: Client) -> None:
    asked = {
        "temperature": 0.5,
        "top_p": 0.25,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "max_output_tokens": 64,
        "truncation": "auto",
        "instructions": "Be kind.",
        "metadata": {"a": "b"},
        "safety_identifier": "user-1",
        "prompt_cache_key": "key",
        "service_tier": "priority",
        "parallel_tool_calls": False,
    }
    body = await client.create(model=MODEL, input=HELLO, **asked)
    assert {name: body[name] for name in asked} == asked
    plain = await client.create(model=MODEL, input=HELLO)
    assert {name: plain[name] for name in asked} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_output_tokens": None,
        "truncation": "disabled",
        "instructions": None,
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
        "service_tier": "default",
        "parallel_tool_calls": True,
    }
    assert plain["tools"] == []
    assert plain["tool_choice"] == "auto"
    assert plain["reasoning"] is None
    assert plain["store"] is True
    assert plain["background"] is False
    assert plain["previous_response_id"] is None


async def test_a_cut_answer_is_incomplete(client: Client) -> None:
    reader = await client.stream_all(model=MODEL, input="script:\ntokens 100", max_output_tokens=16)
    final = reader.events[-1]["response"]
    assert reader.events[-1]["type"] == "response.incomplete"
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in final["output"]] == ["incomplete"]
    assert final["usage"]["output_tokens"] == 16


async def test_a_filtered_answer_is_incomplete(client: Client) -> None:
    body = await client.create(model=MODEL, input="script:\nsay so\nfilter")
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})


async def test_characters_are_never_split(client: Client) -> None:
    reader = await client.stream_all(model=MODEL, input="script:\nbytes f09f8e89e282ac\nsay !")
    assert reader.text == "🎉€!"


async def test_an_engine_that_fails_ends_the_stream_as_failed(client: Client) -> None:
    reader = await client.stream_all(model=MODEL, input="script:\nsay so far\nfail")
    assert [event["type"] for event in reader.events[-2:]] == ["error", "response.failed"]
    final = reader.events[-1]["response"]
    assert final["error"]["code"] == "server_error"
    assert final["status"] == "failed"
    stored = await client.call("GET", f"/v1/responses/{final['id']}")
    assert stored.body == final
    error = await client.refused(503, model=MODEL, input="script:\nfail")
    assert error["type"] == "server_error"


async def test_obfuscation_can_be_switched_off(client: Client) -> None:
    on = await client.stream_all(model=MODEL, input=HELLO)
    off = await client.stream_all(model=MODEL, input=HELLO, stream_options={"include_obfuscation": False})
    assert all("obfuscation" in event for event in on.events if "delta" in event)
    assert not any("obfuscation" in event for event in off.events)


async def test_the_first_events_come_before_the_first_token(client: Client) -> None:
    async with client.stream(model=MODEL, input="script:\nhold") as reader, asyncio.timeout(10):
        assert (await reader.next_event())["type"] == "response.created"
        event = await reader.next_event()
        assert event["type"] in {"response.queued", "response.in_progress"}


async def test_64_streams_at_once_are_whole_and_unmixed(client: Client) -> None:
    async def one(number: int) -> None:
        words = f"stream {number} says {'x' * number} and ends"
        reader = await client.stream_all(model=MODEL, input=f"script:\npace 200\nsay {words}")
        assert reader.text == words

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for number in range(64):
            tasks.create_task(one(number))


async def test_a_stream_over_http_1_0_has_no_chunks_and_ends_with_the_connection(
    scripted_stack: RunningStack,
) -> None:
    host, _, port = scripted_stack.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": MODEL, "input": HELLO, "stream": True}).encode()
    writer.write(
        b"POST /v1/responses HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, events = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert events.startswith(b"event: response.created\ndata: {")
    assert events.endswith(b"data: [DONE]\n\n")


async def test_an_event_and_its_blank_line_are_never_in_two_chunks(client: Client) -> None:
    async with client.session.post(
        "/v1/responses", json={"model": MODEL, "input": "script:\npace 500\ntokens 200", "stream": True}
    ) as response:
        chunk = b""
        async for data, is_end_of_chunk in response.content.iter_chunks():
            chunk += data
            if is_end_of_chunk and chunk:
                assert chunk.endswith(b"\n\n")
                chunk = b""
    assert chunk == b""


async def test_a_form_is_as_good_as_json(client: Client) -> None:
    form = {"model": MODEL, "input": HELLO, "temperature": "0.5", "store": "false", "metadata": '{"a": "b"}'}
    answer = await client.call("POST", "/v1/responses", data=form)
    assert answer.status == 200, answer.body
    assert output_text(answer.body) == "Hello world."
    assert (answer.body["temperature"], answer.body["store"], answer.body["metadata"]) == (0.5, False, {"a": "b"})


async def test_what_is_not_stored_cannot_be_had(client: Client) -> None:
    body = await client.create(model=MODEL, input=HELLO, store=False)
    assert (await client.call("GET", f"/v1/responses/{body['id']}")).status == 404
    error = await client.refused(400, model=MODEL, input=HELLO, previous_response_id=body["id"])
    assert error == {
        "message": f"Previous response with id '{body['id']}' not found.",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }


async def test_a_deleted_response_is_gone_and_its_children_can_only_be_read(client: Client) -> None:
    parent = await client.create(model=MODEL, input=HELLO)
    child = await client.create(model=MODEL, input=HELLO, previous_response_id=parent["id"])
    deleted = await client.call("DELETE", f"/v1/responses/{parent['id']}")
    assert deleted.body == {"id": parent["id"], "object": "response", "deleted": True}
    assert (await client.call("DELETE", f"/v1/responses/{parent['id']}")).status == 404
    assert (await client.call("GET", f"/v1/responses/{parent['id']}")).status == 404
    assert (await client.call("GET", f"/v1/responses/{child['id']}")).body == child
    error = await client.refused(400, model=MODEL, input=HELLO, previous_response_id=child["id"])
    assert error["code"] == "previous_response_not_found"


async def test_a_chain_holds_inputs_and_outputs_in_order_but_no_instructions(client: Client) -> None:
    first = await client.create(model=MODEL, input="script:\nsay ONE", instructions="SECRET")
    second = await client.create(model=MODEL, input="script:\nsay TWO", previous_response_id=first["id"])
    third = await client.create(model=MODEL, input="script:\necho", previous_response_id=second["id"])
    seen = output_text(third)
    assert seen.index("say ONE") < seen.index("ONE", seen.index("say ONE") + 7) < seen.index("say TWO")
    assert "SECRET" not in seen
    assert third["previous_response_id"] == second["id"]


async def test_a_large_request_arrives_whole(client: Client) -> None:
    filler = [{"role": "user", "content": f"{number} " + "x" * 1000} for number in range(80)]
    body = await client.create(model=MODEL, input=[*filler, {"role": "user", "content": HELLO}])
    assert output_text(body) == "Hello world."
    assert body["usage"]["input_tokens"] > 10_000


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/responses/resp_x/nothing", 404, "not_found"),
        ("GET", "/v1/responses/resp_x", 404, "response_not_found"),
        ("GET", "/v1/responses/..%2f..%2fetc", 404, "response_not_found"),
        ("GET", "/v1/responses/%00%ff", 404, "response_not_found"),
        ("DELETE", "/v1/responses/" + "x" * 5000, 404, "response_not_found"),
        ("PUT", "/v1/responses", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PATCH", "/v1/responses/resp_x", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_are_answered_in_the_apis_words(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.call(method, path)
    assert (answer.status, answer.body["error"]["code"]) == (status, code)
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"\xff\xfe",
        b'{"model": "x", "input": "\\ud800"}',
        b'{"model": "x", "input": "x", "temperature": NaN}',
        b'{"model": "x", "input": "x", "temperature": 1e999}',
        b'{"model": "x", "input": "x", "max_output_tokens": 1' + b"0" * 400 + b"}",
        b'{"model": "x", "input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "x", "input": "x"} trailing',
    ],
)
async def test_garbage_is_a_bad_request(client: Client, body: bytes) -> None:
    answer = await client.call("POST", "/v1/responses", data=body, headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert answer.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": "x"}, 400, "missing_required_parameter", "model"),
        ({"model": "nothing", "input": "x"}, 404, "model_not_found", "model"),
        ({"model": MODEL, "input": 1}, 400, "invalid_type", "input"),
        ({"model": MODEL, "input": "x", "store": "no"}, 400, "invalid_type", "store"),
        ({"model": MODEL, "input": "x", "stream": "yes"}, 400, "invalid_type", "stream"),
        ({"model": MODEL, "input": "x", "temperature": 3}, 400, "decimal_above_max_value", "temperature"),
        ({"model": MODEL, "input": "x", "top_p": -1}, 400, "decimal_below_min_value", "top_p"),
        (
            {"model": MODEL, "input": "x", "max_output_tokens": 15},
            400,
            "integer_below_min_value",
            "max_output_tokens",
        ),
        ({"model": MODEL, "input": "x", "top_logprobs": 21}, 400, "integer_above_max_value", "top_logprobs"),
        ({"model": MODEL, "input": "x", "metadata": {"k" * 65: "v"}}, 400, None, None),
        (
            {"model": MODEL, "input": "x", "prompt_cache_key": "k" * 65},
            400,
            "string_above_max_length",
            "prompt_cache_key",
        ),
        ({"model": MODEL, "input": "x", "background": True, "store": False}, 400, None, None),
        ({"model": MODEL, "input": "x", "conversation": "conv_1"}, 400, "unsupported_parameter", "conversation"),
        ({"model": MODEL, "input": [{"type": "nonsense"}]}, 400, "invalid_value", "input[0].type"),
        (
            {"model": MODEL, "input": [{"role": "user", "content": [{"type": "nonsense"}]}]},
            400,
            "invalid_value",
            "input[0].content[0].type",
        ),
        (
            {"model": MODEL, "input": "x", "previous_response_id": "resp_x"},
            400,
            "previous_response_not_found",
            "previous_response_id",
        ),
    ],
)
async def test_bad_values_are_named(
    client: Client, fields: dict[str, Any], status: int, code: str | None, param: str | None
) -> None:
    for stream in (False, True) if "stream" not in fields else (False,):
        error = await client.refused(status, **({"stream": stream} | fields))
        assert code in {None, error["code"]}, error
        assert param in {None, error["param"]}, error


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Expect": "nonsense"},
        {"Content-Type": "application/json; charset=utf-16"},
    ],
)
async def test_headers_that_do_not_fit_are_a_client_error(client: Client, headers: dict[str, str]) -> None:
    sent = {"Content-Type": "application/json"} | headers
    async with client.session.post(
        "/v1/responses", data=b'{"model": "x"}', headers=sent, skip_auto_headers=["Expect"]
    ) as response:
        assert response.status in {400, 415, 417}
        assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "zippy"])
async def test_bodies_that_cannot_be_decompressed_are_a_client_error(client: Client, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    answer = await client.call("POST", "/v1/responses", data=b"no JSON", headers=headers)
    assert answer.status in {400, 415}
    assert answer.body["error"]["code"] != "invalid_json"
    assert encoding != "gzip" or answer.headers["Connection"] == "close"  # what is left of the body is unknown


@pytest.mark.parametrize(
    "sent",
    [
        b"FOO /v1/responses HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + 20_000 * b"x" + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_with_the_error_object_too(scripted_stack: RunningStack, sent: bytes) -> None:
    host, _, port = scripted_stack.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 400 Bad Request\r\n" in head
    assert b"\r\nx-request-id: req_" in head
    assert_valid_error(json.loads(await reader.read()))
    writer.close()


async def test_other_content_types_are_refused(client: Client) -> None:
    answer = await client.call("POST", "/v1/responses", data=b"<x/>", headers={"Content-Type": "application/xml"})
    assert (answer.status, answer.body["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_prompt_that_does_not_fit_is_refused_before_any_event(client: Client) -> None:
    error = await client.refused(400, model=MODEL, input="x" * 900_000, stream=True)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


async def test_models_and_health(client: Client) -> None:
    models = (await client.call("GET", "/v1/models")).body
    assert models["object"] == "list"
    (model,) = models["data"]
    assert model.keys() == {"id", "object", "created", "owned_by"}
    assert (model["id"], model["object"]) == (MODEL, "model")
    assert (await client.call("GET", "/healthz")).status == 200
    assert (await client.call("GET", "/readyz")).status == 200
    assert (await client.call("HEAD", "/healthz")).status == 200
