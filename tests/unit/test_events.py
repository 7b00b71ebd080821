"""The event builder: whatever a worker says, the stream is legal and adds up to the final response."""

import json
from itertools import count

import hypothesis.strategies as st
from hypothesis import given

from antiphon.inference.v1.inference_pb2 import PartKind
from antiphon.responses.v1 import error_pb2, response_pb2
from edge import codec, events
from edge.codec import with_defaults
from edge.event_messages import to_message
from edge.events import ResponseEvents
from edge.rest.sse import sse_renderer
from store.ids import ItemIds, new_response_id
from tests.support.openapi import assert_valid_event
from tests.support.stream_rules import Json, assert_legal_stream

KINDS = [
    PartKind.PART_KIND_TEXT,
    PartKind.PART_KIND_REASONING,
    PartKind.PART_KIND_REFUSAL,
    PartKind.PART_KIND_FUNCTION_CALL,
    PartKind.PART_KIND_REASONING_SUMMARY,
]
parts = st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.text()), st.booleans()), max_size=6)
terminal_statuses = st.sampled_from(sorted(events.TERMINAL_STATUSES))


def new_events() -> ResponseEvents:
    response_id = new_response_id()
    calls = count()
    params = with_defaults(response_pb2.ResponseParams(model="m"))
    response = response_pb2.Response(id=str(response_id), created_at=1, params=params)
    return ResponseEvents(response, new_item_id=ItemIds(response_id).new, new_call_id=lambda: f"call_{next(calls)}")


def say(builder: ResponseEvents, said: list[tuple[PartKind.ValueType, list[str], bool]]) -> None:
    for kind, texts, is_ended in said:
        builder.part_started(kind, "f" if kind == PartKind.PART_KIND_FUNCTION_CALL else "")
        for text in texts:
            builder.delta(text, [1])
        if is_ended:
            builder.part_ended()


def end(builder: ResponseEvents, status: response_pb2.ResponseStatus.ValueType) -> None:
    is_failed = status == events.FAILED
    builder.close(
        status,
        at=2,
        usage=response_pb2.Usage(input_tokens=1),
        incomplete_reason=response_pb2.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS
        if status == events.INCOMPLETE
        else response_pb2.INCOMPLETE_REASON_UNSPECIFIED,
        error=response_pb2.ResponseError(code="server_error", message="m") if is_failed else None,
    )
    error = error_pb2.Error(reason=error_pb2.ERROR_REASON_ENGINE_FAILED, message="m")
    builder.end(error if is_failed else None)


def as_json(builder: ResponseEvents) -> list[Json]:
    shapes: list[Json] = [json.loads(codec.event_json(to_message(event))) for event in builder.log]
    for shape in shapes:
        assert_valid_event(shape)
    return shapes


@given(said=parts, status=terminal_statuses, is_queued=st.booleans(), heartbeats=st.integers(0, 2))
def test_every_stream_is_legal(
    said: list[tuple[PartKind.ValueType, list[str], bool]],
    status: response_pb2.ResponseStatus.ValueType,
    is_queued: bool,
    heartbeats: int,
) -> None:
    builder = new_events()
    builder.open(events.QUEUED if is_queued else events.IN_PROGRESS)
    for _ in range(heartbeats):
        builder.progress(builder.response.status)
    say(builder, said)
    end(builder, status)
    final = assert_legal_stream(as_json(builder))
    assert final == json.loads(codec.response_json(builder.response))


@given(said=parts, is_obfuscated=st.booleans())
def test_what_goes_out_as_sse_is_the_event_in_one_piece(
    said: list[tuple[PartKind.ValueType, list[str], bool]], is_obfuscated: bool
) -> None:
    builder = new_events()
    builder.open(events.IN_PROGRESS)
    say(builder, said)
    end(builder, events.COMPLETED)
    renderer = sse_renderer(is_obfuscated=is_obfuscated)
    for event, shape in zip(builder.log, as_json(builder), strict=True):
        sent = renderer.render(event).decode()
        head, data, *rest = sent.split("\n")
        assert rest == ["", ""]
        assert head == f"event: {shape['type']}"
        body = json.loads(data.removeprefix("data: "))
        padding = body.pop("obfuscation", None)
        assert body == shape
        if padding is None:
            assert not is_obfuscated or "delta" not in shape or "refusal" in shape["type"]
        else:
            assert is_obfuscated
            assert (len(shape["delta"]) + len(padding)) % 16 == 0


def test_a_snapshot_stays_as_it_was_whatever_becomes_of_the_response_that_was_given() -> None:
    response = response_pb2.Response(id=str(new_response_id()), status=events.QUEUED)
    builder = ResponseEvents(response, new_item_id=str, new_call_id=str)
    builder.open(events.QUEUED)
    response.status = events.FAILED
    assert {event.response.status for event in builder.log if isinstance(event, events.Snapshot)} == {events.QUEUED}


def test_a_completed_response_without_output_gets_an_empty_message() -> None:
    builder = new_events()
    builder.open(events.IN_PROGRESS)
    end(builder, events.COMPLETED)
    final = assert_legal_stream(as_json(builder))
    assert [part["text"] for item in final["output"] for part in item["content"]] == [""]


def test_a_response_that_was_cut_before_its_first_token_has_no_output() -> None:
    builder = new_events()
    builder.open(events.IN_PROGRESS)
    end(builder, events.INCOMPLETE)
    assert assert_legal_stream(as_json(builder))["output"] == []


def test_text_and_refusal_are_parts_of_one_message_and_calls_are_items_of_their_own() -> None:
    builder = new_events()
    builder.open(events.IN_PROGRESS)
    say(builder, [(kind, ["x"], True) for kind in KINDS])
    end(builder, events.COMPLETED)
    types = [item["type"] for item in assert_legal_stream(as_json(builder))["output"]]
    assert types == ["message", "reasoning", "message", "function_call", "reasoning"]

    builder = new_events()
    builder.open(events.IN_PROGRESS)
    say(builder, [(PartKind.PART_KIND_TEXT, ["x"], True), (PartKind.PART_KIND_REFUSAL, ["y"], True)])
    end(builder, events.COMPLETED)
    (item,) = assert_legal_stream(as_json(builder))["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]


def test_a_completed_response_whose_commit_failed_ends_as_failed() -> None:
    builder = new_events()
    builder.open(events.IN_PROGRESS)
    say(builder, [(PartKind.PART_KIND_TEXT, ["x"], True)])
    builder.close(events.COMPLETED, at=2)
    end(builder, events.FAILED)
    shapes = as_json(builder)
    assert [shape["type"] for shape in shapes[-2:]] == ["error", "response.failed"]
    assert shapes[-1]["response"]["status"] == "failed"


def test_the_token_ids_of_a_text_are_kept_with_it() -> None:
    builder = new_events()
    builder.open(events.IN_PROGRESS)
    builder.part_started(PartKind.PART_KIND_TEXT)
    builder.delta("", [7])
    builder.delta("x", [8, 9])
    end(builder, events.COMPLETED)
    assert list(builder.response.output[0].message.content[0].output_text.token_ids) == [7, 8, 9]
