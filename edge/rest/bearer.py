"""Where a client puts its API key."""

from typing import Final

from aiohttp import hdrs, web

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

_KEY_PROTOCOL: Final = "openai-insecure-api-key."
"""Before a key among the subprotocols that a page offers: OpenAI's form, as pages cannot set a WebSocket's headers."""


def bearer_tokens(request: web.Request) -> list[str]:
    """The ``Authorization`` headers of ``request``, or what a page's WebSocket sends in their place."""
    return request.headers.getall(hdrs.AUTHORIZATION, []) or [
        f"Bearer {protocol.removeprefix(_KEY_PROTOCOL)}"
        for protocol in _protocols(request)
        if protocol.startswith(_KEY_PROTOCOL)
    ]


def offered_protocols(request: web.Request) -> list[str]:
    """The subprotocols that ``request`` offers besides a key; any of them will do.

    Raises:
        ApiError: INVALID_VALUE: a key is all that it offers. Browsers give up unless a subprotocol is chosen.
    """
    protocols = _protocols(request)
    offered = [protocol for protocol in protocols if not protocol.startswith(_KEY_PROTOCOL)]
    if protocols and not offered:
        message = "Offer a subprotocol besides the API key, such as 'realtime'."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message)
    return offered


def _protocols(request: web.Request) -> list[str]:
    lists = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
    return [protocol.strip() for each in lists for protocol in each.split(",") if protocol.strip()]
