"""What a request is about: the responses it continues, and its own input with every reference resolved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item
from antiphon.responses.v1.response_pb2 import ResponseParams
from edge.validate import check_tool_outputs
from store.responses import ResponseStore

_SHOWN_ID_LENGTH: Final = 128


@dataclass(frozen=True, slots=True)
class Context:
    """The items that a request's prompt is made of, by where they come from."""

    stored_id: str
    """The nearest stored response that is continued; empty if there is none."""
    ancestor_ids: Sequence[str]
    """Of that chain, the root first."""
    ancestor_bytes: int
    history: Sequence[Item]
    """Input and output of that chain."""
    carried: Sequence[Item]
    """Input and output of responses after it that were not stored: their connection remembered them."""
    input: Sequence[Item]
    """The request's own items; no references among them."""

    @property
    def own(self) -> list[Item]:
        """What the record of the response must hold itself, since no stored ancestor does."""
        return [*self.carried, *self.input]

    def items(self) -> list[Item]:
        """The whole conversation, in order."""
        return [*self.history, *self.carried, *self.input]


class ConnectionMemory:
    """The latest response of one connection that was not stored, so that the same connection can continue it.

    Open Responses specification, "WebSocket transport": such a state lives with its connection and nowhere else.

    Args:
        max_bytes: The most bytes of items to keep; a larger response is forgotten at once.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._response_id = ""
        self._stored_id = ""
        self._items: tuple[Item, ...] = ()

    def keep(self, response_id: str, context: Context, output: Sequence[Item]) -> None:
        """Remember a response that ended well, in place of the one before."""
        self.evict(self._response_id)
        items = (*context.own, *output)
        if sum(item.ByteSize() for item in items) <= self._max_bytes:
            self._response_id, self._stored_id, self._items = response_id, context.stored_id, items

    def evict(self, response_id: str) -> None:
        """Forget a response, if it is remembered: a turn that continued it has failed."""
        if response_id == self._response_id:
            self._response_id, self._stored_id, self._items = "", "", ()

    def recall(self, response_id: str) -> tuple[str, tuple[Item, ...]] | None:
        """The nearest stored ancestor of a response, and the items since then; None if it is not remembered."""
        if not response_id or response_id != self._response_id:
            return None
        return self._stored_id, self._items


async def load_context(
    store: ResponseStore,
    owner: str,
    params: ResponseParams,
    *,
    memory: ConnectionMemory | None,
    max_referenced_bytes: int,
) -> Context:
    """Read what ``params``, which are valid, continue and refer to.

    Args:
        memory: What the connection remembers; it comes before the store.
        max_referenced_bytes: The most bytes that all references together may stand for.

    Raises:
        ApiError: PREVIOUS_RESPONSE_NOT_FOUND, ITEM_NOT_FOUND, REQUEST_TOO_LARGE, an output without its call, or
            STORE_UNAVAILABLE.
    """
    stored_id = params.previous_response_id
    carried: Sequence[Item] = ()
    remembered = memory.recall(stored_id) if memory is not None else None
    if remembered is not None:
        stored_id, carried = remembered
    history: list[Item] = []
    ancestor_ids: list[str] = []
    ancestor_bytes = 0
    if stored_id:
        chain = await store.load_chain(owner, stored_id)
        history, ancestor_ids, ancestor_bytes = list(chain.items()), chain.response_ids, chain.record_bytes
    own = await _resolve(store, owner, params.input, [*history, *carried], max_referenced_bytes)
    context = Context(stored_id, ancestor_ids, ancestor_bytes, history, carried, own)
    check_tool_outputs(context.items())
    return context


async def _resolve(
    store: ResponseStore, owner: str, given: Sequence[Item], before: Sequence[Item], max_bytes: int
) -> list[Item]:
    """``given`` with each `item_reference` replaced by the item it names: one before it, or one that is stored."""
    if not any(item.HasField("item_reference") for item in given):
        return list(given)
    known = {item.id: item for item in before if item.id}
    resolved: list[Item] = []
    for index, item in enumerate(given):
        if item.HasField("item_reference"):
            found = known.get(item.id)
            if found is None:
                found = await store.find_item(owner, item.id)
            if found is None:
                raise ApiError(
                    ErrorReason.ERROR_REASON_ITEM_NOT_FOUND,
                    f"Item with id '{item.id[:_SHOWN_ID_LENGTH]}' not found.",
                    f"input[{index}]",
                )
            max_bytes -= found.ByteSize()
            if max_bytes < 0:
                raise ApiError(
                    ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
                    "The items that the input refers to are too large together.",
                    f"input[{index}]",
                )
            item = found
        if item.id:
            known[item.id] = item
        resolved.append(item)
    return resolved
