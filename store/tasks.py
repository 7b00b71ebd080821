"""Ending background tasks that redis-py runs in."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

_AGAIN_S: Final = 0.1


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel ``tasks`` until they have ended; their outcomes are left to the caller.

    More than once, as redis-py calls ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes
    when what it waits for is done (CPython issue 86296).
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_S)
