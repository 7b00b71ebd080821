"""The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header, without its quotes)."""

import hashlib

import msgspec
from aiohttp import web

from edge.logged import IDEMPOTENCY_KEY, Idempotency, check_key
from edge.offload import in_thread_if_large


async def parse_idempotency(request: web.Request) -> Idempotency | None:
    """The key of ``request``, whose body is valid JSON; None without the header.

    Bodies are equal if they are as JSON, whatever the order of their keys.

    Raises:
        ApiError: INVALID_VALUE: the key is empty, too long, or not printable ASCII.
    """
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    check_key(key)
    body = await request.read()
    return Idempotency(key, await in_thread_if_large(len(body), _digest, body))


def _digest(body: bytes) -> str:
    canonical = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    return hashlib.sha256(canonical).hexdigest()
