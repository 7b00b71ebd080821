"""The 24 events of a stream: `event.proto` -> JSON."""

from typing import Any, assert_never

import msgspec

from antiphon.errors import from_message
from antiphon.responses.v1 import event_pb2 as pb
from antiphon.responses.v1.error_pb2 import Error
from edge.codec.content import encode_annotation, encode_logprobs, encode_part
from edge.codec.items import encode_item
from edge.codec.responses import encode_response
from edge.errors import error_object

EVENT_TYPES = {
    "created": "response.created",
    "queued": "response.queued",
    "in_progress": "response.in_progress",
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    "output_item_added": "response.output_item.added",
    "output_item_done": "response.output_item.done",
    "content_part_added": "response.content_part.added",
    "content_part_done": "response.content_part.done",
    "output_text_delta": "response.output_text.delta",
    "output_text_done": "response.output_text.done",
    "refusal_delta": "response.refusal.delta",
    "refusal_done": "response.refusal.done",
    "reasoning_delta": "response.reasoning.delta",
    "reasoning_done": "response.reasoning.done",
    "reasoning_summary_part_added": "response.reasoning_summary_part.added",
    "reasoning_summary_part_done": "response.reasoning_summary_part.done",
    "reasoning_summary_text_delta": "response.reasoning_summary_text.delta",
    "reasoning_summary_text_done": "response.reasoning_summary_text.done",
    "output_text_annotation_added": "response.output_text.annotation.added",
    "function_call_arguments_delta": "response.function_call_arguments.delta",
    "function_call_arguments_done": "response.function_call_arguments.done",
    "error": "error",
}
"""The `type` of each kind of ResponseEvent: also the SSE `event:` field."""


def event_type(event: pb.ResponseEvent) -> str:
    """The `type` of ``event``."""
    kind = event.WhichOneof("event")
    assert kind is not None, "the builder makes no empty event"
    return EVENT_TYPES[kind]


def encode_event(event: pb.ResponseEvent) -> dict[str, Any]:
    """The JSON form of ``event``, without `obfuscation`, which the writer of a stream adds.

    As with `encode_response`, the result is for `msgspec.json.encode`.
    """
    return {"type": event_type(event), "sequence_number": event.sequence_number, **_encode_body(event)}


def event_json(event: pb.ResponseEvent) -> bytes:
    """``event`` as JSON, on one line."""
    return msgspec.json.encode(encode_event(event))


def _encode_body(event: pb.ResponseEvent) -> dict[str, Any]:
    kind = event.WhichOneof("event")
    match kind:
        case "created" | "queued" | "in_progress" | "completed" | "failed" | "incomplete":
            snapshot: pb.ResponseSnapshot = getattr(event, kind)
            return {"response": encode_response(snapshot.response)}
        case "output_item_added" | "output_item_done":
            boundary: pb.OutputItemEvent = getattr(event, kind)
            return {"output_index": boundary.output_index, "item": encode_item(boundary.item)}
        case "content_part_added" | "content_part_done":
            content_part: pb.ContentPartEvent = getattr(event, kind)
            return {**_content_place(content_part), "part": encode_part(content_part.part)}
        case "output_text_delta":
            text = event.output_text_delta
            return {**_content_place(text), "delta": text.delta, "logprobs": encode_logprobs(text.logprobs)}
        case "refusal_delta" | "reasoning_delta":
            delta: pb.ContentDelta = getattr(event, kind)
            return {**_content_place(delta), "delta": delta.delta}
        case "output_text_done":
            done = event.output_text_done
            return {**_content_place(done), "text": done.text, "logprobs": encode_logprobs(done.logprobs)}
        case "refusal_done":
            return {**_content_place(event.refusal_done), "refusal": event.refusal_done.text}
        case "reasoning_done":
            return {**_content_place(event.reasoning_done), "text": event.reasoning_done.text}
        case "reasoning_summary_part_added" | "reasoning_summary_part_done":
            summary_part: pb.SummaryPartEvent = getattr(event, kind)
            return {**_summary_place(summary_part), "part": encode_part(summary_part.part)}
        case "reasoning_summary_text_delta":
            summary_delta = event.reasoning_summary_text_delta
            return {**_summary_place(summary_delta), "delta": summary_delta.delta}
        case "reasoning_summary_text_done":
            summary_done = event.reasoning_summary_text_done
            return {**_summary_place(summary_done), "text": summary_done.text}
        case "output_text_annotation_added":
            added = event.output_text_annotation_added
            return {
                **_content_place(added),
                "annotation_index": added.annotation_index,
                "annotation": encode_annotation(added.annotation),
            }
        case "function_call_arguments_delta":
            call = event.function_call_arguments_delta
            return {"item_id": call.item_id, "output_index": call.output_index, "delta": call.delta}
        case "function_call_arguments_done":
            whole = event.function_call_arguments_done
            return {"item_id": whole.item_id, "output_index": whole.output_index, "arguments": whole.arguments}
        case "error":
            return {"error": _encode_error(event.error)}
        case None:
            raise AssertionError("the builder makes no empty event")
        case unreachable:
            assert_never(unreachable)


def _content_place(
    event: pb.ContentPartEvent | pb.ContentDelta | pb.ContentDone | pb.AnnotationAdded,
) -> dict[str, Any]:
    return {"item_id": event.item_id, "output_index": event.output_index, "content_index": event.content_index}


def _summary_place(event: pb.SummaryPartEvent | pb.SummaryDelta | pb.SummaryDone) -> dict[str, Any]:
    return {"item_id": event.item_id, "output_index": event.output_index, "summary_index": event.summary_index}


def _encode_error(error: Error) -> dict[str, Any]:
    """Nested, as the Open Responses schema has it; OpenAI's SDK raises for it all the same."""
    return error_object(from_message(error))
