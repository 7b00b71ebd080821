"""What the doors do with logged responses: accept, follow, cancel.

A response is logged when it must survive this process or be read from another one: with `background`, with an
Idempotency-Key, and every stored stream over HTTP or gRPC if the setting for it is on. It is accepted as a job before
anything of it is answered, and from then on it ends, whatever single process dies.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, NamedTuple

from antiphon.errors import ApiError
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.store.v1.job_pb2 import JobRequest
from antiphon.store.v1.record_pb2 import ResponseRecord
from edge.event_messages import to_batch
from edge.events import QUEUED, TERMINAL_STATUSES
from edge.jobs import MAX_REQUEST_BYTES, JobRunner
from edge.limits import Limiter, is_stored
from edge.log_reader import LogReader
from edge.opening import Opener, Opening
from edge.runs import Runs
from edge.settings import EdgeSettings
from store import ids, keys
from store.event_log import EventLog, LogGone
from store.idempotency import Conflict, Existing, IdempotencyStore, New
from store.jobs import JobQueue
from store.packing import compress
from store.responses import ResponseStore
from store.subscriber import Subscriber

IDEMPOTENCY_KEY: Final = "idempotency-key"
"""Header over HTTP, metadata over gRPC."""

_MAX_KEY_LENGTH: Final = 255
_CANCEL_TIMEOUT_S: Final = 10.0
"""The longest that a cancel waits for the end: a lease, and the time until it is noticed."""
_LOOK_AGAIN_S: Final = 0.25
_KEY_POLL_S: Final = 0.1
_KEY_TIMEOUT_S: Final = 30.0
_MAX_PACKED_BYTES: Final = 64 * 2**20


class Idempotency(NamedTuple):
    """What a client sends with a request so that it makes one response, however often it is sent."""

    key: str
    digest: str
    """Equal for equal requests only."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A response that will end."""

    response: response_pb2.Response
    """As it is now."""
    warnings: list[str]


class LoggedResponses:
    """Logged responses of all owners, as one edge process serves them."""

    def __init__(
        self,
        settings: EdgeSettings,
        opener: Opener,
        runs: Runs,
        runner: JobRunner,
        store: ResponseStore,
        queue: JobQueue,
        log: EventLog,
        idempotency: IdempotencyStore,
        subscriber: Subscriber,
        limiter: Limiter,
    ) -> None:
        self._settings = settings
        self._opener = opener
        self._runs = runs
        self._runner = runner
        self._store = store
        self._queue = queue
        self._log = log
        self._idempotency = idempotency
        self._subscriber = subscriber
        self._limiter = limiter

    async def accept(
        self,
        owner: str,
        params: response_pb2.ResponseParams,
        idempotency: Idempotency | None = None,
        *,
        request_id: str,
    ) -> Accepted:
        """Make a response that will end, or find the one that this request made before.

        Args:
            request_id: Whose place among those that the owner runs goes to the new response.

        Raises:
            ApiError: the request is invalid, or cannot be served now; IDEMPOTENCY_KEY_REUSED.
        """
        previous = ids.parse_response_id(params.previous_response_id)
        response_id = ids.new_response_id(previous)
        if idempotency is None:
            opening = await self._open(owner, params, response_id)
            return await self._create(owner, opening, request_id, has_key=False)
        if not is_stored(params):
            message = "A request with an Idempotency-Key must be stored: it requires 'store' to be true."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "store")
        while (existing := await self._reserve(owner, idempotency, str(response_id))) is None:
            accepted = await self._accept_reserved(owner, params, response_id, request_id, idempotency)
            if accepted is not None:
                return accepted
        await self._queue.ensure_queued(owner, existing)
        await self._idempotency.confirm(owner, idempotency.key, existing)
        record = await self.get(owner, existing)
        return Accepted(record.response, [])

    async def get(self, owner: str, response_id: str) -> ResponseRecord:
        """The record of a response; until its end with the status of its job.

        Raises:
            ApiError: RESPONSE_NOT_FOUND, also for another owner's, or STORE_UNAVAILABLE.
        """
        record = await self._store.get(owner, response_id)
        if record is not None and record.response.status not in TERMINAL_STATUSES:
            job = await self._queue.get(owner, response_id)
            if job is not None and job.has_ended:
                record = await self._store.get(owner, response_id)
            elif job is not None:
                record.response.status = job.status
        if record is None:
            raise not_found(response_id)
        return record

    async def follow(self, owner: str, response_id: str, *, starting_after: int = -1) -> LogReader:
        """The events of a logged response after a number, those to come as well.

        Raises:
            ApiError: RESPONSE_NOT_FOUND; INVALID_VALUE: it was not logged, or its log is no longer kept.
        """
        record = await self.get(owner, response_id)
        parsed = ids.parse_response_id(response_id)
        assert parsed is not None
        reader = LogReader(
            self._log,
            owner,
            parsed,
            record.response,
            starting_after=starting_after,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            grace_s=self._settings.abandon_after_s,
        )
        try:
            await reader.start()
        except LogGone:
            raise _not_logged(record.response) from None
        return reader

    async def cancel(self, owner: str, response_id: str) -> response_pb2.Response:
        """End a background response as cancelled, unless it has ended; the response as it is then.

        Raises:
            ApiError: RESPONSE_NOT_FOUND; INVALID_VALUE: it is no background response.
        """
        record = await self.get(owner, response_id)
        if not record.response.params.background:
            message = "Cannot cancel a synchronous response."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message)
        parsed = ids.parse_response_id(response_id)
        assert parsed is not None
        job = await self._queue.cancel(owner, response_id)
        try:
            async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                with self._subscriber.listen(keys.log_channel(owner, parsed)) as signal:
                    while job is not None and not job.has_ended:
                        held = await self._queue.take(owner, response_id)
                        if held is not None:  # nobody has it: it waits, or its holder has died
                            self._runner.hold(held)
                        await signal.wait(_LOOK_AGAIN_S)
                        job = await self._queue.get(owner, response_id)
        except TimeoutError:  # its holder died just now: whoever takes it over ends it as cancelled
            pass
        return (await self.get(owner, response_id)).response

    def stop_claiming(self) -> None:
        """Begin no waiting response any more."""
        self._runner.stop_claiming()

    async def hand_over(self) -> None:
        """Give what runs to other processes."""
        await self._runner.hand_over()

    async def _accept_reserved(
        self,
        owner: str,
        params: response_pb2.ResponseParams,
        response_id: ids.ResponseId,
        request_id: str,
        idempotency: Idempotency,
    ) -> Accepted | None:
        """Make the response that has the key; None: it took so long, or this process slept, that another one has it.

        The key is free again when certainly nothing was made. Otherwise whoever sends the request again finds out: a
        client that leaves, or a store that stumbles, may leave a response behind.
        """
        key, digest = idempotency
        is_made = False
        try:
            opening = await self._open(owner, params, response_id)
            if await self._idempotency.reserve(owner, key, digest, str(response_id)) != New():
                return None
            is_made = True
            accepted = await self._create(owner, opening, request_id, has_key=True)
        except BaseException as error:
            is_refused = isinstance(error, ApiError) and error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
            if is_refused or not is_made:
                await asyncio.shield(self._idempotency.release(owner, key, str(response_id)))
            raise
        if not await self._idempotency.confirm(owner, key, str(response_id)):
            await self._store.delete(owner, str(response_id))
            return None
        return accepted

    async def _open(self, owner: str, params: response_pb2.ResponseParams, response_id: ids.ResponseId) -> Opening:
        opening = await self._opener.open(owner, params, response_id=response_id)
        await self._opener.check(opening)
        return opening

    async def _create(self, owner: str, opening: Opening, request_id: str, *, has_key: bool) -> Accepted:
        params, response_id = opening.record.response.params, opening.record.response.id
        record = opening.record
        request = _job_request(opening, needs_readers=not (params.background or has_key))
        events = self._runs.events(owner, record.response, input_items=len(record.input))
        events.open(QUEUED)
        record.response.status = QUEUED
        first_events = to_batch(events, start=0, tokens=0)
        async with self._limiter.handed_over(owner, request_id, response_id):
            if params.background:
                await self._queue.enqueue(
                    owner, record, tier=params.service_tier, request=request, first_events=first_events
                )
            else:
                held = await self._queue.create_held(owner, record, request=request, first_events=first_events)
                if held is not None:
                    self._runner.hold(held)
        return Accepted(events.response, list(opening.warnings))

    async def _reserve(self, owner: str, idempotency: Idempotency, response_id: str) -> str | None:
        """Reserve the key for a response; the id of the one that it has, once that is stored.

        Raises:
            ApiError: IDEMPOTENCY_KEY_REUSED; OVERLOADED: the same request is being accepted elsewhere, and takes long.
        """
        try:
            async with asyncio.timeout(_KEY_TIMEOUT_S):
                while True:
                    match await self._idempotency.reserve(owner, idempotency.key, idempotency.digest, response_id):
                        case New():
                            return None
                        case Existing(existing, is_stored=True):
                            return existing
                        case Conflict():
                            message = "This Idempotency-Key was used with another request body."
                            raise ApiError(ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED, message)
                        case Existing():
                            await asyncio.sleep(_KEY_POLL_S)
        except TimeoutError:
            message = "The same request is still being accepted. Try again."
            raise ApiError(ErrorReason.ERROR_REASON_OVERLOADED, message, retry_after_ms=1000) from None


def check_key(key: str) -> None:
    """Refuse an Idempotency-Key that is none.

    Raises:
        ApiError: INVALID_VALUE.
    """
    if not (1 <= len(key) <= _MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        message = f"Invalid Idempotency-Key: it must have 1 to {_MAX_KEY_LENGTH} printable ASCII characters."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message)


def not_found(response_id: str) -> ApiError:
    """The error for an id that the owner has no response of."""
    return ApiError(ErrorReason.ERROR_REASON_RESPONSE_NOT_FOUND, f"Response with id '{response_id}' not found.")


def _job_request(opening: Opening, *, needs_readers: bool) -> bytes:
    request = JobRequest(generation=opening.request, routing_key=opening.routing_key, needs_readers=needs_readers)
    params = opening.record.response.params
    if params.background:  # what somebody waits for goes first at a worker
        is_urgent = params.service_tier == response_pb2.SERVICE_TIER_PRIORITY
        tier = response_pb2.SERVICE_TIER_DEFAULT if is_urgent else response_pb2.SERVICE_TIER_FLEX
        request.generation.service_tier = tier
    size = request.ByteSize()
    packed = compress(request.SerializeToString()) if size <= MAX_REQUEST_BYTES else b""
    if size > MAX_REQUEST_BYTES or len(packed) > _MAX_PACKED_BYTES:
        message = "The conversation is too large for a response that is logged."
        raise ApiError(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, message)
    return packed


def _not_logged(response: response_pb2.Response) -> ApiError:
    message = (
        "The events of this response are no longer kept."
        if response.params.background
        else "This response cannot be streamed because it was not created with background=true."
    )
    return ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "stream")
