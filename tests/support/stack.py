"""The whole stack as child processes, started the way a user starts it."""

import random
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from stack.errors import StackError
from stack.ports import PortWish, free_ports
from tests.support.antiphon import ANTIPHON, ROOT, clean_environ
from tests.support.processes import children_of, wait_until

MODEL = "SmolLM2-135M-Instruct"
"""The name that the launcher gives its workers, whatever runs in them."""
SCRIPTED = {"INFERENCE_ENGINE": "scripted", "INFERENCE_PARALLEL": "64", "INFERENCE_CONTEXT_WINDOW": "100000"}
"""Settings of a stack whose workers do what the request says."""
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 45.0
_LOOPBACK = "127.0.0.1"
_PORT_RANGE = (10_000, 30_000)
_PORT_TRIES = 100
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PARTS = {"valkey": "valkey-server", "worker": "-m inference", "edge": "-m edge"}
"""What tells the command line of each part."""


@dataclass(frozen=True)
class RunningStack:
    """A stack and where its parts listen."""

    launcher: subprocess.Popen[bytes]
    base_url: str
    """``http://host:port`` without a slash."""
    grpc_target: str
    """Of the edge: ResponsesService."""
    worker_targets: list[str]
    """InferenceService of each worker."""
    state: Path
    output_path: Path
    """What the launcher printed."""

    def pids(self, part: str) -> list[int]:
        """Process ids of a part's processes: ``valkey``, ``worker`` or ``edge``."""
        mark = PARTS[part]
        return [pid for pid, command in children_of(self.launcher.pid).items() if mark in " ".join(command)]

    def all_pids(self) -> list[int]:
        return [self.launcher.pid, *(pid for part in PARTS for pid in self.pids(part))]

    def output(self) -> str:
        return self.output_path.read_text()

    def is_ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        try:
            with _DIRECT.open(f"{self.base_url}/readyz", timeout=5) as response:
                return bool(response.status == HTTPStatus.OK)
        except (urllib.error.URLError, OSError):  # not ready, or not there
            return False

    def wait_until_ready(self) -> None:
        def ready_or_ended() -> bool:
            if self.launcher.poll() is not None:
                raise AssertionError(f"the stack has ended with {self.launcher.returncode}:\n{self.output()}")
            return self.is_ready()

        wait_until(ready_or_ended, timeout_s=START_TIMEOUT_S, what=f"readiness; {self.state}/logs say more")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop as Ctrl-C does; return the exit code."""
        self.launcher.send_signal(number)
        return self.launcher.wait(STOP_TIMEOUT_S)


@contextmanager
def running_stack(
    folder: Path, *arguments: str, workers: int = 1, edges: int = 1, environ: Mapping[str, str] | None = None
) -> Iterator[RunningStack]:
    """Start ``antiphon up`` on free ports with its state in ``folder``, wait until it is ready, stop it at the end.

    Args:
        arguments: more options of ``antiphon up``.
        environ: settings of the services, such as ``INFERENCE_ENGINE``.
    """
    with starting_stack(folder, *arguments, workers=workers, edges=edges, environ=environ) as stack:
        stack.wait_until_ready()
        yield stack


@contextmanager
def starting_stack(
    folder: Path, *arguments: str, workers: int = 1, edges: int = 1, environ: Mapping[str, str] | None = None
) -> Iterator[RunningStack]:
    """Like `running_stack`, without waiting until it is ready."""
    http, grpc, worker = _ports(workers)
    folder.mkdir(parents=True, exist_ok=True)
    output_path = folder / "output"
    # fmt: off
    command = [
        *ANTIPHON, "up", "--state", str(folder / "state"), "--port", str(http), "--grpc-port", str(grpc),
        "--worker-port", str(worker), "--workers", str(workers), "--edges", str(edges), *arguments,
    ]
    # fmt: on
    settings = {"INFERENCE_THREADS": "1", **(environ or {})}
    with output_path.open("wb") as output:
        launcher = subprocess.Popen(
            command,
            env=clean_environ(**settings),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # an interrupt of the test run is ours to pass on
        )
    stack = RunningStack(
        launcher=launcher,
        base_url=f"http://{_LOOPBACK}:{http}",
        grpc_target=f"{_LOOPBACK}:{grpc}",
        worker_targets=[f"{_LOOPBACK}:{worker + number}" for number in range(workers)],
        state=folder / "state",
        output_path=output_path,
    )
    try:
        yield stack
    finally:
        if launcher.poll() is None:
            launcher.terminate()
        try:
            launcher.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            launcher.kill()  # its children die with it
            launcher.wait()
            raise


def _ports(workers: int) -> tuple[int, int, int]:
    """Free ports for HTTP, gRPC and the first worker, whose successors are free as well.

    Below the range that the system takes for outgoing connections, so that none of those gets in between.
    """
    for _ in range(_PORT_TRIES):
        http = random.randrange(*_PORT_RANGE)
        try:
            free_ports([PortWish(_LOOPBACK, http + offset, "") for offset in range(2 + workers)])
        except StackError:
            continue
        return http, http + 1, http + 2
    raise AssertionError(f"no {2 + workers} free ports in a row")
