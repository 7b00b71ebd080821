"""Notices an engine that does nothing: a thread, as the event loop may be held up by it too."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)

_LOOKS = 20
"""Within one timeout."""
_LEAVE_S = 15.0
"""How long the process has to end in good order."""


class Watchdog:
    """Knows who waits for the engine, and when it last did something for any of them.

    A generation whose caller is slow waits for nothing, and does not count.

    Args:
        timeout_s: How long nothing may come, while somebody waits.
        on_stall: Called once, in the watchdog's thread.
        leave: Ends the process if it is still there some time after ``on_stall``.
    """

    def __init__(
        self, timeout_s: float, on_stall: Callable[[], None], *, leave: Callable[[int], NoReturn] = os._exit
    ) -> None:
        self._timeout_s = timeout_s
        self._on_stall = on_stall
        self._leave = leave
        self._waiting = 0
        self._moved = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def begin(self) -> None:
        """Somebody begins to wait."""
        if self._waiting == 0:
            self._moved = time.monotonic()
        self._waiting += 1

    def moved(self) -> None:
        """A response has come."""
        self._moved = time.monotonic()

    def end(self) -> None:
        """Somebody waits no longer."""
        self._waiting -= 1

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._timeout_s / _LOOKS):
            if self._waiting and time.monotonic() - self._moved > self._timeout_s:
                self._on_stall()
                if not self._stopped.wait(_LEAVE_S):
                    log.critical("the process does not end", extra={"waiting": self._waiting})
                    self._leave(1)
                return
