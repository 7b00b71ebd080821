"""Columnar frames: whatever is joined and however frames are cut, each slot reads the same."""

from collections import defaultdict
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from antiphon.inference.v1 import inference_pb2 as pb
from inference.outbox import Outbox

Slot = int
Heard = dict[Slot, list[tuple[str, list[int]] | str]]


def read(frames: list[pb.AttachResponse]) -> Heard:
    """What a reader of ``frames`` hears of each slot, deltas between two events joined."""
    heard: Heard = defaultdict(list)

    def hear(slot: Slot, what: tuple[str, list[int]] | str) -> None:
        if isinstance(what, tuple) and heard[slot] and isinstance(last := heard[slot][-1], tuple):
            heard[slot][-1] = (last[0] + what[0], last[1] + what[1])
        else:
            heard[slot].append(what)

    for frame in frames:
        assert len(frame.slots) == len(frame.texts) == len(frame.token_counts)
        assert sum(frame.token_counts) == len(frame.token_ids)
        assert [event.row for event in frame.events] == sorted(event.row for event in frame.events)
        ends = list(accumulate(frame.token_counts))
        events = list(frame.events)
        for row, slot in enumerate(frame.slots):
            while events and events[0].row <= row:
                hear(events[0].slot, str(events.pop(0).WhichOneof("event")))
            hear(slot, (frame.texts[row], list(frame.token_ids[ends[row] - frame.token_counts[row] : ends[row]])))
        for event in events:
            hear(event.slot, str(event.WhichOneof("event")))
    return heard


ENTRIES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 4), st.text(max_size=3), st.lists(st.integers(0, 9), max_size=3)),
        st.integers(1, 4),
        st.sampled_from(["take", "take a little"]),
    ),
    max_size=40,
)


@given(entries=ENTRIES)
def test_every_slot_reads_the_same_however_rows_are_joined_and_frames_are_cut(
    entries: list[tuple[int, str, list[int]] | int | str],
) -> None:
    outbox, frames, expected = Outbox(), [], []
    for entry in entries:
        match entry:
            case "take":
                frames.append(outbox.take(1_000_000))
                assert not outbox
            case str():
                frames.append(outbox.take(1))
            case int(slot):
                outbox.add_event(pb.SlotEvent(slot=slot, part_ended=pb.PartEnded()))
                expected.append(pb.AttachResponse(events=[pb.SlotEvent(slot=slot, part_ended=pb.PartEnded())]))
            case (slot, text, token_ids):
                outbox.add_delta(slot, text, list(token_ids))
                expected.append(
                    pb.AttachResponse(slots=[slot], texts=[text], token_counts=[len(token_ids)], token_ids=token_ids)
                )
    while outbox:
        frames.append(outbox.take(40))
    assert outbox.size == 0
    assert read(frames) == read(expected)


def test_deltas_of_one_slot_join_until_an_event_of_that_slot() -> None:
    outbox = Outbox()
    outbox.add_delta(1, "a", [10])
    outbox.add_delta(2, "x", [20])
    outbox.add_event(pb.SlotEvent(slot=2, part_ended=pb.PartEnded()))
    outbox.add_delta(1, "b", [11, 12])
    outbox.add_delta(2, "y", [21])
    assert outbox.take(1000) == pb.AttachResponse(
        slots=[1, 2, 2],
        texts=["ab", "x", "y"],
        token_counts=[3, 1, 1],
        token_ids=[10, 11, 12, 20, 21],
        events=[pb.SlotEvent(slot=2, row=2, part_ended=pb.PartEnded())],
    )


def test_a_frame_holds_whole_slots_and_at_least_one() -> None:
    outbox = Outbox()
    for slot in (1, 2, 3):
        outbox.add_event(pb.SlotEvent(slot=slot, part_started=pb.PartStarted()))
        outbox.add_delta(slot, "x" * 100, [1])
    frame = outbox.take(1)
    assert (list(frame.slots), [event.slot for event in frame.events]) == ([1], [1])
    frame = outbox.take(outbox.size)
    assert (list(frame.slots), [event.slot for event in frame.events]) == ([2, 3], [2, 3])


def test_a_discarded_slot_leaves_nothing_behind() -> None:
    outbox = Outbox()
    outbox.add_delta(1, "secret", [1])
    outbox.add_event(pb.SlotEvent(slot=1, part_ended=pb.PartEnded()))
    outbox.discard(1)
    outbox.discard(9)
    assert not outbox
    assert outbox.size == 0


def test_what_is_held_does_not_grow_with_the_number_of_steps() -> None:
    outbox = Outbox()
    for step in range(1000):
        outbox.add_delta(step % 4, "", [])
    assert len(outbox.take(1_000_000).slots) == 4
