"""The rules of an event stream (Open Responses specification, "Items are streamable"), checked on its JSON events."""

from copy import deepcopy
from typing import Any

Json = dict[str, Any]

TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
_SNAPSHOTS = {"response.created", "response.queued", "response.in_progress"} | TERMINAL

# delta event -> (done event, the done event's field with the whole text, the field with the place in the item)
_TEXTS: dict[str, tuple[str, str, str | None]] = {
    "response.output_text.delta": ("response.output_text.done", "text", "content_index"),
    "response.refusal.delta": ("response.refusal.done", "refusal", "content_index"),
    "response.reasoning.delta": ("response.reasoning.done", "text", "content_index"),
    "response.reasoning_summary_text.delta": ("response.reasoning_summary_text.done", "text", "summary_index"),
    "response.function_call_arguments.delta": ("response.function_call_arguments.done", "arguments", None),
}
_DONES = {done: (field, place) for done, field, place in _TEXTS.values()}
_PART_ADDED = {"response.content_part.added": "content_index", "response.reasoning_summary_part.added": "summary_index"}
_PART_DONE = {"response.content_part.done": "content_index", "response.reasoning_summary_part.done": "summary_index"}


def assert_legal_stream(events: list[Json]) -> Json:
    """Check all rules and return the final response."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    types = [event["type"] for event in events]
    assert types[0] == "response.created"
    assert types[1] in {"response.queued", "response.in_progress"}
    assert [event_type for event_type in types if event_type in TERMINAL] == [types[-1]]
    first_item = next((n for n, event in enumerate(events) if event["type"] not in _SNAPSHOTS), len(events))
    assert not [event_type for event_type in types[first_item:-1] if event_type in _SNAPSHOTS]

    snapshots = [event["response"] for event in events if event["type"] in _SNAPSHOTS]
    for early in snapshots[:-1]:
        assert early["status"] in {"queued", "in_progress"}
        assert early["output"] == []
        assert early["usage"] is None
    assert len({snapshot["id"] for snapshot in snapshots}) == 1

    final: Json = events[-1]["response"]
    items = _replay(events[first_item:-1])
    assert items == final["output"]
    _assert_statuses(final, types[-1])
    return final


def _assert_statuses(final: Json, terminal: str) -> None:
    status = final["status"]
    assert terminal.removeprefix("response.") == ("incomplete" if status == "cancelled" else status)
    assert (final["error"] is not None) == (status == "failed")
    assert (final["incomplete_details"] is not None) == (status == "incomplete")
    assert (final["completed_at"] is not None) == (status == "completed")
    cut = [item["status"] == "incomplete" for item in final["output"] if "status" in item]
    assert not any(cut[:-1])
    if any(cut):
        assert status != "completed"


def _replay(events: list[Json]) -> list[Json]:
    """The items that the events add up to; every event must fit where it comes."""
    items: list[Json] = []
    item: Json | None = None
    place: tuple[str, int] | None = None  # of the open part
    text: str | None = None  # of the open part
    done_text: str | None = None
    for event in events:
        kind = event["type"]
        if kind == "error":
            continue
        if kind == "response.output_item.added":
            assert item is None
            item = deepcopy(event["item"])
            assert event["output_index"] == len(items)
            assert item.get("status", "in_progress") == "in_progress"
            if item["type"] == "function_call":
                assert item["arguments"] == ""
                text = ""
            continue
        assert item is not None, kind
        assert event["output_index"] == len(items), kind
        if kind == "response.output_item.done":
            assert place is None
            assert text is None
            whole = event["item"]
            assert whole["id"] == item["id"]
            _assert_same_parts(whole, item)
            items.append(whole)
            item = None
            continue
        assert event["item_id"] == item["id"], kind
        if kind in _PART_ADDED:
            assert place is None
            name = _PART_ADDED[kind]
            parts = item.setdefault("summary" if name == "summary_index" else "content", [])
            assert event[name] == len(parts)
            place, text, done_text = (name, event[name]), "", None
            assert event["part"].get("text", event["part"].get("refusal")) == ""
        elif kind in _TEXTS:
            place_name = _TEXTS[kind][2]
            assert text is not None, "a delta without an open part"
            assert done_text is None
            assert place == (None if place_name is None else (place_name, event[place_name]))
            text += event["delta"]
        elif kind in _DONES:
            field, place_name = _DONES[kind]
            assert place == (None if place_name is None else (place_name, event[place_name]))
            assert event[field] == text
            if place_name is None:
                item["arguments"], text = text, None
            else:
                done_text = text
        elif kind in _PART_DONE:
            assert place == (_PART_DONE[kind], event[_PART_DONE[kind]])
            part = event["part"]
            assert done_text is not None, "a part that ended before its text"
            assert part.get("text", part.get("refusal")) == done_text
            item["summary" if place[0] == "summary_index" else "content"].append(part)
            place, text, done_text = None, None, None
        else:
            raise AssertionError(f"unexpected {kind}")
    assert item is None, "an item that never ended"
    return items


def _assert_same_parts(whole: Json, item: Json) -> None:
    for name in ("content", "summary", "arguments", "name", "call_id", "role"):
        assert whole.get(name, []) == item.get(name, []), name
