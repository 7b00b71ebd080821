"""Events as messages, which gRPC callers get and the log keeps, and back. Pure."""

from collections.abc import Iterator
from typing import Final

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import event_pb2
from antiphon.store.v1.event_log_pb2 import DeltaKind, EventBatch
from edge.events import Delta, Event, Part, ResponseEvents, Snapshot
from store import event_batch

_CONTENT_DELTA_FIELDS: Final = {
    pb.PART_KIND_TEXT: "output_text_delta",
    pb.PART_KIND_REFUSAL: "refusal_delta",
    pb.PART_KIND_REASONING: "reasoning_delta",
}
_CONTENT_DELTA_KINDS: Final = {field: kind for kind, field in _CONTENT_DELTA_FIELDS.items()}

_DELTA_KINDS: Final = {
    pb.PART_KIND_TEXT: DeltaKind.DELTA_KIND_OUTPUT_TEXT,
    pb.PART_KIND_REFUSAL: DeltaKind.DELTA_KIND_REFUSAL,
    pb.PART_KIND_REASONING: DeltaKind.DELTA_KIND_REASONING,
    pb.PART_KIND_REASONING_SUMMARY: DeltaKind.DELTA_KIND_REASONING_SUMMARY_TEXT,
    pb.PART_KIND_FUNCTION_CALL: DeltaKind.DELTA_KIND_FUNCTION_CALL_ARGUMENTS,
}


def to_message(event: Event) -> event_pb2.ResponseEvent:
    """``event`` as the message that gRPC callers get."""
    match event:
        case Snapshot(sequence_number, name, response):
            message = event_pb2.ResponseEvent(sequence_number=sequence_number)
            getattr(message, name).response.CopyFrom(response)
            return message
        case Delta(sequence_number, part, text, logprobs):
            if part.kind == pb.PART_KIND_FUNCTION_CALL:
                arguments = event_pb2.ArgumentsDelta(item_id=part.item_id, output_index=part.output_index, delta=text)
                return event_pb2.ResponseEvent(sequence_number=sequence_number, function_call_arguments_delta=arguments)
            if part.kind == pb.PART_KIND_REASONING_SUMMARY:
                summary = event_pb2.SummaryDelta(
                    item_id=part.item_id, output_index=part.output_index, summary_index=part.part_index, delta=text
                )
                return event_pb2.ResponseEvent(sequence_number=sequence_number, reasoning_summary_text_delta=summary)
            content = event_pb2.ContentDelta(
                item_id=part.item_id,
                output_index=part.output_index,
                content_index=part.part_index,
                delta=text,
                logprobs=logprobs,
            )
            message = event_pb2.ResponseEvent(sequence_number=sequence_number)
            getattr(message, _CONTENT_DELTA_FIELDS[part.kind]).CopyFrom(content)
            return message
        case _:
            return event


def from_message(message: event_pb2.ResponseEvent) -> Event:
    """The inverse of ``to_message``: equal events."""
    number, field = message.sequence_number, message.WhichOneof("event")
    match field:
        case "created" | "queued" | "in_progress" | "completed" | "failed" | "incomplete":
            snapshot: event_pb2.ResponseSnapshot = getattr(message, field)
            return Snapshot(number, field, snapshot.response)
        case "output_text_delta" | "refusal_delta" | "reasoning_delta":
            delta: event_pb2.ContentDelta = getattr(message, field)
            part = Part(_CONTENT_DELTA_KINDS[field], delta.item_id, delta.output_index, delta.content_index)
            return Delta(number, part, delta.delta, delta.logprobs)
        case "reasoning_summary_text_delta":
            summary = message.reasoning_summary_text_delta
            part = Part(pb.PART_KIND_REASONING_SUMMARY, summary.item_id, summary.output_index, summary.summary_index)
            return Delta(number, part, summary.delta, ())
        case "function_call_arguments_delta":
            call = message.function_call_arguments_delta
            return Delta(number, Part(pb.PART_KIND_FUNCTION_CALL, call.item_id, call.output_index, 0), call.delta, ())
        case _:
            return message


def to_batch(events: ResponseEvents, *, start: int, tokens: int, is_last: bool = False) -> EventBatch:
    """What ``events`` hold from event number ``start`` on, which is there, after the first ``tokens`` tokens."""
    builder = event_batch.EventBatchBuilder(start)
    token_ids = events.token_ids
    starts = iter([place for place in events.part_starts if place[0] >= start])
    next_start = next(starts, None)
    for event in events.log[start:]:
        if next_start is not None and event.sequence_number == next_start[0]:
            builder.tokens(token_ids[tokens : next_start[1]])
            tokens = next_start[1]
            next_start = next(starts, None)
        if isinstance(event, Delta) and not event.logprobs:
            kind, item_id, output_index, part_index = event.part
            builder.delta(
                _DELTA_KINDS[kind], item_id=item_id, output_index=output_index, part_index=part_index, text=event.text
            )
        else:
            builder.event(to_message(event))
    builder.tokens(token_ids[tokens:])
    return builder.build(is_last=is_last)


def from_batch(batch: EventBatch, *, starting_after: int = -1) -> Iterator[Event]:
    """The events of ``batch`` whose number is over ``starting_after``, equal to those it was made from."""
    return map(from_message, event_batch.expand(batch, starting_after=starting_after))


def replay(batch: EventBatch, events: ResponseEvents) -> None:
    """Bring ``events``, which ended where ``batch`` begins, to where it ends."""
    tokens_before = len(events.token_ids)
    places = [
        entry.tokens_before
        for entry in batch.entries
        for _ in range(len(entry.deltas.texts) if entry.HasField("deltas") else 1)
    ]
    for event, place in zip(from_batch(batch), places, strict=True):
        events.replay(event, tokens_before + place)
    events.token_ids += batch.token_ids
