"""What every gRPC server of this project puts before its methods."""

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc

from antiphon.errors import ApiError, to_call_status
from antiphon.responses.v1.error_pb2 import ErrorReason

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Any, Context], Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose method raises with ``google.rpc.Status``: an ApiError as it is, anything else as INTERNAL.

    What is no ApiError is a bug: it is logged once with its traceback, and the caller learns nothing of it.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:  # unknown method: grpc answers
            return None
        method = handler_call_details.method
        if handler.request_streaming and handler.response_streaming:
            kind, behavior = grpc.stream_stream_rpc_method_handler, handler.stream_stream
        elif handler.response_streaming:
            kind, behavior = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        elif handler.request_streaming:
            kind, behavior = grpc.stream_unary_rpc_method_handler, handler.stream_unary
        else:
            kind, behavior = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        wrapped = _generator(behavior, method) if inspect.isasyncgenfunction(behavior) else _coroutine(behavior, method)
        return kind(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _coroutine(behavior: Behavior, method: str) -> Behavior:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await behavior(request, context)
        except Exception as error:
            await _abort(error, context, method)

    return call


def _generator(behavior: Behavior, method: str) -> Behavior:
    async def call(request: Any, context: Context) -> Any:
        try:
            async for response in behavior(request, context):
                yield response
        except Exception as error:
            await _abort(error, context, method)

    return call


async def _abort(error: Exception, context: Context, method: str) -> NoReturn:
    api_error = _find(error)
    if api_error is None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        log.error("call failed", extra={"method": method}, exc_info=error)
        api_error = ApiError(ErrorReason.ERROR_REASON_INTERNAL, "The server had an error processing the request.")
    code, message, metadata = to_call_status(api_error)
    await context.abort(code, message, metadata)
    raise AssertionError  # abort has raised


def _find(error: BaseException) -> ApiError | None:
    """The ApiError that ``error`` is, or that a task group wrapped."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _find(inner)) is not None), None)
    return None
