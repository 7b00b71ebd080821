"""Work on requests that may be large, kept off the event loop when they are."""

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_LARGE_BYTES: Final = 64 * 1024
"""From this size on a thread does it: a megabyte takes ten milliseconds."""

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread_if_large(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function(*args, **kwargs)``, in a thread if what it works on has many bytes."""
    if size < _LARGE_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
