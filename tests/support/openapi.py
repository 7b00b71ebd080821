"""Validates what the server sends against the Open Responses OpenAPI document (`tests/openapi.json`).

The document is held to as it is, but for the points that `_close_known_gaps` names.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

_DOCUMENT = Path(__file__).parents[1] / "openapi.json"


def assert_valid_response(value: object) -> None:
    """``value`` is a ResponseResource."""
    _assert_valid(value, "ResponseResource")


def assert_valid_item(value: object) -> None:
    """``value`` is an item of an output or of a list of input items."""
    _assert_valid(value, "ItemField")


def assert_valid_compaction(value: object) -> None:
    """``value`` is a CompactResource."""
    _assert_valid(value, "CompactResource")


def assert_valid_event(value: object) -> None:
    """``value`` is one of the 24 streaming events."""
    assert isinstance(value, dict), value
    names = event_components()
    assert value.get("type") in names, f"no streaming event of the specification: {value.get('type')!r}"
    _assert_valid(value, names[value["type"]])


def assert_valid_error(value: object) -> None:
    """``value`` is the body of an error: `{"error": {...}}` with all four keys."""
    assert isinstance(value, dict), value
    assert value.keys() == {"error"}, value
    _assert_valid(value["error"], "ErrorPayload")


def assert_valid_request(value: object) -> None:
    """``value`` is a CreateResponseBody: for tests of what a server must accept."""
    _assert_valid(value, "CreateResponseBody")


@cache
def event_components() -> dict[str, str]:
    """The component of each streaming event, by the event's `type`."""
    return {
        schema["properties"]["type"]["enum"][0]: name
        for name, schema in components().items()
        if name.endswith("StreamingEvent")
    }


def _assert_valid(value: object, component: str) -> None:
    error = best_match(_validator(component).iter_errors(value))
    assert error is None, f"{component}: {error.message} at {error.json_path}"


@cache
def _validator(component: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{component}", "components": {"schemas": components()}})


@cache
def components() -> dict[str, Any]:
    """The document's schemas, with its known gaps closed, by name."""
    schemas: dict[str, Any] = document()["components"]["schemas"]
    return schemas


def document() -> dict[str, Any]:
    """The document with its known gaps closed; the caller may change it."""
    document: dict[str, Any] = json.loads(_DOCUMENT.read_text())
    _close_known_gaps(document["components"]["schemas"])
    return document


def _close_known_gaps(components: dict[str, Any]) -> None:
    """What OpenAI's API and Open Responses 2026-04-24 have and the document (2.3.0) lacks."""
    # An echoed JSON Schema can be null only; OpenAI echoes the schema, and clients read it.
    components["JsonSchemaResponseFormat"]["properties"]["schema"] = {"type": ["object", "null"]}
    # Compaction items and the phase of messages.
    components["ItemField"]["oneOf"].append({"$ref": "#/components/schemas/CompactionBody"})
    components["CompactionBody"] = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["compaction"]},
            "id": {"type": "string"},
            "encrypted_content": {"type": "string"},
            "created_by": {"type": "string"},
        },
        "required": ["type", "id", "encrypted_content"],
    }
    components["CompactResource"] = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "object": {"type": "string", "enum": ["response.compaction"]},
            "output": {"type": "array", "items": {"$ref": "#/components/schemas/ItemField"}},
            "created_at": {"type": "integer"},
            "usage": {"$ref": "#/components/schemas/Usage"},
        },
        "required": ["id", "object", "output", "created_at", "usage"],
    }
    components["Message"]["properties"]["phase"] = {"type": "string", "enum": ["commentary", "final_answer"]}
    # Videos in tool outputs: taken in a request, but missing in the resource.
    output = components["FunctionCallOutput"]["properties"]["output"]["oneOf"][1]
    output["items"]["oneOf"].append({"$ref": "#/components/schemas/InputVideoContent"})
