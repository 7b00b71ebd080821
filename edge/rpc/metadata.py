"""What a call's metadata say besides who calls: fields of the request that a proxy can set without reading it."""

from typing import Any, Final

import grpc

from antiphon.errors import ApiError
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.trace import TRACEPARENT, valid_traceparent
from edge.codec.enums import SERVICE_TIER
from edge.request import current_traceparent

ROUTING_KEY: Final = "x-antiphon-routing-key"
"""Stands for `prompt_cache_key` where the request has none."""
TIER: Final = "x-antiphon-service-tier"
"""Stands for `service_tier` where the request has none: auto, default, flex or priority."""


def apply_metadata(params: response_pb2.ResponseParams, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Fill what ``params`` leave open, and take in the trace, for this call's task.

    Raises:
        ApiError: INVALID_VALUE: a value is unknown, or there are several; ``param`` is the name of the metadata.
    """
    if (key := _single(context, ROUTING_KEY)) and not params.prompt_cache_key:
        params.prompt_cache_key = key
    if (tier := _single(context, TIER)) is not None:
        value = SERVICE_TIER.decode(tier, TIER)
        params.service_tier = params.service_tier or value
    traces = _values(context, TRACEPARENT)
    current_traceparent.set(valid_traceparent(traces[0]) if len(traces) == 1 else None)


def _single(context: grpc.aio.ServicerContext[Any, Any], name: str) -> str | None:
    values = _values(context, name)
    if len(values) > 1:
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, f"More than one '{name}' in the metadata.", name)
    return values[0] if values else None


def _values(context: grpc.aio.ServicerContext[Any, Any], name: str) -> list[str]:
    return [str(value) for key, value in context.invocation_metadata() or () if key == name]
