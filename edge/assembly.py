"""Puts one edge process together."""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from edge.auth import Authenticator
from edge.core import Core
from edge.jobs import JobRunner
from edge.limits import Limiter, OwnerPolicies
from edge.logged import LoggedResponses
from edge.media.resolve import open_media
from edge.opening import Opener
from edge.preparation import Preparer
from edge.runs import Runs
from edge.sealing import Sealer, parse_keys
from edge.settings import EdgeSettings
from edge.store_health import StoreHealth
from edge.workers.discovery import parse_targets
from edge.workers.pool import WorkerPool
from store.connection import connect, subscribe
from store.event_log import EventLog
from store.idempotency import IdempotencyStore
from store.jobs import JobQueue
from store.limits import LimitStore
from store.responses import ResponseStore
from store.sweeper import Sweeper


@dataclass(frozen=True, slots=True)
class Parts:
    """What both doors need."""

    core: Core
    authenticator: Authenticator
    limiter: Limiter


@asynccontextmanager
async def open_parts(settings: EdgeSettings) -> AsyncGenerator[Parts, None]:
    """The parts of a process, with workers being connected and jobs running until this is left.

    Raises:
        OSError: a file that a setting names cannot be read.
    """
    authenticator = Authenticator(keys=settings.api_keys, keys_file=settings.api_keys_file, anonymous=settings.owner)
    policies = OwnerPolicies(settings.limits_file, response_ttl_s=settings.response_ttl_s)
    retention_ms = policies.retention_ms
    log_retention_ms = settings.log_ttl_s * 1000
    lease_ms = round(settings.lease_s * 1000)
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        commands = await stack.enter_async_context(connect(settings.redis_url))
        subscriber = await stack.enter_async_context(subscribe(settings.redis_url))
        media = await stack.enter_async_context(open_media(settings))
        store = ResponseStore(commands, retention_ms=retention_ms, max_depth=settings.max_chain_depth)
        event_log = EventLog(commands, subscriber, retention_ms=retention_ms, log_retention_ms=log_retention_ms)
        queue = JobQueue(
            commands,
            holder=holder,
            lease_ms=lease_ms,
            max_attempts=settings.background_attempts,
            max_waiting=settings.max_background_waiting,
            max_waiting_per_owner=settings.max_background_waiting_per_owner,
        )
        limiter = Limiter(LimitStore(commands), policies.limits)
        idempotency = IdempotencyStore(commands, retention_ms=lambda owner: min(retention_ms(owner), log_retention_ms))
        targets, names = parse_targets(settings.workers)
        pool = WorkerPool(
            targets,
            names,
            silence_s=settings.worker_silence_s,
            wait_s=settings.worker_wait_s,
            tls=settings.workers_tls if settings.workers_tls_ca else None,
            resolve_interval_s=settings.resolve_interval_s,
            eject_after=settings.eject_after,
            eject_s=settings.eject_s,
        )
        sealer = Sealer(parse_keys(settings.encryption_keys))
        health = StoreHealth(store.check_writable)
        preparer = Preparer(store, pool, media, sealer, max_referenced_bytes=settings.max_body_bytes)
        opener = Opener(preparer, pool, health.check)
        runs = Runs(settings, pool, sealer)
        sweeper = Sweeper(commands, holder=holder, lease_ms=lease_ms)
        runner = JobRunner(settings, queue, event_log, subscriber, sweeper, runs, pool, limiter, holder=holder)
        logged = LoggedResponses(
            settings, opener, runs, runner, store, queue, event_log, idempotency, subscriber, limiter
        )
        core = Core(settings, pool, store, health, preparer, opener, runs, logged, sealer, ping_store=commands.ping)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for work in (pool.run(), runner.run(), limiter.run(), authenticator.watch(), policies.watch()):
            stack.callback(tasks.create_task(work).cancel)
        yield Parts(core, authenticator, limiter)
