"""Ids of responses, items and calls: allocation, and strict parsing of what clients send.

``resp_<tag><random>``: 16 characters each of a-z and 2-7, 80 random bits each. All responses of a chain share their
root's tag, which is the hash tag of their keys, so that a chain lives in one slot of a cluster. Item ids are
``<kind>_<tag><random><number>``, the middle taken from their response and the number counting its items, so that an
item reference finds its response. Parsing accepts exactly what is allocated here: nothing else ever becomes a key.
"""

import base64
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

_PART_BYTES = 10
"""Random bytes of a tag, and of a response's own part: 80 bits, 16 characters without padding."""

_NUMBER_DIGITS = 6
_MAX_ITEMS = 10**_NUMBER_DIGITS
"""Items that one response can number, input and output together."""


class ItemKind(StrEnum):
    """What an item's id begins with."""

    MESSAGE = "msg"
    REASONING = "rs"
    FUNCTION_CALL = "fc"
    FUNCTION_CALL_OUTPUT = "fco"
    COMPACTION = "cmp"
    OTHER = "item"


_PART = r"[a-z2-7]{16}"
_RESPONSE_ID = re.compile(rf"resp_(?P<tag>{_PART})(?P<random>{_PART})")
_ITEM_ID = re.compile(
    rf"(?P<kind>{'|'.join(ItemKind)})_(?P<tag>{_PART})(?P<random>{_PART})(?P<number>[0-9]{{{_NUMBER_DIGITS}}})"
)


@dataclass(frozen=True, slots=True)
class ResponseId:
    """The id of a response; ``str`` gives the form that clients see."""

    tag: str
    """Shared by all responses of a chain."""
    random: str
    """The response's own part."""

    def __str__(self) -> str:
        return f"resp_{self.tag}{self.random}"


@dataclass(frozen=True, slots=True)
class ItemId:
    """The id of an item of a response, input or output; ``str`` gives the form that clients see."""

    kind: ItemKind
    response_id: ResponseId
    number: int
    """From 0, unique in the response, whatever the kind."""

    def __str__(self) -> str:
        return f"{self.kind}_{self.response_id.tag}{self.response_id.random}{self.number:0{_NUMBER_DIGITS}}"


class ItemIds:
    """Allocates the ids of one response's items, input and output from one counter."""

    def __init__(self, response_id: ResponseId) -> None:
        self._response_id = response_id
        self._numbers = count()

    def new(self, kind: ItemKind) -> str:
        """The next id.

        Raises:
            OverflowError: The response has a million items.
        """
        return self.at(kind, next(self._numbers))

    def at(self, kind: ItemKind, number: int) -> str:
        """The id of the item with this number, from 0.

        Raises:
            OverflowError: The response has a million items.
        """
        if number >= _MAX_ITEMS:
            raise OverflowError(f"a response has at most {_MAX_ITEMS} items")
        return str(ItemId(kind, self._response_id, number))


def new_response_id(parent: ResponseId | None = None) -> ResponseId:
    """A new id in the chain of ``parent``; without one, the root of a new chain."""
    return ResponseId(tag=parent.tag if parent else _random_part(), random=_random_part())


def new_call_id() -> str:
    """``call_`` and 160 random bits: 37 characters, within the API's 64."""
    return f"call_{_random_part()}{_random_part()}"


def parse_response_id(text: str) -> ResponseId | None:
    """``text`` as a response's id; None if this module cannot have allocated it."""
    match = _RESPONSE_ID.fullmatch(text)
    return ResponseId(tag=match["tag"], random=match["random"]) if match else None


def parse_item_id(text: str) -> ItemId | None:
    """``text`` as an item's id; None if this module cannot have allocated it."""
    match = _ITEM_ID.fullmatch(text)
    if match is None:
        return None
    return ItemId(
        kind=ItemKind(match["kind"]),
        response_id=ResponseId(tag=match["tag"], random=match["random"]),
        number=int(match["number"]),
    )


def _random_part() -> str:
    return base64.b32encode(secrets.token_bytes(_PART_BYTES)).decode().lower()
