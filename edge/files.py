"""Configuration files that take effect when they change, without a restart."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_INTERVAL_S: Final = 1.0
_MAX_BYTES: Final = 16 * 1024 * 1024


class WatchedFile(Generic[T]):
    """What a file says, as of a second ago at most.

    A changed file that cannot be read or parsed changes nothing, and is logged once: what it said before stays. Write a
    new file and rename it over the old one, so that no half of it is read; a mounted secret is replaced like that too.

    Args:
        path: The file; symbolic links are followed anew each time.
        parse: Makes something of its text. Raises ValueError, whose message must be fit for a log.

    Raises:
        OSError: it cannot be read or parsed now.
    """

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._seen: object = None
        try:
            self._seen, self.value = self._read()
        except ValueError as error:
            raise OSError(f"{path}: {error}") from error

    async def watch(self) -> None:
        """Keep ``value`` as the file is, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            await asyncio.to_thread(self._look)  # a disk may take its time, and so may parsing

    def _look(self) -> None:
        seen: object = None
        try:
            seen = _version(self._path.stat())
            if seen != self._seen:
                self._seen, self.value = self._read()
                log.info("file reloaded", extra={"path": str(self._path)})
        except (OSError, ValueError) as error:
            if seen != self._seen:
                log.error("file not reloaded", extra={"path": str(self._path), "error": str(error)})
            self._seen = seen

    def _read(self) -> tuple[object, T]:
        """The version of the file, and what it says."""
        with self._path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
            seen = _version(os.fstat(file.fileno()))
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        return seen, self._parse(data.decode())


def _version(status: os.stat_result) -> object:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
