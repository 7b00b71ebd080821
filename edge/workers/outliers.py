"""Whether a worker that is connected is fit to be used, judged by how its generations end (passive health checking)."""

import logging
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

_LONGEST_S: Final = 300.0
_MAX_DOUBLINGS: Final = 16


class Outlier:
    """Ejects a worker whose engine fails one generation after the other.

    ``after`` failures in a row eject it for ``base_s``. When it is back, one more failure ejects it again, for twice as
    long, up to five minutes; one generation that ends well wipes everything out. Only what a worker has accepted and
    its engine then failed counts: never what a client did wrong, nor a worker that is full or gone.

    Args:
        target: The worker, for logs.
        after: Failures in a row.
        base_s: How long the first ejection lasts.
        clock: Monotonic time in seconds.
    """

    def __init__(self, target: str, *, after: int, base_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._after = after
        self._base_s = base_s
        self._clock = clock
        self._failures = 0
        self._until = clock()

    @property
    def is_ejected(self) -> bool:
        """It should get nothing new."""
        return self._clock() < self._until

    def succeeded(self) -> None:
        """A generation ended well."""
        self._failures = 0

    def failed(self) -> None:
        """The engine failed a generation. What began before an ejection and fails during it counts once, with it."""
        if self.is_ejected:
            return
        self._failures += 1
        if self._failures < self._after:
            return
        doublings = min(self._failures - self._after, _MAX_DOUBLINGS)
        duration_s = min(self._base_s * 2**doublings, _LONGEST_S)
        self._until = self._clock() + duration_s
        extra = {"worker": self._target, "failures": self._failures, "duration_s": duration_s}
        log.warning("worker ejected", extra=extra)

    def reconnected(self) -> None:
        """It may be a new process: it is tried at once, but one more failure ejects it again."""
        self._until = self._clock()
