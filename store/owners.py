"""Erasing an owner."""

from typing import Final

from store import keys
from store.batcher import Command, CommandBatcher
from store.scripts import Script

_DELETE = Script("delete", prelude="job")

_AT_ONCE: Final = 100
_MOST_PASSES: Final = 10


class OwnerStore:
    """What concerns all that an owner has stored."""

    def __init__(self, commands: CommandBatcher) -> None:
        self._commands = commands

    async def erase(self, owner: str) -> int:
        """Remove all that belongs to ``owner``; the keys that were found, some perhaps twice.

        Looks at every key of every node, and a few times again until it finds nothing more: the keys themselves are the
        index, so none can be missing from it. Who runs a job of the owner loses the lease. What the queue still holds
        goes when its turn comes. The caller must have shut the owner out first: responses that run without a job are
        committed when they end.

        Raises:
            ApiError: STORE_UNAVAILABLE; a part may be erased.
        """
        total = 0
        for _ in range(_MOST_PASSES):
            erased = await self._erase_once(owner)
            total += erased
            if not erased:
                break
        (own,) = await self._commands.execute(("UNLINK", *keys.of_owner(owner)))
        return total + int(own)

    async def _erase_once(self, owner: str) -> int:
        erased = 0
        found: list[str] = []
        async for key in self._commands.scan(keys.all_of(owner)):
            found.append(key.decode())
            if len(found) >= _AT_ONCE:
                erased += await self._erase(found)
                found.clear()
        return erased + await self._erase(found)

    async def _erase(self, found: list[str]) -> int:
        if not found:
            return 0
        await self._commands.execute(*map(_erasure, found))
        return len(found)  # replies would not tell: a batch that is sent again finds nothing the second time


def _erasure(key: str) -> Command:
    job = keys.parse_job(key)
    if job is None:
        return ("UNLINK", key)
    return _DELETE(keys.of_job(*job), keys.HOLDER_CHANNEL, keys.log_channel(*job))
