"""Sealed texts: state of this server that clients keep, so that nobody else can read it or make it up.

A sealed text is ``antiphon1.`` and, as base64url without padding: 8 bytes that name the key, 12 random ones (the
nonce), then the zstd-compressed data under AES-256-GCM. Its version, its purpose and its owner are authenticated with
it: sealed for one, it opens for no other. Nonces are random: no key should seal more than 2**32 texts (NIST SP
800-38D, 8.3).
"""

import base64
import enum
import hashlib
import os
from collections.abc import Sequence
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32

_VERSION: Final = "antiphon1."
_FAMILY: Final = "antiphon"
_KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_MAX_DATA_BYTES: Final = 64 * 2**20


class Purpose(enum.Enum):
    """What a sealed text is for."""

    REASONING = "reasoning"
    COMPACTION = "compaction"


class SealBroken(Exception):
    """A text that this server, or one like it, has sealed does not open: it was changed, it is another owner's, it is
    for another purpose, or its key is gone."""


class Sealer:
    """Seals with the first key, opens with any of them. Without keys it only tells sealed texts from others."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """
        Args:
            keys: 32 bytes each.
        """
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._sealing_id = _key_id(keys[0]) if keys else None

    @property
    def can_seal(self) -> bool:
        """There is a key."""
        return self._sealing_id is not None

    def seal(self, data: bytes, *, owner: str, purpose: Purpose) -> str:
        """``data`` as a text that ``open`` undoes."""
        assert self._sealing_id is not None, "ask can_seal first"
        nonce = os.urandom(_NONCE_BYTES)
        packed = zstandard.ZstdCompressor().compress(data)
        sealed = self._ciphers[self._sealing_id].encrypt(nonce, packed, _associated(owner, purpose))
        encoded = base64.urlsafe_b64encode(self._sealing_id + nonce + sealed).decode()
        return _VERSION + encoded.rstrip("=")

    def open(self, text: str, *, owner: str, purpose: Purpose) -> bytes | None:
        """What was sealed; None if ``text`` is no sealed text of this kind of server.

        Raises:
            SealBroken: it is one, and is not authentic.
        """
        if not text.startswith(_FAMILY):
            return None
        if not text.startswith(_VERSION):
            raise SealBroken("unknown version")
        try:
            encoded = text.removeprefix(_VERSION).encode("ascii")
            blob = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            nonce_at, sealed_at = _KEY_ID_BYTES, _KEY_ID_BYTES + _NONCE_BYTES
            cipher = self._ciphers[blob[:nonce_at]]
            packed = cipher.decrypt(blob[nonce_at:sealed_at], blob[sealed_at:], _associated(owner, purpose))
        except (ValueError, KeyError, InvalidTag) as error:  # malformed, of an unknown key, not authentic
            raise SealBroken("not authentic") from error
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MAX_DATA_BYTES)


def parse_keys(setting: str) -> list[bytes]:
    """The keys of a setting: base64, separated by commas; none if it is empty.

    Raises:
        ValueError: one is no base64 of 32 bytes. The message does not show it.
    """
    keys: list[bytes] = []
    for number, text in enumerate(filter(None, (part.strip() for part in setting.split(","))), start=1):
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"key {number} is not the base64 form of {KEY_BYTES} bytes")
        keys.append(key)
    return keys


def _key_id(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=_KEY_ID_BYTES, person=b"antiphon key id").digest()


def _associated(owner: str, purpose: Purpose) -> bytes:
    """Unambiguous: neither version nor purpose holds a NUL."""
    return f"{_VERSION}\0{purpose.value}\0{owner}".encode()
