"""Background responses, resumed streams, cancellation: on two edges and two workers, over HTTP and gRPC."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import grpc
import openai
import pytest
from redis.asyncio import Redis

from antiphon.errors import from_trailing_metadata
from antiphon.responses.v1 import error_pb2, item_pb2, response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from edge.codec import with_defaults
from store import keys
from store.ids import parse_response_id
from tests.support.fleet import Fleet, running_fleet
from tests.support.http import Client, SseReader, client_of, output_text
from tests.support.jobs import create_held, edge_stores, opening, queued_record
from tests.support.openapi import assert_valid_response
from tests.support.stream_rules import Json, assert_legal_stream

MODEL = "scripted"
TERMINAL = {"completed", "failed", "incomplete", "cancelled"}


def counting(count: int, pace: int = 0) -> str:
    """A script that says so many numbers."""
    return f"script:\npace {pace}\n" + "".join(f"say {number} \n" for number in range(count))


def counted(count: int) -> str:
    return "".join(str(number) for number in range(count))


def digits(text: str) -> str:
    return "".join(text.split())


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(
        tmp_path_factory.mktemp("fleet"),
        resumable_streams="true",
        abandon_after_s="1",
        heartbeat_interval_s="0.5",
        drain_timeout_s="20",
    ) as fleet:
        yield fleet


@pytest.fixture
async def one(fleet: Fleet) -> AsyncGenerator[Client, None]:
    async with client_of(fleet.edges[0].base_url) as client:
        yield client


@pytest.fixture
async def two(fleet: Fleet) -> AsyncGenerator[Client, None]:
    async with client_of(fleet.edges[1].base_url) as client:
        yield client


async def start(client: Client, script: str, **fields: Any) -> Json:
    """A background response that was just accepted."""
    return await client.create(model=MODEL, input=script, background=True, **fields)


async def retrieve(client: Client, response_id: str) -> Json:
    answer = await client.call("GET", f"/v1/responses/{response_id}")
    assert answer.status == 200, answer.body
    assert_valid_response(answer.body)
    body: Json = answer.body
    return body


async def ended(client: Client, response_id: str) -> Json:
    """The response once it has ended."""
    async with asyncio.timeout(30):
        while (response := await retrieve(client, response_id))["status"] not in TERMINAL:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return response


@asynccontextmanager
async def resumed(client: Client, response_id: str, **query: Any) -> AsyncGenerator[SseReader, None]:
    """The stream of a response that is there."""
    path = f"/v1/responses/{response_id}"
    async with client.session.get(path, params={"stream": "true", **query}) as response:
        assert response.status == 200, await response.text()
        yield SseReader(response)


def plain(events: list[Json]) -> list[Json]:
    """Events without their padding, which may differ."""
    return [{name: value for name, value in event.items() if name != "obfuscation"} for event in events]


async def test_a_background_response_is_accepted_at_once_and_ends(one: Client, two: Client) -> None:
    accepted = await start(one, counting(5))
    assert accepted["status"] == "queued"
    assert accepted["output"] == []
    assert accepted["background"] is True
    response = await ended(two, accepted["id"])
    assert response["status"] == "completed"
    assert digits(output_text(response)) == counted(5)
    assert response["usage"]["output_tokens"] > 0


async def test_a_background_stream_is_legal_and_replayed_equal_by_any_edge(one: Client, two: Client) -> None:
    reader = await one.stream_all(model=MODEL, input=counting(20, pace=100), background=True)
    response_id = reader.events[0]["response"]["id"]
    assert digits(reader.text) == counted(20)
    for client in (one, two):
        async with resumed(client, response_id) as again:
            final = await again.rest()
        assert plain(again.events) == plain(reader.events)
        assert final == await retrieve(client, response_id)


async def test_a_stream_can_be_resumed_after_any_event(one: Client, two: Client) -> None:
    whole = await one.stream_all(model=MODEL, input=counting(10), background=True)
    response_id = whole.events[0]["response"]["id"]
    for number in range(len(whole.events)):
        async with resumed(two, response_id, starting_after=number, include_obfuscation="false") as reader:
            assert await reader.drain() == plain(whole.events)[number + 1 :]


async def test_a_follower_sees_what_is_still_to_come(one: Client, two: Client) -> None:
    accepted = await start(one, counting(60, pace=60))
    async with resumed(one, accepted["id"]) as first, resumed(two, accepted["id"]) as second:
        await first.next_event("response.output_text.delta")
        await first.rest()
        await second.rest()
    assert digits(first.text) == counted(60)
    assert plain(first.events) == plain(second.events)


async def test_what_was_not_logged_cannot_be_streamed_and_says_why(one: Client) -> None:
    answer = await one.call("GET", "/v1/responses/resp_nothing", params={"stream": "true"})
    assert answer.status == 404


async def test_cancelling_reaches_a_running_response_from_another_edge(one: Client, two: Client) -> None:
    accepted = await start(one, "script:\nsay Hello.\nhold")
    async with resumed(one, accepted["id"]) as reader:
        await reader.next_event("response.output_text.delta")
        path = f"/v1/responses/{accepted['id']}/cancel"
        for answer in await asyncio.gather(*(client.call("POST", path) for client in (two, one, two))):
            assert answer.status == 200
            assert answer.body["status"] == "cancelled"
        final = await reader.rest()
    assert final["status"] == "cancelled"
    assert [item["status"] for item in final["output"]] == ["incomplete"]
    assert await retrieve(one, accepted["id"]) == final


async def test_a_response_that_has_ended_stays_as_it_is_when_it_is_cancelled(one: Client, two: Client) -> None:
    accepted = await start(one, counting(3))
    response = await ended(one, accepted["id"])
    answer = await two.call("POST", f"/v1/responses/{accepted['id']}/cancel")
    assert (answer.status, answer.body) == (200, response)


async def test_only_background_responses_can_be_cancelled(one: Client) -> None:
    response = await one.create(model=MODEL, input=counting(3))
    answer = await one.call("POST", f"/v1/responses/{response['id']}/cancel")
    assert answer.status == 400
    assert answer.body["error"]["message"] == "Cannot cancel a synchronous response."
    assert (await one.call("POST", "/v1/responses/resp_nothing/cancel")).status == 404


async def test_deleting_a_running_response_ends_it_and_its_streams(one: Client, two: Client) -> None:
    accepted = await start(one, "script:\nsay Hello.\nhold")
    async with resumed(one, accepted["id"]) as reader:
        await reader.next_event("response.output_text.delta")
        answer = await two.call("DELETE", f"/v1/responses/{accepted['id']}")
        assert answer.body == {"id": accepted["id"], "object": "response", "deleted": True}
        events = await reader.drain()
        assert events[-1]["response"]["status"] == "cancelled"
    for path in ("", "/input_items"):
        assert (await one.call("GET", f"/v1/responses/{accepted['id']}{path}")).status == 404


async def test_a_chain_continues_a_background_response_once_it_has_ended(one: Client, two: Client) -> None:
    accepted = await start(one, "script:\nsay Hello.\nwait 300")
    error = await two.refused(400, model=MODEL, input="echo", previous_response_id=accepted["id"])
    assert error["param"] == "previous_response_id"
    await ended(two, accepted["id"])
    child = await two.create(model=MODEL, input="script:\necho", previous_response_id=accepted["id"])
    assert "Hello." in output_text(child)


async def test_input_items_come_in_pages_newest_first(one: Client, two: Client) -> None:
    texts = [f"message {number}" for number in range(5)]
    items = [{"role": "user", "content": text} for text in texts]
    response = await one.create(model=MODEL, input=items)
    path = f"/v1/responses/{response['id']}/input_items"
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await two.call("GET", path, params={"limit": "2", **after})).body
        assert page["object"] == "list"
        assert [page["data"][0]["id"], page["data"][-1]["id"]] == [page["first_id"], page["last_id"]]
        found += [item["content"][0]["text"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert found == texts[::-1]
    ascending = (await two.call("GET", path, params={"order": "asc"})).body
    assert [item["content"][0]["text"] for item in ascending["data"]] == texts
    for query in ({"limit": "0"}, {"limit": "101"}, {"order": "up"}, {"after": "msg_x"}):
        answer = await one.call("GET", path, params=query)
        assert (answer.status, answer.body["error"]["param"]) == (400, next(iter(query)))


async def test_a_request_that_no_worker_takes_is_refused_before_it_is_accepted(one: Client) -> None:
    error = await one.refused(400, model=MODEL, input="token " * 150_000, background=True)
    assert error["code"] == "context_length_exceeded"
    error = await one.refused(404, model="nobody", input="x", background=True)
    assert error["code"] == "model_not_found"
    error = await one.refused(400, model=MODEL, input="x", background=True, store=False)
    assert error["param"] == "background"


async def test_jobs_that_cannot_be_run_end_as_failed_and_stop_no_others(fleet: Fleet, one: Client, two: Client) -> None:
    broken, damaged = queued_record(), queued_record()
    for record in (broken, damaged):
        record.response.params.CopyFrom(with_defaults(record.response.params))
    damaged_id = parse_response_id(damaged.response.id)
    assert damaged_id is not None
    async with edge_stores(fleet.valkey.url, "tester") as stores, Redis.from_url(fleet.valkey.url) as raw:
        await stores.jobs.enqueue("default", broken, request=b"no request", first_events=opening(broken))
        lease = await create_held(stores, "default", damaged)
        await raw.set(keys.response("default", damaged_id), b"no record", keepttl=True)
        await stores.jobs.hand_over(lease)
        accepted = await start(one, counting(10))
        assert (await ended(two, accepted["id"]))["status"] == "completed"
        for record in (broken, damaged):
            async with resumed(two, record.response.id) as reader:
                assert [event["type"] for event in await reader.drain()][-2:] == ["error", "response.failed"]
            final = await retrieve(one, record.response.id)
            assert (final["status"], final["error"]["code"]) == ("failed", "server_error")
    assert [edge.process.poll() for edge in fleet.edges] == [None, None]


async def test_an_engine_that_fails_ends_the_response_as_failed(one: Client, two: Client) -> None:
    accepted = await start(one, "script:\nsay Hello.\nfail")
    async with resumed(two, accepted["id"]) as reader:
        final = await reader.rest()
    assert final["status"] == "failed"
    assert final["error"]["code"] == "server_error"
    assert await retrieve(one, accepted["id"]) == final


async def test_a_foreground_stream_that_breaks_off_is_resumed_elsewhere(one: Client, two: Client) -> None:
    async with one.stream(model=MODEL, input=counting(40, pace=40)) as reader:
        await reader.next_event("response.output_text.delta")
        response_id = reader.events[0]["response"]["id"]
        last = reader.events[-1]["sequence_number"]
    async with resumed(two, response_id, starting_after=last) as rest:
        final = assert_legal_stream(reader.events[: last + 1] + await rest.drain())
    assert final["status"] == "completed"
    assert digits(output_text(final)) == counted(40)


async def test_a_foreground_stream_that_nobody_reads_any_more_is_cancelled(one: Client, two: Client) -> None:
    async with one.stream(model=MODEL, input="script:\nsay Hello.\nhold") as reader:
        await reader.next_event("response.output_text.delta")
        response_id = reader.events[0]["response"]["id"]
    assert (await ended(two, response_id))["status"] == "cancelled"


async def test_an_idempotency_key_makes_one_response_on_all_edges(one: Client, two: Client) -> None:
    body = {"model": MODEL, "input": counting(30, pace=60)}
    headers = {"Idempotency-Key": "order-1"}

    async def post(client: Client) -> Json:
        answer = await client.call("POST", "/v1/responses", json=body, headers=headers)
        assert answer.status == 200, answer.body
        response: Json = answer.body
        return response

    responses = await asyncio.gather(*(post(client) for client in [one, two] * 3))
    assert len({response["id"] for response in responses}) == 1
    assert all(response == responses[0] for response in responses)
    assert digits(output_text(responses[0])) == counted(30)
    stream_body = {**body, "stream": True}
    for client in (one, two):
        async with client.session.post(
            "/v1/responses", json=stream_body, headers={"Idempotency-Key": "order-1-streamed"}
        ) as streamed:
            reader = SseReader(streamed)
            final = await reader.rest()
        assert digits(reader.text) == counted(30)
        assert final == await retrieve(one, final["id"])
    shuffled = dict(reversed(body.items()))
    again = await two.call("POST", "/v1/responses", json=shuffled, headers=headers)
    assert again.body == responses[0]
    other = await one.call("POST", "/v1/responses", json={**body, "input": "x"}, headers=headers)
    assert (other.status, other.body["error"]["code"]) == (422, "idempotency_key_reused")


async def test_an_idempotency_key_is_free_again_when_the_request_was_refused(one: Client, two: Client) -> None:
    headers = {"Idempotency-Key": "order-2"}
    body = {"model": MODEL, "input": "token " * 150_000}
    for _ in range(2):
        answer = await one.call("POST", "/v1/responses", json=body, headers=headers)
        assert answer.status == 400
    answer = await two.call("POST", "/v1/responses", json={"model": MODEL, "input": "hi"}, headers=headers)
    assert answer.status == 200
    unstored = {"model": MODEL, "input": "hi", "store": False}
    answer = await two.call("POST", "/v1/responses", json=unstored, headers={"Idempotency-Key": "order-3"})
    assert (answer.status, answer.body["error"]["param"]) == (400, "store")
    for key in ("", "x" * 256):
        answer = await two.call("POST", "/v1/responses", json=body, headers={"Idempotency-Key": key})
        assert answer.status == 400


async def test_the_official_client_polls_cancels_streams_and_resumes(fleet: Fleet) -> None:
    base_urls = [f"{edge.base_url}/v1" for edge in fleet.edges]
    async with (
        openai.AsyncOpenAI(base_url=base_urls[0], api_key="x", max_retries=0) as one,
        openai.AsyncOpenAI(base_url=base_urls[1], api_key="x", max_retries=0) as two,
    ):
        held = await one.responses.create(model=MODEL, input="script:\nhold", background=True)
        assert (await two.responses.cancel(held.id)).status == "cancelled"
        stream = await one.responses.create(model=MODEL, input=counting(20, pace=40), background=True, stream=True)
        seen = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        created = seen[0]
        assert created.type == "response.created"
        await stream.close()
        rest = await two.responses.retrieve(created.response.id, stream=True, starting_after=seen[-1].sequence_number)
        seen += [event async for event in rest]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert seen[-1].type == "response.completed"
        items = await two.responses.input_items.list(created.response.id)
        assert [item.type async for item in items] == ["message"]


async def test_the_grpc_door_has_it_all(fleet: Fleet) -> None:
    text = "script:\nsay Hello.\nhold"
    message = item_pb2.Message(role=item_pb2.ROLE_USER)
    message.content.add().input_text.text = text
    params = response_pb2.ResponseParams(model=MODEL, background=True, input=[item_pb2.Item(message=message)])
    async with (
        grpc.aio.insecure_channel(fleet.edges[0].grpc_target) as first,
        grpc.aio.insecure_channel(fleet.edges[1].grpc_target) as second,
        asyncio.timeout(30),
    ):
        one, two = ResponsesServiceStub(first), ResponsesServiceStub(second)
        key = (("idempotency-key", "grpc-1"),)
        accepted = await one.CreateResponse(pb.CreateResponseRequest(params=params), metadata=key)
        assert accepted.response.status == response_pb2.RESPONSE_STATUS_QUEUED
        same = await two.CreateResponse(pb.CreateResponseRequest(params=params), metadata=key)
        assert same.response.id == accepted.response.id
        resumed = two.ResumeResponse(pb.ResumeResponseRequest(response_id=accepted.response.id, starting_after=0))
        kinds = []
        async for answer in resumed:
            kinds.append(answer.event.WhichOneof("event"))
            if kinds[-1] == "output_text_delta":
                cancelled = await one.CancelResponse(pb.CancelResponseRequest(response_id=accepted.response.id))
                assert cancelled.response.status == response_pb2.RESPONSE_STATUS_CANCELLED
        assert kinds[0] == "queued"
        assert kinds[-1] == "incomplete"
        items = await two.ListInputItems(pb.ListInputItemsRequest(response_id=accepted.response.id))
        assert [item.message.content[0].input_text.text for item in items.items] == [text]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await two.CancelResponse(pb.CancelResponseRequest(response_id="resp_nothing"))
        error = from_trailing_metadata(refused.value.trailing_metadata())
        assert error is not None
        assert error.reason == error_pb2.ERROR_REASON_RESPONSE_NOT_FOUND


async def test_an_edge_that_is_told_to_stop_answers_what_still_comes_and_ends_every_connection(fleet: Fleet) -> None:
    edge = fleet.edges[1]
    body = json.dumps({"model": MODEL, "input": "script:\nsay late"}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: edge\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    async with (
        asyncio.timeout(30),
        AsyncExitStack() as stack,
        client_of(edge.base_url) as client,
        grpc.aio.insecure_channel(edge.grpc_target) as channel,
        client.session.ws_connect("/v1/responses") as socket,
    ):
        calls = ResponsesServiceStub(channel)
        await calls.ListModels(pb.ListModelsRequest())
        running = await stack.enter_async_context(
            client.stream(model=MODEL, input="script:\nsay on\nhold", store=False)
        )
        await running.next_event("response.output_text.delta")
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", edge.port)
        idle_writer.write(b"GET /healthz HTTP/1.1\r\nHost: edge\r\n\r\n")
        await idle.readuntil(b"}")
        coming, coming_writer = await asyncio.open_connection("127.0.0.1", edge.port)
        coming_writer.write(head.encode())
        assert await coming.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

        fleet.signal(edge.process.pid, signal.SIGTERM)
        assert (await socket.receive()).data == aiohttp.WSCloseCode.GOING_AWAY
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await calls.ListModels(pb.ListModelsRequest())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE  # gRPC itself: nothing has been sent

        coming_writer.write(body)
        idle_writer.write(head.replace("Expect: 100-continue\r\n", "").encode() + body)
        for reader in (coming, idle):
            answer = await reader.read()  # to its end
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nConnection: close\r\n" in answer
        await stack.aclose()
        for writer in (idle_writer, coming_writer):
            writer.close()
        await asyncio.to_thread(fleet.drain_edge, 1)
    await asyncio.to_thread(fleet.restart_edge, 1)
