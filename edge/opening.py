"""From a request's params to what a run and a record need: both kinds of response, logged or not, begin here."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.store.v1.record_pb2 import ResponseRecord
from edge.codec import with_defaults
from edge.context import ConnectionMemory
from edge.limits import is_stored
from edge.offload import in_thread_if_large
from edge.preparation import Prepared, Preparer
from edge.request import generate_request, routing_key
from edge.validate import validate
from edge.workers.pool import WorkerPool
from store import ids

_KINDS: Final = {
    "message": ids.ItemKind.MESSAGE,
    "function_call": ids.ItemKind.FUNCTION_CALL,
    "function_call_output": ids.ItemKind.FUNCTION_CALL_OUTPUT,
    "reasoning": ids.ItemKind.REASONING,
    "compaction": ids.ItemKind.COMPACTION,
}


@dataclass(frozen=True, slots=True)
class Opening:
    """A response that is about to begin."""

    record: ResponseRecord
    """The response with its id and parameters, no status and no output; its input, each item with an id."""
    request: pb.GenerateRequest
    routing_key: str
    prepared: Prepared

    @property
    def warnings(self) -> Sequence[str]:
        """What was asked for and is not done: short and safe in a header."""
        return self.prepared.warnings


class Opener:
    """Opens responses.

    Args:
        preparer: Prepares their conversations.
        pool: Connected workers.
        check_store: Returns if the store takes writes. Raises ApiError if it does not.
    """

    def __init__(self, preparer: Preparer, pool: WorkerPool, check_store: Callable[[], Awaitable[None]]) -> None:
        self._preparer = preparer
        self._pool = pool
        self._check_store = check_store

    async def open(
        self,
        owner: str,
        params: response_pb2.ResponseParams,
        *,
        response_id: ids.ResponseId | None = None,
        memory: ConnectionMemory | None = None,
    ) -> Opening:
        """Validate ``params`` and read what they are about.

        Args:
            response_id: Default: a new one.
            memory: Of the caller's connection.

        Raises:
            ApiError: the request is invalid, or cannot be served now. Nothing was changed.
        """
        await in_thread_if_large(params.ByteSize(), validate, params)
        prepared = await self._preparer.prepare(owner, params, memory)
        context = prepared.context
        if is_stored(params):
            await self._check_store()  # 503 before anything starts, not a failed commit at its end
        if response_id is None:
            response_id = ids.new_response_id(ids.parse_response_id(params.previous_response_id))
        item_ids = ids.ItemIds(response_id)
        record = ResponseRecord(
            input=context.own, ancestor_ids=context.ancestor_ids, ancestor_bytes=context.ancestor_bytes
        )
        for item in record.input:
            item.id = item.id or item_ids.new(_KINDS.get(item.WhichOneof("kind") or "", ids.ItemKind.OTHER))
        record.response.id = str(response_id)
        record.response.created_at = int(time.time())
        record.response.params.CopyFrom(with_defaults(params))
        request = generate_request(
            record.response.params, prepared.items, request_id=str(response_id), owner=owner, tools=params.tools
        )
        return Opening(record, request, routing_key(params, context.items()), prepared)

    async def check(self, opening: Opening) -> None:
        """Let a worker look at the request, if one is ready; without one it is found out later.

        Raises:
            ApiError: no worker would take it.
        """
        worker = self._pool.ready_worker(opening.request.model)
        if worker is None:
            return
        try:
            with opening.prepared.own_places():
                await worker.count_tokens(opening.request)
        except ApiError as error:
            if error.reason != ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE:
                raise
