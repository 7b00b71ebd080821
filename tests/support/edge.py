"""An edge process, started as containers start it."""

import http.client
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.antiphon import ROOT, clean_environ
from tests.support.processes import wait_until


@dataclass(frozen=True)
class EdgeProcess:
    """A running edge."""

    process: "subprocess.Popen[bytes]"
    port: int
    grpc_target: str
    log: Path
    scheme: str

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def get_status(self, path: str) -> int:
        """Status of a GET; 0 if nothing listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        if self.scheme == "https":
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def edge_process(
    folder: Path, *, workers: list[str], redis_url: str, port: int | None = None, scheme: str = "http", **settings: str
) -> Generator[EdgeProcess, None, None]:
    """Run ``python -m edge`` and wait until it is ready.

    Args:
        folder: For its gRPC socket and log; must be new for each edge.
        port: To share one port with other edges; default: a free one.
        scheme: What it serves, for asking whether it is ready.
        settings: Variables without ``EDGE_``, in lower case.
    """
    folder.mkdir(parents=True)
    port = free_port() if port is None else port
    grpc_target = f"unix:{folder}/grpc.sock"
    variables = {
        "http_listen": f"127.0.0.1:{port}",
        "grpc_listen": grpc_target,
        "workers": ",".join(workers),
        "redis_url": redis_url,
        **settings,
    }
    environ = clean_environ(**{f"EDGE_{name.upper()}": value for name, value in variables.items()})
    log = folder / "edge.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "edge"], env=environ, cwd=ROOT, stderr=output)
    edge = EdgeProcess(process, port, grpc_target, log, scheme)
    try:
        wait_until(
            lambda: process.poll() is not None or edge.get_status("/readyz") == 200, timeout_s=60, what="edge ready"
        )
        assert process.poll() is None, log.read_text()
        yield edge
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
