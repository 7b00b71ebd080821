"""``python -m edge``: one edge process, configured by its environment."""

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack

import uvloop
from aiohttp import web

from antiphon.logs import configure_logging
from edge.auth import Authenticator
from edge.core import Core
from edge.limits import Limiter, OwnerPolicies
from edge.media.resolve import open_media
from edge.rest.app import create_app, create_runner
from edge.rpc.server import start_server
from edge.settings import EdgeSettings, from_environment
from edge.workers.discovery import parse_targets
from edge.workers.pool import WorkerPool
from store.connection import connect
from store.limits import LimitStore
from store.responses import ResponseStore

log = logging.getLogger("edge")


async def serve(settings: EdgeSettings, stopping: asyncio.Event) -> None:
    """Serve both doors until ``stopping`` is set; then let running responses end, for a while.

    Raises:
        OSError: a port cannot be had, or a file that a setting names cannot be read.
    """
    async with AsyncExitStack() as stack:
        commands = await stack.enter_async_context(connect(settings.redis_url))
        authenticator = Authenticator(
            keys=settings.api_keys, keys_file=settings.api_keys_file, anonymous=settings.owner
        )
        policies = OwnerPolicies(settings.limits_file, response_ttl_s=settings.response_ttl_s)
        limiter = Limiter(LimitStore(commands), policies.limits)
        store = ResponseStore(commands, retention_ms=policies.retention_ms, max_depth=settings.max_chain_depth)
        targets, names = parse_targets(settings.workers)
        pool = WorkerPool(
            targets,
            names,
            silence_s=settings.worker_silence_s,
            wait_s=settings.worker_wait_s,
            resolve_interval_s=settings.resolve_interval_s,
        )
        media = await stack.enter_async_context(open_media(settings))
        core = Core(settings, pool, store, media, ping_store=commands.ping)

        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for work in (pool.run(), limiter.run(), authenticator.watch(), policies.watch()):
            stack.callback(tasks.create_task(work).cancel)

        server, grpc_port = await start_server(core, settings, authenticator, limiter)
        stack.push_async_callback(server.stop, None)
        runner = create_runner(create_app(core, settings, authenticator, limiter), settings)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, _, port = settings.http_listen.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port), reuse_port=settings.reuse_port or None)
        await site.start()
        log.info("edge started", extra={"http": runner.addresses, "grpc": settings.grpc_listen, "grpc_port": grpc_port})

        gc.freeze()  # what lives now lives on: no collection needs to look at it again
        await stopping.wait()
        log.info("edge stopping")
        await site.stop()
        try:
            async with asyncio.timeout(settings.drain_timeout_s):
                await core.drain()
        except TimeoutError:
            log.warning("responses aborted at the end of the drain timeout")


def main() -> int:
    """Run one edge process until SIGTERM or SIGINT."""
    try:
        settings = from_environment(os.environ)
    except ValueError as error:
        print(f"edge: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level)

    async def run() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await serve(settings, stopping)

    status = 0
    try:
        uvloop.run(run())
    except* OSError as errors:
        print(f"edge: {errors.exceptions[0]}", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
