"""Several edges and workers around one Valkey, each a process of its own that a test may kill and start again."""

import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.edge import EdgeProcess, edge_process
from tests.support.valkey import ValkeyServer, valkey_process
from tests.support.worker import WorkerProcess, worker_process

LEASE_S = "1"


class Fleet:
    """Running edges and workers, all of whom know each other.

    Args:
        folder: For sockets and logs.
        edge_settings: Variables of every edge, without ``EDGE_``, in lower case.
        worker_settings: The same of workers; by default they do what the request says.
    """

    def __init__(
        self,
        folder: Path,
        valkey: ValkeyServer,
        *,
        edges: int,
        workers: int,
        edge_settings: Mapping[str, str],
        worker_settings: Mapping[str, str],
    ) -> None:
        self.valkey = valkey
        self._folder = folder
        self._edge_settings = {"lease_s": LEASE_S, "worker_silence_s": "1", "drain_timeout_s": "2", **edge_settings}
        self._worker_settings: dict[str, Any] = {"parallel": "64", "context_window": "100000", **worker_settings}
        self._targets = [f"unix:{folder}/worker{index}.sock" for index in range(workers)]
        self._starts = count(1)
        self._open: dict[int, ExitStack] = {}
        try:
            with ThreadPoolExecutor() as starters:  # edges are ready once they have a worker
                started_workers = [starters.submit(self._start_worker, index) for index in range(workers)]
                started_edges = [starters.submit(self._start_edge) for _ in range(edges)]
            self.workers = [worker.result() for worker in started_workers]
            self.edges = [edge.result() for edge in started_edges]
        except BaseException:
            self.close()
            raise

    def kill_edge(self, index: int) -> None:
        """End an edge as a crash does."""
        self._kill(self.edges[index].process.pid)

    def drain_edge(self, index: int) -> None:
        """End an edge as SIGTERM does; it must end well, with nothing left to wait for."""
        edge = self.edges[index]
        self._open.pop(edge.process.pid).close()
        lines = edge.log.read_text()
        assert edge.process.returncode == 0, lines
        assert "not handed over" not in lines, lines

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process of this fleet."""
        assert pid in self._open
        os.kill(pid, number)

    def restart_edge(self, index: int) -> None:
        """Start an edge in the place of one that was killed; it has another port."""
        self.edges[index] = self._start_edge()

    def kill_worker(self, index: int) -> None:
        """End a worker as a crash does."""
        self._kill(self.workers[index].pid)

    def restart_worker(self, index: int) -> None:
        """Start a worker in the place of one that was killed, at the same address."""
        self.workers[index] = self._start_worker(index)

    def story(self, response_id: str) -> str:
        """What all processes so far have logged of a response, in the order of time."""
        lines = (line for log in self._folder.glob("process*/*.log") for line in log.read_text().splitlines())
        return "\n".join(sorted(line for line in lines if response_id in line))

    def close(self) -> None:
        """End all processes."""
        with ThreadPoolExecutor() as closers:
            closed = [closers.submit(stack.close) for stack in self._open.values()]
        for each in closed:
            each.result()

    def _start_edge(self) -> EdgeProcess:
        stack = ExitStack()
        process = edge_process(
            self._new_folder(), workers=self._targets, redis_url=self.valkey.url, port=None, **self._edge_settings
        )
        edge = stack.enter_context(process)
        self._open[edge.process.pid] = stack
        return edge

    def _start_worker(self, index: int) -> WorkerProcess:
        stack = ExitStack()
        process = worker_process(self._new_folder(), listen=self._targets[index], **self._worker_settings)
        worker = stack.enter_context(process)
        self._open[worker.pid] = stack
        return worker

    def _new_folder(self) -> Path:
        return self._folder / f"process{next(self._starts)}"

    def _kill(self, pid: int) -> None:
        stack = self._open.pop(pid)
        for process in (*(edge.process for edge in self.edges), *(worker.process for worker in self.workers)):
            if process.pid == pid:
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=10)
        stack.close()


@contextmanager
def running_fleet(
    folder: Path,
    *,
    edges: int = 2,
    workers: int = 2,
    worker_settings: Mapping[str, str] | None = None,
    **edge_settings: str,
) -> Iterator[Fleet]:
    """A fleet that is ready."""
    valkey_folder = folder / "valkey"
    valkey_folder.mkdir(parents=True)
    with valkey_process(valkey_folder) as valkey:
        fleet = Fleet(
            folder,
            valkey,
            edges=edges,
            workers=workers,
            edge_settings=edge_settings,
            worker_settings=worker_settings or {},
        )
        try:
            yield fleet
        finally:
            fleet.close()
