"""What a request lets the model call: ``tools``, ``tool_choice``, ``parallel_tool_calls``, ``max_tool_calls``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.tool_pb2 import RawToolChoice, ToolChoiceMode

MAX_CALLS = 1000
"""More are never counted: grammars write them out."""


@dataclass(frozen=True, slots=True)
class CallRules:
    """Which functions one generation may call, and how often."""

    names: tuple[str, ...] = ()
    """May be called; others are known to the model, and cannot be."""
    is_required: bool = False
    """There is at least one call, and no text."""
    most: int | None = 0
    """The most calls; None: any number."""
    first: str | None = None
    """The function of the first call, if that is settled."""

    @property
    def allows_calls(self) -> bool:
        return self.most != 0

    def at_most(self, calls: int) -> "CallRules":
        """The same with no more than so many calls."""
        return replace(self, most=calls if self.most is None else min(self.most, calls))

    def answering(self) -> "CallRules":
        """The same without calls."""
        return CallRules()

    def calling(self, name: str) -> "CallRules":
        """The same with a first call, of ``name``."""
        return replace(self, is_required=True, first=name)


def call_rules(request: GenerateRequest) -> CallRules:
    """The rules of ``request``. Tools that are no functions cannot be called; a named function is called once.

    ``max_tool_calls`` is OpenAI's limit of built-in tools, here that of all calls in one response.

    Raises:
        ApiError: INVALID_VALUE, the choice is of a function that is not among the tools, or requires a call of none;
            UNSUPPORTED_VALUE, it names a tool that is no function.
    """
    names = tuple(tool.function.name for tool in request.tools if tool.HasField("function"))
    choice = request.tool_choice
    match choice.WhichOneof("choice"):
        case "function":
            return CallRules(_checked([choice.function.name], names), is_required=True, most=1)
        case "allowed_tools":
            allowed = choice.allowed_tools
            mode = allowed.mode
            names = _checked((tool.name for tool in allowed.tools), names)
        case "raw":
            mode, allowed_names = _read_raw(choice.raw)
            names = _checked(allowed_names, names)
        case _:
            mode = choice.mode
    if mode == ToolChoiceMode.TOOL_CHOICE_MODE_REQUIRED and not names:
        message = "Tool choice 'required' needs a function among the tools."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "tool_choice")
    if mode == ToolChoiceMode.TOOL_CHOICE_MODE_NONE or not names:
        return CallRules()
    most = min(request.max_tool_calls, MAX_CALLS) if request.HasField("max_tool_calls") else None
    if request.HasField("parallel_tool_calls") and not request.parallel_tool_calls:
        most = 1
    return CallRules(names, is_required=mode == ToolChoiceMode.TOOL_CHOICE_MODE_REQUIRED, most=most)


def _checked(chosen: Iterable[str], names: tuple[str, ...]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(chosen))
    for name in chosen:
        if name not in names:
            message = f"Tool choice '{name[:64]}' not found in 'tools' parameter."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "tool_choice")
    return chosen


def _read_raw(raw: RawToolChoice) -> tuple[ToolChoiceMode.ValueType, list[str]]:
    """The mode, and the functions among allowed tools of several kinds."""
    if raw.type != "allowed_tools":
        message = f"Tools of type '{raw.type[:64]}' are kept from the model, so they cannot be chosen."
        raise ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE, message, "tool_choice")
    try:
        choice: Mapping[str, object] = json.loads(raw.json)
        allowed = choice["tools"]
        assert isinstance(allowed, list)
        functions = [str(tool["name"]) for tool in allowed if tool["type"] == "function"]
        mode = ToolChoiceMode.Value(f"TOOL_CHOICE_MODE_{str(choice.get('mode') or 'auto').upper()}")
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        message = "Invalid 'tool_choice': the allowed tools are malformed."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "tool_choice") from error
    return mode, functions
