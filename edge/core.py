"""What both doors do with responses: open, read, delete. The only place that knows workers and store together."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from antiphon.errors import ApiError, reason_name
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item
from antiphon.responses.v1.responses_service_pb2 import Compacted
from antiphon.store.v1.record_pb2 import ResponseRecord
from edge.codec import with_defaults
from edge.compactor import Compactor
from edge.context import ConnectionMemory
from edge.limits import is_stored
from edge.logged import Accepted, Idempotency, LoggedResponses, not_found
from edge.offload import in_thread_if_large
from edge.opening import Opener, Opening
from edge.preparation import Preparer
from edge.request import generate_request, routing_key
from edge.run import Answer, ResponseRun, WarmUpRun
from edge.runs import Runs, keep_nothing
from edge.sealed_reasoning import seal_reasoning, wants_sealed_reasoning
from edge.sealing import Sealer
from edge.settings import EdgeSettings
from edge.store_health import StoreHealth
from edge.validate import validate
from edge.workers.pool import WorkerPool, model_not_found
from store.responses import ResponseStore

log = logging.getLogger(__name__)

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
"""Items of one page."""

_FIRST_COMMIT_RETRY_S: Final = 0.1


class Core:
    """Responses of all owners.

    Args:
        settings: Of this process.
        pool: Connected workers.
        store: Of stored responses.
        health: Whether the store takes writes.
        preparer: Prepares conversations.
        opener: Opens responses.
        runs: Makes runs.
        logged: Responses that survive this process.
        sealer: Seals what clients keep.
        ping_store: Returns if the store answers. Raises ApiError if it does not.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        pool: WorkerPool,
        store: ResponseStore,
        health: StoreHealth,
        preparer: Preparer,
        opener: Opener,
        runs: Runs,
        logged: LoggedResponses,
        sealer: Sealer,
        *,
        ping_store: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._store = store
        self._health = health
        self._preparer = preparer
        self._opener = opener
        self._runs = runs
        self._logged = logged
        self._sealer = sealer
        self._ping_store = ping_store
        self._compactor = Compactor(preparer, pool, sealer, self._generate)
        self._running = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def respond(
        self,
        owner: str,
        params: response_pb2.ResponseParams,
        *,
        request_id: str,
        idempotency: Idempotency | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Open a response; leaving before its end aborts it, unless it is logged.

        The caller awaits ``Answer.finish`` inside.

        Raises:
            ApiError: the request is invalid, or cannot be served now. Nothing was changed.
        """
        is_resumable = self._settings.resumable_streams and is_stored(params)
        if not (params.background or idempotency or is_resumable):
            async with self.respond_here(owner, params, request_id=request_id) as run:
                yield run
            return
        with self._place():
            accepted = await self._logged.accept(owner, params, idempotency, request_id=request_id)
            reader = await self._logged.follow(owner, accepted.response.id)
            reader.warnings.extend(accepted.warnings)
            yield reader

    @asynccontextmanager
    async def respond_here(
        self,
        owner: str,
        params: response_pb2.ResponseParams,
        *,
        request_id: str,
        memory: ConnectionMemory | None = None,
        generate: bool = True,
    ) -> AsyncGenerator[ResponseRun, None]:
        """Open a response of this process that a worker has accepted; leaving before its end aborts it.

        Args:
            memory: Of the caller's connection: what it holds can be continued, and a response that ends well and is
                not stored goes into it.
            generate: False: only fill the KV cache; the response has no output, and can be continued.

        Raises:
            ApiError: as ``respond``.
        """
        with self._place():
            opening = await self._opener.open(owner, params, memory=memory)
            run = self._run(owner, opening, generate=generate)
            started_at = time.monotonic()
            try:
                with opening.prepared.own_places():
                    await run.start()
                yield run
                if memory is not None and run.error is None and not run.response.params.store:
                    memory.keep(run.response.id, opening.prepared.context, run.response.output)
            finally:
                run.abort()
                _log_end(run, request_id, started_at)

    async def accept(
        self,
        owner: str,
        params: response_pb2.ResponseParams,
        *,
        request_id: str,
        idempotency: Idempotency | None = None,
    ) -> Accepted:
        """Accept a background response, which will end whatever single process dies; as ``LoggedResponses.accept``."""
        with self._place():
            return await self._logged.accept(owner, params, idempotency, request_id=request_id)

    @asynccontextmanager
    async def follow(self, owner: str, response_id: str, *, starting_after: int) -> AsyncGenerator[Answer, None]:
        """The events of a logged response; as ``LoggedResponses.follow``."""
        with self._place():
            yield await self._logged.follow(owner, response_id, starting_after=starting_after)

    async def cancel(self, owner: str, response_id: str) -> response_pb2.Response:
        """End a background response; as ``LoggedResponses.cancel``."""
        return await self._logged.cancel(owner, response_id)

    async def count_input_tokens(self, owner: str, params: response_pb2.ResponseParams) -> tuple[int, list[str]]:
        """Tokens of the prompt that a response to ``params`` would have, and its warnings; nothing is generated.

        Raises:
            ApiError: the request is invalid, or cannot be served now.
        """
        with self._place():
            await in_thread_if_large(params.ByteSize(), validate, params)
            prepared = await self._preparer.prepare(owner, params)
            request = generate_request(
                with_defaults(params), prepared.items, request_id="", owner=owner, tools=params.tools
            )
            worker = await self._pool.choose(params.model, routing_key(params, prepared.context.items()))
            with prepared.own_places():
                return await worker.count_tokens(request), list(prepared.warnings)

    async def compact(self, owner: str, params: response_pb2.ResponseParams) -> tuple[Compacted, list[str]]:
        """Fold a conversation into its user messages and a sealed summary; as ``Compactor.compact``."""
        with self._place():
            return await self._compactor.compact(owner, params)

    async def get(
        self, owner: str, response_id: str, *, include: Sequence[response_pb2.Include.ValueType] = ()
    ) -> ResponseRecord:
        """A stored response.

        Args:
            include: REASONING_ENCRYPTED_CONTENT has reasoning sealed that was not sealed when it was made. Nothing
                else can be had afterwards.

        Raises:
            ApiError: as ``LoggedResponses.get``; UNSUPPORTED_VALUE: there is no key to seal with.
        """
        is_sealing = wants_sealed_reasoning(include, self._sealer)
        record = await self._logged.get(owner, response_id)
        if is_sealing:
            for item in record.response.output:
                if not item.reasoning.encrypted_content:
                    seal_reasoning(item, self._sealer, owner=owner)
        return record

    async def list_input_items(
        self, owner: str, response_id: str, *, after: str, limit: int, is_ascending: bool
    ) -> tuple[list[Item], bool]:
        """Items of a stored response's own input, and whether there are more.

        Args:
            after: Begin behind the item with this id; empty: at the beginning.

        Raises:
            ApiError: as ``get``; INVALID_VALUE: there is no such item.
        """
        items = list((await self.get(owner, response_id)).input)
        if not is_ascending:
            items.reverse()
        start = 0
        if after:
            place = next((index for index, item in enumerate(items) if item.id == after), None)
            if place is None:
                message = "Invalid value for 'after': the input has no such item."
                raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "after")
            start = place + 1
        return items[start : start + limit], len(items) > start + limit

    async def delete(self, owner: str, response_id: str) -> None:
        """Erase a stored response; its children stay readable, but can no longer be continued.

        Raises:
            ApiError: as ``get``.
        """
        if not await self._store.delete(owner, response_id):
            raise not_found(response_id)

    def models(self) -> list[pb.ModelInfo]:
        """The models that are served now, by name."""
        return self._pool.models()

    def model(self, name: str) -> pb.ModelInfo:
        """One model that is served now.

        Raises:
            ApiError: MODEL_NOT_FOUND.
        """
        for model in self._pool.models():
            if model.id == name:
                return model
        raise model_not_found(name)

    async def check_ready(self) -> None:
        """Return if requests can be served now.

        Raises:
            ApiError: WORKER_UNAVAILABLE or STORE_UNAVAILABLE.
        """
        if self._is_draining or not self._pool.is_ready:
            raise ApiError(ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE, "No worker is ready.", retry_after_ms=1000)
        await self._ping_store()

    @property
    def is_draining(self) -> bool:
        """This process is to stop."""
        return self._is_draining

    async def drain(self) -> None:
        """Return when nobody waits for an answer any more; what still comes is answered until then."""
        self._is_draining = True
        self._logged.stop_claiming()
        await self._idle.wait()

    async def hand_over(self) -> None:
        """Give what runs on without a reader to other processes."""
        await self._logged.hand_over()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the bounded number of requests that run in this process.

        Raises:
            ApiError: OVERLOADED.
        """
        if self._running >= self._settings.max_running:
            message = "The server is overloaded. Try again later."
            raise ApiError(ErrorReason.ERROR_REASON_OVERLOADED, message, retry_after_ms=1000)
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def _run(self, owner: str, opening: Opening, *, generate: bool) -> ResponseRun:
        """A run that has not started."""
        record, request = opening.record, opening.request

        async def commit(final: response_pb2.Response) -> None:
            if final.params.store:
                record.response.CopyFrom(final)
                await self._commit(owner, record)

        if not generate:
            request.max_output_tokens = 1
        run_type = ResponseRun if generate else WarmUpRun
        events = self._runs.events(owner, record.response, input_items=len(record.input))
        run = self._runs.run(events, request, opening.routing_key, commit, run_type)
        run.warnings.extend(opening.warnings)
        return run

    async def _generate(self, request: pb.GenerateRequest, key: str) -> response_pb2.Response:
        """Run a generation whose events nobody reads.

        Raises:
            ApiError: it was refused, or failed.
        """

        response = response_pb2.Response(id=request.request_id)
        run = self._runs.run(self._runs.events("", response, input_items=0), request, key, keep_nothing, ResponseRun)
        try:
            await run.start()
            final = await run.finish()
        finally:
            run.abort()
        if run.error is not None:
            raise run.error
        return final

    async def _commit(self, owner: str, record: ResponseRecord) -> None:
        """Store a final response, trying again for a while when the store is away.

        Raises:
            ApiError: STORE_UNAVAILABLE.
        """
        deadline = time.monotonic() + self._settings.commit_timeout_s
        retry_s = _FIRST_COMMIT_RETRY_S
        while True:
            try:
                return await self._store.save(owner, record)
            except ApiError as error:
                self._health.doubt()
                if time.monotonic() + retry_s > deadline:
                    raise
                log.warning("commit retried", extra={"response_id": record.response.id, "reason": str(error)})
            await asyncio.sleep(retry_s)
            retry_s *= 2


def _log_end(run: ResponseRun, request_id: str, started_at: float) -> None:
    now = time.monotonic()
    usage = run.response.usage
    log.info(
        "response ended",
        extra={
            "request_id": request_id,
            "traceparent": run.traceparent,
            "response_id": run.response.id,
            "model": run.response.params.model,
            "status": response_pb2.ResponseStatus.Name(run.response.status).removeprefix("RESPONSE_STATUS_").lower(),
            "error": reason_name(run.error.reason) if run.error else None,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "first_token_ms": round((run.first_delta_at - started_at) * 1000) if run.first_delta_at else None,
            "duration_ms": round((now - started_at) * 1000),
        },
    )
