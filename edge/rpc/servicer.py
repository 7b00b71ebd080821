"""ResponsesService: protobuf in, the same core, protobuf out."""

import asyncio
import secrets
from typing import Any

import grpc

from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceServicer
from edge.core import Core
from edge.events import to_message
from edge.run import ResponseRun

Context = grpc.aio.ServicerContext[Any, Any]


class ResponsesServicer(ResponsesServiceServicer):
    """The typed API. A call that is cancelled, or whose deadline passes, aborts its response."""

    def __init__(self, core: Core, *, owner: str, slow_reader_timeout_s: float) -> None:
        self._core = core
        self._owner = owner
        self._slow_reader_timeout_s = slow_reader_timeout_s

    async def CreateResponse(self, request: pb.CreateResponseRequest, context: Context) -> pb.CreateResponseResponse:
        async with self._core.respond(self._owner, request.params, request_id=_request_id()) as run:
            response = await run.finish()
            if run.error is not None:
                raise run.error
            return pb.CreateResponseResponse(response=response)

    async def StreamResponse(  # type: ignore[override]  # writes, so that a cancelled call is cancelled in here
        self, request: pb.StreamResponseRequest, context: Context
    ) -> None:
        async with (
            self._core.respond(self._owner, request.params, request_id=_request_id()) as run,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(_send_events(run, context, self._slow_reader_timeout_s))
            await run.finish()

    async def GetResponse(self, request: pb.GetResponseRequest, context: Context) -> pb.GetResponseResponse:
        record = await self._core.get(self._owner, request.response_id)
        return pb.GetResponseResponse(response=record.response)

    async def DeleteResponse(self, request: pb.DeleteResponseRequest, context: Context) -> pb.DeleteResponseResponse:
        await self._core.delete(self._owner, request.response_id)
        return pb.DeleteResponseResponse()

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        models = self._core.models()
        return pb.ListModelsResponse(
            models=[pb.Model(id=m.id, created_at=m.created_at, owned_by=m.owned_by) for m in models]
        )


class _Waker:
    """Wakes the coroutine that reads a run's events."""

    def __init__(self) -> None:
        self.is_awake = asyncio.Event()

    def wake(self) -> None:
        self.is_awake.set()

    def keep_alive(self) -> None:
        """gRPC's own keepalive does that."""


async def _send_events(run: ResponseRun, context: Context, timeout_s: float) -> None:
    """Send all events; ends with TimeoutError when the caller takes none for ``timeout_s``."""
    waker = _Waker()
    run.add_reader(waker)
    cursor = 0
    while True:
        waker.is_awake.clear()
        for event in run.events.log[cursor:]:
            cursor += 1
            async with asyncio.timeout(timeout_s):
                await context.write(pb.StreamResponseResponse(event=to_message(event)))
        if run.events.is_ended and cursor == len(run.events.log):
            return
        await waker.is_awake.wait()


def _request_id() -> str:
    return f"req_{secrets.token_hex(16)}"
