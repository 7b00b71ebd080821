"""The watchdog of the TensorRT-LLM engine, which outlasts an event loop that stands still."""

import threading
from collections.abc import Callable
from typing import NoReturn

from inference.engines.trtllm.watchdog import Watchdog


def refuse_to_leave(code: int) -> NoReturn:
    raise AssertionError(f"left with {code}")


def watching(timeout_s: float, on_stall: Callable[[], None]) -> Watchdog:
    watchdog = Watchdog(timeout_s, on_stall, leave=refuse_to_leave)
    watchdog.start()
    return watchdog


def test_it_barks_when_somebody_waits_and_nothing_comes() -> None:
    barked = threading.Event()
    watchdog = watching(0.05, barked.set)
    watchdog.begin()
    assert barked.wait(20)
    watchdog.stop()


def test_it_is_silent_as_long_as_nobody_waits() -> None:
    barked = threading.Event()
    watchdog = watching(0.05, barked.set)
    watchdog.begin()
    watchdog.end()
    assert not barked.wait(0.3)
    watchdog.stop()
