"""The ``antiphon`` command line."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from stack.doctor import doctor
from stack.errors import StackError
from stack.models.catalog import DEFAULT_MODEL, obtain
from stack.owners import erase, new_key
from stack.ports import HIGHEST_PORT, PortWish
from stack.probe import probe
from stack.services import edges, worker
from stack.state import default_folder
from stack.up import LOOPBACK, UpOptions, up

_INTERRUPTED = 128 + signal.SIGINT
_MODEL_HELP = f"{DEFAULT_MODEL}, a path to a .gguf file, or a hub's owner/repo:file.gguf (default: %(default)s)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 after a fault that one line on standard error tells, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except StackError as error:
        print(f"antiphon: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("antiphon: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _exit_on_signal(number: int, _: FrameType | None) -> NoReturn:
    """Unwind, so that a download leaves nothing behind; `up` takes the signals over once it has children."""
    sys.exit(128 + number)


def _run_up(options: argparse.Namespace) -> int:
    up(_up_options(options), os.environ, sys.stdout)
    return 0


def _run_pull(options: argparse.Namespace) -> int:
    model = obtain(options.model, os.environ, out=sys.stdout, replace_corrupt=True)
    print(f"{model.name}: {model.path}")
    return 0


def _run_new_key(options: argparse.Namespace) -> int:
    new_key(options.owner, out=sys.stdout, err=sys.stderr)
    return 0


def _run_erase(options: argparse.Namespace) -> int:
    return erase(options.owner, state=options.state, redis_url=options.redis_url, environ=os.environ)


def _run_edges(options: argparse.Namespace) -> int:
    edges(options.processes, os.environ, drain_timeout_s=options.drain_timeout, out=sys.stderr)
    return 0


def _run_worker(options: argparse.Namespace) -> int:
    worker(options.model, os.environ, out=sys.stderr)


def _run_probe(options: argparse.Namespace) -> int:
    probe(options.url, timeout_s=options.timeout)
    return 0


def _run_doctor(options: argparse.Namespace) -> int:
    wishes = [
        PortWish(options.host, options.port, "--port"),
        PortWish(options.host, options.grpc_port, "--grpc-port"),
        PortWish(LOOPBACK, options.worker_port, "--worker-port"),
    ]
    return 0 if doctor(wishes, options.state, os.environ, sys.stdout) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="antiphon", description="A self-hosted server for the Open Responses API.")
    parser.add_argument("--version", action="version", version=f"antiphon {version('antiphon')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "up",
        help="start Valkey, workers and edges on this machine",
        description="Starts Valkey, workers and edges, and stops them all on Ctrl-C. Settings of the services"
        " (EDGE_..., INFERENCE_...) are read from the environment.",
    )
    _add_places(serve)
    serve.add_argument("--model", default=DEFAULT_MODEL, metavar="PATH|NAME", help=_MODEL_HELP)
    serve.add_argument("--projector", type=Path, metavar="PATH", help="the file with a vision model's eyes (mmproj)")
    serve.add_argument("--workers", type=_count, default=1, metavar="N", help="inference workers (default: 1)")
    serve.add_argument("--edges", type=_count, default=1, metavar="N", help="edges sharing the ports (default: 1)")
    serve.add_argument("--redis-url", metavar="URL", help="use this Redis or Valkey instead of an own one")
    serve.add_argument(
        "--ready-timeout", type=_seconds, default=300.0, metavar="S", help="longest wait for the start (default: 300)"
    )
    serve.add_argument(
        "--drain-timeout", type=_seconds, default=20.0, metavar="S", help="time of running responses at the stop"
    )

    serve.set_defaults(run=_run_up)

    pull = commands.add_parser("pull", help="fetch a model into the cache, or repair it there")
    pull.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="NAME", help=_MODEL_HELP)
    pull.set_defaults(run=_run_pull)

    keys = commands.add_parser("keys", help="API keys")
    new = keys.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "new",
        help="make one; its line for EDGE_API_KEYS_FILE goes to standard output, the key itself to standard error",
    )
    new.add_argument("owner", metavar="OWNER", help="whose key it is")
    new.set_defaults(run=_run_new_key)

    owners = commands.add_parser("owners", help="what owners have stored")
    erase_one = owners.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "erase",
        help="remove all that belongs to one",
        description="Removes all that belongs to an owner. Take away the owner's API keys first, and let what runs come"
        " to its end.",
    )
    erase_one.add_argument("owner", metavar="OWNER")
    erase_one.add_argument("--redis-url", metavar="URL", help="the server, if it is not the running stack's own")
    _add_state(erase_one)
    erase_one.set_defaults(run=_run_erase)

    edge = commands.add_parser(
        "edges",
        help="run edges alone, in the foreground",
        description="Runs edges that share the addresses in EDGE_HTTP_LISTEN and EDGE_GRPC_LISTEN; their settings"
        " (EDGE_...) are read from the environment.",
    )
    edge.add_argument("--processes", type=_count, default=1, metavar="N", help="(default: 1)")
    edge.add_argument(
        "--drain-timeout", type=_seconds, default=60.0, metavar="S", help="time of running responses at the stop"
    )
    edge.set_defaults(run=_run_edges)

    single = commands.add_parser(
        "worker",
        help="run one llama.cpp worker alone, after fetching its model",
        description="Fetches the model into the cache if it is not there, then becomes `python -m inference`; its"
        " settings (INFERENCE_...) are read from the environment.",
    )
    single.add_argument("--model", default=DEFAULT_MODEL, metavar="PATH|NAME", help=_MODEL_HELP)
    single.set_defaults(run=_run_worker)

    ask = commands.add_parser("probe", help="ask a service whether it can serve; the exit code tells")
    ask.add_argument("url", metavar="URL", help="http(s)://host:port/readyz of an edge, grpc:// or tcp://")
    ask.add_argument("--timeout", type=_seconds, default=5.0, metavar="S", help="(default: 5)")
    ask.set_defaults(run=_run_probe)

    check = commands.add_parser("doctor", help="check what `up` needs, one line each")
    _add_places(check)
    check.set_defaults(run=_run_doctor)
    return parser


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default=LOOPBACK, help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=_port, default=8080, help="HTTP port, 0: any free one (default: %(default)s)")
    command.add_argument("--grpc-port", type=_port, default=50051, metavar="PORT", help="(default: %(default)s)")
    command.add_argument(
        "--worker-port", type=_port, default=50061, metavar="PORT", help="of the first worker (default: %(default)s)"
    )
    _add_state(command)


def _add_state(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--state",
        type=Path,
        default=default_folder(os.environ),
        metavar="DIR",
        help="data and logs (default: %(default)s)",
    )


def _up_options(options: argparse.Namespace) -> UpOptions:
    return UpOptions(
        model=options.model,
        projector=options.projector,
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        worker_port=options.worker_port,
        workers=options.workers,
        edges=options.edges,
        state=options.state,
        redis_url=options.redis_url,
        ready_timeout_s=options.ready_timeout,
        drain_timeout_s=options.drain_timeout,
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"a port is from 0 to {HIGHEST_PORT}")
    return port


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("a number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
