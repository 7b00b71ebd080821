"""What waits to be written on one Attach stream, joined per slot, and turned into columnar frames. Pure."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from antiphon.inference.v1 import inference_pb2 as pb

_ENTRY_BYTES = 16
"""About what a row or an event costs on the wire, its contents aside."""


@dataclass(slots=True)
class _Row:
    slot: int
    text: str
    token_ids: list[int]


class Outbox:
    """Deltas and events of all slots since the last frame.

    Deltas of one slot join into one row as long as no event of that slot came between, so what is held grows with the
    slots and their texts, not with the number of steps.
    """

    def __init__(self) -> None:
        self._entries: dict[int, list[_Row | pb.SlotEvent]] = {}
        self.size = 0
        """About how many bytes are held."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add_delta(self, slot: int, text: str, token_ids: list[int]) -> None:
        """Append to the open part of ``slot``. Takes ``token_ids`` over."""
        self.size += len(text) + 4 * len(token_ids)
        entries = self._entries.get(slot)
        if entries is not None and isinstance(row := entries[-1], _Row):
            row.text += text
            row.token_ids += token_ids
        else:
            self._append(slot, _Row(slot, text, token_ids), _ENTRY_BYTES)

    def add_event(self, event: pb.SlotEvent) -> None:
        """Append an event; its ``row`` is set when the frame is built."""
        self._append(event.slot, event, _size(event))

    def discard(self, slot: int) -> None:
        """Forget all that waits for ``slot``."""
        self.size -= sum(map(_size, self._entries.pop(slot, ())))

    def take(self, max_bytes: int) -> pb.AttachResponse:
        """The next frame: all that waits, or, if that is more than ``max_bytes``, the slots that waited longest.

        Slots stay whole, so that a peer that has got a frame knows of each of its slots what all of its token ids led
        to. One slot goes even if it alone is larger.
        """
        if self.size <= max_bytes:
            taken, self._entries, self.size = list(self._entries.values()), {}, 0
        else:
            taken = []
            while self._entries and max_bytes > 0:
                entries = self._entries.pop(next(iter(self._entries)))
                size = sum(map(_size, entries))
                self.size -= size
                max_bytes -= size
                taken.append(entries)
        return _frame(itertools.chain.from_iterable(taken))

    def _append(self, slot: int, entry: _Row | pb.SlotEvent, size: int) -> None:
        self.size += size
        entries = self._entries.get(slot)
        if entries is None:
            self._entries[slot] = [entry]
        else:
            entries.append(entry)


def _frame(entries: Iterable[_Row | pb.SlotEvent]) -> pb.AttachResponse:
    slots: list[int] = []
    texts: list[str] = []
    token_ids: list[list[int]] = []
    events: list[pb.SlotEvent] = []
    for entry in entries:
        if isinstance(entry, _Row):
            slots.append(entry.slot)
            texts.append(entry.text)
            token_ids.append(entry.token_ids)
        else:
            entry.row = len(slots)
            events.append(entry)
    return pb.AttachResponse(
        slots=slots,
        texts=texts,
        token_counts=map(len, token_ids),
        token_ids=itertools.chain.from_iterable(token_ids),
        events=events,
    )


def _size(entry: _Row | pb.SlotEvent) -> int:
    if isinstance(entry, _Row):
        return _ENTRY_BYTES + len(entry.text) + 4 * len(entry.token_ids)
    return _ENTRY_BYTES + entry.ByteSize()
