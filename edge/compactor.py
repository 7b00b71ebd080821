"""Writes compactions: one generation, of which the client sees nothing but the sealed summary."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.responses_service_pb2 import Compacted
from edge.codec import with_defaults
from edge.compaction import (
    check_compact_params,
    compaction,
    summary_params,
    summary_request,
    turn_starts,
    user_messages,
)
from edge.offload import in_thread_if_large
from edge.preparation import Prepared, Preparer
from edge.request import generate_request, routing_key
from edge.sealing import Sealer
from edge.validate import validate
from edge.workers.pool import WorkerPool
from store import ids

_MIN_SUMMARY_TOKENS: Final = 64
_MAX_SUMMARY_TOKENS: Final = 1024
_CONVERSATION_SHARE: Final = 2
"""A summary takes at most one part in so many of the conversation's own tokens, within these limits."""
_WINDOW_SHARE: Final = 4
"""A summary takes at most one part in so many of the context window."""

Generate: TypeAlias = Callable[[pb.GenerateRequest, str], Awaitable[response_pb2.Response]]
"""Runs a request, given the routing key, to its end. Raises ApiError."""


class Compactor:
    """Compacts conversations.

    Args:
        generate: Runs one generation.
    """

    def __init__(self, preparer: Preparer, pool: WorkerPool, sealer: Sealer, generate: Generate) -> None:
        self._preparer = preparer
        self._pool = pool
        self._sealer = sealer
        self._generate = generate

    async def compact(self, owner: str, params: response_pb2.ResponseParams) -> tuple[Compacted, list[str]]:
        """Fold the conversation that ``params`` are about; also return warnings, which are safe in a header.

        Of a conversation that leaves no room for a summary, the first turns are left out of it, with a warning: their
        user messages stay whole in the output, and so do earlier summaries.

        Raises:
            ApiError: the request is invalid, this server has no key, or the generation failed.
        """
        check_compact_params(params)
        await in_thread_if_large(params.ByteSize(), validate, params)
        if not self._sealer.can_seal:
            message = "This server has no key to encrypt a compaction with (EDGE_ENCRYPTION_KEYS)."
            raise ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER, message)
        prepared = await self._preparer.prepare(owner, params)
        conversation = prepared.context.items()
        pinned = [shown for shown, index in enumerate(prepared.kept) if conversation[index].HasField("compaction")]
        response_id = ids.new_response_id(ids.parse_response_id(params.previous_response_id))
        window = (await self._pool.info(params.model)).context_window
        longest = min(_MAX_SUMMARY_TOKENS, window // _WINDOW_SHARE)
        asked = with_defaults(summary_params(params))

        def request(dropped: int) -> pb.GenerateRequest:
            items = summary_request(prepared.items, pinned, dropped)
            request = generate_request(asked, items, request_id=str(response_id), owner=owner)
            request.without_reasoning = True
            return request

        key = routing_key(params, conversation)
        with prepared.own_places():
            dropped, tokens = await self._first_that_fits(prepared, request, key, window, window - longest)
            summary = request(dropped)
            summary.max_output_tokens = min(longest, max(_MIN_SUMMARY_TOKENS, tokens // _CONVERSATION_SHARE))
            response = await self._generate(summary, key)
        item_ids = ids.ItemIds(response_id)
        output = [*user_messages(conversation), compaction(response, self._sealer, owner=owner)]
        for item in output:
            kind = ids.ItemKind.COMPACTION if item.HasField("compaction") else ids.ItemKind.MESSAGE
            item.id = item.id or item_ids.new(kind)
        warnings = list(prepared.warnings)
        if dropped:
            warnings.append(f"summary: without the first {dropped} items")
        compacted = Compacted(id=str(response_id), created_at=int(time.time()), output=output, usage=response.usage)
        return compacted, warnings

    async def _first_that_fits(
        self, prepared: Prepared, request: Callable[[int], pb.GenerateRequest], key: str, window: int, room: int
    ) -> tuple[int, int]:
        """How few of the first items to leave out, so that the prompt has at most ``room`` tokens; and the whole's.

        At most the last turn stays in, and the worker cuts that. The tokens are at most ``window``.
        """

        async def tokens(dropped: int) -> int:
            counted = request(dropped)
            counted.truncation = response_pb2.TRUNCATION_DISABLED
            worker = await self._pool.choose(counted.model, key)
            try:
                return await worker.count_tokens(counted)
            except ApiError as error:
                if error.reason == ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED:
                    return window
                raise

        whole = await tokens(0)
        if whole <= room:
            return 0, whole
        cuts: Sequence[int] = turn_starts(prepared.items)[1:]
        low, high = 0, len(cuts) - 1
        while low < high:
            middle = (low + high) // 2
            if await tokens(cuts[middle]) <= room:
                high = middle
            else:
                low = middle + 1
        return (cuts[low] if cuts else 0), whole
