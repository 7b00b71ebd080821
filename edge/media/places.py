"""A bounded number of places, for work that may not pile up."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason


@asynccontextmanager
async def place(places: asyncio.Semaphore, *, timeout_s: float, doing: str) -> AsyncGenerator[None, None]:
    """One of ``places`` while inside.

    Args:
        doing: What the server does too much of, for the message: "reading too many files".

    Raises:
        ApiError: OVERLOADED: none came free in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await places.acquire()
    except TimeoutError:
        message = f"The server is {doing}. Try again later."
        raise ApiError(ErrorReason.ERROR_REASON_OVERLOADED, message, retry_after_ms=1000) from None
    try:
        yield
    finally:
        places.release()
