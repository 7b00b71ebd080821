"""Items: JSON <-> `item.proto`."""

from typing import Any, assert_never

import msgspec

from antiphon.responses.v1 import item_pb2 as pb
from edge.checks import missing
from edge.codec.content import decode_parts, encode_part, text_part
from edge.codec.enums import ITEM_STATUS, PHASE, ROLE, invalid_choice
from edge.rest import schema
from edge.rest.schema import as_object, shape, type_of

RAW_ITEM_TYPES = frozenset(
    {
        "additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call", 
        "compaction_trigger", "computer_call", "computer_call_output", "configuration_update", "custom_tool_call",
        "custom_tool_call_output",
        "file_search_call", "image_generation_call", "local_shell_call", "local_shell_call_output",
        "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools", "program", "program_output",
        "shell_call", "shell_call_output", "tool_search_call", "tool_search_output", "web_search_call",
    }
)  # fmt: skip
"""Kinds that OpenAI's API has and our protos carry as JSON."""

_ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning", "item_reference", "compaction")


def decode_input(value: str | list[Any], place: str = "input") -> list[pb.Item]:
    """`input`: a string is one user message."""
    if isinstance(value, str):
        return [pb.Item(message=pb.Message(role=pb.ROLE_USER, content=[text_part(pb.ROLE_USER, value, place)]))]
    return [decode_item(item, f"{place}[{index}]") for index, item in enumerate(value)]


def decode_item(value: object, place: str) -> pb.Item:
    """One item that a client sends: its own or one that this API gave it.

    Without a `type` (or with null), an object with a `role` is a message and one with an `id` alone is an
    `item_reference`.

    Raises:
        ApiError: it has the wrong shape, or its `type` is unknown (INVALID_VALUE).
    """
    fields = as_object(value, place)
    item = pb.Item()  # filled in place: a constructor copies each nested message
    match kind := _item_type(fields, place):
        case "message":
            message = shape(fields, schema.Message, place)
            _fill_head(item, message, place)
            _fill_message(item.message, message, place)
        case "function_call":
            call = shape(fields, schema.FunctionCall, place)
            _fill_head(item, call, place)
            item.function_call.CopyFrom(pb.FunctionCall(call_id=call.call_id, name=call.name, arguments=call.arguments))
        case "function_call_output":
            output = shape(fields, schema.FunctionCallOutput, place)
            _fill_head(item, output, place)
            item.function_call_output.call_id = output.call_id
            if isinstance(output.output, str):
                item.function_call_output.text = output.output
            else:
                item.function_call_output.parts.SetInParent()
                item.function_call_output.parts.parts.extend(
                    decode_parts(output.output, f"{place}.output", pb.ROLE_USER)
                )
        case "reasoning":
            reasoning = shape(fields, schema.Reasoning, place)
            _fill_head(item, reasoning, place)
            item.reasoning.CopyFrom(
                pb.Reasoning(
                    summary=decode_parts(reasoning.summary or (), f"{place}.summary"),
                    content=decode_parts(reasoning.content or (), f"{place}.content"),
                    encrypted_content=reasoning.encrypted_content,
                )
            )
        case "item_reference":
            item.id = shape(fields, schema.ItemReference, place).id
            item.item_reference.SetInParent()
        case "compaction":
            compaction = shape(fields, schema.Compaction, place)
            item.id = compaction.id or ""
            item.compaction.CopyFrom(
                pb.Compaction(encrypted_content=compaction.encrypted_content, created_by=compaction.created_by)
            )
        case _ if kind in RAW_ITEM_TYPES:
            item.id = shape(fields, schema.RawItem, place).id or ""
            item.raw.CopyFrom(pb.RawItem(type=kind, json=msgspec.json.encode(fields)))
        case _:
            raise invalid_choice(kind, _ITEM_TYPES, f"{place}.type")
    return item


def encode_item(item: pb.Item) -> dict[str, Any]:
    """The JSON form of an item of a response's output or of the list of its input items.

    An item without a status, as clients send them, is complete.
    """
    status = ITEM_STATUS.encode(item.status or pb.ITEM_STATUS_COMPLETED)
    match item.WhichOneof("kind"):
        case "message":
            message = item.message
            phase = {"phase": PHASE.encode(message.phase)} if message.phase else {}
            return {
                "type": "message",
                "id": item.id,
                "status": status,
                "role": ROLE.encode(message.role),
                "content": [encode_part(part) for part in message.content],
                **phase,
            }
        case "function_call":
            call = item.function_call
            return {
                "type": "function_call",
                "id": item.id,
                "call_id": call.call_id,
                "name": call.name,
                "arguments": call.arguments,
                "status": status,
            }
        case "function_call_output":
            output = item.function_call_output
            return {
                "type": "function_call_output",
                "id": item.id,
                "call_id": output.call_id,
                "output": [encode_part(part) for part in output.parts.parts]
                if output.WhichOneof("output") == "parts"
                else output.text,
                "status": status,
            }
        case "reasoning":
            return {"type": "reasoning", "id": item.id, **_encode_reasoning(item.reasoning), "status": status}
        case "compaction":
            compaction = item.compaction
            created_by = {"created_by": compaction.created_by} if compaction.HasField("created_by") else {}
            return {
                "type": "compaction",
                "id": item.id,
                "encrypted_content": compaction.encrypted_content,
                **created_by,
            }
        case "item_reference":
            return {"type": "item_reference", "id": item.id}
        case "raw":
            id_ = {"id": item.id} if item.id else {}
            return {**msgspec.json.decode(item.raw.json, type=dict[str, Any]), "type": item.raw.type, **id_}
        case None:
            raise AssertionError("validate refuses an item that is of no kind")
        case unreachable:
            assert_never(unreachable)


def _encode_reasoning(reasoning: pb.Reasoning) -> dict[str, Any]:
    """`content` and `encrypted_content` may be absent, but never null."""
    fields: dict[str, Any] = {"summary": [encode_part(part) for part in reasoning.summary]}
    if reasoning.content:
        fields["content"] = [encode_part(part) for part in reasoning.content]
    if reasoning.HasField("encrypted_content"):
        fields["encrypted_content"] = reasoning.encrypted_content
    return fields


def _item_type(fields: dict[str, Any], place: str) -> str:
    if fields.get("type") is None:
        given = {name for name, value in fields.items() if value is not None}
        if "role" in given:
            return "message"
        if given == {"id"}:
            return "item_reference"
    return type_of(fields, place)


def _fill_head(
    item: pb.Item,
    given: schema.Message | schema.FunctionCall | schema.FunctionCallOutput | schema.Reasoning,
    place: str,
) -> None:
    item.id = given.id or ""
    if given.status is not None:
        item.status = ITEM_STATUS.decode(given.status, f"{place}.status")


def _fill_message(message: pb.Message, given: schema.Message, place: str) -> None:
    message.role = ROLE.decode(given.role, f"{place}.role")
    if isinstance(given.content, str):
        message.content.append(text_part(message.role, given.content, f"{place}.content"))
    elif given.content is not None:
        message.content.extend(decode_parts(given.content, f"{place}.content", message.role))
    elif message.role != pb.ROLE_ASSISTANT:
        raise missing(f"{place}.content")
    if given.phase is not None:
        message.phase = PHASE.decode(given.phase, f"{place}.phase")
