"""All workers, and which of them gets a request."""

import asyncio
import hashlib
import logging
from collections.abc import Collection, Sequence

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.tls import TlsFiles
from edge.workers.connection import WorkerConnection
from edge.workers.discovery import Name, Resolve, resolve
from edge.workers.outliers import Outlier

log = logging.getLogger(__name__)

_SHOWN_NAME_LENGTH = 128
"""Characters of a client's name that a message repeats: it travels in gRPC's trailers, which are limited."""


class WorkerPool:
    """The workers of one edge process.

    Args:
        targets: gRPC targets, one for each worker that is always meant to be there.
        names: Every address behind one of these is a worker too, for as long as it is there.
        silence_s: A worker that sends nothing for this long counts as gone.
        wait_s: How long a request waits for a worker when there is none.
        tls: How workers are called by TLS; None: without.
        resolve_interval_s: How often the addresses behind ``names`` are looked up.
        eject_after: Generations in a row that an engine may fail before its worker gets nothing for a while.
        eject_s: How long that is at first.
        load_factor: A worker with more than this times the mean load passes a request on to its next choice.
    """

    def __init__(
        self,
        targets: Sequence[str],
        names: Sequence[Name] = (),
        *,
        silence_s: float,
        wait_s: float,
        tls: TlsFiles | None = None,
        resolve: Resolve = resolve,
        resolve_interval_s: float = 2.0,
        eject_after: int = 5,
        eject_s: float = 10.0,
        load_factor: float = 1.5,
    ) -> None:
        self._eject_after = eject_after
        self._eject_s = eject_s
        self._changed = asyncio.Event()
        self._silence_s = silence_s
        self._tls = tls
        self._fixed = [self._connection(target) for target in targets]
        self._discovered: dict[Name, dict[str, WorkerConnection]] = {name: {} for name in names}
        self._resolve = resolve
        self._resolve_interval_s = resolve_interval_s
        self._wait_s = wait_s
        self._load_factor = load_factor

    @property
    def is_ready(self) -> bool:
        """At least one worker takes new generations."""
        return any(worker.is_ready for worker in self._workers())

    @property
    def room(self) -> int:
        """Generations that ready workers could begin at once."""
        return sum(worker.room for worker in self._workers() if worker.is_ready)

    def models(self) -> list[pb.ModelInfo]:
        """The models that are served now, by name; of several workers the one that started first."""
        by_name: dict[str, pb.ModelInfo] = {}
        for worker in self._workers():
            model = worker.model
            if model is None or worker.stream is None:
                continue
            known = by_name.get(model.id)
            if known is None or model.created_at < known.created_at:
                by_name[model.id] = model
        return [by_name[name] for name in sorted(by_name)]

    async def run(self) -> None:
        """Keep all workers connected, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for worker in self._fixed:
                tasks.create_task(worker.run())
            for name, workers in self._discovered.items():
                tasks.create_task(self._follow(name, workers, tasks))

    async def choose(self, model: str, key: str, *, avoid: Collection[WorkerConnection] = ()) -> WorkerConnection:
        """The worker for a request; waits for one if there is none.

        Rendezvous hashing, so that equal keys meet the same KV cache, bounded by load. A worker that is ejected gets
        nothing, unless most are: then it is not they that are broken.

        Args:
            model: The name in the request.
            key: Requests with equal keys should meet.
            avoid: Workers that failed this request; taken only if there are no others.

        Raises:
            ApiError: MODEL_NOT_FOUND, or WORKER_UNAVAILABLE after ``wait_s``.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                while not (ready := self._ready(model)):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if self.is_ready:
                raise model_not_found(model) from None
            raise ApiError(
                ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE,
                "No worker is ready to serve this model. Try again later.",
                retry_after_ms=5000,
            ) from None
        fit = _fit(ready)
        fresh = [worker for worker in fit if worker not in avoid] or [w for w in ready if w not in avoid] or ready
        ranked = sorted(fresh, key=lambda worker: _score(key, worker.target), reverse=True)
        limit = self._load_factor * (1 + sum(worker.load for worker in ready)) / len(ready)
        return next((worker for worker in ranked if worker.load <= limit), ranked[0])

    def ready_worker(self, model: str) -> WorkerConnection | None:
        """Any worker for ``model`` that is ready now.

        Raises:
            ApiError: MODEL_NOT_FOUND.
        """
        return next(iter(self._ready(model)), None)

    async def info(self, model: str) -> pb.ModelInfo:
        """What is known of ``model``; waits for a worker if there is none.

        Raises:
            ApiError: as ``choose``.
        """
        worker = await self.choose(model, "")
        assert worker.model is not None  # it is ready
        return worker.model

    def _workers(self) -> list[WorkerConnection]:
        return [*self._fixed, *(worker for workers in self._discovered.values() for worker in workers.values())]

    def _connection(self, target: str, certified_name: str | None = None) -> WorkerConnection:
        return WorkerConnection(
            target,
            silence_s=self._silence_s,
            changed=self._changed,
            outlier=Outlier(target, after=self._eject_after, base_s=self._eject_s),
            tls=self._tls,
            certified_name=certified_name,
        )

    async def _follow(self, name: Name, workers: dict[str, WorkerConnection], tasks: asyncio.TaskGroup) -> None:
        """Keep ``workers`` to the addresses behind ``name``.

        What is not found any more gets nothing new and is let go of when it has nothing left to do. Without an answer,
        and when nothing at all is found, all stay: a name server in trouble must not take the workers away.
        """
        running: dict[str, asyncio.Task[None]] = {}
        while True:
            try:
                found = await self._resolve(name)
            except OSError as error:
                found = ()
                level = logging.WARNING if workers else logging.DEBUG
                log.log(level, "workers not resolved", extra={"host": name.host, "error": str(error)})
            for target in set(found) - workers.keys():
                workers[target] = self._connection(target, name.host)
                running[target] = tasks.create_task(workers[target].run())
                log.info("worker found", extra={"host": name.host, "worker": target})
            for target, worker in list(workers.items()):
                if found and worker.is_leaving != (target not in found):
                    worker.is_leaving = not worker.is_leaving
                    self._changed.set()
                if worker.is_leaving and worker.is_idle:
                    running.pop(target).cancel()
                    del workers[target]
                    log.info("worker left", extra={"host": name.host, "worker": target})
            await asyncio.sleep(self._resolve_interval_s)

    def _ready(self, model: str) -> list[WorkerConnection]:
        """Ready workers of ``model``.

        Raises:
            ApiError: MODEL_NOT_FOUND: every worker is known, and none of them serves it.
        """
        names = [worker.model.id if worker.model else None for worker in self._workers()]
        if names and None not in names and model not in names:
            raise model_not_found(model)
        return [w for w in self._workers() if w.is_ready and w.model is not None and w.model.id == model]


def model_not_found(model: str) -> ApiError:
    """The error for a name that no worker serves."""
    message = f"The requested model '{model[:_SHOWN_NAME_LENGTH]}' does not exist."
    return ApiError(ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, message, "model")


def _fit(workers: Sequence[WorkerConnection]) -> Sequence[WorkerConnection]:
    """Those that are not ejected; all of them when those are less than half."""
    fit = [worker for worker in workers if not worker.outlier.is_ejected]
    return fit if 2 * len(fit) >= len(workers) else workers


def _score(key: str, target: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{target}".encode(), digest_size=8).digest()
