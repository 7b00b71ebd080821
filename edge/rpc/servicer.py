"""ResponsesService: protobuf in, the same core, protobuf out."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from antiphon.errors import ApiError
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1 import responses_service_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.responses_service_pb2_grpc import ResponsesServiceServicer
from antiphon.serving import answer_errors
from edge.checks import check_enum, check_integer
from edge.core import DEFAULT_LIMIT, MAX_LIMIT, Core
from edge.event_messages import to_message
from edge.limits import Limiter, is_stored
from edge.logged import IDEMPOTENCY_KEY, Idempotency, check_key
from edge.rpc.identity import Callers
from edge.rpc.metadata import apply_metadata
from edge.run import Answer

Context = grpc.aio.ServicerContext[Any, Any]
_EventMessage: TypeAlias = type[pb.StreamResponseResponse] | type[pb.ResumeResponseResponse]


class ResponsesServicer(ResponsesServiceServicer):
    """The typed API. A call that is cancelled, or whose deadline passes, aborts its response."""

    def __init__(self, core: Core, callers: Callers, limiter: Limiter, *, slow_reader_timeout_s: float) -> None:
        self._core = core
        self._callers = callers
        self._limiter = limiter
        self._slow_reader_timeout_s = slow_reader_timeout_s

    async def CreateResponse(self, request: pb.CreateResponseRequest, context: Context) -> pb.CreateResponseResponse:
        async with answer_errors(context):
            apply_metadata(request.params, context)
            if request.params.background:
                idempotency = _idempotency(request.params, context)
                request_id = _new_request_id()
                async with self._admitted(context, request_id, is_stored=True) as owner:
                    accepted = await self._core.accept(
                        owner, request.params, request_id=request_id, idempotency=idempotency
                    )
                _tell(context, accepted.warnings)
                return pb.CreateResponseResponse(response=accepted.response)
            async with self._respond(request.params, context) as answer:
                _tell(context, answer.warnings)
                response = await answer.finish()
                if answer.error is not None:
                    raise answer.error
                return pb.CreateResponseResponse(response=response)

    async def StreamResponse(  # type: ignore[override]  # writes, so that a cancelled call is cancelled in here
        self, request: pb.StreamResponseRequest, context: Context
    ) -> None:
        async with answer_errors(context):
            apply_metadata(request.params, context)
            async with self._respond(request.params, context) as answer:
                _tell(context, answer.warnings)
                await self._stream(answer, context, pb.StreamResponseResponse)

    async def ResumeResponse(  # type: ignore[override]
        self, request: pb.ResumeResponseRequest, context: Context
    ) -> None:
        starting_after = request.starting_after if request.HasField("starting_after") else -1
        async with (
            answer_errors(context),
            self._core.follow(self._owner(context), request.response_id, starting_after=starting_after) as answer,
        ):
            await self._stream(answer, context, pb.ResumeResponseResponse)

    async def CancelResponse(self, request: pb.CancelResponseRequest, context: Context) -> pb.CancelResponseResponse:
        async with answer_errors(context):
            response = await self._core.cancel(self._owner(context), request.response_id)
            return pb.CancelResponseResponse(response=response)

    async def ListInputItems(self, request: pb.ListInputItemsRequest, context: Context) -> pb.ListInputItemsResponse:
        async with answer_errors(context):
            limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
            check_integer(limit, "limit", 1, MAX_LIMIT)
            items, has_more = await self._core.list_input_items(
                self._owner(context),
                request.response_id,
                after=request.after,
                limit=limit,
                is_ascending=request.order == pb.LIST_ORDER_ASCENDING,
            )
            return pb.ListInputItemsResponse(items=items, has_more=has_more)

    async def GetResponse(self, request: pb.GetResponseRequest, context: Context) -> pb.GetResponseResponse:
        async with answer_errors(context):
            owner = self._owner(context)
            for index, include in enumerate(request.include):
                check_enum(response_pb2.Include, include, f"include[{index}]", required=True)
            record = await self._core.get(owner, request.response_id, include=request.include)
            return pb.GetResponseResponse(response=record.response)

    async def DeleteResponse(self, request: pb.DeleteResponseRequest, context: Context) -> pb.DeleteResponseResponse:
        async with answer_errors(context):
            await self._core.delete(self._owner(context), request.response_id)
            return pb.DeleteResponseResponse()

    async def CountInputTokens(
        self, request: pb.CountInputTokensRequest, context: Context
    ) -> pb.CountInputTokensResponse:
        async with answer_errors(context), self._admitted(context, _new_request_id()) as owner:
            apply_metadata(request.params, context)
            tokens, warnings = await self._core.count_input_tokens(owner, request.params)
            _tell(context, warnings)
            return pb.CountInputTokensResponse(input_tokens=tokens)

    async def CompactResponse(self, request: pb.CompactResponseRequest, context: Context) -> pb.CompactResponseResponse:
        async with answer_errors(context), self._admitted(context, _new_request_id()) as owner:
            apply_metadata(request.params, context)
            compacted, warnings = await self._core.compact(owner, request.params)
            _tell(context, warnings)
            return pb.CompactResponseResponse(compacted=compacted)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        async with answer_errors(context):
            self._owner(context)
            return pb.ListModelsResponse(
                models=[pb.Model(id=m.id, created_at=m.created_at, owned_by=m.owned_by) for m in self._core.models()]
            )

    def _owner(self, context: Context) -> str:
        """Who calls.

        Raises:
            ApiError: as ``Callers.owner``.
        """
        return self._callers.owner(context)

    @asynccontextmanager
    async def _admitted(
        self, context: Context, request_id: str, *, is_stored: bool = False
    ) -> AsyncGenerator[str, None]:
        """The owner who calls, with a place among the requests that it may run; the caller is told what is left.

        Raises:
            ApiError: INVALID_API_KEY, RATE_LIMIT_EXCEEDED.
        """
        owner = self._owner(context)
        async with self._limiter.admitted(owner, request_id, is_stored=is_stored) as headers:
            if headers:
                await context.send_initial_metadata(tuple(headers.items()))
            yield owner

    @asynccontextmanager
    async def _respond(self, params: response_pb2.ResponseParams, context: Context) -> AsyncGenerator[Answer, None]:
        request_id, idempotency = _new_request_id(), _idempotency(params, context)
        async with (
            self._admitted(context, request_id, is_stored=is_stored(params)) as owner,
            self._core.respond(owner, params, request_id=request_id, idempotency=idempotency) as answer,
        ):
            yield answer

    async def _stream(self, answer: Answer, context: Context, message: _EventMessage) -> None:
        """Send the events of ``answer`` as they come."""
        finishing = asyncio.create_task(answer.finish())
        try:
            await _send_events(answer, context, message, self._slow_reader_timeout_s)
        finally:
            finishing.cancel()
            await asyncio.wait([finishing])


def _new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"


def _idempotency(params: response_pb2.ResponseParams, context: Context) -> Idempotency | None:
    """The key of a call; None without the metadata.

    Raises:
        ApiError: INVALID_VALUE.
    """
    key = next((value for name, value in context.invocation_metadata() or () if name == IDEMPOTENCY_KEY), None)
    if key is None:
        return None
    text = key if isinstance(key, str) else key.decode("latin-1")
    check_key(text)
    return Idempotency(text, hashlib.sha256(params.SerializeToString(deterministic=True)).hexdigest())


def _tell(context: Context, warnings: list[str]) -> None:
    """What was asked for and is not done, in the trailing metadata."""
    if warnings:
        context.set_trailing_metadata((("x-antiphon-warning", "; ".join(warnings)),))


class _Waker:
    """Wakes the coroutine that reads a run's events."""

    def __init__(self) -> None:
        self.is_awake = asyncio.Event()

    def wake(self) -> None:
        self.is_awake.set()

    def keep_alive(self) -> None:
        """gRPC's own keepalive does that."""


async def _send_events(answer: Answer, context: Context, message: _EventMessage, timeout_s: float) -> None:
    """Send all events.

    Raises:
        ApiError: DEADLINE_EXCEEDED: the caller took none for ``timeout_s``.
    """
    waker = _Waker()
    answer.add_reader(waker)
    cursor = 0
    while True:
        waker.is_awake.clear()
        for event in answer.events.log[cursor:]:
            cursor += 1
            try:
                async with asyncio.timeout(timeout_s):
                    await context.write(message(event=to_message(event)))
            except TimeoutError:
                text = "The caller took no event for too long."
                raise ApiError(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, text) from None
        if answer.events.is_ended and cursor == len(answer.events.log):
            return
        await waker.is_awake.wait()
