"""The HTTP door: the application, its middleware and its server."""

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.trace import TRACEPARENT, valid_traceparent
from edge.auth import Authenticator
from edge.core import Core
from edge.errors import to_http
from edge.limits import Limiter
from edge.request import current_traceparent
from edge.rest import routes
from edge.rest.bearer import bearer_tokens
from edge.rest.body import unsupported_encoding
from edge.rest.origin import check_origin, parse_origins
from edge.settings import EdgeSettings

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_HEADER_BYTES: Final = 16 * 1024
_CLOSE_TIMEOUT_S: Final = 2.0
"""What connections have to close, once nobody waits for a response any more or the drain timeout is over."""

_ALLOWED_ORIGINS: Final = web.AppKey("allowed_origins", frozenset[str])
_AUTHENTICATOR: Final = web.AppKey("authenticator", Authenticator)

_INTERNAL: Final = "The server had an error processing your request."

_OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""Whoever watches this process needs no key."""


def create_app(core: Core, settings: EdgeSettings, authenticator: Authenticator, limiter: Limiter) -> web.Application:
    """The API under ``/v1``, and the two health checks."""
    app = web.Application(middlewares=[_end_connections, _answer_errors], client_max_size=settings.max_body_bytes)
    app[routes.CORE] = core
    app[routes.SETTINGS] = settings
    app[routes.LIMITER] = limiter
    app[_AUTHENTICATOR] = authenticator
    app[routes.CONNECTIONS] = set()
    app[_ALLOWED_ORIGINS] = parse_origins(settings.allowed_origins)
    app.add_routes(routes.ROUTES)
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(_leave_connections)
    return app


def create_runner(app: web.Application, *, idle_timeout_s: float) -> web.AppRunner:
    """A server for ``app`` that notices a client that leaves: its handler is cancelled.

    Args:
        idle_timeout_s: From a connection's start, or the end of an answer, until the next request's headers are there.
    """
    return _Runner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=_server_log(),
        handle_signals=False,
        shutdown_timeout=_CLOSE_TIMEOUT_S,
        keepalive_timeout=idle_timeout_s,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
    )


class _Runner(web.AppRunner):
    """An ``AppRunner`` whose server answers with the API's error object where there is no request yet, too."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """What cannot be parsed as HTTP passes no middleware."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The API's error object instead of aiohttp's text, which quotes the client; the connection is closed."""
        super().handle_error(request, status, exc, message)  # logs, and raises if an answer has begun
        if isinstance(exc, ContentEncodingError):
            error = unsupported_encoding()
        elif status < 500:
            error = ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, "The request is not valid HTTP.")
        else:
            error = ApiError(ErrorReason.ERROR_REASON_INTERNAL, _INTERNAL)
        answer = _error_response(error)
        answer.headers["x-request-id"] = _new_request_id()
        answer.force_close()
        return answer


@web.middleware
async def _end_connections(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Once this process is to stop, an answer is the last one on its connection."""
    response = await handler(request)
    if request.app[routes.CORE].is_draining:
        response.force_close()
    return response


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[routes.REQUEST_ID] = _new_request_id()
    current_traceparent.set(valid_traceparent(request.headers.get(TRACEPARENT)))
    try:
        check_origin(request, request.app[_ALLOWED_ORIGINS])
        if request.path not in _OPEN_PATHS:
            request[routes.OWNER] = request.app[_AUTHENTICATOR].owner(bearer_tokens(request))
        return await handler(request)
    except ApiError as error:
        return _error_response(error)
    except RequestPayloadError:
        message = "The request body does not match its headers: see Content-Length and Content-Encoding."
        response = _error_response(ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message))
        response.force_close()  # aiohttp closes it anyway; a client that is not told sends its next request into it
        return response
    except web.HTTPRequestEntityTooLarge:
        message = f"The request body is larger than {request.app[routes.SETTINGS].max_body_bytes} bytes."
        return _error_response(ApiError(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, message))
    except web.HTTPMethodNotAllowed as error:
        message = f"{error.method} is not allowed for {request.path}. Use {' or '.join(sorted(error.allowed_methods))}."
        response = _error_response(ApiError(ErrorReason.ERROR_REASON_METHOD_NOT_ALLOWED, message))
        response.headers["Allow"] = error.headers["Allow"]
        return response
    except web.HTTPNotFound:
        message = f"Unknown path: {request.method} {request.path}"
        return _error_response(ApiError(ErrorReason.ERROR_REASON_NOT_FOUND, message))
    except web.HTTPException as error:
        response = _error_response(ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, error.reason))
        response.set_status(error.status)
        return response
    except Exception:
        log.exception("request failed", extra={"request_id": request[routes.REQUEST_ID]})
        return _error_response(ApiError(ErrorReason.ERROR_REASON_INTERNAL, _INTERNAL))


def _error_response(error: ApiError) -> web.Response:
    status, headers, body = to_http(error)
    response = web.Response(status=status, headers=headers, body=body)
    if error.reason == ErrorReason.ERROR_REASON_REQUEST_TIMEOUT:
        response.force_close()
    return response


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = request.get(routes.REQUEST_ID) or _new_request_id()
    response.headers.update(request.get(routes.RATE_HEADERS, {}))


def _new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"


def _server_log() -> logging.Logger:
    """aiohttp's own log, without what clients did wrong: those lines quote them."""
    server_log = logging.getLogger("aiohttp.server")
    server_log.addFilter(_is_no_client_fault)
    return server_log


def _is_no_client_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, RequestPayloadError, web.HTTPException))


def retire_connections(app: web.Application) -> None:
    """Tell WebSocket clients to go on elsewhere, once their turns have ended."""
    for connection in app[routes.CONNECTIONS]:
        connection.retire()


async def _leave_connections(app: web.Application) -> None:
    for connection in app[routes.CONNECTIONS]:
        connection.leave()
