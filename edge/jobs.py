"""Runs logged responses: claims what waits, holds what it has, goes on where a process died.

A job belongs to this module's task group, never to a request handler: who reads its log may come and go. The store
decides who may write (``store.jobs``); here is what a holder does with that right.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Never

from antiphon.errors import ApiError, reason_name, to_message
from antiphon.responses.v1 import event_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.store.v1.job_pb2 import JobRequest
from edge.codec import with_defaults
from edge.errors import response_error
from edge.event_messages import replay
from edge.events import FAILED, ResponseEvents
from edge.job import Job, LoggedRun
from edge.limits import Limiter
from edge.log_writer import LogWriter
from edge.runs import Runs, keep_nothing
from edge.settings import EdgeSettings
from edge.workers.pool import WorkerPool
from store import keys
from store.event_batch import EventBatchBuilder
from store.event_log import EventLog, LogGone
from store.jobs import JobQueue
from store.lease import HeldJob, Lease, LeaseLost
from store.packing import CorruptRecord, decompress
from store.subscriber import Signal, Subscriber
from store.sweeper import Sweeper

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 256 * 2**20
"""Of a JobRequest, uncompressed."""

_LOOK_AGAIN_S: Final = 1.0
_BUSY_S: Final = 0.2
"""How often to look whether workers that were busy have room."""
_RESTORE_RETRY_S: Final = 0.2
_FULL_PAUSE_S: Final = 1.0
"""How long nothing is claimed after a worker had no room for what was."""


class JobRunner:
    """The jobs of one edge process.

    Args:
        settings: Of this process.
        queue: Of this process.
        log: Of all responses.
        subscriber: Tells of new jobs and of cancellations.
        sweeper: Of this process.
        runs: Makes runs.
        pool: Connected workers: a job is claimed when one of them has room.
        limiter: Counts what owners run.
        holder: The name of this process in the queue.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        queue: JobQueue,
        log: EventLog,
        subscriber: Subscriber,
        sweeper: Sweeper,
        runs: Runs,
        pool: WorkerPool,
        limiter: Limiter,
        *,
        holder: str,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._log = log
        self._subscriber = subscriber
        self._sweeper = sweeper
        self._runs = runs
        self._pool = pool
        self._limiter = limiter
        self._holder = holder
        self._jobs: dict[str, Job] = {}
        self._wake = Signal()
        self._full_until = 0.0
        """By the event loop's clock."""
        self._tasks: asyncio.TaskGroup | None = None
        self._is_draining = False

    async def run(self) -> Never:
        """Run jobs until cancelled; those that are not handed over by then are found by other processes."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._sweeper.run())
            tasks.create_task(self._keep_claiming())
            tasks.create_task(self._keep_renewing())
        raise AssertionError("these go on for ever")

    def hold(self, held: HeldJob) -> None:
        """Run a job that this process has leased because somebody waits for it."""
        self._hold(held, is_claimed=False)

    def stop_claiming(self) -> None:
        """Claim nothing more."""
        self._is_draining = True

    async def hand_over(self) -> None:
        """Give every job back at a checkpoint, for other processes to go on with."""
        async with asyncio.TaskGroup() as tasks:
            for job in list(self._jobs.values()):
                tasks.create_task(self._hand_over(job))

    async def _keep_claiming(self) -> Never:
        with self._subscriber.listen(keys.WAKE_CHANNEL) as signal:
            self._wake = signal
            while True:
                while self._has_room and (held := await self._claim()) is not None:
                    self._hold(held, is_claimed=True)
                await signal.wait(_LOOK_AGAIN_S if self._has_room else _BUSY_S)

    @property
    def _has_room(self) -> bool:
        """Whether to claim a job: foreground responses go first, but for one job, so that all of them end."""
        claimed = sum(job.is_claimed for job in self._jobs.values())
        is_full = asyncio.get_running_loop().time() < self._full_until
        if self._is_draining or is_full or claimed >= self._settings.max_background:
            return False
        unissued = sum(job.run is None or not job.run.is_accepted for job in self._jobs.values())
        return self._pool.is_ready and (not claimed or self._pool.room > unissued)

    async def _claim(self) -> HeldJob | None:
        held: HeldJob | None = None
        with _surviving("jobs not claimed"):
            held = await self._queue.claim()
        return held

    def _hold(self, held: HeldJob, *, is_claimed: bool) -> None:
        assert self._tasks is not None, "run comes first"
        job = Job(held, is_claimed=is_claimed)
        previous = self._jobs.get(held.lease.entry)
        if previous is not None:  # its lease had run out, and nobody else was there to take it
            previous.drop()
        self._jobs[held.lease.entry] = job
        job.task = self._tasks.create_task(self._run(job))

    async def _keep_renewing(self) -> Never:
        with self._subscriber.listen(keys.HOLDER_CHANNEL + self._holder) as signal:
            while True:
                await signal.wait(self._settings.lease_s / 3)
                with _surviving("leases not renewed"):
                    await self._renew(list(self._jobs.values()))

    async def _renew(self, jobs: list[Job]) -> None:
        renewals = await self._queue.renew([job.lease for job in jobs])
        for job, renewal in zip(jobs, renewals, strict=True):
            if job.is_ending:  # and may have ended just now, which is no loss: its writer finds out
                continue
            if not renewal.is_held:
                _log_lost(job.lease)
                job.drop()
            elif renewal.is_cancelled:
                job.cancel()

    async def _run(self, job: Job) -> None:
        """Run a job to its end, to its loss, or until it is put off."""
        lease = job.lease
        try:
            with self._limiter.held(lease.owner, str(lease.response_id)) as leave:
                await self._run_held(job, leave)
        except* LeaseLost:
            _log_lost(lease)
        except* Exception:
            log.exception("job failed", extra={"response_id": str(lease.response_id)})
            with _surviving("job neither put off nor ended"):
                await self._retreat(job)
        finally:
            if self._jobs.get(lease.entry) is job:
                del self._jobs[lease.entry]
            self._wake.set()

    async def _run_held(self, job: Job, leave: Callable[[], None]) -> None:
        held = job.held
        if held.is_damaged:
            raise CorruptRecord(f"the record of {held.lease.response_id}")
        request = JobRequest.FromString(decompress(held.request, max_bytes=MAX_REQUEST_BYTES))
        events = self._runs.events(held.lease.owner, held.record.response, input_items=len(held.record.input))
        await self._restore(held.lease, events)
        run = self._runs.run(events, request.generation, request.routing_key, keep_nothing, LoggedRun)
        run.record, run.leave = held.record, leave
        run.writer = LogWriter(
            self._log,
            held.lease,
            events,
            interval_s=self._settings.log_interval_s,
            cancelled=run.cancel,
            full=lambda: run.fail(_log_full()),
        )
        run.add_reader(run.writer)
        job.run = run
        if job.is_cancelled:
            run.cancel()
        elif self._queue.must_give_up(held.lease):
            run.fail(_given_up())
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(run.writer.run())
                watching = tasks.create_task(self._watch_readers(job)) if request.needs_readers else None
                hindrance = await self._finish(job, run)
                if hindrance is not None:
                    await run.writer.flush()
                    writing.cancel()
                if watching is not None:
                    watching.cancel()
        finally:
            run.abort()
        if hindrance is None:
            _log_end(run, held.lease)
            return
        is_full = hindrance.reason == ErrorReason.ERROR_REASON_OVERLOADED
        if is_full:
            self._full_until = asyncio.get_running_loop().time() + _FULL_PAUSE_S
        await self._queue.retry_later(held.lease, is_attempt=not (is_full and job.is_patient))

    async def _finish(self, job: Job, run: LoggedRun) -> ApiError | None:
        """Run to the end; or return why that could not begin, if a later try may do better."""
        try:
            await run.start()
        except ApiError as error:
            is_last = job.lease.attempts >= self._settings.background_attempts
            match error.reason:
                case ErrorReason.ERROR_REASON_OVERLOADED if job.is_patient or not is_last:
                    return error
                case ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE if not (is_last or run.events.has_output):
                    return error
        await run.finish()
        return None

    async def _restore(self, lease: Lease, events: ResponseEvents) -> None:
        """Bring ``events`` to the end of the log. Nobody else can write any more."""
        while len(events.log) < lease.next_sequence_number:
            try:
                page = await self._log.read(lease.owner, str(lease.response_id), starting_after=len(events.log) - 1)
            except LogGone:
                raise LeaseLost(f"{lease.response_id} was deleted") from None
            except ApiError as error:
                _raise_unless_away(error)
                await asyncio.sleep(_RESTORE_RETRY_S)
                continue
            if not page.batches:
                raise LeaseLost(f"the log of {lease.response_id} is gone")
            for batch in page.batches:
                replay(batch, events)
        if events.token_ids:
            extra = {"response_id": str(lease.response_id), "tokens": len(events.token_ids), "attempts": lease.attempts}
            log.warning("response continued", extra=extra)

    async def _watch_readers(self, job: Job) -> None:
        """Cancel the response once nobody has read it for a while.

        Readers are looked for twice: after an outage of the store they need a moment to say that they are there.
        """
        lease = job.lease
        looks = 0
        while looks < 2:
            await asyncio.sleep(self._settings.abandon_after_s / 2)
            try:
                is_read = await self._log.is_read(lease.owner, lease.response_id)
            except ApiError as error:
                _raise_unless_away(error)
                is_read = True
            looks = 0 if is_read else looks + 1
        job.cancel()

    async def _retreat(self, job: Job) -> None:
        """Give a job back whose run broke down; at its last attempt end it as failed, whatever its log holds."""
        lease, record = job.lease, job.held.record
        there = await self._queue.get(lease.owner, str(lease.response_id))
        if there is None:
            return
        if there.attempts < self._settings.background_attempts and not job.held.is_damaged:
            await self._queue.retry_later(lease)
            return
        error, number = _given_up(), there.next_sequence_number
        if job.held.is_damaged:
            record.response.params.CopyFrom(with_defaults(record.response.params))
        record.response.status = FAILED
        record.response.error.CopyFrom(response_error(error))
        builder = EventBatchBuilder(number)
        builder.event(event_pb2.ResponseEvent(sequence_number=number, error=to_message(error)))
        failed = event_pb2.ResponseSnapshot(response=record.response)
        builder.event(event_pb2.ResponseEvent(sequence_number=number + 1, failed=failed))
        await self._log.finish(lease, builder.build(is_last=True), record)

    async def _hand_over(self, job: Job) -> None:
        """Give a job back with everything logged that it has, or let it end; failing that its lease runs out."""
        run = job.run
        if run is not None and not job.is_ending:
            run.abort()
            await run.writer.flush()
        if job.is_ending:
            assert job.task is not None
            await asyncio.wait([job.task])
            return
        job.drop()
        with _surviving("job not handed over"):
            await self._queue.hand_over(job.lease)


def _log_full() -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, "The response is too large to be logged.")


def _given_up() -> ApiError:
    message = "The response was given up: every attempt to run it was cut short. Try again."
    return ApiError(ErrorReason.ERROR_REASON_ENGINE_FAILED, message)


@contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Log what fails inside as ``what``: the jobs of this process go on, whatever one of them, or one reply, does."""
    try:
        yield
    except Exception as error:
        is_away = isinstance(error, ApiError) and error.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
        if not is_away:  # which is logged where it was raised
            log.exception(what)


def _raise_unless_away(error: ApiError) -> None:
    if error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE:  # which is logged where it was raised
        raise error


def _log_lost(lease: Lease) -> None:
    log.warning("job lost", extra={"response_id": str(lease.response_id), "fence": lease.fence})


def _log_end(run: LoggedRun, lease: Lease) -> None:
    usage = run.response.usage
    log.info(
        "logged response ended",
        extra={
            "response_id": run.response.id,
            "traceparent": run.traceparent,
            "model": run.response.params.model,
            "status": response_pb2.ResponseStatus.Name(run.response.status).removeprefix("RESPONSE_STATUS_").lower(),
            "error": reason_name(run.error.reason) if run.error else None,
            "attempts": lease.attempts,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
        },
    )
