"""What a response resource must look like, and what each field of a request does to it, on the default model."""

import json
from io import BytesIO
from typing import Any, Final

import pytest

from tests.support.http import Client
from tests.support.stack import MODEL
from tests.support.stream_rules import Json

SHORT: Final[Json] = {"model": MODEL, "max_output_tokens": 16, "temperature": 0}
HI: Final[Json] = {**SHORT, "input": "Hi"}
SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
FUNCTION: Final[Json] = {"type": "function", "name": "f", "parameters": SCHEMA}
FUNCTION_ECHO: Final[Json] = {**FUNCTION, "description": None, "strict": True}

NULLABLE: Final = frozenset(
    {
        "completed_at", "incomplete_details", "previous_response_id", "instructions", "error", "reasoning", "usage",
        "max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key",
    }
)  # fmt: skip
"""Keys of the resource that may be null; whether the others are there and of their types is the client's to check."""

UNSET: Final[Json] = dict.fromkeys(
    [
        "previous_response_id", "include", "tools", "tool_choice", "metadata", "text", "temperature", "top_p",
        "presence_penalty", "frequency_penalty", "parallel_tool_calls", "stream", "stream_options", "background",
        "max_tool_calls", "reasoning", "safety_identifier", "prompt_cache_key", "truncation", "instructions", "store",
        "service_tier", "top_logprobs", "user", "prompt", "conversation", "context_management",
        "prompt_cache_retention", "moderation",
    ]
)  # fmt: skip
"""Every field of the specification and of OpenAI's API that a client may send as null."""


def nulls(value: object, place: str = "") -> list[str]:
    """Places of all nulls in a JSON value."""
    match value:
        case None:
            return [place]
        case dict():
            return [found for key, member in value.items() for found in nulls(member, f"{place}.{key}".lstrip("."))]
        case list():
            return [found for member in value for found in nulls(member, f"{place}[]")]
        case _:
            return []


@pytest.mark.parametrize(
    "extra", [{}, UNSET, {"include": [], "tools": [], "metadata": {}}], ids=["bare", "nulls", "empty"]
)
async def test_no_key_is_missing_and_none_is_null_that_must_not_be(model_client: Client, extra: Json) -> None:
    response = await model_client.create(**extra | HI)
    assert set(nulls(response)) <= NULLABLE
    reader = await model_client.stream_all(**extra | HI)
    for event in reader.events:
        allowed = {f"response.{key}" for key in NULLABLE} if "response" in event else set()
        assert set(nulls(event)) <= allowed, event["type"]


@pytest.mark.parametrize(
    ("asked", "echoed"),
    [
        ({}, {"temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": 0}),
        ({}, {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "max_tool_calls": None}),
        ({}, {"truncation": "disabled", "metadata": {}, "reasoning": None}),
        ({}, {"text": {"format": {"type": "text"}, "verbosity": "medium"}}),
        ({}, {"store": True, "background": False, "service_tier": "default", "model": MODEL, "object": "response"}),
        ({"temperature": None}, {"temperature": 1.0}),
        ({"top_p": 0.25}, {"top_p": 0.25}),
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
        ({"top_logprobs": 2}, {"top_logprobs": 2}),
        ({"max_output_tokens": 17}, {"max_output_tokens": 17}),
        ({"max_tool_calls": 3}, {"max_tool_calls": 3}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"instructions": "Be brief."}, {"instructions": "Be brief."}),
        ({"truncation": "auto"}, {"truncation": "auto"}),
        ({"service_tier": "auto"}, {"service_tier": "default"}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"service_tier": "priority"}, {"service_tier": "priority"}),
        ({"store": False}, {"store": False}),
        ({"metadata": {"k" * 64: "v" * 512}}, {"metadata": {"k" * 64: "v" * 512}}),
        ({"safety_identifier": "s" * 64}, {"safety_identifier": "s" * 64}),
        ({"prompt_cache_key": "p" * 64}, {"prompt_cache_key": "p" * 64}),
        ({"text": {"verbosity": "low"}}, {"text": {"format": {"type": "text"}, "verbosity": "low"}}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"text": {"format": {"type": "json_object"}, "verbosity": "medium"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
            {
                "text": {
                    "format": {
                        "type": "json_schema", "name": "n", "description": None, "schema": SCHEMA, "strict": False,
                    },
                    "verbosity": "medium",
                }
            },
        ),
        ({"reasoning": {}}, {"reasoning": {"effort": None, "summary": None}}),
        ({"reasoning": {"effort": "none"}}, {"reasoning": {"effort": "none", "summary": None}}),
        (
            {"reasoning": {"effort": "low", "summary": "concise"}},
            {"reasoning": {"effort": "low", "summary": "concise"}},
        ),
        ({"tools": [FUNCTION], "tool_choice": "none"}, {"tools": [FUNCTION_ECHO], "tool_choice": "none"}),
        (
            {"tools": [{"type": "function", "name": "f"}], "tool_choice": "none"},
            {"tools": [{**FUNCTION_ECHO, "parameters": None}]},
        ),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}, "max_output_tokens": 64},
            {"tool_choice": {"type": "function", "name": "f"}},
        ),
        (
            {
                "tools": [FUNCTION],
                "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]},
            },
            {
                "tool_choice": {
                    "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}],
                }
            },
        ),
    ],
)  # fmt: skip
async def test_the_resource_repeats_what_was_asked(model_client: Client, asked: Json, echoed: Json) -> None:
    response = await model_client.create(**HI | asked)
    assert {key: response[key] for key in echoed} == echoed


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 2.01}, "temperature", "decimal_above_max_value"),
        ({"temperature": -0.01}, "temperature", "decimal_below_min_value"),
        ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
        ({"top_logprobs": -1}, "top_logprobs", "integer_below_min_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"max_tool_calls": 0}, "max_tool_calls", "integer_below_min_value"),
        ({"safety_identifier": "s" * 65}, "safety_identifier", "string_above_max_length"),
        ({"prompt_cache_key": "p" * 65}, "prompt_cache_key", "string_above_max_length"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", None),
        ({"metadata": {"k": "v" * 513}}, None, None),
        ({"metadata": {"k": 1}}, None, "invalid_type"),
        ({"truncation": "middle"}, "truncation", "invalid_value"),
        ({"service_tier": "gold"}, "service_tier", "invalid_value"),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity", "invalid_value"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": SCHEMA}}}, "text.format.name", None),
        ({"text": {"format": {"type": "json_schema", "name": "n" * 65, "schema": SCHEMA}}}, "text.format.name", None),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", None),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "x"}}}}, None, None),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", None),
        ({"tools": [{"type": "function", "name": "n" * 65}]}, "tools[0].name", None),
        ({"tools": [{"type": "teleport"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [FUNCTION], "tool_choice": "maybe"}, "tool_choice", "invalid_value"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, None, None),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": []}}, None, None),
        ({"background": True, "store": False}, None, None),
        ({"conversation": "conv_1"}, "conversation", None),
        ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
        ({"input": [{"type": "message", "role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]}, None, "invalid_type"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, None, None),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "filename": "x"}]}]}, None, None),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", None),
    ],
)  # fmt: skip
async def test_what_is_out_of_bounds_is_refused_at_its_place_before_any_event(
    model_client: Client, fields: Json, param: str | None, code: str | None
) -> None:
    for stream in (False, True):
        error = await model_client.refused(400, **HI | fields, stream=stream)
        assert error["type"] == "invalid_request_error"
        assert param in {None, error["param"]}, error
        assert code in {None, error["code"]}, error


async def test_a_text_of_more_than_ten_mebibytes_is_refused(model_client: Client) -> None:
    body = BytesIO(json.dumps({"model": MODEL, "input": "x" * (10 * 2**20 + 1)}).encode())
    answer = await model_client.call("POST", "/v1/responses", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.body["error"]["code"]) == (400, "string_above_max_length")


@pytest.mark.parametrize(
    "items",
    [
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        [{"type": None, "role": "user", "content": "Hi", "id": None, "status": None}],
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}],
        [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, {"role": "system", "content": "C"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}],
        [
            {"role": "user", "content": "Hi"},
            {
                "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "final_answer",
                "content": [{"type": "output_text", "text": "Ho", "annotations": [], "logprobs": []}],
            },
            {"role": "user", "content": "Hi again"},
        ],
        [
            {"role": "user", "content": "Hi"},
            {
                "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1",
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "c", "output": "done"},
        ],
        [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "done"}]},
        ],
        [
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "f", "arguments": "not json"},
            {"type": "function_call_output", "call_id": "b", "output": "2"},
            {"type": "function_call_output", "call_id": "a", "output": "1", "status": "completed"},
        ],
        [
            {"role": "user", "content": "Hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
            {"role": "assistant", "content": "Ho"},
        ],
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}, {"role": "user", "content": "Hi"}],
    ],
)  # fmt: skip
async def test_every_form_of_input_that_clients_send_is_taken(model_client: Client, items: list[Json]) -> None:
    response = await model_client.create(**SHORT, input=items)
    assert response["status"] in {"completed", "incomplete"}


@pytest.mark.parametrize(
    ("kind", "extra"),
    [("custom", {"name": "c"}), ("namespace", {"name": "n", "tools": []}), ("web_search", {}), ("local_shell", {})],
)
async def test_tools_that_cannot_run_here_are_taken_and_named_in_a_warning(
    model_client: Client, kind: str, extra: dict[str, Any]
) -> None:
    answer = await model_client.call("POST", "/v1/responses", json=HI | {"tools": [{"type": kind, **extra}]})
    assert answer.status == 200, answer.body
    assert kind in answer.headers["x-antiphon-warning"] or "tools[0]" in answer.headers["x-antiphon-warning"]


async def test_unknown_fields_are_taken_with_a_warning_and_refused_in_strict_mode(model_client: Client) -> None:
    fields = HI | {"best_of": 3, "user": "me"}
    answer = await model_client.call("POST", "/v1/responses", json=fields)
    assert (answer.status, answer.headers["x-antiphon-warning"]) == (200, "best_of; user")
    strict = await model_client.call("POST", "/v1/responses", json=fields, headers={"x-antiphon-strict": "true"})
    assert (strict.status, strict.body["error"]["code"]) == (400, "unknown_parameter")


async def test_usage_adds_up_and_counts_what_was_cached(model_client: Client) -> None:
    text = "Tell me of the seven seas, one after the other, with all their islands. " * 8
    usages = [(await model_client.create(**SHORT, input=text))["usage"] for _ in range(2)]
    for usage in usages:
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    assert usages[1]["input_tokens_details"]["cached_tokens"] > usages[1]["input_tokens"] // 2


async def test_a_cut_answer_says_so_in_response_and_item(model_client: Client) -> None:
    response = await model_client.create(**SHORT, input="Count from 1 to 100.")
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (response["usage"]["output_tokens"], response["completed_at"]) == (16, None)
    assert response["output"][-1]["status"] == "incomplete"
