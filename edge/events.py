"""Deltas to the numbered event sequence of one response: pure, and unable to emit an illegal order.

Order (Open Responses specification, "Items are streamable")::

    created -> [queued] -> in_progress
    message:       item added -> (part added -> delta* -> done -> part done)* -> item done
    reasoning:     the same with reasoning parts, then the same with summary parts
    function call: item added -> arguments delta* -> arguments done -> item done
    [error] -> completed | incomplete | failed

Deltas, the hot path, are plain tuples; the door that sends an event renders it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2, error_pb2, event_pb2, item_pb2, response_pb2
from store.ids import ItemKind

QUEUED: Final = response_pb2.RESPONSE_STATUS_QUEUED
IN_PROGRESS: Final = response_pb2.RESPONSE_STATUS_IN_PROGRESS
COMPLETED: Final = response_pb2.RESPONSE_STATUS_COMPLETED
INCOMPLETE: Final = response_pb2.RESPONSE_STATUS_INCOMPLETE
FAILED: Final = response_pb2.RESPONSE_STATUS_FAILED
CANCELLED: Final = response_pb2.RESPONSE_STATUS_CANCELLED

TERMINAL_STATUSES: Final = frozenset({COMPLETED, INCOMPLETE, FAILED, CANCELLED})

_PART_KINDS: Final = {
    "output_text": pb.PART_KIND_TEXT,
    "refusal": pb.PART_KIND_REFUSAL,
    "reasoning_text": pb.PART_KIND_REASONING,
}

_TERMINAL_EVENTS: Final = {
    COMPLETED: "completed",
    INCOMPLETE: "incomplete",
    FAILED: "failed",
    CANCELLED: "incomplete",  # the API has no event of its own for it; the response in it says `cancelled`
}


class Part(NamedTuple):
    """Where deltas belong: one content part, summary part, or the arguments of one call."""

    kind: pb.PartKind.ValueType
    item_id: str
    output_index: int
    part_index: int
    """``content_index`` or ``summary_index``; 0 for arguments."""


class Delta(msgspec.Struct, frozen=True, gc=False):
    """Text appended to a part. Part of no cycle, and so many that the garbage collector must not look at them."""

    sequence_number: int
    part: Part
    text: str
    logprobs: Sequence[content_pb2.Logprob]


class Snapshot(NamedTuple):
    """The whole response at one moment. ``response`` is shared with other events and never changed."""

    sequence_number: int
    name: str
    """The event's type without ``response.``."""
    response: response_pb2.Response


Event = Delta | Snapshot | event_pb2.ResponseEvent


class ResponseEvents:
    """The one append-only event list of a response, and the response it adds up to.

    Args:
        response: The response with its final id, status and parameters, and no output.
        new_item_id: Gives the id of the next item.
        new_call_id: Gives a fresh call id.
        complete_item: May add to an item that is whole, before its last event.
    """

    def __init__(
        self,
        response: response_pb2.Response,
        *,
        new_item_id: Callable[[ItemKind], str],
        new_call_id: Callable[[], str],
        complete_item: Callable[[item_pb2.Item], None] | None = None,
    ) -> None:
        self.log: list[Event] = []
        self.response = response_pb2.Response()
        self.response.CopyFrom(response)  # snapshots share it: whoever gave it may go on with his own
        self.token_ids: list[int] = []
        """All that the model generated so far, markup included."""
        self.part_starts: list[tuple[int, int]] = []
        """Of each part, the number of the event that began it, and how many tokens came before."""
        self.is_open = False
        """The client has been told that the response exists."""
        self.is_ended = False
        """The terminal event is in the log."""
        self._new_item_id = new_item_id
        self._new_call_id = new_call_id
        self._complete_item = complete_item
        self._closed_items: list[item_pb2.Item] = []
        self._item: item_pb2.Item | None = None
        self._part: Part | None = None
        self._texts: list[str] = []
        self._part_start = 0  # in token_ids
        self._logprobs: list[content_pb2.Logprob] = []

    @property
    def has_output(self) -> bool:
        """At least one item was begun."""
        return self.item_count > 0

    @property
    def item_count(self) -> int:
        """Items that were begun."""
        return len(self._closed_items) + (self._item is not None)

    @property
    def has_summary(self) -> bool:
        """A summary of reasoning was begun."""
        part = self._part
        return (part is not None and part.kind == pb.PART_KIND_REASONING_SUMMARY) or any(
            item.reasoning.summary for item in (*self._closed_items, self._item) if item is not None
        )

    def open(self, status: response_pb2.ResponseStatus.ValueType) -> None:
        """Emit ``created`` and then ``queued`` or ``in_progress``, as ``status`` says."""
        assert not self.is_open
        self.is_open = True
        self._set_status(status)
        self._snapshot("created")
        self.progress(status)

    def progress(self, status: response_pb2.ResponseStatus.ValueType) -> None:
        """Emit ``queued`` or ``in_progress``: a change of status or, repeated, a sign of life before the first item."""
        assert self.is_open
        assert not self.has_output
        self._set_status(status)
        self._snapshot("queued" if status == QUEUED else "in_progress")

    def part_started(self, kind: pb.PartKind.ValueType, name: str = "") -> None:
        """Begin a part, and with it an item unless it belongs to the open one.

        Args:
            kind: What it is.
            name: The function's name, for a call.
        """
        assert self.is_open
        self.part_ended()
        match kind:
            case pb.PART_KIND_TEXT | pb.PART_KIND_REFUSAL:
                if self._item is None or not self._item.HasField("message"):
                    message = item_pb2.Message(role=item_pb2.ROLE_ASSISTANT)
                    self._open_item(item_pb2.Item(id=self._new_item_id(ItemKind.MESSAGE), message=message))
                assert self._item is not None
                self._open_part(kind, len(self._item.message.content))
            case pb.PART_KIND_REASONING | pb.PART_KIND_REASONING_SUMMARY:
                if self._item is None or not self._item.HasField("reasoning"):
                    reasoning = item_pb2.Reasoning()
                    self._open_item(item_pb2.Item(id=self._new_item_id(ItemKind.REASONING), reasoning=reasoning))
                assert self._item is not None
                parts = self._item.reasoning
                is_summary = kind == pb.PART_KIND_REASONING_SUMMARY
                self._open_part(kind, len(parts.summary if is_summary else parts.content))
            case pb.PART_KIND_FUNCTION_CALL:
                call = item_pb2.FunctionCall(call_id=self._new_call_id(), name=name)
                self._open_item(item_pb2.Item(id=self._new_item_id(ItemKind.FUNCTION_CALL), function_call=call))
                self._open_part(kind, 0)
            case _:
                raise AssertionError(f"part kind {kind}")

    def delta(self, text: str, token_ids: Iterable[int], logprobs: Sequence[content_pb2.Logprob] = ()) -> None:
        """Append to the open part. Without text only the token ids and log probabilities are kept."""
        self.token_ids += token_ids
        part = self._part
        if part is None:  # tokens of markup between two parts
            assert not text
            return
        if logprobs:
            self._logprobs.extend(logprobs)
        if text or logprobs:
            self._texts.append(text)
            self.log.append(Delta(len(self.log), part, text, logprobs))

    def part_ended(self) -> None:
        """End the open part, if there is one."""
        part, item = self._part, self._item
        if part is None:
            return
        assert item is not None
        self._part = None
        text = "".join(self._texts)
        whole = _content_part(part.kind, text, self.token_ids[self._part_start :], self._logprobs)
        match part.kind:
            case pb.PART_KIND_FUNCTION_CALL:
                item.function_call.arguments = text
                done = event_pb2.ArgumentsDone(item_id=part.item_id, output_index=part.output_index, arguments=text)
                self._emit(event_pb2.ResponseEvent(function_call_arguments_done=done))
            case pb.PART_KIND_REASONING_SUMMARY:
                item.reasoning.summary.append(whole)
                summary_done = event_pb2.SummaryDone(
                    item_id=part.item_id, output_index=part.output_index, summary_index=part.part_index, text=text
                )
                self._emit(event_pb2.ResponseEvent(reasoning_summary_text_done=summary_done))
                summary_part = event_pb2.SummaryPartEvent(
                    item_id=part.item_id, output_index=part.output_index, summary_index=part.part_index, part=whole
                )
                self._emit(event_pb2.ResponseEvent(reasoning_summary_part_done=summary_part))
            case kind:
                content_done = event_pb2.ContentDone(
                    item_id=part.item_id,
                    output_index=part.output_index,
                    content_index=part.part_index,
                    text=text,
                    logprobs=self._logprobs,
                )
                if kind == pb.PART_KIND_TEXT:
                    item.message.content.append(whole)
                    self._emit(event_pb2.ResponseEvent(output_text_done=content_done))
                elif kind == pb.PART_KIND_REFUSAL:
                    item.message.content.append(whole)
                    self._emit(event_pb2.ResponseEvent(refusal_done=content_done))
                else:
                    item.reasoning.content.append(whole)
                    self._emit(event_pb2.ResponseEvent(reasoning_done=content_done))
                content_part = event_pb2.ContentPartEvent(
                    item_id=part.item_id, output_index=part.output_index, content_index=part.part_index, part=whole
                )
                self._emit(event_pb2.ResponseEvent(content_part_done=content_part))

    def close(
        self,
        status: response_pb2.ResponseStatus.ValueType,
        *,
        at: int,
        usage: response_pb2.Usage | None = None,
        incomplete_reason: response_pb2.IncompleteReason.ValueType = response_pb2.INCOMPLETE_REASON_UNSPECIFIED,
        error: response_pb2.ResponseError | None = None,
        may_be_empty: bool = False,
    ) -> response_pb2.Response:
        """End the open part and item and return the final response, to be committed before ``end``.

        The last item of a response that was cut is `incomplete`. A completed response without any output gets one
        empty message. May be called again before ``end``, when the commit failed.

        Args:
            status: A terminal status.
            at: Seconds since 1970.
            usage: None if the engine's count never came.
            incomplete_reason: With INCOMPLETE.
            error: With FAILED.
            may_be_empty: A completed response without output stays so.
        """
        assert status in TERMINAL_STATUSES
        assert not self.is_ended
        if status == COMPLETED and not self.has_output and not may_be_empty:
            self.part_started(pb.PART_KIND_TEXT)
        is_whole = status == COMPLETED
        self.part_ended()
        self._close_item(item_pb2.ITEM_STATUS_COMPLETED if is_whole else item_pb2.ITEM_STATUS_INCOMPLETE)
        final = response_pb2.Response()
        final.CopyFrom(self.response)
        del final.output[:]
        final.output.extend(self._closed_items)
        final.status = status
        final.ClearField("completed_at")
        if status == COMPLETED:
            final.completed_at = at
        final.incomplete_reason = incomplete_reason
        if usage is not None:
            final.usage.CopyFrom(usage)
        if error is not None:
            final.error.CopyFrom(error)
        self.response = final
        return final

    def end(self, error: error_pb2.Error | None = None) -> None:
        """Emit the one terminal event, after an ``error`` event if ``error`` says why it failed."""
        assert not self.is_ended
        assert self.response.status in TERMINAL_STATUSES
        if error is not None:
            self._emit(event_pb2.ResponseEvent(error=error))
        self._snapshot(_TERMINAL_EVENTS[self.response.status])
        self.is_ended = True

    def replay(self, event: Event, tokens_before: int) -> None:
        """Take in an event that another builder emitted for this response: the next one, from the first one on.

        Afterwards ``token_ids`` may be extended by what the model generated up to there.

        Args:
            tokens_before: For an event that begins a part: how many tokens came before it.
        """
        assert event.sequence_number == len(self.log)
        self.log.append(event)
        match event:
            case Snapshot(_, _, response):
                self.is_open = True
                self._set_status(response.status)
                self.is_ended = response.status in TERMINAL_STATUSES
            case Delta(_, _, text, logprobs):
                self._texts.append(text)
                self._logprobs.extend(logprobs)
            case _:
                self._replay_boundary(event, tokens_before)

    def _replay_boundary(self, event: event_pb2.ResponseEvent, tokens_before: int) -> None:
        match event.WhichOneof("event"):
            case "output_item_added":
                self._item = item_pb2.Item()
                self._item.CopyFrom(event.output_item_added.item)
                if self._item.HasField("function_call"):
                    index = event.output_item_added.output_index
                    self._begin_part(Part(pb.PART_KIND_FUNCTION_CALL, self._item.id, index, 0), tokens_before)
            case "content_part_added":
                added = event.content_part_added
                kind = _PART_KINDS[added.part.WhichOneof("part") or ""]
                self._begin_part(Part(kind, added.item_id, added.output_index, added.content_index), tokens_before)
            case "reasoning_summary_part_added":
                begun = event.reasoning_summary_part_added
                kind = pb.PART_KIND_REASONING_SUMMARY
                self._begin_part(Part(kind, begun.item_id, begun.output_index, begun.summary_index), tokens_before)
            case "function_call_arguments_done":
                assert self._item is not None
                self._item.function_call.arguments = event.function_call_arguments_done.arguments
                self._part = None
            case "reasoning_summary_part_done":
                assert self._item is not None
                self._item.reasoning.summary.append(event.reasoning_summary_part_done.part)
                self._part = None
            case "content_part_done":
                assert self._item is not None
                is_message = self._item.HasField("message")
                parts = self._item.message.content if is_message else self._item.reasoning.content
                parts.append(event.content_part_done.part)
                self._part = None
            case "output_item_done":
                self._item = None
                self._closed_items.append(event.output_item_done.item)
            case _:  # texts of parts that the parts' own events repeat, and `error`
                pass

    def _set_status(self, status: response_pb2.ResponseStatus.ValueType) -> None:
        if self.response.status != status:
            changed = response_pb2.Response()
            changed.CopyFrom(self.response)
            changed.status = status
            self.response = changed

    def _open_item(self, item: item_pb2.Item) -> None:
        self._close_item(item_pb2.ITEM_STATUS_COMPLETED)
        item.status = item_pb2.ITEM_STATUS_IN_PROGRESS
        self._item = item
        added = event_pb2.OutputItemEvent(output_index=len(self._closed_items), item=item)
        self._emit(event_pb2.ResponseEvent(output_item_added=added))

    def _close_item(self, status: item_pb2.ItemStatus.ValueType) -> None:
        item, self._item = self._item, None
        if item is None:
            return
        item.status = status
        if self._complete_item is not None:
            self._complete_item(item)
        done = event_pb2.OutputItemEvent(output_index=len(self._closed_items), item=item)
        self._closed_items.append(item)
        self._emit(event_pb2.ResponseEvent(output_item_done=done))

    def _open_part(self, kind: pb.PartKind.ValueType, index: int) -> None:
        assert self._item is not None
        part = Part(kind, self._item.id, len(self._closed_items), index)
        # a call is begun by its item's event, which is in the log already
        self.part_starts.append((len(self.log) - (kind == pb.PART_KIND_FUNCTION_CALL), len(self.token_ids)))
        self._begin_part(part, len(self.token_ids))
        empty = _content_part(kind, "", (), ())
        if kind == pb.PART_KIND_REASONING_SUMMARY:
            added = event_pb2.SummaryPartEvent(
                item_id=part.item_id, output_index=part.output_index, summary_index=index, part=empty
            )
            self._emit(event_pb2.ResponseEvent(reasoning_summary_part_added=added))
        elif kind != pb.PART_KIND_FUNCTION_CALL:
            content = event_pb2.ContentPartEvent(
                item_id=part.item_id, output_index=part.output_index, content_index=index, part=empty
            )
            self._emit(event_pb2.ResponseEvent(content_part_added=content))

    def _begin_part(self, part: Part, start: int) -> None:
        self._part = part
        self._texts, self._part_start, self._logprobs = [], start, []

    def _emit(self, event: event_pb2.ResponseEvent) -> None:
        event.sequence_number = len(self.log)
        self.log.append(event)

    def _snapshot(self, name: str) -> None:
        self.log.append(Snapshot(len(self.log), name, self.response))


def _content_part(
    kind: pb.PartKind.ValueType, text: str, token_ids: Sequence[int], logprobs: Sequence[content_pb2.Logprob]
) -> content_pb2.ContentPart:
    match kind:
        case pb.PART_KIND_TEXT:
            output_text = content_pb2.OutputText(text=text, token_ids=token_ids, logprobs=logprobs)
            return content_pb2.ContentPart(output_text=output_text)
        case pb.PART_KIND_REFUSAL:
            return content_pb2.ContentPart(refusal=content_pb2.Refusal(refusal=text))
        case pb.PART_KIND_REASONING:
            return content_pb2.ContentPart(reasoning_text=content_pb2.ReasoningText(text=text, token_ids=token_ids))
        case pb.PART_KIND_REASONING_SUMMARY:
            return content_pb2.ContentPart(summary_text=content_pb2.SummaryText(text=text))
        case _:
            return content_pb2.ContentPart()
