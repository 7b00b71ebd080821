"""Owners behind one real edge: keys, what they see of each other, limits, erasure, and a store that takes no writes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from openai import AsyncOpenAI

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceStub
from tests.support.http import Answer, Client, client_of, output_text
from tests.support.owners import OwnersEdge, error_of, owners_edge
from tests.support.websocket import socket_of
from tests.support.worker import MODEL

OWNERS = ("alice", "bob", "rated", "single", "small", "brief")
LIMITS = """
[owners.rated]
requests_per_minute = 3
[owners.single]
max_running = 1
requests_per_minute = 6000
[owners.small]
max_stored_bytes = 1
[owners.brief]
response_ttl_s = 1
"""
SAY = {"model": MODEL, "input": "script:\nsay Hello."}
HOLD = {"model": MODEL, "input": "script:\nsay a\nhold", "store": False}


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnersEdge]:
    with owners_edge(tmp_path_factory.mktemp("owners"), owners=OWNERS, limits=LIMITS) as running:
        yield running


@asynccontextmanager
async def client_for(owners: OwnersEdge, owner: str) -> AsyncGenerator[Client, None]:
    """A client with a key of ``owner``, which the edge knows by now."""
    async with client_of(owners.base_url, api_key=owners.keys[owner]) as client:
        await until(lambda: has_status(client, 200))
        yield client


@pytest.fixture
async def alice(owners: OwnersEdge) -> AsyncGenerator[Client, None]:
    async with client_for(owners, "alice") as client:
        yield client


@pytest.fixture
async def bob(owners: OwnersEdge) -> AsyncGenerator[Client, None]:
    async with client_for(owners, "bob") as client:
        yield client


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await condition():  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.05)


async def has_status(client: Client, status: int, path: str = "/v1/models") -> bool:
    return (await client.call("GET", path)).status == status


async def post(client: Client, **fields: Any) -> Answer:
    return await client.call("POST", "/v1/responses", json=SAY | fields)


async def test_without_a_right_key_nothing_is_served_but_health(owners: OwnersEdge, alice: Client) -> None:
    key = owners.keys["alice"]
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer sk-antiphon-wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {key}x"},
        {"Authorization": f"Basic {key}"},
        {"Authorization": key},
        {"Authorization": "Bearer \udcff\udcfe"},
        {"Authorization": "Bearer " + "x" * 8000},
        {"Sec-WebSocket-Protocol": "openai-insecure-api-key.wrong"},
    ]
    paths = [
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses"),
        ("GET", "/v1/responses/resp_x"),
        ("DELETE", "/v1/responses/resp_x"),
        ("POST", "/v1/responses/compact"),
        ("GET", "/v1/models"),
        ("GET", "/v1/capabilities"),
        ("GET", "/nothing"),
        ("GET", "/healthz/"),
    ]
    async with client_of(owners.base_url) as stranger:
        for method, path in paths:
            for headers in wrong:
                answer = await stranger.call(method, path, headers=headers)
                assert (answer.status, answer.body["error"]["code"]) == (401, "invalid_api_key"), (path, headers)
                assert answer.body["error"]["type"] == "authentication_error"
                assert answer.headers["www-authenticate"] == "Bearer"
        async with stranger.session.get("/healthz") as health, stranger.session.get("/readyz") as ready:
            assert (health.status, ready.status) == (200, 200)
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with socket_of(owners.base_url):
                pass
        assert caught.value.status == 401
    async with stub_for(owners, "wrong") as stub:
        for call in (
            stub.ListModels(pb.ListModelsRequest()),
            stub.GetResponse(pb.GetResponseRequest(response_id="resp_x")),
            stub.CreateResponse(pb.CreateResponseRequest(params=params())),
            stub.CompactResponse(pb.CompactResponseRequest(params=params())),
        ):
            assert (await failure(call)).reason == ErrorReason.ERROR_REASON_INVALID_API_KEY
    assert (await alice.call("GET", "/v1/models", headers={"Authorization": f"bearer {key}"})).status == 200


async def test_openais_client_and_a_browsers_websocket_bring_the_key(owners: OwnersEdge, alice: Client) -> None:
    key = owners.keys["alice"]
    async with AsyncOpenAI(base_url=f"{owners.base_url}/v1", api_key=key, max_retries=0) as openai:
        response = await openai.responses.create(model=MODEL, input="script:\nsay Hello.")
        assert response.output_text == "Hello."
        async with openai.responses.connect() as connection:
            await connection.response.create(model=MODEL, input="script:\nsay Hello.")
            types = []
            async for event in connection:
                types.append(event.type)
                if event.type == "response.completed":
                    break
            assert types[0] == "response.created"
    offered = ["realtime", f"openai-insecure-api-key.{key}"]
    async with socket_of(owners.base_url, protocols=offered) as socket:
        assert socket.ws.protocol == "realtime"
        assert output_text(await socket.turn(**SAY)) == "Hello."
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with socket_of(owners.base_url, protocols=offered[1:]):
            pass
    assert caught.value.status == 400


async def test_another_owners_ids_answer_exactly_like_absent_ones(
    owners: OwnersEdge, alice: Client, bob: Client
) -> None:
    created, gone = await ended_in_background(alice), await ended_in_background(alice)
    assert (await alice.call("DELETE", f"/v1/responses/{gone['id']}")).status == 200
    absent = {gone["id"]: created["id"], gone["output"][0]["id"]: created["output"][0]["id"]}

    def renamed(body: bytes) -> bytes:
        for absent_id, foreign_id in absent.items():
            body = body.replace(absent_id.encode(), foreign_id.encode())
        return body

    async def answers(ids: tuple[str, str]) -> list[tuple[int, bytes, list[str]]]:
        response_id, item_id = ids
        reference = {"type": "item_reference", "id": item_id}
        found = []
        for method, path, body in (
            ("GET", f"/v1/responses/{response_id}", None),
            ("GET", f"/v1/responses/{response_id}?stream=true", None),
            ("GET", f"/v1/responses/{response_id}/input_items", None),
            ("POST", f"/v1/responses/{response_id}/cancel", None),
            ("DELETE", f"/v1/responses/{response_id}", None),
            ("POST", "/v1/responses", SAY | {"previous_response_id": response_id}),
            ("POST", "/v1/responses", SAY | {"previous_response_id": response_id, "store": False, "stream": True}),
            ("POST", "/v1/responses", SAY | {"input": [reference]}),
            ("POST", "/v1/responses/input_tokens", SAY | {"previous_response_id": response_id}),
            ("POST", "/v1/responses/compact", {"model": MODEL, "previous_response_id": response_id}),
        ):
            async with bob.session.request(method, path, json=body) as answer:
                names = sorted(name.lower() for name in answer.headers)
                found.append((answer.status, await answer.read(), names))
        headers = {"Authorization": f"Bearer {owners.keys['bob']}"}
        async with socket_of(owners.base_url, headers=headers) as socket:
            for fields in ({"previous_response_id": response_id}, {"input": [reference]}):
                error = await socket.refused(**SAY | fields)
                found.append((error.status, str(error.error).encode(), []))
        async with stub_for(owners, owners.keys["bob"]) as stub:
            for call in (
                stub.GetResponse(pb.GetResponseRequest(response_id=response_id)),
                stub.DeleteResponse(pb.DeleteResponseRequest(response_id=response_id)),
                stub.CancelResponse(pb.CancelResponseRequest(response_id=response_id)),
                stub.ListInputItems(pb.ListInputItemsRequest(response_id=response_id)),
                stub.ResumeResponse(pb.ResumeResponseRequest(response_id=response_id)).read(),
                stub.CreateResponse(pb.CreateResponseRequest(params=params(previous_response_id=response_id))),
            ):
                said = await failure(call)
                found.append((said.reason, str(said).encode(), []))
        return found

    foreign = await answers((created["id"], created["output"][0]["id"]))
    missing = await answers((gone["id"], gone["output"][0]["id"]))
    assert foreign == [(status, renamed(body), names) for status, body, names in missing]
    assert all(status >= 400 or not names for status, _, names in foreign)
    assert (await alice.call("GET", f"/v1/responses/{created['id']}")).body == created


async def ended_in_background(client: Client) -> dict[str, Any]:
    """A response that has ended, whose events are still kept."""
    accepted = await client.create(**SAY, background=True)
    path = f"/v1/responses/{accepted['id']}"
    async with client.session.get(path, params={"stream": "true"}) as events:
        assert "response.completed" in await events.text()
    response: dict[str, Any] = (await client.call("GET", path)).body
    return response


async def test_encrypted_content_opens_for_its_owner_alone(alice: Client, bob: Client) -> None:
    compacted = await alice.call("POST", "/v1/responses/compact", json={"model": MODEL, "input": "We launch."})
    sealed = compacted.body["output"][-1]["encrypted_content"]
    item = {"type": "compaction", "encrypted_content": sealed}
    asked = [item, {"role": "user", "content": "script:\nsay ok"}]
    assert output_text(await alice.create(model=MODEL, input=asked)) == "ok"
    foreign = await bob.refused(400, model=MODEL, input=asked)
    item["encrypted_content"] = sealed[:-4] + ("AAAA" if sealed[-4:] != "AAAA" else "BBBB")
    assert foreign == await bob.refused(400, model=MODEL, input=asked)
    assert foreign["code"] == "invalid_encrypted_content"


async def test_owners_share_no_prefix_in_the_workers_cache(alice: Client, bob: Client) -> None:
    asked = {"model": MODEL, "input": "script:\nsay Hello.", "instructions": "A prompt that both know. " * 20}

    async def cached_tokens(client: Client) -> int:
        usage = (await client.create(**asked))["usage"]
        return int(usage["input_tokens_details"]["cached_tokens"])

    cold = await cached_tokens(alice)
    assert await cached_tokens(alice) > 100 + cold
    assert await cached_tokens(bob) == 0
    assert await cached_tokens(bob) > 100


async def test_a_minutes_requests_are_counted_down_and_then_refused(owners: OwnersEdge) -> None:
    async with client_for(owners, "rated") as client:
        answers = [
            await post(client),
            await post(client, store=False, previous_response_id="resp_x"),
            await client.call("POST", "/v1/responses/input_tokens", json=SAY),
            await post(client),
        ]
        assert [answer.status for answer in answers] == [200, 400, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
        refused = answers[-1]
        assert refused.body["error"]["code"] == "rate_limit_exceeded"
        assert 10 < int(refused.headers["retry-after"]) <= 20
        assert 50 < float(refused.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        async with stub_for(owners, owners.keys["rated"]) as stub:
            error = await failure(stub.CreateResponse(pb.CreateResponseRequest(params=params())))
        assert error.reason == ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED
        assert error.retry_after_ms is not None
        assert "x-ratelimit-limit-requests" not in (await client.call("GET", "/v1/models")).headers


async def test_only_so_many_run_at_once_and_who_waits_for_the_end_is_let_in(owners: OwnersEdge) -> None:
    async with client_for(owners, "single") as client:
        headers = {"Authorization": f"Bearer {owners.keys['single']}"}
        async with client.stream(**HOLD) as running, socket_of(owners.base_url, headers=headers) as socket:
            await running.next_event("response.output_text.delta")
            refused = await post(client)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            over_socket = await socket.refused(**SAY)
            assert (over_socket.status, over_socket.error) == (429, refused.body["error"])
        await until(lambda: is_let_in(client))
        for number in range(20):
            assert (await client.create(**SAY | {"store": number % 2 == 0}))["status"] == "completed"
        async with socket_of(owners.base_url, headers=headers) as socket:
            for _ in range(5):
                assert (await socket.turn(**SAY))["status"] == "completed"
        async with stub_for(owners, owners.keys["single"]) as stub:
            call = stub.CreateResponse(pb.CreateResponseRequest(params=params()))
            await call
            assert dict(await call.initial_metadata())["x-ratelimit-limit-requests"] == "6000"


async def test_a_background_response_has_one_place_until_its_end(owners: OwnersEdge) -> None:
    async with client_for(owners, "single") as client:
        held = await client.create(**HOLD | {"background": True, "store": True})
        assert (await post(client)).status == 429
        assert (await post(client, background=True)).status == 429
        await client.call("POST", f"/v1/responses/{held['id']}/cancel")
        await until(lambda: is_let_in(client))
        for number in range(10):
            answer = await client.call(
                "POST", "/v1/responses", json=SAY, headers={"Idempotency-Key": f"one place {number}"}
            )
            assert (answer.status, answer.body["status"]) == (200, "completed")


async def is_let_in(client: Client) -> bool:
    return (await post(client, store=False)).status == 200


async def test_a_full_quota_refuses_what_is_to_be_stored_and_nothing_else(owners: OwnersEdge) -> None:
    async with client_for(owners, "small") as client:
        first = await client.create(**SAY)
        refused = await post(client)
        assert (refused.status, refused.body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "stored bytes" in refused.body["error"]["message"]
        assert (await post(client, store=False, previous_response_id=first["id"])).status == 200
        assert (await client.call("DELETE", f"/v1/responses/{first['id']}")).status == 200
        assert (await post(client)).status == 200


async def test_an_owners_responses_live_as_long_as_its_limits_say(owners: OwnersEdge) -> None:
    async with client_for(owners, "brief") as client:
        created = await client.create(**SAY)
        await until(lambda: has_status(client, 404, f"/v1/responses/{created['id']}"))


async def test_keys_come_and_go_without_a_restart_and_an_owner_is_erased_after_that(
    owners: OwnersEdge, alice: Client
) -> None:
    kept = await alice.create(**SAY)
    owners.give_key("leaver")
    async with client_for(owners, "leaver") as client:
        created = [await client.create(**SAY) for _ in range(3)]
        refused = owners.erase("leaver")
        assert refused.returncode == 1
        assert "still has API keys" in refused.stderr
        key = owners.keys["leaver"]
        owners.take_keys("leaver")
        await until(lambda: has_status(client, 401))
        erased = owners.erase("leaver")
        assert (erased.returncode, erased.stderr) == (0, "")
        assert erased.stdout.startswith("leaver: 5 keys erased, among them 3 stored responses of ")
        assert key not in owners.edge.log.read_text()
    owners.give_key("leaver")
    async with client_for(owners, "leaver") as client:
        assert await has_status(client, 404, f"/v1/responses/{created[0]['id']}")
    assert (await alice.call("GET", f"/v1/responses/{kept['id']}")).body == kept


async def test_a_broken_file_of_keys_changes_nothing(owners: OwnersEdge, alice: Client) -> None:
    whole = owners.keys_path.read_text()
    owners.keys_path.write_text("alice\n")
    await until(lambda: is_logged(owners, "file not reloaded"))
    assert await has_status(alice, 200)
    owners.keys_path.write_text(whole)
    owners.give_key("newcomer")
    async with client_for(owners, "newcomer") as client:
        assert await has_status(client, 200)


async def is_logged(owners: OwnersEdge, message: str) -> bool:
    return message in owners.edge.log.read_text()


@contextmanager
def full(owners: OwnersEdge) -> Generator[None, None, None]:
    """A server over its memory, which evicts nothing."""
    owners.command("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        owners.command("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def read_only(owners: OwnersEdge) -> Generator[None, None, None]:
    """A replica, whose primary is away."""
    owners.command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        owners.command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("takes_no_writes", [full, read_only])
async def test_a_store_that_takes_no_writes_refuses_new_records_and_the_rest_goes_on(
    owners: OwnersEdge, alice: Client, takes_no_writes: Callable[[OwnersEdge], Any]
) -> None:
    first = await alice.create(**SAY)
    async with (
        client_for(owners, "single") as limited,
        alice.stream(**SAY | {"input": "script:\nwait 1500\nsay end"}) as running,
    ):
        await running.next_event("response.created")
        with takes_no_writes(owners):
            await until(lambda: is_refused(alice))
            refused = await post(alice)
            assert refused.status == 503
            assert "'store': false" in refused.body["error"]["message"]
            assert refused.headers["retry-after"] == "1"
            assert (await post(alice, previous_response_id=first["id"])).status == 503
            continued = await post(alice, store=False, previous_response_id=first["id"])
            assert (continued.status, output_text(continued.body)) == (200, "Hello.")
            assert (await alice.call("GET", f"/v1/responses/{first['id']}")).body == first
            assert (await post(limited, store=False)).status == 200
            assert (await post(limited)).status == 503
            assert (await alice.call("GET", "/readyz")).status == 200
            final = await running.rest()
            assert (final["status"], final["error"]["code"]) == ("failed", "server_error")
        await until(lambda: is_stored(alice))


async def is_refused(client: Client) -> bool:
    return (await post(client)).status == 503


async def is_stored(client: Client) -> bool:
    return (await post(client)).status == 200


def params(**fields: Any) -> response_pb2.ResponseParams:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text="script:\nsay Hello."))
    message = item_pb2.Message(role=item_pb2.ROLE_USER, content=[part])
    return response_pb2.ResponseParams(model=MODEL, input=[item_pb2.Item(message=message)], **fields)


@asynccontextmanager
async def stub_for(owners: OwnersEdge, key: str) -> AsyncGenerator[Any, None]:
    """The gRPC door, called with ``key``."""

    class WithKey:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            method = getattr(stub, name)
            return lambda request: method(request, timeout=20, metadata=(("authorization", f"Bearer {key}"),))

    async with grpc.aio.insecure_channel(owners.edge.grpc_target) as channel:
        stub = ResponsesServiceStub(channel)
        yield WithKey()


async def failure(call: Awaitable[object]) -> ApiError:
    """Why ``call`` fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)
