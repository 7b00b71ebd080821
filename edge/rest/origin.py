"""Which web pages may use this server.

A browser lets any page open a WebSocket to any host, and send simple forms and untyped bodies there without asking; it
only tells the page's origin. So a page that the user merely visits could drive a server on the user's own machine. It
may not: what changes something, and a WebSocket, needs an origin that is allowed. Programs send no origin and are not
concerned. A page of this server's own name is no exception, as a name can be made to lead anywhere (DNS rebinding);
one of its own IP address, or of localhost, is.
"""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.rest.websocket import is_upgrade

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def check_origin(request: web.Request, allowed: frozenset[str]) -> None:
    """Refuse what a page of a foreign origin asks for.

    Args:
        allowed: Origins in lower case; ``*`` allows any.

    Raises:
        ApiError: PERMISSION_DENIED.
    """
    origin = request.headers.get("Origin")
    if origin is None or (request.method in _SAFE_METHODS and not is_upgrade(request)):
        return
    if "*" in allowed or origin.lower() in allowed or _is_own(origin, request.headers.get("Host", "")):
        return
    message = "Web pages of this origin may not use this server. The setting EDGE_ALLOWED_ORIGINS can allow it."
    raise ApiError(ErrorReason.ERROR_REASON_PERMISSION_DENIED, message)


def parse_origins(setting: str) -> frozenset[str]:
    """The origins in a list separated by commas."""
    return frozenset(origin.strip().rstrip("/").lower() for origin in setting.split(",") if origin.strip())


def _is_own(origin: str, host: str) -> bool:
    try:
        page = urlsplit(origin)
        name = page.hostname or ""
    except ValueError:
        return False
    if page.netloc.lower() != host.lower():
        return False
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
