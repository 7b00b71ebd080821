"""Looking at processes, and waiting for what they do."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_POLL_INTERVAL_S = 0.02


def wait_until(condition: Callable[[], T], *, timeout_s: float, what: str) -> T:
    """Return the first true value of ``condition``; TimeoutError naming ``what`` if there is none in time."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(_POLL_INTERVAL_S)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> dict[int, list[str]]:
    """Command line of each child process, by its process id."""
    children: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid and command:
            children[int(entry.name)] = [os.fsdecode(part) for part in command.rstrip(b"\0").split(b"\0")]
    return children


def is_established(server_port: int, client_port: int) -> bool:
    """Whether the server has not closed a connection, whatever the client has read of it."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    states = {(fields[1][-4:], fields[2][-4:]): fields[3] for fields in map(str.split, lines)}
    return states.get((f"{server_port:04X}", f"{client_port:04X}")) == "01"
