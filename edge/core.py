"""What both doors do with responses: open, read, delete. The only place that knows workers and store together."""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from antiphon.errors import ApiError, reason_name
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import item_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.store.v1.record_pb2 import ResponseRecord
from edge.codec import with_defaults
from edge.events import ResponseEvents
from edge.run import ResponseRun
from edge.settings import EdgeSettings
from edge.validate import validate
from edge.workers.connection import WorkerConnection
from edge.workers.pool import WorkerPool
from store import ids
from store.responses import ResponseStore

log = logging.getLogger(__name__)

_ROUTING_HEAD_BYTES: Final = 4096
"""So much of a prompt decides which worker gets it, when nothing else does."""

_INPUT_ITEM: Final = re.compile(r"input\[([0-9]+)\](.*)", re.DOTALL)

_LARGE_REQUEST_BYTES: Final = 64 * 1024
"""Requests from this size on are validated in a thread: a megabyte takes ten milliseconds."""

_FIRST_COMMIT_RETRY_S: Final = 0.1
_STORE_KNOWN_UP_S: Final = 1.0


class Core:
    """Responses of all owners.

    Args:
        settings: Of this process.
        pool: Connected workers.
        store: Of stored responses.
        ping_store: Returns if the store answers. Raises ApiError if it does not.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        pool: WorkerPool,
        store: ResponseStore,
        *,
        ping_store: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._store = store
        self._ping_store = ping_store
        self._store_known_up_until = 0.0
        self._running = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def respond(
        self, owner: str, params: response_pb2.ResponseParams, *, request_id: str
    ) -> AsyncGenerator[ResponseRun, None]:
        """Open a response that a worker has accepted; leaving before its end aborts it.

        The caller awaits ``ResponseRun.finish`` inside.

        Raises:
            ApiError: the request is invalid, or cannot be served now. Nothing was changed.
        """
        if self._is_draining or self._running >= self._settings.max_running:
            message = "The server is overloaded. Try again later."
            raise ApiError(ErrorReason.ERROR_REASON_OVERLOADED, message, retry_after_ms=1000)
        self._running += 1
        self._idle.clear()
        try:
            run, history_items = await self._open(owner, params)
            started_at = time.monotonic()
            try:
                await _start(run, history_items)
                yield run
            finally:
                run.abort()
                _log_end(run, request_id, started_at)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

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

    async def check_ready(self) -> None:
        """Return if requests can be served now.

        Raises:
            ApiError: WORKER_UNAVAILABLE or STORE_UNAVAILABLE.
        """
        if self._is_draining or not self._pool.is_ready:
            raise ApiError(ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE, "No worker is ready.", retry_after_ms=1000)
        await self._check_store()

    async def drain(self) -> None:
        """Take nothing new, and return when no response runs."""
        self._is_draining = True
        await self._idle.wait()

    async def _open(self, owner: str, params: response_pb2.ResponseParams) -> tuple[ResponseRun, int]:
        """A run that has not started, and how many items of earlier responses come before its own input."""
        if params.ByteSize() < _LARGE_REQUEST_BYTES:
            validate(params)
        else:
            await asyncio.to_thread(validate, params)
        record = ResponseRecord(input=params.input)
        items: list[item_pb2.Item] = []
        previous_id = params.previous_response_id
        if previous_id:
            chain = await self._store.load_chain(owner, previous_id)
            items.extend(chain.items())
            record.ancestor_ids.extend(chain.response_ids)
            record.ancestor_bytes = chain.record_bytes
        elif params.store or not params.HasField("store"):
            await self._check_store()  # 503 before anything starts, not a failed commit at its end
        items.extend(params.input)

        response_id = ids.new_response_id(ids.parse_response_id(previous_id) if previous_id else None)
        item_ids = ids.ItemIds(response_id)
        for item in record.input:
            item.id = item.id or item_ids.new(_KINDS.get(item.WhichOneof("kind") or "", ids.ItemKind.OTHER))
        response = record.response
        response.id = str(response_id)
        response.created_at = int(time.time())
        response.params.CopyFrom(with_defaults(params))
        key = params.prompt_cache_key or (response_id.tag if previous_id else _head(params))

        async def choose(avoid: Sequence[WorkerConnection]) -> WorkerConnection:
            return await self._pool.choose(params.model, key, avoid=avoid)

        async def commit(final: response_pb2.Response) -> None:
            if response.params.store:
                record.response.CopyFrom(final)
                await self._commit(owner, record)

        run = ResponseRun(
            ResponseEvents(response, new_item_id=item_ids.new, new_call_id=ids.new_call_id),
            _generate_request(response, items, cache_salt=owner),
            choose=choose,
            commit=commit,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            timeout_s=self._settings.response_timeout_s,
        )
        return run, len(items) - len(params.input)

    async def _check_store(self) -> None:
        """Return if the store answered just now.

        Raises:
            ApiError: STORE_UNAVAILABLE.
        """
        now = time.monotonic()
        if now > self._store_known_up_until:
            await self._ping_store()
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


async def _start(run: ResponseRun, history_items: int) -> None:
    try:
        await run.start()
    except ApiError as error:  # the worker counts the items of the whole conversation, the client those it sent
        place = _INPUT_ITEM.match(error.param or "")
        if place is not None:
            error.param = f"input[{max(0, int(place[1]) - history_items)}]{place[2]}"
        raise


def _generate_request(
    response: response_pb2.Response, items: Sequence[item_pb2.Item], *, cache_salt: str
) -> pb.GenerateRequest:
    params = response.params
    request = pb.GenerateRequest(
        request_id=response.id,
        model=params.model,
        items=items,
        tools=params.tools,
        tool_choice=params.tool_choice,
        parallel_tool_calls=params.parallel_tool_calls,
        text=params.text,
        sampling=pb.SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
        ),
        truncation=params.truncation,
        service_tier=params.service_tier,
        cache_salt=cache_salt,
    )
    if params.HasField("instructions"):
        request.instructions = params.instructions
    if params.HasField("max_output_tokens"):
        request.max_output_tokens = params.max_output_tokens
    if params.HasField("max_tool_calls"):
        request.max_tool_calls = params.max_tool_calls
    if params.HasField("reasoning"):
        request.reasoning.CopyFrom(params.reasoning)
    if response_pb2.INCLUDE_MESSAGE_OUTPUT_TEXT_LOGPROBS in params.include or params.top_logprobs:
        request.top_logprobs = params.top_logprobs
    return request


def _head(params: response_pb2.ResponseParams) -> str:
    """Equal for requests whose prompts begin alike: their instructions, tools and first item."""
    head = response_pb2.ResponseParams(tools=params.tools, input=params.input[:1])
    if params.HasField("instructions"):
        head.instructions = params.instructions
    return hashlib.blake2b(head.SerializeToString(deterministic=True)[:_ROUTING_HEAD_BYTES]).hexdigest()


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
