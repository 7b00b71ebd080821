"""One short handler for each path."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge import codec
from edge.capabilities import encode_capabilities
from edge.core import Core
from edge.limits import Limiter, is_stored
from edge.offload import in_thread_if_large
from edge.rest.body import check_encoding, decode, decode_compact, is_strict
from edge.rest.idempotency import parse_idempotency
from edge.rest.query import parse_list, parse_retrieve
from edge.rest.sse import SseStream
from edge.rest.websocket import WebSocketConnection, is_upgrade
from edge.run import Answer
from edge.settings import EdgeSettings

CORE: Final = web.AppKey("core", Core)
SETTINGS: Final = web.AppKey("settings", EdgeSettings)
CONNECTIONS: Final = web.AppKey("connections", set[WebSocketConnection])
LIMITER: Final = web.AppKey("limiter", Limiter)
REQUEST_ID: Final = web.RequestKey("request_id", str)
OWNER: Final = web.RequestKey("owner", str)
"""Who asks; set before a handler runs, but for the health checks'."""
RATE_HEADERS: Final = web.RequestKey("rate_headers", dict[str, str])
"""What the answer says of its owner's limits."""

ROUTES: Final = web.RouteTableDef()

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Decoder(Protocol[T_co]):
    def __call__(self, body: bytes, content_type: str | None, *, strict: bool) -> T_co: ...


@ROUTES.post("/v1/responses")
async def create_response(request: web.Request) -> web.StreamResponse:
    """Run a response and answer with its object, or with its events; one in the background is only accepted."""
    create = await _decoded(request, decode)
    core, owner = request.app[CORE], request[OWNER]
    idempotency = await parse_idempotency(request)
    async with _admitted(request, is_stored=is_stored(create.params)):
        if create.params.background and not create.stream:
            accepted = await core.accept(owner, create.params, request_id=request[REQUEST_ID], idempotency=idempotency)
            headers = _warning_headers(create.warnings + accepted.warnings)
            return _json(codec.encode_response(accepted.response), headers)
        async with core.respond(
            owner, create.params, request_id=request[REQUEST_ID], idempotency=idempotency
        ) as answer:
            headers = _warning_headers(create.warnings + answer.warnings)
            if create.stream:
                return await _streamed(request, answer, headers, is_obfuscated=create.is_obfuscated)
            response = await answer.finish()
            if answer.error is not None:
                raise answer.error
            return _json(codec.encode_response(response), headers)


@ROUTES.get("/v1/responses")
async def open_websocket(request: web.Request) -> web.WebSocketResponse:
    """Turns over one connection; without an upgrade this path has only POST."""
    if not is_upgrade(request):
        raise web.HTTPMethodNotAllowed(request.method, ["POST"])
    connections = request.app[CONNECTIONS]
    connection = WebSocketConnection(
        request,
        request.app[CORE],
        request.app[SETTINGS],
        request.app[LIMITER],
        owner=request[OWNER],
        request_id=request[REQUEST_ID],
    )
    connections.add(connection)
    try:
        return await connection.serve()
    finally:
        connections.remove(connection)


@ROUTES.post("/v1/responses/input_tokens")
async def count_input_tokens(request: web.Request) -> web.Response:
    """The tokens of a request's prompt."""
    create = await _decoded(request, decode)
    async with _admitted(request):
        tokens, warnings = await request.app[CORE].count_input_tokens(request[OWNER], create.params)
    body = {"object": "response.input_tokens", "input_tokens": tokens}
    return _json(body, _warning_headers(create.warnings + warnings))


@ROUTES.post("/v1/responses/compact")
async def compact_response(request: web.Request) -> web.Response:
    """A conversation folded into its user messages and one compaction item."""
    params, ignored = await _decoded(request, decode_compact)
    async with _admitted(request):
        compacted, warnings = await request.app[CORE].compact(request[OWNER], params)
    return _json(codec.encode_compacted(compacted), _warning_headers(ignored + warnings))


@ROUTES.get("/v1/responses/{response_id}")
async def get_response(request: web.Request) -> web.StreamResponse:
    """A stored response, or the events of one that is logged."""
    core, response_id = request.app[CORE], request.match_info["response_id"]
    query = parse_retrieve(request.query)
    if query.stream:
        starting_after = -1 if query.starting_after is None else query.starting_after
        async with core.follow(request[OWNER], response_id, starting_after=starting_after) as answer:
            return await _streamed(request, answer, {}, is_obfuscated=query.include_obfuscation)
    record = await core.get(request[OWNER], response_id, include=query.include)
    return _json(codec.encode_response(record.response))


@ROUTES.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: web.Request) -> web.Response:
    """End a background response; one that has ended stays as it is."""
    response = await request.app[CORE].cancel(request[OWNER], request.match_info["response_id"])
    return _json(codec.encode_response(response))


@ROUTES.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: web.Request) -> web.Response:
    """The input of a stored response, without what it continued."""
    query = parse_list(request.query)
    items, has_more = await request.app[CORE].list_input_items(
        request[OWNER],
        request.match_info["response_id"],
        after=query.after,
        limit=query.limit,
        is_ascending=query.is_ascending,
    )
    page = {
        "object": "list",
        "data": [codec.encode_item(item) for item in items],
        "first_id": items[0].id if items else None,
        "last_id": items[-1].id if items else None,
        "has_more": has_more,
    }
    return _json(page)


@ROUTES.delete("/v1/responses/{response_id}")
async def delete_response(request: web.Request) -> web.Response:
    """Erase a stored response."""
    response_id = request.match_info["response_id"]
    await request.app[CORE].delete(request[OWNER], response_id)
    return _json({"id": response_id, "object": "response", "deleted": True})


@ROUTES.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """The models that are served now."""
    return _json({"object": "list", "data": [_encode_model(model) for model in request.app[CORE].models()]})


@ROUTES.get("/v1/models/{model:.+}")
async def get_model(request: web.Request) -> web.Response:
    """One model; its name may hold slashes."""
    return _json(_encode_model(request.app[CORE].model(request.match_info["model"])))


@ROUTES.get("/v1/capabilities")
async def get_capabilities(request: web.Request) -> web.Response:
    """What becomes of every field of a request, on this server and with each model."""
    is_strict_here = request.app[SETTINGS].strict_fields
    return _json(encode_capabilities(request.app[CORE].models(), is_strict=is_strict_here))


@ROUTES.get("/healthz")
async def health(request: web.Request) -> web.Response:
    """The process is up."""
    return _json({"status": "ok"})


@ROUTES.get("/readyz")
async def ready(request: web.Request) -> web.Response:
    """Requests can be served."""
    await request.app[CORE].check_ready()
    return _json({"status": "ready"})


@asynccontextmanager
async def _admitted(request: web.Request, *, is_stored: bool = False) -> AsyncGenerator[None, None]:
    """A place for ``request`` among those that its owner may run."""
    limiter = request.app[LIMITER]
    async with limiter.admitted(request[OWNER], request[REQUEST_ID], is_stored=is_stored) as headers:
        request[RATE_HEADERS] = headers
        yield


async def _streamed(
    request: web.Request, answer: Answer, headers: dict[str, str], *, is_obfuscated: bool
) -> web.StreamResponse:
    """Send the events of ``answer`` as they come."""
    timeout_s = request.app[SETTINGS].slow_reader_timeout_s
    stream = SseStream(request, answer, is_obfuscated=is_obfuscated, slow_reader_timeout_s=timeout_s)
    try:
        response = await stream.open(request, headers)
        answer.add_reader(stream)
        stream.wake()
        await answer.finish()
        rest = await stream.rest()
    finally:
        stream.close()
    await response.write_eof(rest)
    return response


async def _decoded(request: web.Request, decoder: _Decoder[T]) -> T:
    """The body of ``request``, decoded."""
    check_encoding(request.headers)
    timeout_s = request.app[SETTINGS].body_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            body = await request.read()
    except TimeoutError:
        message = f"The request body did not arrive within {timeout_s:g} seconds."
        raise ApiError(ErrorReason.ERROR_REASON_REQUEST_TIMEOUT, message) from None
    content_type = request.headers.get("Content-Type")
    strict = is_strict(request.headers, default=request.app[SETTINGS].strict_fields)
    return await in_thread_if_large(len(body), decoder, body, content_type, strict=strict)


def _encode_model(model: inference_pb2.ModelInfo) -> dict[str, Any]:
    return {"id": model.id, "object": "model", "created": model.created_at, "owned_by": model.owned_by}


def _json(shape: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(shape), content_type="application/json", headers=headers)


def _warning_headers(warnings: list[str]) -> dict[str, str]:
    return {"x-antiphon-warning": "; ".join(warnings)} if warnings else {}
