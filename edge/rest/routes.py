"""One short handler for each path."""

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from antiphon.errors import ApiError
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge import codec
from edge.core import Core
from edge.rest.body import CreateRequest, decode
from edge.rest.sse import SseStream
from edge.settings import EdgeSettings

CORE: Final = web.AppKey("core", Core)
SETTINGS: Final = web.AppKey("settings", EdgeSettings)
REQUEST_ID: Final = web.RequestKey("request_id", str)

ROUTES: Final = web.RouteTableDef()

_LARGE_BODY_BYTES: Final = 64 * 1024
"""Bodies from this size on are decoded in a thread: a megabyte takes ten milliseconds."""


@ROUTES.post("/v1/responses")
async def create_response(request: web.Request) -> web.StreamResponse:
    """Run a response and answer with its object, or with its events."""
    create = await _decode(request)
    core, settings = request.app[CORE], request.app[SETTINGS]
    headers = _warning_headers(create.warnings)
    async with core.respond(settings.owner, create.params, request_id=request[REQUEST_ID]) as run:
        if not create.stream:
            response = await run.finish()
            if run.error is not None:
                raise run.error
            return _json(codec.encode_response(response), headers)
        stream = SseStream(
            request,
            run,
            is_obfuscated=_is_obfuscated(create.params),
            slow_reader_timeout_s=settings.slow_reader_timeout_s,
        )
        try:
            answer = await stream.open(request, headers)
            run.add_reader(stream)
            stream.wake()
            await run.finish()
            await stream.sent()
        finally:
            stream.close()
    await answer.write_eof()
    return answer


@ROUTES.get("/v1/responses/{response_id}")
async def get_response(request: web.Request) -> web.Response:
    """A stored response."""
    core, settings = request.app[CORE], request.app[SETTINGS]
    record = await core.get(settings.owner, request.match_info["response_id"])
    if request.query.get("stream", "false").lower() == "true":
        raise ApiError(
            ErrorReason.ERROR_REASON_INVALID_VALUE,
            "This response cannot be streamed because it was not created with background=true.",
            "stream",
        )
    return _json(codec.encode_response(record.response))


@ROUTES.delete("/v1/responses/{response_id}")
async def delete_response(request: web.Request) -> web.Response:
    """Erase a stored response."""
    response_id = request.match_info["response_id"]
    await request.app[CORE].delete(request.app[SETTINGS].owner, response_id)
    return _json({"id": response_id, "object": "response", "deleted": True})


@ROUTES.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """The models that are served now."""
    models = [
        {"id": model.id, "object": "model", "created": model.created_at, "owned_by": model.owned_by}
        for model in request.app[CORE].models()
    ]
    return _json({"object": "list", "data": models})


@ROUTES.get("/healthz")
async def health(request: web.Request) -> web.Response:
    """The process is up."""
    return _json({"status": "ok"})


@ROUTES.get("/readyz")
async def ready(request: web.Request) -> web.Response:
    """Requests can be served."""
    await request.app[CORE].check_ready()
    return _json({"status": "ready"})


async def _decode(request: web.Request) -> CreateRequest:
    body = await request.read()
    content_type = request.headers.get("Content-Type")
    if len(body) < _LARGE_BODY_BYTES:
        return decode(body, content_type)
    return await asyncio.to_thread(decode, body, content_type)


def _json(shape: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(shape), content_type="application/json", headers=headers)


def _is_obfuscated(params: response_pb2.ResponseParams) -> bool:
    options = params.stream_options
    return options.include_obfuscation if options.HasField("include_obfuscation") else True


def _warning_headers(warnings: list[str]) -> dict[str, str]:
    return {"x-antiphon-warning": "; ".join(warnings)} if warnings else {}
