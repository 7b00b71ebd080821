"""``python -m edge``: one edge process, configured by its environment."""

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import Final

import uvloop
from aiohttp import web

from antiphon.logs import configure_logging
from edge.assembly import open_parts
from edge.rest.app import create_app, create_runner, retire_connections
from edge.rest.listen import listening_sockets
from edge.rest.tls import ServerTls
from edge.rpc.server import start_server
from edge.settings import EdgeSettings, from_environment

log = logging.getLogger("edge")

_HAND_OVER_TIMEOUT_S: Final = 5.0


async def serve(settings: EdgeSettings, stopping: asyncio.Event) -> None:
    """Serve both doors until ``stopping`` is set; then let running responses end, for a while.

    Raises:
        OSError: a port cannot be had, or a file that a setting names cannot be read.
    """
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(open_parts(settings))
        core = parts.core
        server, grpc_port = await start_server(core, settings, parts.authenticator, parts.limiter)
        stack.push_async_callback(server.stop, None)
        app = create_app(core, settings, parts.authenticator, parts.limiter)
        runner = create_runner(app, idle_timeout_s=settings.idle_timeout_s)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, _, port = settings.http_listen.rpartition(":")
        tls = ServerTls(settings.http_tls) if settings.http_tls_cert else None
        if tls is not None:
            watching = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(watching.create_task(tls.watch()).cancel)
        sockets = listening_sockets(
            host.strip("[]"),
            int(port),
            reuse_port=settings.reuse_port,
            slow_reader_timeout_s=settings.slow_reader_timeout_s,
        )
        sites = [
            web.SockSite(runner, listening, ssl_context=tls.context if tls is not None else None)
            for listening in sockets
        ]
        for site in sites:
            await site.start()
        log.info("edge started", extra={"http": runner.addresses, "grpc": settings.grpc_listen, "grpc_port": grpc_port})

        gc.freeze()  # what lives now lives on: no collection needs to look at it again
        await stopping.wait()
        log.info("edge stopping")
        # who has a connection could not know: what comes over it is answered, and ends it
        for site in sites:
            await site.stop()
        retire_connections(app)
        leaving = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(leaving.create_task(server.stop(settings.drain_timeout_s)).cancel)
        try:
            async with asyncio.timeout(settings.drain_timeout_s):
                await core.drain()
        except TimeoutError:
            log.warning("responses aborted at the end of the drain timeout")
        try:
            async with asyncio.timeout(_HAND_OVER_TIMEOUT_S):
                await core.hand_over()
        except TimeoutError:
            log.warning("background responses not handed over: they go on when their leases have run out")


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
