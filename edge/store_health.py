"""Whether the store takes writes, asked about once a second at most."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

_KNOWN_UP_S: Final = 1.0


class StoreHealth:
    """Of the store of this process.

    Args:
        probe: Writes something. Raises ApiError if that cannot be done.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self._probe = probe
        self._known_up_until = 0.0

    async def check(self) -> None:
        """Return if the store took a write just now.

        Raises:
            ApiError: STORE_UNAVAILABLE.
        """
        now = time.monotonic()
        if now > self._known_up_until:
            await self._probe()
            self._known_up_until = now + _KNOWN_UP_S

    def doubt(self) -> None:
        """A call failed: the next ``check`` asks."""
        self._known_up_until = 0.0
