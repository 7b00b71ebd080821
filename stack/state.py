"""The state folder: what outlives the stack (Valkey's data, a key, logs), and the lock against a second stack."""

import base64
import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError

SOCKET_NAME = "valkey.sock"
"""In the state folder, unless its path is too long for a socket."""
_LONGEST_SOCKET_PATH_BYTES = 100
"""Below sun_path of every system: 108 with its NUL on Linux, 104 on macOS."""
_KEY_BYTES = 32
"""Of AES-256."""
_LOCK_PATIENCE_S = 3.0
_LOCK_RETRY_S = 0.05


@dataclass(frozen=True)
class State:
    """An opened state folder."""

    folder: Path
    lock_fd: int
    """Passed on to Valkey too, so that the folder stays locked for as long as anything writes to it."""
    socket: Path
    """Where Valkey listens."""

    @property
    def data(self) -> Path:
        return self.folder / "valkey"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def encryption_key(self) -> str:
        """The key that edges seal with, base64 of 32 bytes; made on first use, readable for its owner alone.

        Raises:
            StackError: it cannot be read or written.
        """
        path = self.folder / "encryption.key"
        try:
            if not path.exists():
                fresh = path.with_suffix(".new")
                with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode() + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(path)
            return path.read_text().strip()
        except OSError as error:
            raise StackError(f"cannot use the encryption key {path}: {error.strerror}") from error

    def new_log(self, name: str) -> Path:
        """Path of an empty log; the one of the last start is kept beside it as ``NAME.log.1``."""
        path = self.logs / f"{name}.log"
        if path.exists():
            path.replace(self.logs / f"{name}.log.1")
        return path


def default_folder(environ: Mapping[str, str]) -> Path:
    """``antiphon`` in ``$XDG_STATE_HOME``, else in ``~/.local/state``."""
    return Path(environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "antiphon"


@contextmanager
def opened_state(folder: Path) -> Iterator[State]:
    """Make the folder if it is missing and hold its lock as long as the block runs.

    Raises:
        StackError: another stack uses it, or it cannot be written.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # prompts and answers lie in it
        (folder / "valkey").mkdir(exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StackError(f"cannot use the state folder {folder}: {error.strerror}: give one with --state") from error
    try:
        _lock(lock_fd, folder)
        with _socket_folder(folder) as sockets:
            yield State(folder, lock_fd, sockets / SOCKET_NAME)
    finally:
        os.close(lock_fd)


def _lock(lock_fd: int, folder: Path) -> None:
    """Take the lock, patient enough for the children of a stack that was killed just now."""
    give_up_at = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                holder = os.pread(lock_fd, 20, 0).decode(errors="replace").strip() or "unknown"
                raise StackError(
                    f"the state folder {folder} is used by another stack (process {holder}):"
                    " stop that one, or choose another with --state"
                ) from None
            time.sleep(_LOCK_RETRY_S)
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)


@contextmanager
def _socket_folder(folder: Path) -> Iterator[Path]:
    """The state folder itself, or a short one in its place: a socket's path is limited by the system."""
    if len(os.fsencode(folder / SOCKET_NAME)) <= _LONGEST_SOCKET_PATH_BYTES:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="antiphon-") as short:
            yield Path(short)
