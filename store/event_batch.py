"""Batches of an event log: made from a response's events, and expanded to equal events. Pure."""

from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError

from antiphon.responses.v1.event_pb2 import ArgumentsDelta, ContentDelta, ResponseEvent, SummaryDelta
from antiphon.store.v1.event_log_pb2 import DeltaKind, DeltaRun, EventBatch
from store.packing import CorruptRecord, compress, decompress

_PLAIN = b"b"
_COMPRESSED = b"z"
_COMPRESS_FROM_BYTES = 1024
"""Deltas are below it and are not worth it; snapshots with tools are above it and repeat each other."""
_MAX_BATCH_BYTES = 256 * 2**20


class EventBatchBuilder:
    """Collects what is logged next. Numbers are given by order: events must come as they are in the response.

    Call ``tokens`` for the tokens of a delta before the delta, or after it: the place of a token matters only against
    the entries that begin a part or an item.
    """

    def __init__(self, first_sequence_number: int) -> None:
        self._batch = EventBatch(first_sequence_number=first_sequence_number)
        self._run: DeltaRun | None = None
        self._place: tuple[DeltaKind.ValueType, str, int, int] | None = None
        self._event_count = 0

    @property
    def next_sequence_number(self) -> int:
        """Number of the event that comes next."""
        return self._batch.first_sequence_number + self._event_count

    @property
    def is_empty(self) -> bool:
        """No event is in it yet, so it cannot be appended; tokens may be."""
        return not self._event_count

    def tokens(self, token_ids: Sequence[int]) -> None:
        """The model generated these."""
        self._batch.token_ids.extend(token_ids)

    def delta(self, kind: DeltaKind.ValueType, *, item_id: str, output_index: int, part_index: int, text: str) -> None:
        """``text`` was appended to a part: one event, without log probabilities."""
        place = (kind, item_id, output_index, part_index)
        if self._run is None or self._place != place:
            entry = self._batch.entries.add(tokens_before=len(self._batch.token_ids))
            self._run, self._place = entry.deltas, place
            self._run.kind, self._run.item_id, self._run.output_index, self._run.part_index = place
        self._run.texts.append(text)
        self._event_count += 1

    def event(self, event: ResponseEvent) -> None:
        """Any event."""
        assert event.sequence_number == self.next_sequence_number
        self._batch.entries.add(tokens_before=len(self._batch.token_ids), event=event)
        self._run = None
        self._event_count += 1

    def build(self, *, is_last: bool = False) -> EventBatch:
        """The batch; the builder must not be used any more."""
        self._batch.is_last = is_last
        return self._batch


def next_sequence_number(batch: EventBatch) -> int:
    """Number of the event that follows ``batch``."""
    return batch.first_sequence_number + sum(
        len(entry.deltas.texts) if entry.HasField("deltas") else 1 for entry in batch.entries
    )


def expand(batch: EventBatch, *, starting_after: int = -1) -> Iterator[ResponseEvent]:
    """The events of ``batch`` whose number is over ``starting_after``, equal to those that were logged."""
    number = batch.first_sequence_number
    for entry in batch.entries:
        if entry.HasField("event"):
            if number > starting_after:
                yield entry.event
            number += 1
            continue
        for text in entry.deltas.texts:
            if number > starting_after:
                yield _delta_event(number, entry.deltas, text)
            number += 1


def encode(batch: EventBatch) -> tuple[bytes, bytes]:
    """Field and value of the stream's entry; the same for the same batch."""
    data = batch.SerializeToString(deterministic=True)
    return (_COMPRESSED, compress(data)) if len(data) >= _COMPRESS_FROM_BYTES else (_PLAIN, data)


def decode(field: bytes, value: bytes) -> EventBatch:
    """The inverse of ``encode``.

    Raises:
        CorruptRecord: this is no batch.
    """
    try:
        return EventBatch.FromString(decompress(value, max_bytes=_MAX_BATCH_BYTES) if field == _COMPRESSED else value)
    except DecodeError as error:
        raise CorruptRecord("a batch of events cannot be read") from error


def _delta_event(number: int, run: DeltaRun, text: str) -> ResponseEvent:
    event = ResponseEvent(sequence_number=number)
    match run.kind:
        case DeltaKind.DELTA_KIND_FUNCTION_CALL_ARGUMENTS:
            event.function_call_arguments_delta.CopyFrom(
                ArgumentsDelta(item_id=run.item_id, output_index=run.output_index, delta=text)
            )
        case DeltaKind.DELTA_KIND_REASONING_SUMMARY_TEXT:
            event.reasoning_summary_text_delta.CopyFrom(
                SummaryDelta(
                    item_id=run.item_id, output_index=run.output_index, summary_index=run.part_index, delta=text
                )
            )
        case kind:
            content = ContentDelta(
                item_id=run.item_id, output_index=run.output_index, content_index=run.part_index, delta=text
            )
            match kind:
                case DeltaKind.DELTA_KIND_OUTPUT_TEXT:
                    event.output_text_delta.CopyFrom(content)
                case DeltaKind.DELTA_KIND_REFUSAL:
                    event.refusal_delta.CopyFrom(content)
                case DeltaKind.DELTA_KIND_REASONING:
                    event.reasoning_delta.CopyFrom(content)
                case _:
                    raise CorruptRecord(f"a batch of events holds deltas of kind {kind}")
    return event
