"""``reasoning.encrypted_content``: reasoning items that clients keep for themselves, sealed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from antiphon.errors import ApiError
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item, Reasoning
from edge.sealing import Purpose, SealBroken, Sealer


class Opened(NamedTuple):
    """Items without anything sealed."""

    items: list[Item]
    foreign: list[int]
    """Which of them came with encrypted content of another server, in rising order: it was left out."""


def wants_sealed_reasoning(includes: Sequence[response_pb2.Include.ValueType], sealer: Sealer) -> bool:
    """Whether reasoning items are to carry their encrypted content.

    Raises:
        ApiError: UNSUPPORTED_VALUE: they are, and this server has no key.
    """
    for index, include in enumerate(includes):
        if include == response_pb2.INCLUDE_REASONING_ENCRYPTED_CONTENT:
            if not sealer.can_seal:
                raise ApiError(
                    ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE,
                    "Unsupported value: this server has no key to encrypt reasoning with (EDGE_ENCRYPTION_KEYS).",
                    f"include[{index}]",
                )
            return True
    return False


def seal_reasoning(item: Item, sealer: Sealer, *, owner: str) -> None:
    """Give ``item`` its encrypted content, if it is a reasoning item: summary, content and token ids."""
    if item.HasField("reasoning"):
        data = item.reasoning.SerializeToString()
        item.reasoning.encrypted_content = sealer.seal(data, owner=owner, purpose=Purpose.REASONING)


def open_reasoning(items: Iterable[Item], sealer: Sealer, *, owner: str, is_stored: bool = False) -> Opened:
    """``items`` with what is sealed in reasoning items in place of what the client says they hold.

    Args:
        is_stored: They come from the store. Items that lack no content are left as they are, and what does not open is
            treated as foreign: a key may be gone since then.

    Raises:
        ApiError: INVALID_ENCRYPTED_CONTENT: sealed by a server like this one, but not authentic. ``param`` counts
            ``items`` as ``input[i]``.
    """
    opened: list[Item] = []
    foreign: list[int] = []
    for index, item in enumerate(items):
        if not item.reasoning.encrypted_content or (is_stored and item.reasoning.content):
            opened.append(item)
            continue
        bare = Item()
        bare.CopyFrom(item)
        bare.reasoning.ClearField("encrypted_content")
        try:
            data = sealer.open(item.reasoning.encrypted_content, owner=owner, purpose=Purpose.REASONING)
        except SealBroken as error:
            if not is_stored:
                raise ApiError(
                    ErrorReason.ERROR_REASON_INVALID_ENCRYPTED_CONTENT,
                    "The encrypted content could not be verified: it was changed, or is not yours.",
                    f"input[{index}].encrypted_content",
                ) from error
            data = None
        if data is None:
            foreign.append(index)
        else:
            bare.reasoning.CopyFrom(Reasoning.FromString(data))
        opened.append(bare)
    return Opened(opened, foreign)
