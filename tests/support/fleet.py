"""Several edges and workers around one Valkey, each a process of its own that a test may kill and start again."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.edge import EdgeProcess, edge_process
from tests.support.valkey import ValkeyServer, valkey_process
from tests.support.worker import WorkerProcess, worker_process

LEASE_S = "1"


class Fleet:
    """Running edges and workers, all of whom know each other.

    Args:
        folder: For sockets and logs.
        edge_settings: Variables of every edge, without ``EDGE_``, in lower case.
    """

    def __init__(
        self, folder: Path, valkey: ValkeyServer, *, edges: int, workers: int, edge_settings: Mapping[str, str]
    ) -> None:
        self.valkey = valkey
        self._folder = folder
        self._edge_settings = {"lease_s": LEASE_S, "worker_silence_s": "1", "drain_timeout_s": "2", **edge_settings}
        self._targets = [f"unix:{folder}/worker{index}.sock" for index in range(workers)]
        self._starts = 0
        self._open: dict[int, ExitStack] = {}
        self.workers = [self._start_worker(index) for index in range(workers)]
        self.edges = [self._start_edge() for _ in range(edges)]

    def kill_edge(self, index: int) -> None:
        """End an edge as a crash does."""
        self._kill(self.edges[index].process.pid)

    def restart_edge(self, index: int) -> None:
        """Start an edge in the place of one that was killed; it has another port."""
        self.edges[index] = self._start_edge()

    def kill_worker(self, index: int) -> None:
        """End a worker as a crash does."""
        self._kill(self.workers[index].pid)

    def restart_worker(self, index: int) -> None:
        """Start a worker in the place of one that was killed, at the same address."""
        self.workers[index] = self._start_worker(index)

    def close(self) -> None:
        """End all processes."""
        for stack in self._open.values():
            stack.close()

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
        worker = stack.enter_context(
            worker_process(self._new_folder(), listen=self._targets[index], parallel="64", context_window="100000")
        )
        self._open[worker.pid] = stack
        return worker

    def _new_folder(self) -> Path:
        self._starts += 1
        return self._folder / f"process{self._starts}"

    def _kill(self, pid: int) -> None:
        stack = self._open.pop(pid)
        for process in (*(edge.process for edge in self.edges), *(worker.process for worker in self.workers)):
            if process.pid == pid:
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=10)
        stack.close()


@contextmanager
def running_fleet(folder: Path, *, edges: int = 2, workers: int = 2, **edge_settings: str) -> Iterator[Fleet]:
    """A fleet that is ready."""
    valkey_folder = folder / "valkey"
    valkey_folder.mkdir(parents=True)
    with valkey_process(valkey_folder) as valkey:
        fleet = Fleet(folder, valkey, edges=edges, workers=workers, edge_settings=edge_settings)
        try:
            yield fleet
        finally:
            fleet.close()
