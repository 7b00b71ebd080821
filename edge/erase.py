"""``python -m edge.erase OWNER``: removes all that belongs to an owner. Settings are those of the edges."""

import asyncio
import os
import sys

from antiphon.errors import ApiError
from edge.auth import Authenticator
from edge.settings import EdgeSettings, from_environment
from store.connection import connect
from store.limits import LimitStore
from store.owners import OwnerStore


async def erase(settings: EdgeSettings, owner: str) -> str:
    """Erase ``owner``, who must have been shut out before; what was found, for people.

    Raises:
        ValueError: the owner still has an API key.
        OSError: the keys cannot be read.
        ApiError: STORE_UNAVAILABLE; a part may be erased.
    """
    keys = Authenticator(keys=settings.api_keys, keys_file=settings.api_keys_file, anonymous=settings.owner)
    if owner in keys.owners:
        raise ValueError(f"{owner} still has API keys: take them away first, and let what runs come to its end")
    async with connect(settings.redis_url) as commands:
        usage = await LimitStore(commands).usage(owner)
        erased = await OwnerStore(commands).erase(owner)
    return (
        f"{owner}: {erased} keys erased, among them {usage.stored_responses} stored responses"
        f" of {usage.stored_bytes} bytes"
    )


def main() -> int:
    """Exit code 0, or 1 after a fault that one line on standard error tells, 2 for wrong usage."""
    try:
        (owner,) = sys.argv[1:]
    except ValueError:
        print("usage: python -m edge.erase OWNER", file=sys.stderr)
        return 2
    try:
        print(asyncio.run(erase(from_environment(os.environ), owner)))
    except (ApiError, OSError, ValueError) as error:
        print(f"erase: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
