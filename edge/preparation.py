"""From params to what a worker gets: the context loaded, sealed items opened, media read."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.item_pb2 import Item
from edge.compaction import reveal
from edge.context import ConnectionMemory, Context, load_context
from edge.media.resolve import MediaResolver
from edge.sealed_reasoning import open_reasoning
from edge.sealing import Sealer
from edge.workers.pool import WorkerPool
from store.responses import ResponseStore

_INPUT_ITEM: Final = re.compile(r"input\[([0-9]+)\](.*)", re.DOTALL)
_TOOL_KIND: Final = re.compile(r"[a-z0-9_]{1,64}")
_MAX_UNTOLD: Final = 16
_NO_EFFORTS: Final = (response_pb2.REASONING_EFFORT_UNSPECIFIED, response_pb2.REASONING_EFFORT_NONE)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request's conversation."""

    context: Context
    """As it is stored."""
    items: Sequence[Item]
    """As the worker gets it."""
    kept: Sequence[int]
    """Which item of the context each of ``items`` is, rising."""
    warnings: Sequence[str]
    """What was asked for and is not done: short and safe in a header."""

    @contextmanager
    def own_places(self) -> Iterator[None]:
        """Inside, a worker refuses ``items``: the places that it names become those in the client's own input."""
        try:
            yield
        except ApiError as error:
            place = _INPUT_ITEM.match(error.param or "")
            if place is not None and int(place[1]) < len(self.kept):
                before = len(self.context.history) + len(self.context.carried)
                error.param = f"input[{max(0, self.kept[int(place[1])] - before)}]{place[2]}"
            raise


class Preparer:
    """Prepares requests that are valid.

    Args:
        max_referenced_bytes: The most bytes that the item references of one request may stand for.
    """

    def __init__(
        self, store: ResponseStore, pool: WorkerPool, media: MediaResolver, sealer: Sealer, *, max_referenced_bytes: int
    ) -> None:
        self._store = store
        self._pool = pool
        self._media = media
        self._sealer = sealer
        self._max_referenced_bytes = max_referenced_bytes

    async def prepare(
        self, owner: str, params: response_pb2.ResponseParams, memory: ConnectionMemory | None = None
    ) -> Prepared:
        """What ``params`` are about.

        Raises:
            ApiError: something that they name does not exist, cannot be read or is not authentic.
        """
        context = await load_context(
            self._store, owner, params, memory=memory, max_referenced_bytes=self._max_referenced_bytes
        )

        async def capabilities() -> pb.Capabilities:
            return (await self._pool.info(params.model)).capabilities

        before = open_reasoning([*context.history, *context.carried], self._sealer, owner=owner, is_stored=True)
        own = open_reasoning(context.input, self._sealer, owner=owner)
        shown = await self._media.resolve(before.items, own.items, capabilities)
        revealed = reveal(shown.items, len(before.items), self._sealer, owner=owner)
        foreign = [f"input[{index}].encrypted_content" for index in own.foreign]
        untold = [*_untold_tools(params), *await self._unheeded(params)]
        warnings = [*shown.warnings, *foreign, *revealed.warnings, *untold]
        return Prepared(context, revealed.items, revealed.kept, warnings)

    async def _unheeded(self, params: response_pb2.ResponseParams) -> list[str]:
        """What ``params`` ask for that the model takes, and that changes nothing about its answer."""
        wanted = {"effort": params.reasoning.effort not in _NO_EFFORTS, "summary": bool(params.reasoning.summary)}
        if not any(wanted.values()) or (await self._pool.info(params.model)).capabilities.reasoning:
            return []
        return [f"reasoning.{name}" for name, is_wanted in wanted.items() if is_wanted]


def _untold_tools(params: response_pb2.ResponseParams) -> list[str]:
    """The tools that nobody here can run: the model is not told of them. Named once a kind."""
    kinds = dict.fromkeys(tool.raw.type for tool in params.tools if tool.HasField("raw"))
    return [f"tools: {kind} kept from the model" for kind in kinds if _TOOL_KIND.fullmatch(kind)][:_MAX_UNTOLD]
