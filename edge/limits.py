"""What owners may use: the limits file, and a place for each request that an owner's limits let in.

Limits are counted in the store, for all edges together. When the store does not serve, who wants something stored is
refused anyway; the others go on, and each edge then holds an owner to its responses at once by what runs there: the
rate is not counted until the store is back.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ResponseParams
from edge.errors import RateLimited
from edge.files import WatchedFile
from store.limits import Admission, Limits, LimitStore, Places, Refusal

log = logging.getLogger(__name__)

_ADMIT_TIMEOUT_S: Final = 1.0
_STORE_KNOWN_DOWN_S: Final = 1.0
_RETRY_AFTER_MS: Final = 1000
_VOUCHES_PER_LEASE: Final = 3

_Amount = Annotated[int, Meta(ge=0)]


class OwnerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one owner, as the file says them; 0: none."""

    requests_per_minute: _Amount | None = None
    """Requests that make the model work: responses, compactions and token counts."""
    max_running: _Amount | None = None
    """How many of them at once, on all edges."""
    max_stored_bytes: _Amount | None = None
    """Bytes of all stored responses, compressed."""
    response_ttl_s: _Amount | None = None
    """How long responses are kept, in seconds; 0: as ``EDGE_RESPONSE_TTL_S`` says."""


class LimitsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of all owners."""

    default: OwnerLimits = OwnerLimits()
    """What is not said of an owner itself."""
    owners: dict[str, OwnerLimits] = {}

    def of(self, owner: str) -> OwnerLimits:
        """All limits of ``owner``."""
        own = self.owners.get(owner)
        if own is None:
            return self.default
        said = {name: value for name in own.__struct_fields__ if (value := getattr(own, name)) is not None}
        return msgspec.structs.replace(self.default, **said)


def parse_limits(text: str) -> LimitsFile:
    """The limits in ``text``, TOML: a table ``default``, and a table of each owner in ``owners``.

    Raises:
        ValueError: it is not, or says something else.
    """
    return msgspec.toml.decode(text, type=LimitsFile)


class OwnerPolicies:
    """The limits of all owners, as they are now.

    Args:
        path: Of the limits file; empty: nobody has limits.
        response_ttl_s: How long responses are kept unless the file says otherwise.

    Raises:
        OSError: the file cannot be read or parsed.
    """

    def __init__(self, path: str, *, response_ttl_s: int) -> None:
        self._file = WatchedFile(Path(path), parse_limits) if path else None
        self._response_ttl_s = response_ttl_s

    def limits(self, owner: str) -> Limits:
        """What ``owner`` may use."""
        if self._file is None:
            return Limits()
        said = self._file.value.of(owner)
        return Limits(said.requests_per_minute or 0, said.max_running or 0, said.max_stored_bytes or 0)

    def retention_ms(self, owner: str) -> int:
        """How long responses of ``owner`` are kept."""
        said = self._file.value.of(owner).response_ttl_s if self._file is not None else None
        return 1000 * (said or self._response_ttl_s)

    async def watch(self) -> None:
        """Take in the file's changes, until cancelled."""
        if self._file is not None:
            await self._file.watch()


class Limiter:
    """Lets requests in as far as their owners' limits go. Owners without limits cost nothing.

    The places of a process that dies come back when their lease runs out. One round trip a request: nobody waits for
    a place to be given back.
    """

    def __init__(self, store: LimitStore, limits: Callable[[str], Limits]) -> None:
        self._store = store
        self._limits = limits
        self._running: dict[str, set[str]] = {}
        self._leaving: dict[str, set[str]] = {}
        self._has_left = asyncio.Event()
        self._store_known_down_until = 0.0

    @asynccontextmanager
    async def admitted(self, owner: str, request_id: str, *, is_stored: bool) -> AsyncGenerator[dict[str, str], None]:
        """Hold a place for a request among those that its owner runs, as long as the block does.

        Yields what the answer's headers say of the rate: OpenAI's ``x-ratelimit-*-requests``, nothing without a limit.

        Args:
            request_id: Unique.
            is_stored: It leaves something in the store.

        Raises:
            RateLimited: a limit of ``owner`` is used up.
            ApiError: STORE_UNAVAILABLE, only when ``is_stored``.
        """
        limits = self._limits(owner)
        if limits == Limits():
            yield {}
            return
        try:
            headers = await self._admit(owner, request_id, limits, is_stored=is_stored)
        except RateLimited:
            raise
        except BaseException:  # whether it has a place is not known
            self._leave(owner, request_id)
            raise
        _add(self._running, owner, request_id)
        try:
            yield headers
        finally:
            self._give_back(owner, request_id)

    @asynccontextmanager
    async def handed_over(self, owner: str, request_id: str, response_id: str) -> AsyncGenerator[None, None]:
        """The block creates a job, which takes over the place of the request that asked for it.

        It is kept for one lease at most until the job runs somewhere.

        Raises:
            ApiError: STORE_UNAVAILABLE.
        """
        if request_id not in self._running.get(owner, ()):  # there are no limits
            yield
            return
        try:
            await self._store.vouch({owner: [response_id]})  # before it can run, and end
            self._give_back(owner, request_id)
            yield
        except BaseException:
            self._leave(owner, response_id)
            raise

    @contextmanager
    def held(self, owner: str, response_id: str) -> Iterator[Callable[[], None]]:
        """Hold the place of a job as long as the block runs it. It is never refused: its request was let in.

        Yields what gives the place back early: before its end can be read, so that who waits for that is let in.
        """
        if self._limits(owner) == Limits():
            yield lambda: None
            return
        _add(self._running, owner, response_id)
        try:
            yield lambda: self._give_back(owner, response_id)
        finally:
            self._give_back(owner, response_id)

    async def run(self) -> None:
        """Tell the store of places that are held, and of those that are not any more, until cancelled."""
        loop = asyncio.get_running_loop()
        interval_s = self._store.lease_ms / 1000 / _VOUCHES_PER_LEASE
        vouch_at = loop.time() + interval_s
        while True:
            try:
                async with asyncio.timeout_at(vouch_at):
                    await self._has_left.wait()
            except TimeoutError:
                vouch_at = loop.time() + interval_s
                await self._tell(self._store.vouch, self._running)
            self._has_left.clear()
            left = {owner: set(ids) for owner, ids in self._leaving.items()}
            await self._tell(self._store.leave, left)  # after a vouch, which must not bring them back
            for owner, ids in left.items():
                _discard(self._leaving, owner, ids)

    async def _admit(self, owner: str, request_id: str, limits: Limits, *, is_stored: bool) -> dict[str, str]:
        """Let a request in, and return what its answer says of the rate.

        Raises:
            RateLimited: a limit of ``owner`` is used up.
            ApiError: STORE_UNAVAILABLE, only when ``is_stored``.
        """
        if not is_stored:
            limits = replace(limits, max_stored_bytes=0)
        try:
            if not is_stored and time.monotonic() < self._store_known_down_until:
                raise _store_down()
            admission = await self._ask(owner, request_id, limits)
        except ApiError:
            if is_stored:
                raise
            if 0 < limits.max_running <= len(self._running.get(owner, ())):
                raise RateLimited(_MESSAGES[Refusal.RUNNING], {}, retry_after_ms=_RETRY_AFTER_MS) from None
            return {}
        headers = _headers(limits, admission)
        if admission.refusal is not None:
            raise RateLimited(_MESSAGES[admission.refusal], headers, retry_after_ms=admission.retry_after_ms)
        return headers

    async def _ask(self, owner: str, request_id: str, limits: Limits) -> Admission:
        """What the store says.

        Raises:
            ApiError: STORE_UNAVAILABLE; nobody needs to wait for it in the next second.
        """
        try:
            async with asyncio.timeout(_ADMIT_TIMEOUT_S):
                left = tuple(self._leaving.get(owner, ()))
                return await self._store.admit(owner, request_id, limits, left=left)
        except (ApiError, TimeoutError) as error:
            self._store_known_down_until = time.monotonic() + _STORE_KNOWN_DOWN_S
            if isinstance(error, ApiError):
                raise
            raise _store_down() from None

    def _give_back(self, owner: str, request_id: str) -> None:
        if request_id in self._running.get(owner, ()):
            _discard(self._running, owner, {request_id})
            self._leave(owner, request_id)

    def _leave(self, owner: str, request_id: str) -> None:
        _add(self._leaving, owner, request_id)
        self._has_left.set()

    async def _tell(self, tell: Callable[[Places], Awaitable[None]], places: Places) -> None:
        """Tell the store; what it does not hear, the end of the lease tells it."""
        try:
            await tell({owner: set(ids) for owner, ids in places.items()})
        except ApiError as error:
            log.warning("limits not told", extra={"reason": str(error)})


def is_stored(params: ResponseParams) -> bool:
    """A response to ``params`` is to be stored, as it is by default."""
    return params.store or not params.HasField("store")


def _headers(limits: Limits, admission: Admission) -> dict[str, str]:
    """OpenAI's names; the time as Go writes durations."""
    if not limits.requests_per_minute:
        return {}
    return {
        "x-ratelimit-limit-requests": str(limits.requests_per_minute),
        "x-ratelimit-remaining-requests": str(admission.remaining_requests),
        "x-ratelimit-reset-requests": f"{admission.reset_ms / 1000:g}s",
    }


def _store_down() -> ApiError:
    return ApiError(
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
        "The response store is unavailable; please try again.",
        retry_after_ms=_RETRY_AFTER_MS,
    )


def _add(places: dict[str, set[str]], owner: str, request_id: str) -> None:
    places.setdefault(owner, set()).add(request_id)


def _discard(places: dict[str, set[str]], owner: str, request_ids: set[str]) -> None:
    left = places[owner]
    left -= request_ids
    if not left:
        del places[owner]


_MESSAGES: Final = {
    Refusal.RATE: "Rate limit reached: too many requests in a minute. Try again later.",
    Refusal.RUNNING: "Rate limit reached: too many responses at once. Try again when one of them has ended.",
    Refusal.BYTES: "The quota of stored bytes is used up. Delete stored responses, or send 'store': false.",
}
