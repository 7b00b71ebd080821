"""Idempotency keys: however often a request is sent with one, it makes one response."""

from dataclasses import dataclass
from typing import Final

from store import keys
from store.batcher import CommandBatcher
from store.ids import parse_response_id
from store.retention import Retention, retention_ms_of
from store.scripts import Script

_RESERVE = Script("reserve")
_SETTLE = Script("settle")

_MAX_LIFETIME_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class New:
    """The key is reserved for the caller's response."""


@dataclass(frozen=True, slots=True)
class Existing:
    """The same request was sent before."""

    response_id: str
    is_stored: bool
    """It is stored, or is a job, so it will end. False: it is on its way in an edge process that is, or was just now,
    alive."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another request was sent with this key."""

    response_id: str


class IdempotencyStore:
    """The keys of all owners.

    A key is first *reserved*, for a short time: an edge that dies before anything is stored blocks the key no longer
    than that; one that takes longer reserves it again for the same response just before it stores anything. It is
    *confirmed* once the response is stored, or accepted as a job. Either way it lives for 24 hours, but no longer than
    the response: an edge that dies between the two leaves a key that knows its response.

    Methods raise ApiError STORE_UNAVAILABLE when Redis does not serve.
    """

    def __init__(self, commands: CommandBatcher, *, retention_ms: Retention, reservation_ms: int = 15_000) -> None:
        """Reserve for ``reservation_ms`` at a time.

        Args:
            commands: The way to Redis.
            retention_ms: A record's lifetime, as for ``ResponseStore``.
            reservation_ms: How long a dead edge blocks a key.
        """
        self._commands = commands
        self._retention_ms = retention_ms
        self._reservation_ms = reservation_ms

    async def reserve(self, owner: str, key: str, body_digest: str, response_id: str) -> New | Existing | Conflict:
        """Reserve ``key`` for the response that the caller is about to make, unless it has one.

        Args:
            owner: Whose key it is.
            key: As the client sent it.
            body_digest: Equal for equal requests only.
            response_id: Freshly allocated. The same id may reserve again.
        """
        replaced = b""
        while True:
            (reply,) = await self._commands.execute(
                _RESERVE(
                    (keys.idempotency(owner, key),),
                    *(body_digest, response_id, self._reservation_ms, self._lifetime_ms(owner), replaced),
                )
            )
            if reply == [b"new"]:
                return New()
            outcome, there, state = reply
            existing = there.decode()
            is_stored = await self._lives(owner, existing)
            if state and not is_stored:
                replaced = state  # the response is gone, or was never made, and the key with it
                continue
            return Existing(existing, is_stored) if outcome == b"existing" else Conflict(existing)

    async def confirm(self, owner: str, key: str, response_id: str) -> bool:
        """The response is stored, or accepted as a job; False if the key is not its own: then there is another."""
        return await self._settle(owner, key, response_id, self._lifetime_ms(owner))

    async def release(self, owner: str, key: str, response_id: str) -> None:
        """There will be no response: the same request may be tried again."""
        await self._settle(owner, key, response_id, 0)

    def _lifetime_ms(self, owner: str) -> int:
        return min(retention_ms_of(owner, self._retention_ms), _MAX_LIFETIME_MS)

    async def _settle(self, owner: str, key: str, response_id: str, lifetime_ms: int) -> bool:
        (is_own,) = await self._commands.execute(_SETTLE((keys.idempotency(owner, key),), response_id, lifetime_ms))
        return bool(is_own)

    async def _lives(self, owner: str, response_id: str) -> bool:
        parsed = parse_response_id(response_id)
        if parsed is None:
            return False
        (count,) = await self._commands.execute(("EXISTS", keys.response(owner, parsed)))
        return bool(count)
