import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.responses.v1.content_pb2 import Logprob
from antiphon.responses.v1.event_pb2 import (
    ArgumentsDelta,
    ContentDelta,
    ContentDone,
    OutputItemEvent,
    ResponseEvent,
    SummaryDelta,
)
from antiphon.responses.v1.item_pb2 import Item
from antiphon.store.v1.event_log_pb2 import DeltaKind, EventBatch
from store.event_batch import EventBatchBuilder, decode, encode, expand, next_sequence_number
from store.packing import CorruptRecord

KINDS = {
    DeltaKind.DELTA_KIND_OUTPUT_TEXT: "output_text_delta",
    DeltaKind.DELTA_KIND_REFUSAL: "refusal_delta",
    DeltaKind.DELTA_KIND_REASONING: "reasoning_delta",
    DeltaKind.DELTA_KIND_REASONING_SUMMARY_TEXT: "reasoning_summary_text_delta",
    DeltaKind.DELTA_KIND_FUNCTION_CALL_ARGUMENTS: "function_call_arguments_delta",
}

item_ids = st.sampled_from(["msg_1", "rs_2", "fc_3"])
indices = st.integers(0, 3)
delta_events = st.one_of(
    st.builds(
        lambda field, delta: ResponseEvent(**{field: delta}),
        st.sampled_from(["output_text_delta", "refusal_delta", "reasoning_delta"]),
        st.builds(ContentDelta, item_id=item_ids, output_index=indices, content_index=indices, delta=st.text()),
    ),
    st.builds(
        lambda delta: ResponseEvent(reasoning_summary_text_delta=delta),
        st.builds(SummaryDelta, item_id=item_ids, output_index=indices, summary_index=indices, delta=st.text()),
    ),
    st.builds(
        lambda delta: ResponseEvent(function_call_arguments_delta=delta),
        st.builds(ArgumentsDelta, item_id=item_ids, output_index=indices, delta=st.text()),
    ),
)
other_events = st.one_of(
    st.builds(lambda text: ResponseEvent(output_text_done=ContentDone(text=text)), st.text(max_size=2000)),
    st.builds(lambda id: ResponseEvent(output_item_added=OutputItemEvent(item=Item(id=id))), item_ids),
    st.builds(
        lambda token: ResponseEvent(output_text_delta=ContentDelta(delta=token, logprobs=[Logprob(token=token)])),
        st.text(min_size=1),
    ),
)
logs = st.lists(st.one_of(delta_events, other_events), min_size=1, max_size=30)


def build(first: int, log: list[ResponseEvent]) -> EventBatch:
    builder = EventBatchBuilder(first)
    for number, event in enumerate(log, first):
        event.sequence_number = number
        name = event.WhichOneof("event")
        kind = next((kind for kind, field in KINDS.items() if field == name), None)
        delta = getattr(event, str(name))
        builder.tokens([number])
        if kind is None or getattr(delta, "logprobs", None):
            builder.event(event)
            continue
        part_index = getattr(delta, "content_index", 0) or getattr(delta, "summary_index", 0)
        place = {"item_id": delta.item_id, "output_index": delta.output_index, "part_index": part_index}
        builder.delta(kind, text=delta.delta, **place)
    assert builder.next_sequence_number == first + len(log)
    return builder.build()


@given(first=st.integers(0, 2**30), log=logs, cut=st.integers(-2, 32))
def test_what_is_expanded_equals_what_was_logged_from_any_number_on(
    first: int, log: list[ResponseEvent], cut: int
) -> None:
    batch = decode(*encode(build(first, log)))
    assert list(expand(batch)) == log
    assert [event.sequence_number for event in expand(batch)] == list(range(first, first + len(log)))
    assert list(expand(batch, starting_after=first + cut)) == log[max(cut + 1, 0) :]
    assert next_sequence_number(batch) == first + len(log)
    assert list(batch.token_ids) == [event.sequence_number for event in log]


def test_deltas_of_one_part_are_one_run_of_few_bytes() -> None:
    builder = EventBatchBuilder(1000)
    for number in range(16):
        builder.tokens([20_000 + number])
        builder.delta(
            DeltaKind.DELTA_KIND_OUTPUT_TEXT,
            item_id="msg_" + "a" * 38,
            output_index=0,
            part_index=0,
            text=" word",
        )
    batch = builder.build()
    assert len(batch.entries) == 1
    assert len(encode(batch)[1]) / 16 < 15  # bytes for each token: 7 of text, 3 of token id, the rest shared


def test_entries_say_where_they_begin_in_the_tokens() -> None:
    builder = EventBatchBuilder(0)
    builder.tokens([7, 8])
    builder.event(ResponseEvent(sequence_number=0, output_item_added=OutputItemEvent()))
    builder.tokens([9])
    builder.delta(DeltaKind.DELTA_KIND_REASONING, item_id="rs_1", output_index=0, part_index=0, text="x")
    assert [entry.tokens_before for entry in builder.build().entries] == [2, 3]


@pytest.mark.parametrize("field", [b"b", b"z"])
def test_what_is_no_batch_is_refused(field: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decode(field, b"\xff something else")


def test_large_batches_are_compressed() -> None:
    text = "the same again and again " * 1000
    batch = build(0, [ResponseEvent(output_text_done=ContentDone(text=text))])
    field, value = encode(batch)
    assert (field, len(value) < 1000) == (b"z", True)
    assert decode(field, value) == batch
