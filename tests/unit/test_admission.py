"""Order, bounds and cancellation of the places at the engine."""

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ServiceTier
from inference.admission import Admission

DEFAULT = ServiceTier.SERVICE_TIER_DEFAULT
FLEX = ServiceTier.SERVICE_TIER_FLEX
PRIORITY = ServiceTier.SERVICE_TIER_PRIORITY
OWNER = "o"


async def visit(
    admission: Admission,
    tier: ServiceTier.ValueType,
    name: str,
    order: list[str],
    owner: str = OWNER,
    *,
    is_resumed: bool = False,
) -> None:
    with admission.enter(tier, owner, is_resumed=is_resumed) as place:
        await place.turn()
        order.append(name)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_priority_goes_before_default_and_default_before_flex_and_equals_in_order_of_arrival() -> None:
    admission = Admission(capacity=1, max_waiting=10)
    order: list[str] = []
    arrivals = {"f1": FLEX, "d1": DEFAULT, "p1": PRIORITY, "f2": FLEX, "d2": DEFAULT, "p2": PRIORITY}
    async with asyncio.TaskGroup() as tasks:
        with admission.enter(DEFAULT, OWNER) as first:
            await first.turn()
            for name, tier in arrivals.items():
                tasks.create_task(visit(admission, tier, name, order))
            await settle()
            assert order == []
            assert (admission.load.running, admission.load.waiting) == (1, 6)
    assert order == ["p1", "p2", "d1", "d2", "f1", "f2"]


async def test_what_is_resumed_goes_first_and_is_never_refused_for_want_of_room() -> None:
    admission = Admission(capacity=1, max_waiting=1)
    order: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        with admission.enter(DEFAULT, OWNER) as first:
            await first.turn()
            tasks.create_task(visit(admission, PRIORITY, "p1", order))
            await settle()
            with pytest.raises(ApiError):
                await visit(admission, PRIORITY, "p2", order)
            tasks.create_task(visit(admission, FLEX, "f1", order, is_resumed=True))
            await settle()
    assert order == ["f1", "p1"]


async def test_owners_of_one_tier_take_turns_however_much_one_of_them_has_waiting() -> None:
    admission = Admission(capacity=1, max_waiting=100)
    order: list[str] = []
    arrivals = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    async with asyncio.TaskGroup() as tasks:
        with admission.enter(DEFAULT, "a") as first:
            await first.turn()
            for name in arrivals:
                tasks.create_task(visit(admission, DEFAULT, name, order, owner=name[0]))
            tasks.create_task(visit(admission, PRIORITY, "a5", order, owner="a"))
            cancelled = tasks.create_task(visit(admission, DEFAULT, "b0", order, owner="b"))
            await settle()
            cancelled.cancel()
            await settle()
    assert order == ["a5", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_an_owner_leaves_room_for_others_and_many_owners_have_equal_shares() -> None:
    def places(*owners: str, admission: Admission) -> int:
        """How many places they get who come in turn until all are refused."""
        entered = 0
        with ExitStack() as held:
            waiting = list(owners)
            while waiting:
                owner = waiting.pop(0)
                try:
                    held.enter_context(admission.enter(DEFAULT, owner))
                except ApiError:
                    continue
                entered += 1
                waiting.append(owner)
            with pytest.raises(ApiError), admission.enter(PRIORITY, owners[0]):
                pass
            with admission.enter(FLEX, "the next"):
                pass
        return entered

    admission = Admission(capacity=4, max_waiting=252)
    assert places("a", admission=admission) == 4 + 221
    assert places("a", "b", admission=admission) == 240
    assert places("a", admission=admission) == 4 + 221
    assert places("a", admission=Admission(capacity=64, max_waiting=8)) == 64 + 7


async def test_one_owner_can_use_the_whole_engine_however_short_the_queue_is() -> None:
    admission = Admission(capacity=64, max_waiting=0)
    with ExitStack() as held:
        for _ in range(32):
            await held.enter_context(admission.enter(DEFAULT, "a")).turn()
        for _ in range(32):
            held.enter_context(admission.enter(DEFAULT, "a"))
        for owner in ("a", "b"):
            with pytest.raises(ApiError), admission.enter(DEFAULT, owner):
                pass


async def test_a_generation_that_is_still_prepared_blocks_nobody_and_keeps_its_arrival() -> None:
    admission = Admission(capacity=1, max_waiting=10)
    order: list[str] = []
    with ExitStack() as slow, ExitStack() as quick:
        slow_place = slow.enter_context(admission.enter(DEFAULT, OWNER))
        await quick.enter_context(admission.enter(DEFAULT, OWNER)).turn()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(visit(admission, DEFAULT, "later", order))
            await settle()
            turn = tasks.create_task(slow_place.turn())
            await settle()
            quick.close()
            await turn
            assert order == []
            slow.close()
    assert order == ["later"]


async def test_beyond_its_bound_it_refuses_and_says_when_to_come_again() -> None:
    admission = Admission(capacity=1, max_waiting=1)
    with admission.enter(DEFAULT, OWNER), admission.enter(DEFAULT, OWNER):
        with pytest.raises(ApiError) as refused, admission.enter(PRIORITY, OWNER):
            pass
        assert refused.value.reason == ErrorReason.ERROR_REASON_OVERLOADED
        assert refused.value.retry_after_ms is not None
        assert 1000 <= refused.value.retry_after_ms <= 60_000
    with admission.enter(DEFAULT, OWNER) as place:
        await place.turn()


async def test_while_it_drains_nobody_enters_and_who_is_in_stays_in() -> None:
    admission = Admission(capacity=1, max_waiting=5)
    order: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        with admission.enter(DEFAULT, OWNER) as first:
            await first.turn()
            tasks.create_task(visit(admission, DEFAULT, "waits", order))
            await settle()
            admission.is_draining = True
            with pytest.raises(ApiError) as refused, admission.enter(DEFAULT, OWNER):
                pass
            assert refused.value.reason == ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await admission.empty()
        async with asyncio.timeout(5):
            await admission.empty()
    assert order == ["waits"]


@pytest.mark.parametrize("its_turn_has_come", [False, True])
async def test_a_cancelled_waiter_leaves_no_trace_even_if_its_turn_came_in_the_same_moment(
    its_turn_has_come: bool,
) -> None:
    admission = Admission(capacity=1, max_waiting=5)
    order: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        with ExitStack() as running:
            await running.enter_context(admission.enter(DEFAULT, OWNER)).turn()
            cancelled = tasks.create_task(visit(admission, PRIORITY, "cancelled", order))
            tasks.create_task(visit(admission, DEFAULT, "next", order))
            await settle()
            if its_turn_has_come:
                running.close()
            cancelled.cancel()
    assert order == ["next"]
    assert admission.load.running == admission.load.waiting == 0


@given(
    capacity=st.integers(1, 3),
    max_waiting=st.integers(0, 4),
    script=st.lists(
        st.tuples(st.sampled_from(["arrive", "finish", "cancel", "settle"]), st.integers(0, 20)), max_size=60
    ),
)
def test_whatever_happens_the_bounds_hold_and_everyone_is_served_or_refused(
    capacity: int, max_waiting: int, script: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        admission = Admission(capacity=capacity, max_waiting=max_waiting)
        running: dict[int, asyncio.Event] = {}
        refused: set[int] = set()

        async def visit(number: int) -> None:
            try:
                with admission.enter(ServiceTier.ValueType(number % 5), str(number % 3)) as place:
                    await place.turn()
                    running[number] = asyncio.Event()
                    assert len(running) <= capacity
                    try:
                        await running[number].wait()
                    finally:
                        del running[number]
            except ApiError:
                refused.add(number)

        visitors: list[asyncio.Task[None]] = []
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            for action, choice in script:
                match action:
                    case "arrive":
                        visitors.append(tasks.create_task(visit(len(visitors))))
                    case "finish" if running:
                        list(running.values())[choice % len(running)].set()
                    case "cancel" if visitors:
                        visitors[choice % len(visitors)].cancel()
                    case _:
                        await settle()
                load = admission.load
                assert load.running <= capacity
                assert load.running + load.waiting <= capacity + max_waiting
            while not all(visitor.done() for visitor in visitors):
                await settle()
                for event in running.values():
                    event.set()
        assert admission.load.running == admission.load.waiting == 0
        await admission.empty()

    asyncio.run(run())
