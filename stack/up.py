"""``antiphon up``: Valkey, workers and edges on this machine, from start to stop."""

import asyncio
import signal
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from stack import programs
from stack.errors import StackError
from stack.models.catalog import Model, obtain
from stack.ports import PortWish, address, free_ports, reachable_host
from stack.probe import http_get
from stack.state import State, opened_state
from stack.supervisor import Supervisor, supervisor

LOOPBACK = "127.0.0.1"
_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 5.0
_KEY_SETTINGS = ("EDGE_API_KEYS", "EDGE_API_KEYS_FILE")
_VALKEY_TIMEOUT_S = 60.0
"""Reading a large append-only file takes a while, but the socket is there before that."""


@dataclass(frozen=True)
class UpOptions:
    """The command line of ``antiphon up``; port 0 is any free port."""

    model: str
    projector: Path | None
    """The file with a vision model's eyes (mmproj); None: as the environment says, or none."""
    host: str
    port: int
    grpc_port: int
    worker_port: int
    """Of the first worker; the others follow it."""
    workers: int
    edges: int
    state: Path
    redis_url: str | None
    """None: an own Valkey in the state folder."""
    ready_timeout_s: float
    drain_timeout_s: float


@dataclass(frozen=True)
class _Addresses:
    http: str
    grpc: str
    workers: list[str]


def up(options: UpOptions, environ: Mapping[str, str], out: TextIO) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; whatever happens, no process is left.

    Raises:
        StackError: something is in the way, or a part does not start.
    """

    def report(line: str) -> None:
        print(line, file=out, flush=True)

    began_at = time.monotonic()
    addresses = _addresses(options)  # what is quick to find out comes first
    if options.projector is not None and not options.projector.is_file():
        raise StackError(f"there is no projector {options.projector}")
    with opened_state(options.state) as state:
        model = obtain(options.model, environ, out=out)
        report(f"model    {model.name} ({model.path})")
        report(f"state    {state.folder}")
        try:
            asyncio.run(_run(options, environ, addresses, model, state, began_at=began_at, out=out))
        except ExceptionGroup as faults:
            known, unknown = faults.split(StackError)
            if known is None or unknown is not None:
                raise
            raise known.exceptions[0] from None


def _addresses(options: UpOptions) -> _Addresses:
    wishes = [
        PortWish(options.host, options.port, "--port"),
        PortWish(options.host, options.grpc_port, "--grpc-port"),
        *(
            PortWish(LOOPBACK, options.worker_port + number if options.worker_port else 0, "--worker-port")
            for number in range(options.workers)
        ),
    ]
    http, grpc, *workers = free_ports(wishes)
    return _Addresses(
        address(options.host, http), address(options.host, grpc), [address(LOOPBACK, port) for port in workers]
    )


async def _run(
    options: UpOptions,
    environ: Mapping[str, str],
    addresses: _Addresses,
    model: Model,
    state: State,
    *,
    began_at: float,
    out: TextIO,
) -> None:
    def report(line: str) -> None:
        print(line, file=out, flush=True)

    run = asyncio.current_task()
    assert run is not None
    stop_asked = False
    children: Supervisor | None = None

    def on_signal() -> None:
        nonlocal stop_asked
        if children is not None and children.is_stopping:
            children.kill()
        elif not stop_asked:
            stop_asked = True
            report("stopping (Ctrl-C again kills)")
            run.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        async with supervisor(report) as children:
            await _start(children, options, environ, addresses, model, state)
            report(f"logs     {state.logs}")
            report("starting; the first answer needs the model in memory")
            await _until_ready(addresses.http, options.ready_timeout_s, logs=state.logs)
            has_keys = any(environ.get(name) for name in _KEY_SETTINGS)
            report(_welcome(addresses, model, seconds=time.monotonic() - began_at, has_keys=has_keys))
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not stop_asked or run.uncancel() > 0:
            raise
        report("stopped")


async def _start(
    children: Supervisor,
    options: UpOptions,
    environ: Mapping[str, str],
    addresses: _Addresses,
    model: Model,
    state: State,
) -> None:
    redis_url = options.redis_url
    if redis_url is None:
        redis_url = f"unix://{state.socket}"
        state.socket.unlink(missing_ok=True)  # of a Valkey that was killed
        await children.start(programs.valkey(state, environ))
        await _until_listening(state.socket)
    drain = options.drain_timeout_s
    await children.start(
        *(
            programs.worker(
                number,
                state,
                environ,
                model=model,
                projector=options.projector,
                listen=listen,
                drain_timeout_s=drain,
            )
            for number, listen in enumerate(addresses.workers, start=1)
        )
    )
    await children.start(
        *(
            programs.edge(
                number,
                state,
                environ,
                http_listen=addresses.http,
                grpc_listen=addresses.grpc,
                workers=addresses.workers,
                redis_url=redis_url,
                shares_ports=options.edges > 1,
                drain_timeout_s=drain,
            )
            for number in range(1, options.edges + 1)
        )
    )


async def _until_listening(socket: Path) -> None:
    """Wait for the server at ``socket``; the supervisor ends the wait if it does not start at all."""
    try:
        async with asyncio.timeout(_VALKEY_TIMEOUT_S):
            while True:
                try:
                    _, writer = await asyncio.open_unix_connection(socket)
                except (FileNotFoundError, ConnectionRefusedError):
                    await asyncio.sleep(_POLL_INTERVAL_S / 10)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return
    except TimeoutError:
        raise StackError(f"valkey does not listen on {socket} after {_VALKEY_TIMEOUT_S:.0f} s") from None


async def _until_ready(http: str, timeout_s: float, *, logs: Path) -> None:
    """Wait until the edge at ``http`` says that it can serve."""
    answer = "nothing"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    async with asyncio.timeout(_PROBE_TIMEOUT_S):
                        status, answer = await http_get(http, "/readyz")
                except (OSError, TimeoutError, ValueError):  # not listening yet, or half an answer
                    status = 0
                if status == HTTPStatus.OK:
                    return
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError:
        raise StackError(
            f"not ready after {timeout_s:.0f} s (--ready-timeout): /readyz says {answer!r}; logs are in {logs}"
        ) from None


def _welcome(addresses: _Addresses, model: Model, *, seconds: float, has_keys: bool) -> str:
    key, bearer = ("YOUR_KEY", " -H 'Authorization: Bearer YOUR_KEY'") if has_keys else ("none", "")
    target = urlsplit(f"//{addresses.http}")
    base_url = f"http://{address(reachable_host(target.hostname or ''), target.port or 0)}"
    lines = f"""
        Antiphon is ready after {seconds:.1f} s: {base_url}

        curl {base_url}/v1/responses -H 'Content-Type: application/json'{bearer} \\
          -d '{{"model": "{model.name}", "input": "Why is the sky blue?"}}'

        from openai import OpenAI
        client = OpenAI(base_url="{base_url}/v1", api_key="{key}")
        print(client.responses.create(model="{model.name}", input="Why is the sky blue?").output_text)

        gRPC: {addresses.grpc} (antiphon.responses.v1.ResponsesService);
        workers: {", ".join(addresses.workers)} (antiphon.inference.v1.InferenceService)
        Ctrl-C stops everything.
    """
    return textwrap.dedent(lines)
