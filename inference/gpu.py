"""GPUs that one worker has for itself, on a machine with several of both.

Containers that are copies of each other see the same GPUs. Which of them is whose is settled by locks on files that all
workers of the machine share; the system drops a lock when its holder dies, however that happens.
"""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

_LIST_GPUS = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
_LIST_TIMEOUT_S = 60.0
"""A driver without persistence mode starts every GPU for this."""
_RETRY_S = 0.2


class NoGpu(Exception):
    """There are not enough GPUs, or none is free."""


class Gpu(NamedTuple):
    """One GPU that this process could use."""

    ordinal: int
    """Its place in the order of the PCI bus, counted from 0."""
    uuid: str
    """Names it on this machine, whoever sees it: ``GPU-`` and 36 hexadecimal characters."""


def visible_gpus() -> list[Gpu]:
    """The GPUs that this machine, or this container, has; MIG slices are not among them.

    Raises:
        NoGpu: there is no driver, or it does not answer.
    """
    try:
        listing = subprocess.run(
            _LIST_GPUS, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIST_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoGpu(f"nvidia-smi does not list the GPUs: {error}") from error
    rows = [line.split(",") for line in listing.stdout.splitlines() if line.strip()]
    try:
        return sorted(Gpu(int(ordinal), uuid.strip()) for ordinal, uuid in rows)
    except ValueError:  # it says in words that there are none, on some drivers with exit code 0
        raise NoGpu(f"nvidia-smi does not list the GPUs: {listing.stdout.strip()[:200]}") from None


@contextmanager
def taken_gpus(count: int, locks: Path, *, wait_s: float) -> Iterator[list[Gpu]]:
    """Hold ``count`` GPUs that no other process with the same ``locks`` holds, for as long as the block runs.

    Args:
        locks: Folder of the lock files, shared by all workers of the machine.
        wait_s: How long others may take to give back what is missing: at a restart, the worker that was here before.

    Raises:
        NoGpu: there are not that many, or they are still taken after ``wait_s``.
        OSError: ``locks`` cannot be used.
    """
    gpus = visible_gpus()
    if len(gpus) < count:
        raise NoGpu(f"{count} GPUs are needed, {len(gpus)} are there")
    give_up_at = time.monotonic() + wait_s
    while True:
        with ExitStack() as held:
            taken = _take(count, gpus, locks, held)
            if len(taken) == count:
                yield taken
                return
        if time.monotonic() > give_up_at:
            raise NoGpu(f"{count} GPUs are needed; of the {len(gpus)} here too many are taken, after {wait_s:g} s")
        time.sleep(_RETRY_S)


def cuda_environment(gpus: list[Gpu]) -> dict[str, str]:
    """What makes CUDA, in this process and its children, see ``gpus`` alone; to be set before CUDA is loaded.

    Indices, since not all of TensorRT-LLM reads UUIDs here; in the order that nvidia-smi counts in.
    """
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(str(gpu.ordinal) for gpu in gpus),
    }


def _take(count: int, gpus: list[Gpu], locks: Path, held: ExitStack) -> list[Gpu]:
    """Lock up to ``count`` of ``gpus``; ``held`` has their locks. One process at a time does so: else two that need
    several might each take what the other lacks."""
    with ExitStack() as turn:
        if not _lock(locks / "turn.lock", turn):
            return []
        taken: list[Gpu] = []
        for gpu in gpus:
            if len(taken) < count and _lock(locks / f"{gpu.uuid}.lock", held):
                taken.append(gpu)
        return taken


def _lock(path: Path, held: ExitStack) -> bool:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    held.callback(os.close, file)
    return True
