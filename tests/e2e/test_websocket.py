"""The WebSocket transport of a running stack: section "WebSocket transport" of the specification, rule by rule."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from tests.support.http import Client, output_text
from tests.support.stack import RunningStack
from tests.support.websocket import Socket, SocketClosed, SocketError, socket_of

MODEL = "SmolLM2-135M-Instruct"
HELLO = "script:\nsay Hello world."
FAIL = "script:\nsay so far\nfail"


@pytest.fixture
async def socket(scripted_stack: RunningStack) -> AsyncGenerator[Socket, None]:
    async with socket_of(scripted_stack.base_url) as socket:
        yield socket


async def test_a_turn_is_the_same_as_a_stream_over_http(socket: Socket, client: Client) -> None:
    await socket.send(model=MODEL, input=HELLO)
    events = await socket.events()
    over_http = await client.stream_all(model=MODEL, input=HELLO)
    assert [event["type"] for event in events if "progress" not in event["type"]] == [
        event["type"] for event in over_http.events if "progress" not in event["type"]
    ]
    final = events[-1]["response"]
    assert output_text(final) == "Hello world."
    assert (await client.call("GET", f"/v1/responses/{final['id']}")).body == final


async def test_queued_turns_run_in_order_and_number_from_0_each(socket: Socket) -> None:
    for number in range(5):
        await socket.send(model=MODEL, input=f"script:\npace 100\nsay turn {number}")
    for number in range(5):
        events = await socket.events()  # checks that numbers are 0, 1, 2...
        assert output_text(events[-1]["response"]) == f"turn {number}"


async def test_an_unstored_response_is_continued_on_its_own_socket_only(
    scripted_stack: RunningStack, socket: Socket, client: Client
) -> None:
    first = await socket.turn(model=MODEL, input=HELLO, store=False)
    second = await socket.turn(model=MODEL, input=HELLO, store=False, previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"] + first["usage"]["output_tokens"]
    async with socket_of(scripted_stack.base_url) as other:
        error = await other.refused(model=MODEL, input=HELLO, previous_response_id=second["id"])
        assert (error.status, error.error["code"], error.error["param"]) == (
            400,
            "previous_response_not_found",
            "previous_response_id",
        )
        assert (await other.turn(model=MODEL, input=HELLO))["status"] == "completed"
    refused = await client.refused(400, model=MODEL, input=HELLO, previous_response_id=second["id"])
    assert refused["code"] == "previous_response_not_found"
    third = await socket.turn(model=MODEL, input=HELLO, store=False, previous_response_id=second["id"])
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]


async def test_only_the_latest_unstored_response_is_remembered(socket: Socket) -> None:
    first = await socket.turn(model=MODEL, input=HELLO, store=False)
    await socket.turn(model=MODEL, input=HELLO, store=False)
    error = await socket.refused(model=MODEL, input=HELLO, store=False, previous_response_id=first["id"])
    assert error.error["code"] == "previous_response_not_found"


async def test_a_stored_response_after_unstored_ones_is_whole_from_anywhere(socket: Socket, client: Client) -> None:
    stored = await socket.turn(model=MODEL, input=HELLO)
    unstored = await socket.turn(model=MODEL, input=HELLO, store=False, previous_response_id=stored["id"])
    again = await socket.turn(model=MODEL, input=HELLO, previous_response_id=unstored["id"])
    on = await client.create(model=MODEL, input=HELLO, previous_response_id=again["id"])
    expected = again["usage"]["input_tokens"] + (again["usage"]["input_tokens"] - unstored["usage"]["input_tokens"])
    assert on["usage"]["input_tokens"] == expected


@pytest.mark.parametrize(
    "failing",
    [
        {"input": [{"type": "function_call_output", "call_id": "call_missing", "output": "x"}]},
        {"input": HELLO, "temperature": 9},
        {"input": HELLO, "temperature": "hot"},
        {"input": FAIL},
        {"input": HELLO, "model": "nothing"},
    ],
)
async def test_a_failed_continuation_evicts_what_it_continued(socket: Socket, failing: dict[str, Any]) -> None:
    first = await socket.turn(model=MODEL, input=HELLO, store=False)
    fields = {"model": MODEL, "store": False, "previous_response_id": first["id"]}
    try:
        assert (await socket.turn(**fields | failing))["status"] == "failed"
    except SocketError as error:
        assert 400 <= error.status < 600  # noqa: PT017 - both are failures
    refused = await socket.refused(**fields | {"input": HELLO})
    assert (refused.status, refused.error["code"]) == (400, "previous_response_not_found")
    assert (await socket.turn(model=MODEL, input=HELLO, store=False))["status"] == "completed"


async def test_an_unknown_previous_response_is_an_error_frame(socket: Socket) -> None:
    error = await socket.refused(model=MODEL, input=HELLO, previous_response_id="resp_missing", store=False)
    assert (error.status, error.error["code"], error.error["param"], error.error["type"]) == (
        400,
        "previous_response_not_found",
        "previous_response_id",
        "invalid_request_error",
    )


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[]", "invalid_type", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type":"response.unknown"}', "invalid_value", "type"),
        ('{"type":7}', "invalid_value", "type"),
        ('{"type":"response.create"}', "missing_required_parameter", "model"),
        ('{"type":"response.create","model":"m","input":"x","background":true}', "unsupported_parameter", "background"),
        ('{"type":"response.create","model":"m","input":"x","stream":false}', "unsupported_parameter", "stream"),
        ('{"type":"response.create","model":"m","model":"n","input":"x"}', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
    ],
)
async def test_a_frame_that_is_no_turn_is_an_error_and_the_socket_stays(
    socket: Socket, frame: str | bytes, code: str, param: str | None
) -> None:
    data = frame.encode() if isinstance(frame, str) else frame
    await socket.ws.send_frame(data, aiohttp.WSMsgType.TEXT)
    with pytest.raises(SocketError) as caught:
        await socket.next_event()
    assert (caught.value.status, caught.value.error["code"], caught.value.error["param"]) == (400, code, param)
    assert output_text(await socket.turn(model=MODEL, input=HELLO)) == "Hello world."


async def test_a_binary_frame_is_refused_and_the_socket_stays(socket: Socket) -> None:
    await socket.ws.send_bytes(json.dumps({"type": "response.create", "model": MODEL, "input": HELLO}).encode())
    with pytest.raises(SocketError, match="Binary"):
        await socket.next_event()
    assert output_text(await socket.turn(model=MODEL, input=HELLO)) == "Hello world."


async def test_what_only_repeats_this_transport_is_dropped(socket: Socket) -> None:
    final = await socket.turn(model=MODEL, input=HELLO, stream=True, background=False, stream_options=None)
    assert output_text(final) == "Hello world."
    assert final["background"] is False


async def test_deltas_are_padded_unless_they_shall_not_be(socket: Socket) -> None:
    await socket.send(model=MODEL, input=HELLO)
    assert all("obfuscation" in event for event in await socket.events() if "delta" in event)
    await socket.send(model=MODEL, input=HELLO, stream_options={"include_obfuscation": False})
    assert not any("obfuscation" in event for event in await socket.events())


async def test_an_ignored_field_is_named_in_the_first_event(socket: Socket) -> None:
    await socket.send(model=MODEL, input=HELLO, user="me")
    events = await socket.events()
    assert events[0]["x_antiphon_warning"] == "user"
    assert not any("x_antiphon_warning" in event for event in events[1:])


@pytest.mark.parametrize("store", [True, False])
async def test_a_warm_up_has_no_output_and_can_be_continued(socket: Socket, store: bool) -> None:
    warm = await socket.turn(model=MODEL, input=f"Rules. {'word ' * 500}", store=store, generate=False)
    assert (warm["status"], warm["output"]) == ("completed", [])
    final = await socket.turn(model=MODEL, input=HELLO, store=store, previous_response_id=warm["id"])
    assert output_text(final) == "Hello world."
    assert final["usage"]["input_tokens_details"]["cached_tokens"] > 400
    error = await socket.refused(model=MODEL, input=HELLO, generate="no")
    assert error.error["param"] == "generate"


async def test_a_failure_in_the_middle_ends_the_turn_and_not_the_socket(socket: Socket) -> None:
    await socket.send(model=MODEL, input=FAIL)
    events = await socket.events()
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert output_text(await socket.turn(model=MODEL, input=HELLO)) == "Hello world."


async def test_too_many_waiting_turns_are_refused(socket: Socket) -> None:
    await socket.send(model=MODEL, input="script:\nwait 1000\nsay a")
    assert (await socket.next_event())["type"] == "response.created"  # it runs: nothing waits
    for _ in range(33):
        await socket.send(model=MODEL, input=HELLO)
    refusals = completed = 0
    while completed < 33:
        try:
            completed += (await socket.next_event())["type"] == "response.completed"
        except SocketError as error:
            assert (error.status, error.error["type"]) == (429, "rate_limit_error")  # noqa: PT017
            refusals += 1
    assert refusals == 1


async def test_a_plain_get_is_not_allowed(client: Client) -> None:
    answer = await client.call("GET", "/v1/responses")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://evil.example:80"])
async def test_a_foreign_page_may_not_use_the_server(scripted_stack: RunningStack, client: Client, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        async with socket_of(scripted_stack.base_url, origin=origin):
            pass
    assert refusal.value.status == 403
    answer = await client.call("POST", "/v1/responses", data=b"{}", headers={"Origin": origin})
    assert answer.status == 403
    # a name may have been made to lead here
    host = origin.partition("//")[2]
    headers = {"Origin": origin, "Host": host}
    assert (await client.call("DELETE", "/v1/responses/resp_x", headers=headers)).status == 403


async def test_a_page_of_the_server_itself_may_use_it(scripted_stack: RunningStack) -> None:
    async with socket_of(scripted_stack.base_url, origin=scripted_stack.base_url) as socket:
        assert (await socket.turn(model=MODEL, input=HELLO))["status"] == "completed"


async def test_closing_the_socket_while_a_turn_runs_ends_at_once(scripted_stack: RunningStack) -> None:
    async with asyncio.timeout(10), socket_of(scripted_stack.base_url) as socket:
        await socket.send(model=MODEL, input="script:\nsay a\nhold")
        while (await socket.next_event())["type"] != "response.output_text.delta":
            pass
        await socket.ws.close()
    with pytest.raises(SocketClosed):
        await socket.next_event()
