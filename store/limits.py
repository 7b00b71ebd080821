"""What an owner may use: requests per minute, responses at once, stored bytes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from store import keys
from store.batcher import Command, CommandBatcher
from store.scripts import Script

_ADMIT = Script("admit", prelude="owner")
_VOUCH = Script("vouch", prelude="owner")
_USAGE = Script("usage", prelude="owner")

Places = Mapping[str, Collection[str]]
"""Ids of what runs, at least one, by owner."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one owner; 0: none."""

    requests_per_minute: int = 0
    max_running: int = 0
    """Responses that run at once, on all edges."""
    max_stored_bytes: int = 0
    """Bytes of all records, compressed. Reached: nothing new is admitted that is to be stored."""


class Refusal(StrEnum):
    """The limit that is used up."""

    RUNNING = "running"
    RATE = "rate"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request may be served, and what the ``x-ratelimit-*`` headers say."""

    refusal: Refusal | None
    """None: it has its place until it ``leave``\\ s."""
    retry_after_ms: int
    """Only when refused: when it is worth another try, as far as that can be known."""
    remaining_requests: int
    """How many more could come at once."""
    reset_ms: int
    """Until then all requests of a minute could come at once again."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an owner uses now."""

    stored_bytes: int
    """Of records, compressed, keys not counted."""
    stored_responses: int
    running: int


class LimitStore:
    """Counts what owners use, on behalf of one edge process.

    The rate is a GCRA: a minute's requests may come at once, then one at a time as the minute passes. A running
    response is counted as long as its edge vouches for it, so those of a dead edge vanish by themselves. Stored bytes
    are counted when a record is committed or deleted; expired ones are taken out whenever the count is used, as Redis
    does not tell of them. They can be off, for a record's lifetime at most, after a crash between a commit and its
    count.

    Methods raise ApiError STORE_UNAVAILABLE when Redis does not serve.
    """

    def __init__(self, commands: CommandBatcher, *, lease_ms: int = 60_000) -> None:
        """Vouch for ``lease_ms`` at a time: call ``vouch`` every third of it."""
        self._commands = commands
        self.lease_ms = lease_ms

    async def admit(self, owner: str, request_id: str, limits: Limits, *, left: Sequence[str] = ()) -> Admission:
        """Count ``request_id`` among the running and against the rate, if no limit is used up: all or nothing.

        The same id is counted once, however often this is sent.

        Args:
            left: Some that run no longer; their places are free for this one.
        """
        own = keys.of_owner(owner)
        leaving: list[Command] = [("ZREM", own[_RUNNING], *left)] if left else []
        *_, reply = await self._commands.execute(
            *leaving,
            _ADMIT(
                own,
                *(request_id, self.lease_ms),
                *(limits.max_running, limits.requests_per_minute, limits.max_stored_bytes),
            ),
        )
        refusal, retry_after_ms, remaining, reset_ms = reply
        return Admission(Refusal(refusal.decode()) if refusal else None, retry_after_ms, remaining, reset_ms)

    async def vouch(self, places: Places) -> None:
        """These still run here."""
        if places:
            await self._commands.execute(
                *(_VOUCH(keys.of_owner(owner), self.lease_ms, *ids) for owner, ids in places.items())
            )

    async def leave(self, places: Places) -> None:
        """These run no longer."""
        if places:
            await self._commands.execute(
                *(("ZREM", keys.of_owner(owner)[_RUNNING], *ids) for owner, ids in places.items())
            )

    async def usage(self, owner: str) -> Usage:
        """What ``owner`` uses now."""
        (reply,) = await self._commands.execute(_USAGE(keys.of_owner(owner)))
        return Usage(*map(int, reply))


_RUNNING: Final = 3
"""Place in ``keys.of_owner``."""
