"""JSON <-> protobuf, pure; one module per `.proto` file's subject, both directions side by side.

`decode_*` takes plain values as a JSON decoder gives them and raises ApiError; `encode_*` gives what `msgspec.json`
encodes, exact per the Open Responses schema.
"""

from edge.codec.events import encode_event, event_json, event_type
from edge.codec.items import decode_input, decode_item, encode_item
from edge.codec.params import decode_params, with_defaults
from edge.codec.responses import encode_compacted, encode_response, params_json, response_json

__all__ = [
    "decode_input",
    "decode_item",
    "decode_params",
    "encode_compacted",
    "encode_event",
    "encode_item",
    "encode_response",
    "event_json",
    "event_type",
    "params_json",
    "response_json",
    "with_defaults",
]
