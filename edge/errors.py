"""The one mapping of ApiError to HTTP: status, headers and the API's error object (`{"error": {...}}`)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from antiphon.errors import ApiError, reason_name
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason

INVALID_REQUEST_ERROR = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT_ERROR = "rate_limit_error"
AUTHENTICATION_ERROR = "authentication_error"
PERMISSION_ERROR = "permission_error"


class RateLimited(ApiError):
    """RATE_LIMIT_EXCEEDED, and what the answer says of the rate.

    Attributes:
        headers: OpenAI's ``x-ratelimit-*``.
    """

    def __init__(self, message: str, headers: Mapping[str, str], *, retry_after_ms: int) -> None:
        super().__init__(ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED, message, retry_after_ms=retry_after_ms)
        self.headers = headers


class HttpError(NamedTuple):
    """An error as an HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Mapping(NamedTuple):
    status: int
    type: str
    code: str | None = None  # default: the reason's name in lower case
    response_code: str | None = None  # `response.error.code`; default: server_error from 500 on, else invalid_prompt


_MAPPINGS: dict[ErrorReason.ValueType, _Mapping] = {
    ErrorReason.ERROR_REASON_INTERNAL: _Mapping(500, SERVER_ERROR, "server_error"),
    ErrorReason.ERROR_REASON_ENGINE_FAILED: _Mapping(503, SERVER_ERROR),
    ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE: _Mapping(503, SERVER_ERROR),
    ErrorReason.ERROR_REASON_STORE_UNAVAILABLE: _Mapping(503, SERVER_ERROR),
    ErrorReason.ERROR_REASON_OVERLOADED: _Mapping(503, SERVER_ERROR, "server_is_overloaded", "rate_limit_exceeded"),
    ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED: _Mapping(429, RATE_LIMIT_ERROR, None, "rate_limit_exceeded"),
    ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED: _Mapping(504, SERVER_ERROR),
    # the caller has left, so that this status is only logged; 499 is nginx's
    ErrorReason.ERROR_REASON_CANCELLED: _Mapping(499, INVALID_REQUEST_ERROR, None, "server_error"),
    ErrorReason.ERROR_REASON_INVALID_MEDIA: _Mapping(400, INVALID_REQUEST_ERROR, None, "invalid_image"),
    ErrorReason.ERROR_REASON_FAILED_TO_DOWNLOAD: _Mapping(400, INVALID_REQUEST_ERROR, None, "failed_to_download_image"),
    ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE: _Mapping(413, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_REQUEST_TIMEOUT: _Mapping(408, INVALID_REQUEST_ERROR),
    # not 409, which SDKs retry; 422 as in draft-ietf-httpapi-idempotency-key-header
    ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED: _Mapping(422, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_MODEL_NOT_FOUND: _Mapping(404, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_RESPONSE_NOT_FOUND: _Mapping(404, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_ITEM_NOT_FOUND: _Mapping(404, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_NOT_FOUND: _Mapping(404, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_METHOD_NOT_ALLOWED: _Mapping(405, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE: _Mapping(415, INVALID_REQUEST_ERROR),
    ErrorReason.ERROR_REASON_INVALID_API_KEY: _Mapping(401, AUTHENTICATION_ERROR),
    ErrorReason.ERROR_REASON_PERMISSION_DENIED: _Mapping(403, PERMISSION_ERROR),
}
_BAD_REQUEST = _Mapping(400, INVALID_REQUEST_ERROR)
"""All other reasons."""


def http_status(error: ApiError) -> int:
    """The HTTP status of ``error``."""
    return _mapping(error).status


def error_object(error: ApiError) -> dict[str, Any]:
    """What `error` holds, in a body and in the stream event `error`: all four keys, always."""
    mapping = _mapping(error)
    return {
        "message": error.message,
        "type": mapping.type,
        "param": error.param,
        "code": mapping.code or reason_name(error.reason).lower(),
    }


def to_http(error: ApiError) -> HttpError:
    """``error`` as an HTTP answer."""
    headers = {"content-type": "application/json", **error_headers(error)}
    if error.reason == ErrorReason.ERROR_REASON_INVALID_API_KEY:
        headers["www-authenticate"] = "Bearer"
    return HttpError(http_status(error), headers, msgspec.json.encode({"error": error_object(error)}))


def error_headers(error: ApiError) -> dict[str, str]:
    """What is said of ``error`` beside its object: when to try again, and what an owner's limits leave.

    The delay of a retry is given twice: `retry-after` in whole seconds, rounded up, and `retry-after-ms`, which
    OpenAI's SDKs prefer.
    """
    headers = dict(error.headers) if isinstance(error, RateLimited) else {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(-(-error.retry_after_ms // 1000))
        headers["retry-after-ms"] = str(error.retry_after_ms)
    return headers


def response_error(error: ApiError) -> response_pb2.ResponseError:
    """``error`` as the `error` of a failed response, whose codes are OpenAI's own short list."""
    mapping = _mapping(error)
    code = mapping.response_code or ("server_error" if mapping.status >= 500 else "invalid_prompt")
    return response_pb2.ResponseError(code=code, message=error.message)


def _mapping(error: ApiError) -> _Mapping:
    return _MAPPINGS.get(error.reason, _BAD_REQUEST)
