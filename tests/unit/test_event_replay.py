"""A response's events, logged in batches and taken up by another builder: nobody can tell where it changed hands."""

import hypothesis.strategies as st
from hypothesis import given

from antiphon.inference.v1.inference_pb2 import PartKind
from antiphon.responses.v1 import content_pb2, response_pb2
from edge import events
from edge.codec import with_defaults
from edge.event_messages import from_batch, replay, to_batch, to_message
from edge.events import ResponseEvents
from store.event_batch import next_sequence_number

Step = tuple[str, PartKind.ValueType, str, int, bool]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["part", "delta", "delta", "delta", "end"]),
        st.sampled_from([kind for kind in PartKind.values() if kind]),
        st.text(),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=24,
)


def new_builder() -> ResponseEvents:
    """A builder whose ids tell where in the log they were given."""
    params = with_defaults(response_pb2.ResponseParams(model="m"))
    builder: ResponseEvents
    builder = ResponseEvents(
        response_pb2.Response(id="resp_1", created_at=1, params=params),
        new_item_id=lambda kind: f"{kind}_{len(builder.log)}",
        new_call_id=lambda: f"call_{len(builder.log)}",
    )
    return builder


def take(builder: ResponseEvents, step: Step, *, is_inside: bool) -> None:
    """One thing that a worker may say; ``is_inside`` a part."""
    action, kind, text, tokens, has_logprobs = step
    token_ids = range(len(builder.token_ids), len(builder.token_ids) + tokens)
    match action:
        case "part":
            builder.part_started(kind, "f")
        case "end":
            builder.part_ended()
        case _ if is_inside:
            logprobs = [content_pb2.Logprob(token=text, logprob=-1.0)] * tokens if has_logprobs else []
            builder.delta(text, token_ids, logprobs)
        case _:
            builder.delta("", token_ids)


@given(steps=STEPS, cuts=st.sets(st.integers(0, 24)))
def test_a_successor_goes_on_as_the_first_builder_would(steps: list[Step], cuts: set[int]) -> None:
    first, second = new_builder(), new_builder()
    first.open(events.QUEUED)
    first.progress(events.IN_PROGRESS)
    batches = [to_batch(first, start=0, tokens=0)]
    is_inside = False
    for index, step in enumerate(steps):
        take(first, step, is_inside=is_inside)
        is_inside = step[0] == "part" or (is_inside and step[0] == "delta")
        start = next_sequence_number(batches[-1])
        if index in cuts and start < len(first.log):
            batches.append(to_batch(first, start=start, tokens=sum(len(batch.token_ids) for batch in batches)))
    logged = next_sequence_number(batches[-1])
    tokens = sum(len(batch.token_ids) for batch in batches)
    for batch in batches:
        replay(batch, second)
    shown = [event for batch in batches for event in from_batch(batch)]
    assert [to_message(event) for event in shown] == [to_message(event) for event in first.log[:logged]]
    assert second.log == shown
    assert second.token_ids == first.token_ids[:tokens]
    if logged < len(first.log):
        rest = to_batch(first, start=logged, tokens=tokens)
        replay(rest, second)
    for builder in (first, second):
        builder.close(events.COMPLETED, at=2, may_be_empty=True)
        builder.end()
    assert [to_message(event) for event in second.log] == [to_message(event) for event in first.log]
    assert second.response == first.response
