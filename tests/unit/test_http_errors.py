"""ApiError as HTTP and as a response's error."""

import json

import pytest

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.errors import response_error, to_http


@pytest.mark.parametrize(
    ("reason", "status", "kind", "code"),
    [
        (ErrorReason.ERROR_REASON_INVALID_TYPE, 400, "invalid_request_error", "invalid_type"),
        (ErrorReason.ERROR_REASON_ITEM_NOT_FOUND, 404, "invalid_request_error", "item_not_found"),
        (ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, 400, "invalid_request_error", "context_length_exceeded"),
        (ErrorReason.ERROR_REASON_INVALID_API_KEY, 401, "authentication_error", "invalid_api_key"),
        (ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, 404, "invalid_request_error", "model_not_found"),
        (ErrorReason.ERROR_REASON_RESPONSE_NOT_FOUND, 404, "invalid_request_error", "response_not_found"),
        (ErrorReason.ERROR_REASON_METHOD_NOT_ALLOWED, 405, "invalid_request_error", "method_not_allowed"),
        (ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, 413, "invalid_request_error", "request_too_large"),
        (ErrorReason.ERROR_REASON_UNSUPPORTED_MEDIA_TYPE, 415, "invalid_request_error", "unsupported_media_type"),
        (ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED, 429, "rate_limit_error", "rate_limit_exceeded"),
        (ErrorReason.ERROR_REASON_INTERNAL, 500, "server_error", "server_error"),
        (ErrorReason.ERROR_REASON_OVERLOADED, 503, "server_error", "server_is_overloaded"),
        (ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, 504, "server_error", "deadline_exceeded"),
    ],
)  # fmt: skip
def test_a_reason_has_its_status_type_and_code(
    reason: ErrorReason.ValueType, status: int, kind: str, code: str
) -> None:
    answer = to_http(ApiError(reason, "No.", "input"))
    assert answer.status == status
    assert json.loads(answer.body) == {"error": {"message": "No.", "type": kind, "param": "input", "code": code}}


@pytest.mark.parametrize("reason", [value for value in ErrorReason.values() if value], ids=ErrorReason.Name)
def test_sdks_retry_what_may_succeed_and_nothing_else(reason: ErrorReason.ValueType) -> None:
    """OpenAI's SDKs retry on 408, 409, 429 and from 500 on."""
    is_retried = (status := to_http(ApiError(reason, "No.")).status) in (408, 409, 429) or status >= 500
    assert is_retried == (
        reason
        in (
            ErrorReason.ERROR_REASON_INTERNAL,
            ErrorReason.ERROR_REASON_ENGINE_FAILED,
            ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE,
            ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
            ErrorReason.ERROR_REASON_OVERLOADED,
            ErrorReason.ERROR_REASON_RATE_LIMIT_EXCEEDED,
            ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
            ErrorReason.ERROR_REASON_REQUEST_TIMEOUT,
        )
    )


def test_a_lost_ancestor_is_a_bad_request() -> None:
    """As at OpenAI: the resource of the request is there, one that it names is not."""
    answer = to_http(ApiError(ErrorReason.ERROR_REASON_PREVIOUS_RESPONSE_NOT_FOUND, "No.", "previous_response_id"))
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == "previous_response_not_found"


def test_a_retry_delay_is_rounded_up_to_seconds() -> None:
    overload = ApiError(ErrorReason.ERROR_REASON_OVERLOADED, "Busy.", retry_after_ms=1200)
    headers = to_http(overload).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1200")
    assert "retry-after" not in to_http(ApiError(ErrorReason.ERROR_REASON_INTERNAL, "No.")).headers


def test_a_missing_key_names_the_scheme() -> None:
    assert to_http(ApiError(ErrorReason.ERROR_REASON_INVALID_API_KEY, "No.")).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ErrorReason.ERROR_REASON_ENGINE_FAILED, "server_error"),
        (ErrorReason.ERROR_REASON_OVERLOADED, "rate_limit_exceeded"),
        (ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, "invalid_prompt"),
        (ErrorReason.ERROR_REASON_FAILED_TO_DOWNLOAD, "failed_to_download_image"),
    ],
)
def test_a_failed_response_has_a_code_that_sdks_know(reason: ErrorReason.ValueType, code: str) -> None:
    error = response_error(ApiError(reason, "No."))
    assert (error.code, error.message) == (code, "No.")
