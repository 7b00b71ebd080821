"""Tools and the choice between them: JSON <-> `tool.proto`."""

from collections.abc import Iterable
from typing import Any, assert_never

import msgspec

from antiphon.responses.v1 import tool_pb2 as pb
from edge.codec.enums import TOOL_CHOICE_MODE, invalid_choice
from edge.rest import schema
from edge.rest.schema import as_object, shape, type_of

RAW_TOOL_TYPES = frozenset(
    {
        "apply_patch", "code_interpreter", "computer", "computer_use_preview", "custom", "file_search",
        "image_generation", "local_shell", "mcp", "namespace", "programmatic_tool_calling", "shell", "tool_search",
        "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
    }
)  # fmt: skip
"""Kinds of tools, and of choices that name one, that OpenAI's API has and our protos carry as JSON."""


def decode_tool(value: object, place: str) -> pb.Tool:
    """One tool.

    Raises:
        ApiError: it has the wrong shape, or its `type` is unknown (INVALID_VALUE).
    """
    fields = as_object(value, place)
    kind = type_of(fields, place)
    if kind == "function":
        function = shape(fields, schema.FunctionTool, place)
        parameters = None if function.parameters is None else msgspec.json.encode(function.parameters).decode()
        return pb.Tool(
            function=pb.FunctionTool(
                name=function.name,
                description=function.description,
                parameters=parameters,
                strict=function.strict,
            )
        )
    if kind in RAW_TOOL_TYPES:
        return pb.Tool(raw=pb.RawTool(type=kind, json=msgspec.json.encode(fields)))
    raise invalid_choice(kind, ("function", *sorted(RAW_TOOL_TYPES)), f"{place}.type")


def encode_tools(tools: Iterable[pb.Tool]) -> list[dict[str, Any]]:
    """The JSON form of the functions among ``tools``, as `with_defaults` leaves them.

    A response's `tools` are those "available to the model", and its schema has functions alone: the others, which are
    kept from the model, are named in a warning instead.
    """
    return [_encode_function(tool.function) for tool in tools if tool.HasField("function")]


def _encode_function(function: pb.FunctionTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": function.name,
        "description": function.description if function.HasField("description") else None,
        "parameters": raw_json(function.parameters) if function.HasField("parameters") else None,
        "strict": function.strict,
    }


def decode_tool_choice(value: str | dict[str, Any], place: str = "tool_choice") -> pb.ToolChoice:
    """`tool_choice`. Allowed tools that are not all functions are carried as JSON.

    Raises:
        ApiError: it has the wrong shape, or its value or `type` is unknown (INVALID_VALUE).
    """
    if isinstance(value, str):
        return pb.ToolChoice(mode=TOOL_CHOICE_MODE.decode(value, place))
    kind = type_of(value, place)
    if kind == "function":
        return pb.ToolChoice(function=_decode_function_choice(value, place))
    if kind == "allowed_tools":
        allowed = shape(value, schema.AllowedToolsChoice, place)
        mode = TOOL_CHOICE_MODE.decode(allowed.mode, f"{place}.mode")
        places = [(tool, f"{place}.tools[{index}]") for index, tool in enumerate(allowed.tools)]
        kinds = {type_of(as_object(tool, at), at) for tool, at in places}
        if kinds <= {"function"}:
            tools = [_decode_function_choice(tool, at) for tool, at in places]
            return pb.ToolChoice(allowed_tools=pb.AllowedToolsChoice(tools=tools, mode=mode))
    elif kind not in RAW_TOOL_TYPES:
        raise invalid_choice(kind, ("function", "allowed_tools", *sorted(RAW_TOOL_TYPES)), f"{place}.type")
    return pb.ToolChoice(raw=pb.RawToolChoice(type=kind, json=msgspec.json.encode(value)))


def encode_tool_choice(choice: pb.ToolChoice) -> str | dict[str, Any]:
    """The JSON form of ``choice``, as `with_defaults` leaves it; of allowed tools the functions, as of all tools."""
    match choice.WhichOneof("choice"):
        case "mode" | None:
            return TOOL_CHOICE_MODE.encode(choice.mode or pb.TOOL_CHOICE_MODE_AUTO)
        case "function":
            return _encode_function_choice(choice.function)
        case "allowed_tools":
            return {
                "type": "allowed_tools",
                "tools": [_encode_function_choice(tool) for tool in choice.allowed_tools.tools],
                "mode": TOOL_CHOICE_MODE.encode(choice.allowed_tools.mode or pb.TOOL_CHOICE_MODE_AUTO),
            }
        case "raw":
            fields = msgspec.json.decode(choice.raw.json, type=dict[str, Any])
            if choice.raw.type == "allowed_tools":
                functions = [tool for tool in fields["tools"] if tool["type"] == "function"]
                fields.update(tools=functions, mode=fields.get("mode") or "auto")
            return {**fields, "type": choice.raw.type}
        case unreachable:
            assert_never(unreachable)


def raw_json(text: str) -> msgspec.Raw:
    """JSON ``text`` as msgspec embeds it, on one line: a line break would end an event's `data:`."""
    return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))


def _decode_function_choice(value: object, place: str) -> pb.FunctionToolChoice:
    return pb.FunctionToolChoice(name=shape(value, schema.FunctionToolChoice, place).name)


def _encode_function_choice(choice: pb.FunctionToolChoice) -> dict[str, Any]:
    return {"type": "function", "name": choice.name}
