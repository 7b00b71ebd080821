"""Who asks: API keys, and the owners they belong to.

A key is 256 random bits, so it cannot be guessed from its SHA-256, which is all that is kept of it here; a salt or a
slow hash would add nothing (NIST SP 800-63B, 5.1.2.2: look-up secrets of at least 112 bits). Whoever sends a wrong one
costs a hash of at most a header's size and a look into a table.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.files import WatchedFile

OWNER_NAME: Final = r"[A-Za-z0-9._@-]{1,128}"
"""Pattern of an owner's name."""

_ENTRY: Final = re.compile(rf"({OWNER_NAME}):([0-9a-fA-F]{{64}})")
_SCHEME: Final = "bearer "


class ApiKeys:
    """Keys by their SHA-256, and whose they are.

    The table is found by the digest, whose place in it depends on a secret of the process; the digest is then compared
    in constant time. What time could tell is of the digest of a guess, which says nothing about any key.
    """

    def __init__(self, owners: Mapping[bytes, str]) -> None:
        self._owners = {digest: (digest, owner) for digest, owner in owners.items()}

    @property
    def owners(self) -> frozenset[str]:
        """Who has a key."""
        return frozenset(owner for _, owner in self._owners.values())

    def owner(self, key: str) -> str | None:
        """Whose ``key`` is; None if it is nobody's."""
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        known, owner = self._owners.get(digest, (b"", ""))
        return owner if hmac.compare_digest(known, digest) else None


def parse_api_keys(text: str) -> ApiKeys:
    """The keys in ``text``: ``OWNER:SHA-256``, one a line or separated by commas; ``#`` begins a comment.

    Owners are up to 128 letters, digits and ``._@-``, and may have several keys.

    Raises:
        ValueError: an entry has another form, or two owners share a key; the message gives its line alone.
    """
    owners: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        for entry in line.partition("#")[0].split(","):
            if not entry.strip():
                continue
            match = _ENTRY.fullmatch(entry.strip())
            if match is None:
                raise ValueError(f"line {number}: not OWNER:SHA-256, as `antiphon keys new OWNER` prints it")
            owner, digest = match[1], bytes.fromhex(match[2])
            if owners.setdefault(digest, owner) != owner:
                raise ValueError(f"line {number}: the key of another owner")
    return ApiKeys(owners)


class Authenticator:
    """Tells who asks.

    Args:
        keys: Those given directly, as ``parse_api_keys`` takes them.
        keys_file: The path of a file of more; empty: none.
        anonymous: The owner of everything as long as neither is given. With keys, nobody is served without one.

    Raises:
        ValueError: ``keys`` are malformed.
        OSError: the file cannot be read or parsed.
    """

    def __init__(self, *, keys: str, keys_file: str, anonymous: str) -> None:
        self._keys = parse_api_keys(keys)
        self._file = WatchedFile(Path(keys_file), parse_api_keys) if keys_file else None
        self._anonymous = None if keys or keys_file else anonymous

    def owner(self, authorization: Sequence[str]) -> str:
        """Who asks with these ``authorization`` headers.

        Raises:
            ApiError: INVALID_API_KEY: there is no key, or not one, or it is nobody's.
        """
        if self._anonymous is not None:
            return self._anonymous
        if len(authorization) != 1 or authorization[0][: len(_SCHEME)].lower() != _SCHEME:
            message = "No API key provided. Send one as a bearer token: 'Authorization: Bearer YOUR_KEY'."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_API_KEY, message)
        key = authorization[0][len(_SCHEME) :].strip()
        owner = self._keys.owner(key)
        if owner is None and self._file is not None:
            owner = self._file.value.owner(key)
        if owner is None:
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_API_KEY, "Incorrect API key provided.")
        return owner

    @property
    def owners(self) -> frozenset[str]:
        """Who has a key."""
        return self._keys.owners | (self._file.value.owners if self._file is not None else frozenset())

    async def watch(self) -> None:
        """Take in the file's changes, until cancelled."""
        if self._file is not None:
            await self._file.watch()
