"""When a worker whose engine fails is left alone, and for how long."""

import pytest

from edge.workers.outliers import Outlier


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outlier(clock: Clock) -> Outlier:
    return Outlier("worker", after=3, base_s=10, clock=clock)


def fail(outlier: Outlier, times: int) -> None:
    for _ in range(times):
        outlier.failed()


def ejected_for(outlier: Outlier, clock: Clock) -> float:
    """Seconds until it is back, to the second; the clock is there afterwards."""
    start = clock.now_s
    while outlier.is_ejected:
        clock.now_s += 1
    return clock.now_s - start


def test_only_failures_in_a_row_eject(outlier: Outlier, clock: Clock) -> None:
    for _ in range(5):
        fail(outlier, 2)
        outlier.succeeded()
    assert not outlier.is_ejected
    fail(outlier, 3)
    assert ejected_for(outlier, clock) == 10


def test_a_failure_right_after_the_return_ejects_for_twice_as_long_up_to_five_minutes(
    outlier: Outlier, clock: Clock
) -> None:
    fail(outlier, 3)
    durations = [ejected_for(outlier, clock)]
    for _ in range(30):
        fail(outlier, 1)
        durations.append(ejected_for(outlier, clock))
    assert durations == [10, 20, 40, 80, 160, *[300] * 26]


def test_a_success_after_the_return_wipes_everything_out(outlier: Outlier, clock: Clock) -> None:
    fail(outlier, 3)
    ejected_for(outlier, clock)
    outlier.succeeded()
    fail(outlier, 2)
    assert not outlier.is_ejected
    fail(outlier, 1)
    assert ejected_for(outlier, clock) == 10


def test_what_fails_during_an_ejection_does_not_prolong_it(outlier: Outlier, clock: Clock) -> None:
    fail(outlier, 64)
    assert ejected_for(outlier, clock) == 10
    fail(outlier, 64)
    assert ejected_for(outlier, clock) == 20


def test_a_new_process_is_tried_at_once_with_one_chance(outlier: Outlier, clock: Clock) -> None:
    fail(outlier, 3)
    outlier.reconnected()
    assert not outlier.is_ejected
    fail(outlier, 1)
    assert ejected_for(outlier, clock) == 20
