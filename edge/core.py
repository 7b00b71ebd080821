"""What both doors do with responses: open, read, delete. The only place that knows workers and store together."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from antiphon.errors import ApiError, reason_name
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import item_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.responses_service_pb2 import Compacted
from antiphon.store.v1.record_pb2 import ResponseRecord
from edge.codec import with_defaults
from edge.compactor import Compactor
from edge.context import ConnectionMemory
from edge.events import ResponseEvents
from edge.limits import is_stored
from edge.media.resolve import MediaResolver
from edge.offload import in_thread_if_large
from edge.preparation import Prepared, Preparer
from edge.request import generate_request, routing_key
from edge.run import ResponseRun, WarmUpRun
from edge.sealed_reasoning import seal_reasoning, wants_sealed_reasoning
from edge.sealing import Sealer, parse_keys
from edge.settings import EdgeSettings
from edge.validate import validate
from edge.workers.connection import WorkerConnection
from edge.workers.pool import WorkerPool, model_not_found
from store import ids
from store.responses import ResponseStore

log = logging.getLogger(__name__)

_FIRST_COMMIT_RETRY_S: Final = 0.1
_STORE_KNOWN_UP_S: Final = 1.0


class Core:
    """Responses of all owners.

    Args:
        settings: Of this process.
        pool: Connected workers.
        store: Of stored responses.
        media: Reads images and files.
        ping_store: Returns if the store answers. Raises ApiError if it does not.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        pool: WorkerPool,
        store: ResponseStore,
        media: MediaResolver,
        *,
        ping_store: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._store = store
        self._ping_store = ping_store
        self._sealer = Sealer(parse_keys(settings.encryption_keys))
        self._preparer = Preparer(store, pool, media, self._sealer, max_referenced_bytes=settings.max_body_bytes)
        self._compactor = Compactor(self._preparer, pool, self._sealer, self._generate)
        self._store_known_up_until = 0.0
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
        memory: ConnectionMemory | None = None,
        generate: bool = True,
    ) -> AsyncGenerator[ResponseRun, None]:
        """Open a response that a worker has accepted; leaving before its end aborts it.

        The caller awaits ``ResponseRun.finish`` inside.

        Args:
            memory: Of the caller's connection: what it holds can be continued, and a response that ends well and is
                not stored goes into it.
            generate: False: only fill the KV cache; the response has no output, and can be continued.

        Raises:
            ApiError: the request is invalid, or cannot be served now. Nothing was changed.
        """
        with self._place():
            run, prepared = await self._open(owner, params, memory, generate=generate)
            started_at = time.monotonic()
            try:
                with prepared.own_places():
                    await run.start()
                yield run
                if memory is not None and run.error is None and not run.response.params.store:
                    memory.keep(run.response.id, prepared.context, run.response.output)
            finally:
                run.abort()
                _log_end(run, request_id, started_at)

    async def count_input_tokens(self, owner: str, params: response_pb2.ResponseParams) -> int:
        """Tokens of the prompt that a response to ``params`` would have; nothing is generated.

        Raises:
            ApiError: the request is invalid, or cannot be served now.
        """
        with self._place():
            await in_thread_if_large(params.ByteSize(), validate, params)
            prepared = await self._preparer.prepare(owner, params)
            request = generate_request(
                with_defaults(params), prepared.items, request_id="", cache_salt=owner, tools=params.tools
            )
            worker = await self._pool.choose(params.model, routing_key(params, prepared.context.items()))
            with prepared.own_places():
                return await worker.count_tokens(request)

    async def compact(self, owner: str, params: response_pb2.ResponseParams) -> tuple[Compacted, list[str]]:
        """Fold a conversation into its user messages and a sealed summary; as ``Compactor.compact``."""
        with self._place():
            return await self._compactor.compact(owner, params)

    async def get(self, owner: str, response_id: str) -> ResponseRecord:
        """A stored response.

        Raises:
            ApiError: RESPONSE_NOT_FOUND, also for another owner's, or STORE_UNAVAILABLE.
        """
        record = await self._store.get(owner, response_id)
        if record is None:
            raise _not_found(response_id)
        return record

    async def delete(self, owner: str, response_id: str) -> None:
        """Erase a stored response; its children stay readable, but can no longer be continued.

        Raises:
            ApiError: as ``get``.
        """
        if not await self._store.delete(owner, response_id):
            raise _not_found(response_id)

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

    async def drain(self) -> None:
        """Take nothing new, and return when no response runs."""
        self._is_draining = True
        await self._idle.wait()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the bounded number of requests that run in this process.

        Raises:
            ApiError: OVERLOADED.
        """
        if self._is_draining or self._running >= self._settings.max_running:
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

    async def _open(
        self,
        owner: str,
        params: response_pb2.ResponseParams,
        memory: ConnectionMemory | None,
        *,
        generate: bool,
    ) -> tuple[ResponseRun, Prepared]:
        """A run that has not started, and what it is about."""
        await in_thread_if_large(params.ByteSize(), validate, params)
        is_sealing = wants_sealed_reasoning(params, self._sealer)
        prepared = await self._preparer.prepare(owner, params, memory)
        context = prepared.context
        if is_stored(params):
            await self._check_store()  # 503 before anything starts, not a failed commit at its end
        previous = ids.parse_response_id(params.previous_response_id)
        response_id = ids.new_response_id(previous)
        item_ids = ids.ItemIds(response_id)
        record = ResponseRecord(
            input=context.own, ancestor_ids=context.ancestor_ids, ancestor_bytes=context.ancestor_bytes
        )
        for item in record.input:
            item.id = item.id or item_ids.new(_KINDS.get(item.WhichOneof("kind") or "", ids.ItemKind.OTHER))
        response = record.response
        response.id = str(response_id)
        response.created_at = int(time.time())
        response.params.CopyFrom(with_defaults(params))

        async def commit(final: response_pb2.Response) -> None:
            if response.params.store:
                record.response.CopyFrom(final)
                await self._commit(owner, record)

        def complete(item: item_pb2.Item) -> None:
            if is_sealing:
                seal_reasoning(item, self._sealer, owner=owner)

        request = generate_request(
            response.params, prepared.items, request_id=response.id, cache_salt=owner, tools=params.tools
        )
        if not generate:
            request.max_output_tokens = 1
        events = ResponseEvents(response, new_item_id=item_ids.new, new_call_id=ids.new_call_id, complete_item=complete)
        run = self._run(
            events,
            request,
            routing_key(params, context.items()),
            commit,
            run_type=ResponseRun if generate else WarmUpRun,
        )
        run.warnings.extend(prepared.warnings)
        return run, prepared

    def _run(
        self,
        events: ResponseEvents,
        request: pb.GenerateRequest,
        key: str,
        commit: Callable[[response_pb2.Response], Awaitable[None]],
        run_type: type[ResponseRun] = ResponseRun,
    ) -> ResponseRun:
        async def choose(avoid: Sequence[WorkerConnection]) -> WorkerConnection:
            return await self._pool.choose(request.model, key, avoid=avoid)

        return run_type(
            events,
            request,
            choose=choose,
            commit=commit,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            timeout_s=self._settings.response_timeout_s,
        )

    async def _generate(self, request: pb.GenerateRequest, key: str) -> response_pb2.Response:
        """Run a generation whose events nobody reads.

        Raises:
            ApiError: it was refused, or failed.
        """

        async def keep(final: response_pb2.Response) -> None:
            """Nothing is stored."""

        response = response_pb2.Response(id=request.request_id)
        item_ids = ids.ItemIds(ids.new_response_id())
        events = ResponseEvents(response, new_item_id=item_ids.new, new_call_id=ids.new_call_id)
        run = self._run(events, request, key, keep)
        try:
            await run.start()
            final = await run.finish()
        finally:
            run.abort()
        if run.error is not None:
            raise run.error
        return final

    async def _check_store(self) -> None:
        """Return if the store took a write just now.

        Raises:
            ApiError: STORE_UNAVAILABLE.
        """
        now = time.monotonic()
        if now > self._store_known_up_until:
            await self._store.check_writable()
            self._store_known_up_until = now + _STORE_KNOWN_UP_S

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
                self._store_known_up_until = 0.0
                if time.monotonic() + retry_s > deadline:
                    raise
                log.warning("commit retried", extra={"response_id": record.response.id, "reason": str(error)})
            await asyncio.sleep(retry_s)
            retry_s *= 2


_KINDS: Final = {
    "message": ids.ItemKind.MESSAGE,
    "function_call": ids.ItemKind.FUNCTION_CALL,
    "function_call_output": ids.ItemKind.FUNCTION_CALL_OUTPUT,
    "reasoning": ids.ItemKind.REASONING,
    "compaction": ids.ItemKind.COMPACTION,
}


def _not_found(response_id: str) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_RESPONSE_NOT_FOUND, f"Response with id '{response_id}' not found.")


def _log_end(run: ResponseRun, request_id: str, started_at: float) -> None:
    now = time.monotonic()
    usage = run.response.usage
    log.info(
        "response ended",
        extra={
            "request_id": request_id,
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
