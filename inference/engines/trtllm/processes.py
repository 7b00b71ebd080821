"""The processes that TensorRT-LLM has started, and the news of their end. Linux."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_POOL_WORKER = b"mpi4py.futures.server"
"""In the command line of the processes that hold the GPUs, one each."""


def pool_workers() -> list[int]:
    """The ids of those that descend from this process: MPI may have put one of its own in between."""
    return [pid for pid in _descendants(os.getpid()) if _POOL_WORKER in _read(pid, "cmdline")]


def _descendants(ancestor: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := _read(int(folder.name), "stat")):
            parent = int(stat.rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    waiting = [ancestor]
    while waiting:
        found = children.get(waiting.pop(), [])
        waiting += found
        yield from found


def _read(pid: int, name: str) -> bytes:
    """A file of a process; empty if that has gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


class ProcessWatch:
    """Calls ``on_exit``, on the event loop, when one of the processes has ended, however it did."""

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit
        self._handles: list[int] = []

    def start(self) -> None:
        """Watch the processes that there are. Without any, or on a kernel that does not tell, that is logged."""
        loop = asyncio.get_running_loop()
        pids = pool_workers()
        try:
            for pid in pids:
                handle = os.pidfd_open(pid)
                self._handles.append(handle)
                loop.add_reader(handle, self._ended, handle, pid)
        except OSError as error:
            log.warning("processes of TensorRT-LLM are not watched", extra={"error": str(error)})
        log.info("processes of TensorRT-LLM", extra={"pids": pids})

    def close(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            asyncio.get_running_loop().remove_reader(handle)
            os.close(handle)
        self._handles.clear()

    def _ended(self, handle: int, pid: int) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        self._on_exit(pid)
