"""Who may use the engine: a bounded number of generations at once, a bounded number that wait, by tier and owner.

The only queue for engines: an edge holds no request back, so that those of all edges stand in one line.
"""

import asyncio
import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ServiceTier

_RESUMED_RANK, _DEFAULT_RANK = 0, 2
_RANKS: dict[ServiceTier.ValueType, int] = {
    ServiceTier.SERVICE_TIER_PRIORITY: 1,
    ServiceTier.SERVICE_TIER_UNSPECIFIED: _DEFAULT_RANK,
    ServiceTier.SERVICE_TIER_AUTO: _DEFAULT_RANK,
    ServiceTier.SERVICE_TIER_DEFAULT: _DEFAULT_RANK,
    ServiceTier.SERVICE_TIER_FLEX: 3,
}
_MIN_RETRY_MS, _MAX_RETRY_MS = 1000, 60_000
_OWNER_SHARE = 7
"""An owner may have this many times as many waiting as may wait besides, so that the next owner finds a place (the
dynamic threshold of Choudhury and Hahne, 1998): seven eighths if nobody else waits, equal shares if many do."""


class Place:
    """One generation's place, from its arrival until it ends. Made by ``Admission.enter``."""

    def __init__(self, admission: "Admission", rank: int, owner: str, arrival: int) -> None:
        self._admission = admission
        self.rank = rank
        self.owner = owner
        self._arrival = arrival
        self.its_turn: asyncio.Future[None] | None = None
        """None until it lines up."""
        self.running_since: float | None = None

    def __lt__(self, other: "Place") -> bool:
        return self._arrival < other._arrival

    async def turn(self) -> None:
        """Wait until the engine has room for this generation and no other comes before it."""
        assert self.its_turn is None
        self.its_turn = asyncio.get_running_loop().create_future()
        self._admission.line_up(self)
        await self.its_turn


class Admission:
    """At most ``capacity`` generations run, at most ``max_waiting`` more wait or are being prepared.

    Priority goes before default, and default before flex. Within a tier owners take turns, one generation each, and
    those of one owner go in the order of their arrival. What is resumed goes before all others and is never refused for
    want of room: somebody reads it already, and there is no more of it than its dead worker ran.

    Args:
        kv_cache_usage: What the engine says of it.
    """

    def __init__(
        self, *, capacity: int, max_waiting: int, kv_cache_usage: Callable[[], float | None] = lambda: None
    ) -> None:
        self._kv_cache_usage = kv_cache_usage
        self.capacity = capacity
        self._max_waiting = max_waiting
        self._entered = 0
        self._running = 0
        self._waiting: Counter[str] = Counter()
        """Places of each owner whose turn has not come."""
        self._lines: list[OrderedDict[str, list[Place]]] = [OrderedDict() for _ in {_RESUMED_RANK, *_RANKS.values()}]
        """By rank, the owners in the order of their turns, and the heap of what each has waiting: never empty."""
        self._arrivals = itertools.count()
        self._mean_run_s = 1.0
        self._empty = asyncio.Event()
        self._empty.set()
        self.is_draining = False
        """Nothing new may enter; who is in stays in."""

    @property
    def running(self) -> int:
        """Generations whose turn has come."""
        return self._running

    @property
    def load(self) -> pb.Load:
        """How busy the worker is."""
        return pb.Load(
            running=self._running,
            waiting=self._entered - self._running,
            capacity=self.capacity,
            draining=self.is_draining,
            kv_cache_usage=self._kv_cache_usage(),
        )

    @contextmanager
    def enter(self, tier: ServiceTier.ValueType, owner: str, *, is_resumed: bool = False) -> Iterator[Place]:
        """Hold a place for one generation; leaving the context frees it, whatever state it is in.

        Args:
            is_resumed: It goes on after tokens that another worker generated.

        Raises:
            ApiError: OVERLOADED if every place is taken, or the owner's share of them; WORKER_UNAVAILABLE if the worker
                drains.
        """
        if self.is_draining:
            raise ApiError(ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE, "This worker is shutting down.")
        free = self.capacity + self._max_waiting - self._entered
        queued = self._waiting[owner] - (self.capacity - self._running)  # the others only have to be prepared
        if not is_resumed and (free <= 0 or queued >= _OWNER_SHARE * free):
            raise ApiError(
                ErrorReason.ERROR_REASON_OVERLOADED,
                "The model is overloaded with requests. Try again later.",
                retry_after_ms=self._retry_after_ms(),
            )
        # tiers of a newer contract count as default
        rank = _RESUMED_RANK if is_resumed else _RANKS.get(tier, _DEFAULT_RANK)
        place = Place(self, rank, owner, next(self._arrivals))
        self._entered += 1
        self._waiting[owner] += 1
        self._empty.clear()
        try:
            yield place
        finally:
            self._leave(place)

    async def empty(self) -> None:
        """Wait until nobody holds a place."""
        await self._empty.wait()

    def line_up(self, place: Place) -> None:
        """Queue ``place``; resolves its ``its_turn`` in time. For ``Place`` only."""
        heapq.heappush(self._lines[place.rank].setdefault(place.owner, []), place)
        self._admit()

    def _admit(self) -> None:
        while self._running < self.capacity and (place := self._next()) is not None:
            assert place.its_turn is not None
            if not place.its_turn.done():  # cancelled ones are on their way out
                place.its_turn.set_result(None)
                place.running_since = monotonic()
                self._running += 1
                self._forget(place)

    def _next(self) -> Place | None:
        """Take the one whose turn it is out of its line."""
        for owners in self._lines:
            if owners:
                owner, waiting = owners.popitem(last=False)
                place = heapq.heappop(waiting)
                if waiting:
                    owners[owner] = waiting
                return place
        return None

    def _leave(self, place: Place) -> None:
        self._entered -= 1
        if place.running_since is not None:
            self._running -= 1
            self._mean_run_s += (monotonic() - place.running_since - self._mean_run_s) / 8
        else:
            self._forget(place)
            self._step_out(place)
        self._admit()
        if self._entered == 0:
            self._empty.set()

    def _forget(self, place: Place) -> None:
        """Its owner has one less waiting."""
        self._waiting[place.owner] -= 1
        if not self._waiting[place.owner]:
            del self._waiting[place.owner]

    def _step_out(self, place: Place) -> None:
        """Take ``place`` out of its line, if it is in one."""
        owners = self._lines[place.rank]
        waiting = owners.get(place.owner, [])
        if place in waiting:
            waiting.remove(place)
            heapq.heapify(waiting)
            if not waiting:
                del owners[place.owner]

    def _retry_after_ms(self) -> int:
        """Time until the queue has moved by a place for the caller, from how long generations took of late."""
        waiting = self._entered - self._running
        estimate_ms = int(1000 * self._mean_run_s * (waiting + 1) / self.capacity)
        return min(max(estimate_ms, _MIN_RETRY_MS), _MAX_RETRY_MS)
