"""Compaction: a conversation folded into its user messages and a summary that only this server reads. Pure.

The summary is written by the model and sealed into the compaction item's `encrypted_content`. Sent back as input, it is
shown to the model as one message (Open Responses 2026-04-24, "Compaction").
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item
from edge.sealing import Purpose, SealBroken, Sealer

COMPACT_FIELDS: Final = frozenset({"model", "input", "previous_response_id", "instructions", "prompt_cache_key"})
"""What a request for a compaction may hold (CompactResponseMethodPublicBody)."""

_SUMMARISE: Final = (
    "Summarise our conversation so far for someone who goes on with it without having seen it. Keep the goal, the"
    " facts, names, numbers and decisions, what was done with which tools and what came of it, and what is still open."
    " Answer with the summary alone."
)
_SHOWN_AS: Final = "Summary of the earlier conversation:\n"


class Revealed(NamedTuple):
    """Items without compactions among them."""

    items: list[Item]
    kept: list[int]
    """Which of the given items each of them is."""
    warnings: list[str]
    """Places of compactions that are not this server's, and were left out."""


def reveal(items: Sequence[Item], first_own: int, sealer: Sealer, *, owner: str) -> Revealed:
    """``items`` with a message in place of each compaction.

    Args:
        first_own: Where the request's own items begin. Before it, what does not open is left out like what is foreign,
            as its key may be gone since then.

    Raises:
        ApiError: INVALID_ENCRYPTED_CONTENT: an own item was sealed by a server like this one, but is not authentic.
    """
    revealed = Revealed([], [], [])
    for index, item in enumerate(items):
        shown: Item | None = item
        if item.HasField("compaction"):
            place = f"input[{index - first_own}]" if index >= first_own else "previous_response_id"
            try:
                data = sealer.open(item.compaction.encrypted_content, owner=owner, purpose=Purpose.COMPACTION)
            except SealBroken as error:
                if index >= first_own:
                    raise ApiError(
                        ErrorReason.ERROR_REASON_INVALID_ENCRYPTED_CONTENT,
                        "The encrypted content could not be verified: it was changed, or is not yours.",
                        f"{place}.encrypted_content",
                    ) from error
                data = None
            shown = None if data is None else _user_message(_SHOWN_AS + data.decode())
            if shown is None:
                revealed.warnings.append(f"{place}: compaction of another server left out")
        if shown is not None:
            revealed.items.append(shown)
            revealed.kept.append(index)
    return revealed


def check_compact_params(params: response_pb2.ResponseParams) -> None:
    """Check that only what a compaction takes is there: for callers whose shape does not say so.

    Raises:
        ApiError: UNSUPPORTED_PARAMETER.
    """
    for field, _ in params.ListFields():
        if field.name not in COMPACT_FIELDS:
            message = f"Unsupported parameter: '{field.name}' is not supported with compaction."
            raise ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER, message, field.name)


def summary_params(params: response_pb2.ResponseParams) -> response_pb2.ResponseParams:
    """What the generation of a summary is asked for, without its items and its length."""
    asked = response_pb2.ResponseParams(
        model=params.model,
        temperature=0,
        truncation=response_pb2.TRUNCATION_AUTO,
        store=False,
    )
    if params.HasField("instructions"):
        asked.instructions = params.instructions
    return asked


def summary_request(items: Sequence[Item], pinned: Sequence[int], dropped: int = 0) -> list[Item]:
    """The conversation, and that it shall be summarised.

    Args:
        pinned: Items that stay in any case: earlier summaries.
        dropped: Of the other items, those before this one are left out.
    """
    kept = [items[index] for index in pinned if index < dropped]
    return [*kept, *items[dropped:], _user_message(_SUMMARISE)]


def turn_starts(items: Sequence[Item]) -> list[int]:
    """Where the conversation may be cut: before each user message."""
    return [index for index, item in enumerate(items) if item.message.role == item_pb2.ROLE_USER]


def user_messages(items: Sequence[Item]) -> list[Item]:
    """Copies of what users said, whole."""
    messages = []
    for item in items:
        if item.message.role == item_pb2.ROLE_USER:
            message = Item()
            message.CopyFrom(item)
            messages.append(message)
    return messages


def compaction(response: response_pb2.Response, sealer: Sealer, *, owner: str) -> Item:
    """The compaction item that holds the summary that ``response`` is."""
    text = "".join(part.output_text.text for item in response.output for part in item.message.content).strip()
    sealed = sealer.seal(text.encode(), owner=owner, purpose=Purpose.COMPACTION)
    return Item(compaction=item_pb2.Compaction(encrypted_content=sealed))


def _user_message(text: str) -> Item:
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=text))
    return Item(message=item_pb2.Message(role=item_pb2.ROLE_USER, content=[part]))
