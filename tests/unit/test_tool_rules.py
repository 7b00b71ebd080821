"""What a request lets the model call."""

import json
from typing import Any

import pytest

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.tool_pb2 import (
    AllowedToolsChoice,
    FunctionTool,
    FunctionToolChoice,
    RawTool,
    RawToolChoice,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from inference.tools.rules import MAX_CALLS, CallRules, call_rules

A, B = (Tool(function=FunctionTool(name=name)) for name in "ab")
SEARCH = Tool(raw=RawTool(type="web_search", json=b"{}"))
NONE = ToolChoice(mode=ToolChoiceMode.TOOL_CHOICE_MODE_NONE)
REQUIRED = ToolChoice(mode=ToolChoiceMode.TOOL_CHOICE_MODE_REQUIRED)


def named(name: str) -> ToolChoice:
    return ToolChoice(function=FunctionToolChoice(name=name))


def allowed(*names: str, mode: str = "AUTO") -> ToolChoice:
    tools = [FunctionToolChoice(name=name) for name in names]
    return ToolChoice(
        allowed_tools=AllowedToolsChoice(tools=tools, mode=ToolChoiceMode.Value(f"TOOL_CHOICE_MODE_{mode}"))
    )


def raw(type_: str = "allowed_tools", **fields: Any) -> ToolChoice:
    return ToolChoice(raw=RawToolChoice(type=type_, json=json.dumps({"type": type_, **fields}).encode()))


MIXED = [{"type": "web_search"}, {"type": "function", "name": "b"}]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, CallRules()),
        ({"tools": [SEARCH]}, CallRules()),
        ({"tools": [A, SEARCH, B]}, CallRules(("a", "b"), most=None)),
        ({"tools": [A], "tool_choice": NONE}, CallRules()),
        ({"tools": [A, B], "tool_choice": REQUIRED}, CallRules(("a", "b"), is_required=True, most=None)),
        ({"tools": [A, B], "tool_choice": named("b")}, CallRules(("b",), is_required=True, most=1)),
        ({"tools": [A, B], "tool_choice": allowed("b")}, CallRules(("b",), most=None)),
        ({"tools": [A, B], "tool_choice": allowed("b", "b", "a", mode="REQUIRED")}, CallRules(("b", "a"), True, None)),
        ({"tools": [A, B], "tool_choice": allowed("b", mode="NONE")}, CallRules()),
        ({"tools": [A, SEARCH, B], "tool_choice": raw(tools=MIXED)}, CallRules(("b",), most=None)),
        ({"tools": [B, SEARCH], "tool_choice": raw(tools=MIXED, mode="required")}, CallRules(("b",), True, None)),
        ({"tools": [A, SEARCH], "tool_choice": raw(tools=MIXED[:1])}, CallRules()),
        ({"tools": [A], "parallel_tool_calls": True}, CallRules(("a",), most=None)),
        ({"tools": [A], "parallel_tool_calls": False}, CallRules(("a",), most=1)),
        ({"tools": [A], "max_tool_calls": 3}, CallRules(("a",), most=3)),
        ({"tools": [A], "max_tool_calls": 2**32 - 1}, CallRules(("a",), most=MAX_CALLS)),
        ({"tools": [A], "max_tool_calls": 3, "parallel_tool_calls": False}, CallRules(("a",), most=1)),
        ({"tools": [A], "tool_choice": REQUIRED, "max_tool_calls": 2}, CallRules(("a",), True, 2)),
    ],
)
def test_every_form_of_tool_choice_has_its_rules(fields: dict[str, Any], expected: CallRules) -> None:
    assert call_rules(GenerateRequest(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [A], "tool_choice": named("b")}, ErrorReason.ERROR_REASON_INVALID_VALUE),
        ({"tools": [A], "tool_choice": allowed("a", "b")}, ErrorReason.ERROR_REASON_INVALID_VALUE),
        ({"tools": [A], "tool_choice": raw(tools=MIXED)}, ErrorReason.ERROR_REASON_INVALID_VALUE),
        ({"tool_choice": REQUIRED}, ErrorReason.ERROR_REASON_INVALID_VALUE),
        ({"tools": [SEARCH], "tool_choice": REQUIRED}, ErrorReason.ERROR_REASON_INVALID_VALUE),
        ({"tools": [A, SEARCH], "tool_choice": raw("web_search")}, ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE),
        ({"tools": [A], "tool_choice": raw(tools="a")}, ErrorReason.ERROR_REASON_INVALID_VALUE),
        ({"tools": [A], "tool_choice": raw(tools=["a"])}, ErrorReason.ERROR_REASON_INVALID_VALUE),
        ({"tools": [A], "tool_choice": raw(tools=[], mode="maybe")}, ErrorReason.ERROR_REASON_INVALID_VALUE),
    ],
)
def test_a_choice_that_cannot_be_kept_is_refused(fields: dict[str, Any], reason: ErrorReason.ValueType) -> None:
    with pytest.raises(ApiError) as refused:
        call_rules(GenerateRequest(**fields))
    assert (refused.value.reason, refused.value.param) == (reason, "tool_choice")
