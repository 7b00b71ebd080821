"""The response: `response.proto` -> JSON."""

from typing import Any

import msgspec

from antiphon.responses.v1 import response_pb2 as pb
from antiphon.responses.v1.responses_service_pb2 import Compacted
from edge.codec.enums import INCOMPLETE_REASON, RESPONSE_STATUS
from edge.codec.items import encode_item
from edge.codec.params import encode_params


def encode_response(response: pb.Response) -> dict[str, Any]:
    """The API's `response` object (ResponseResource): every required key, null only where the schema allows it.

    ``response.params`` must be as `with_defaults` leaves them. The result is for `msgspec.json.encode`: it holds the
    client's JSON Schemas as `msgspec.Raw`.
    """
    return {**_encode_state(response), **encode_params(response.params)}


def _encode_state(response: pb.Response) -> dict[str, Any]:
    return {
        "id": response.id,
        "object": "response",
        "created_at": response.created_at,
        "completed_at": response.completed_at if response.HasField("completed_at") else None,
        "status": RESPONSE_STATUS.encode(response.status),
        "incomplete_details": {"reason": INCOMPLETE_REASON.encode(response.incomplete_reason)}
        if response.incomplete_reason
        else None,
        "error": {"code": response.error.code, "message": response.error.message}
        if response.HasField("error")
        else None,
        "output": [encode_item(item) for item in response.output],
        "usage": _encode_usage(response.usage) if response.HasField("usage") else None,
    }


def encode_compacted(compacted: Compacted) -> dict[str, Any]:
    """The API's `response.compaction` object (CompactResource)."""
    return {
        "id": compacted.id,
        "object": "response.compaction",
        "created_at": compacted.created_at,
        "output": [encode_item(item) for item in compacted.output],
        "usage": _encode_usage(compacted.usage),
    }


def params_json(params: pb.ResponseParams) -> bytes:
    """What a response repeats of its request, as the JSON object that `response_json` takes."""
    return msgspec.json.encode(encode_params(params))


def response_json(response: pb.Response, params: bytes | None = None) -> bytes:
    """``response`` as JSON, on one line. ``params``: the `params_json` of its params, if they were rendered before."""
    params = params_json(response.params) if params is None else params
    return b"%b,%b" % (msgspec.json.encode(_encode_state(response))[:-1], params[1:])


def _encode_usage(usage: pb.Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,  # not in the specification, but required by OpenAI's SDK; nothing is billed here
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
