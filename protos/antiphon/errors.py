"""The one error that a client may see, and its one mapping to and from ``google.rpc.Status``."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from antiphon.responses.v1 import error_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason

DOMAIN = "antiphon"
"""``domain`` of every ErrorInfo that this project's services send."""

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata that holds the serialized ``google.rpc.Status``."""

_PREFIX = "ERROR_REASON_"
_NAMES = frozenset(ErrorReason.keys())

_GRPC_CODES: dict[ErrorReason.ValueType, grpc.StatusCode] = {
    ErrorReason.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
    ErrorReason.ERROR_REASON_ENGINE_FAILED: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER: grpc.StatusCode.UNIMPLEMENTED,
    ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE: grpc.StatusCode.UNIMPLEMENTED,
    ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_PREVIOUS_RESPONSE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_RESPONSE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_ITEM_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_METHOD_NOT_ALLOWED: grpc.StatusCode.UNIMPLEMENTED,
    ErrorReason.ERROR_REASON_INVALID_API_KEY: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
}
"""All other reasons are INVALID_ARGUMENT."""


class ApiError(Exception):
    """A failure that the client is told about.

    Attributes:
        reason: Why, from the closed vocabulary.
        message: For people; never holds prompts, outputs or internals.
        param: Place in the request, such as ``input[0].content[1].type``.
        retry_after_ms: When a retry makes sense, in milliseconds from now.
    """

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        param: str | None = None,
        *,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(reason, message, param, retry_after_ms)
        self.reason = reason
        self.message = message
        self.param = param
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return f"{reason_name(self.reason)}: {self.message}" + (f" (at {self.param})" if self.param else "")


class CallStatus(NamedTuple):
    """What a gRPC call ends with: the arguments of ``ServicerContext.abort``."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def reason_name(reason: ErrorReason.ValueType) -> str:
    """``reason`` without its prefix, as ErrorInfo carries it."""
    return ErrorReason.Name(reason).removeprefix(_PREFIX)


def grpc_code(reason: ErrorReason.ValueType) -> grpc.StatusCode:
    """The gRPC status code of ``reason``."""
    return _GRPC_CODES.get(reason, grpc.StatusCode.INVALID_ARGUMENT)


def to_call_status(error: ApiError) -> CallStatus:
    """``error`` as the end of a gRPC call."""
    code = grpc_code(error.reason)
    info = ErrorInfo(reason=reason_name(error.reason), domain=DOMAIN)
    if error.param is not None:
        info.metadata["param"] = error.param
    status = Status(code=code.value[0], message=error.message)
    status.details.add().Pack(info)
    if error.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return CallStatus(code, error.message, ((STATUS_DETAILS_KEY, status.SerializeToString()),))


def from_trailing_metadata(metadata: Iterable[Any] | None) -> ApiError | None:
    """The ApiError that a failed call carries in its pairs of metadata; None if the other side did not send one."""
    serialized = dict(metadata or ()).get(STATUS_DETAILS_KEY)
    if not isinstance(serialized, bytes):
        return None
    status, info, retry = Status(), ErrorInfo(), RetryInfo()
    retry_after_ms = None
    try:
        status.ParseFromString(serialized)
        for detail in status.details:
            if detail.Unpack(retry):
                retry_after_ms = retry.retry_delay.ToMilliseconds()
            else:
                detail.Unpack(info)
    except DecodeError:
        return None
    if info.domain != DOMAIN or _PREFIX + info.reason not in _NAMES:
        return None
    return ApiError(
        ErrorReason.Value(_PREFIX + info.reason),
        status.message,
        info.metadata.get("param"),
        retry_after_ms=retry_after_ms,
    )


def to_message(error: ApiError) -> error_pb2.Error:
    """``error`` inside a message, where no status of a call can carry it."""
    return error_pb2.Error(
        reason=error.reason, message=error.message, param=error.param, retry_after_ms=error.retry_after_ms
    )


def from_message(message: error_pb2.Error) -> ApiError:
    """The inverse of ``to_message``."""
    return ApiError(
        message.reason,
        message.message,
        message.param if message.HasField("param") else None,
        retry_after_ms=message.retry_after_ms if message.HasField("retry_after_ms") else None,
    )
