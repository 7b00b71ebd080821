"""Makes runs: the one place that knows what each needs of this process."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import item_pb2, response_pb2
from edge.events import ResponseEvents
from edge.run import ResponseRun
from edge.sealed_reasoning import seal_reasoning, wants_sealed_reasoning
from edge.sealing import Sealer
from edge.settings import EdgeSettings
from edge.workers.connection import WorkerConnection
from edge.workers.pool import WorkerPool
from store import ids

Commit = Callable[[response_pb2.Response], Awaitable[None]]
"""Stores the final response; does nothing if it is not to be stored. Raises ApiError."""

_Run = TypeVar("_Run", bound=ResponseRun)


class Runs:
    """Of one edge process.

    Args:
        settings: Of this process.
        pool: Connected workers.
        sealer: Seals reasoning.
    """

    def __init__(self, settings: EdgeSettings, pool: WorkerPool, sealer: Sealer) -> None:
        self._settings = settings
        self._pool = pool
        self._sealer = sealer

    def events(self, owner: str, response: response_pb2.Response, *, input_items: int) -> ResponseEvents:
        """No events yet, of a response that has its id and its parameters.

        Args:
            input_items: How many items its input has: those of its output are numbered after them.

        Raises:
            ApiError: UNSUPPORTED_VALUE: it is to carry encrypted content, and this server has no key.
        """
        is_sealing = wants_sealed_reasoning(response.params.include, self._sealer)

        def complete(item: item_pb2.Item) -> None:
            if is_sealing:
                seal_reasoning(item, self._sealer, owner=owner)

        response_id = ids.parse_response_id(response.id)
        assert response_id is not None
        item_ids = ids.ItemIds(response_id)

        def new_item_id(kind: ids.ItemKind) -> str:
            return item_ids.at(kind, input_items + events.item_count)

        events = ResponseEvents(response, new_item_id=new_item_id, new_call_id=ids.new_call_id, complete_item=complete)
        return events

    def run(
        self,
        events: ResponseEvents,
        request: pb.GenerateRequest,
        routing_key: str,
        commit: Commit,
        run_type: type[_Run],
    ) -> _Run:
        """A run that has not started."""

        async def choose(avoid: Sequence[WorkerConnection]) -> WorkerConnection:
            return await self._pool.choose(request.model, routing_key, avoid=avoid)

        return run_type(
            events,
            request,
            choose=choose,
            commit=commit,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            timeout_s=self._settings.response_timeout_s,
        )


async def keep_nothing(final: response_pb2.Response) -> None:
    """The ``Commit`` of what is not stored."""
