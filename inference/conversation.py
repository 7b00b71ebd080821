"""Items of the API -> chat messages."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from antiphon.errors import ApiError
from antiphon.responses.v1.content_pb2 import ContentPart
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import FunctionCallOutput, Item, Message, Reasoning
from antiphon.responses.v1.item_pb2 import Role as ItemRole
from inference.dialect import ChatMessage, Role, ToolCall
from inference.images import check_image
from inference.traced import Content, TracedStr

_ROLES: dict[ItemRole.ValueType, Role] = {
    ItemRole.ROLE_USER: "user",
    ItemRole.ROLE_ASSISTANT: "assistant",
    ItemRole.ROLE_SYSTEM: "system",
    ItemRole.ROLE_DEVELOPER: "system",
}
SYSTEM_ROLES = frozenset({ItemRole.ROLE_SYSTEM, ItemRole.ROLE_DEVELOPER})
_IMAGE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for an image in a text. Only the ``Content`` that it comes from makes it one: anybody can write it."""


def read_conversation(instructions: str, items: Iterable[Item], *, sees_images: bool = False) -> list[ChatMessage]:
    """The messages of ``items``, after ``instructions`` as a system message if there are any.

    What the assistant did in one turn becomes one message: reasoning joins the message or call after it, calls join the
    message before them. Reasoning that nothing of the assistant follows is left out. An image is a part of its text:
    one character, whose ``Content`` has it.

    Raises:
        ApiError: UNSUPPORTED_VALUE, a kind of item or content that the model does not take; INVALID_MEDIA, an image
            that ``check_image`` does not let pass; INVALID_VALUE, no role. ``param`` counts ``items`` as ``input[i]``.
    """
    messages = [ChatMessage("system", TracedStr.of(Content(instructions)))] if instructions else []
    reasoning = ""
    names: dict[str, str] = {}
    open_turn = False  # the last message can still take calls
    for index, item in enumerate(items):
        param = f"input[{index}]"
        match item.WhichOneof("kind"):
            case "message":
                message = _message(item.message, param, sees_images)
                open_turn = message.role == "assistant"
                messages.append(replace(message, reasoning=reasoning) if open_turn else message)
                reasoning = ""
            case "function_call":
                call = ToolCall(item.function_call.call_id, item.function_call.name, item.function_call.arguments)
                names[call.call_id] = call.name
                if not open_turn or reasoning:
                    messages.append(ChatMessage("assistant", reasoning=reasoning))
                messages[-1] = replace(messages[-1], tool_calls=(*messages[-1].tool_calls, call))
                open_turn = True
                reasoning = ""
            case "function_call_output":
                output = item.function_call_output
                name = names.get(output.call_id, "")
                messages.append(
                    ChatMessage("tool", _output_text(output, param, sees_images), call_id=output.call_id, name=name)
                )
                open_turn = False
                reasoning = ""
            case "reasoning":
                reasoning = _reasoning_text(item.reasoning, param)
            case _:
                raise ApiError(
                    ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE,
                    "This kind of item is not supported by the model.",
                    param,
                )
    return messages


def _message(message: Message, param: str, sees_images: bool) -> ChatMessage:
    role = _ROLES.get(message.role)
    if role is None:
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, "The message has no valid role.", f"{param}.role")
    return ChatMessage(role, _text(message.content, f"{param}.content", sees_images))


def _output_text(output: FunctionCallOutput, param: str, sees_images: bool) -> str:
    if output.WhichOneof("output") == "parts":
        return _text(output.parts.parts, f"{param}.output", sees_images)
    return TracedStr.of(Content(output.text))


def _reasoning_text(reasoning: Reasoning, param: str) -> str:
    return _text(reasoning.content, f"{param}.content", sees_images=False)


def _text(parts: Sequence[ContentPart], param: str, sees_images: bool) -> str:
    """The texts of ``parts``, a line each."""
    texts = (_part(part, f"{param}[{index}]", sees_images) for index, part in enumerate(parts))
    return TracedStr("\n").join([TracedStr.of(text) for text in texts])


def _part(part: ContentPart, param: str, sees_images: bool) -> Content:
    match part.WhichOneof("part"):
        case "input_text":
            return Content(part.input_text.text)
        case "output_text":
            return Content(part.output_text.text, part.output_text.token_ids)
        case "refusal":
            return Content(part.refusal.refusal)
        case "reasoning_text":
            return Content(part.reasoning_text.text, part.reasoning_text.token_ids)
        case "summary_text":
            return Content(part.summary_text.text)
        case "text":
            return Content(part.text.text)
        case "input_image" if sees_images:
            try:
                check_image(part.input_image.data)
            except ValueError as error:
                message = f"The image is not as a worker takes it: {error}."
                raise ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, message, f"{param}.image_url") from None
            return Content(_IMAGE, image=part.input_image.data)
        case _:
            message = "The model takes text and images only." if sees_images else "The model takes text only."
            raise ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE, message, param)
