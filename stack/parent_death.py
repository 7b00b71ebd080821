"""Child processes that do not outlive this one, however it ends (Linux: prctl(2), PR_SET_PDEATHSIG)."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def dies_with_parent() -> Callable[[], None] | None:
    """A ``preexec_fn`` for a child of the main thread; None where the system has no such thing.

    The child gets SIGKILL: nothing in it needs a farewell, and a drain would keep its ports busy.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec there is only the call
    return functools.partial(_ask_for_death_signal, prctl, os.getpid())


def _ask_for_death_signal(prctl: Callable[..., int], parent: int) -> None:
    if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:  # it is dead already
        os._exit(1)
