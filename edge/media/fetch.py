"""URL -> bytes, within limits, from public addresses only.

Every socket is opened by ``UrlFetcher._open_socket``, which sees the very address that is connected to: a name that
resolves to something else the second time, an unusual spelling of an address and a redirect all end there.
"""

import asyncio
import ipaddress
import socket
from typing import Final, NamedTuple, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.media.networks import Networks, refused
from edge.media.places import place

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"User-Agent": "antiphon", "Accept": "*/*", "Accept-Encoding": "identity"}
"""No compression, so that the bytes that are counted are the bytes there are."""


class FetchLimits(NamedTuple):
    """What one fetch may cost."""

    max_bytes: int
    timeout_s: float
    """From the first name look-up to the last byte, all redirects included."""
    max_redirects: int
    at_once: int
    """Fetches of this process; more wait, up to ``timeout_s``."""


class Fetched(NamedTuple):
    """What a URL led to."""

    data: bytes
    media_type: str
    """As the server says, in lower case and without parameters; not to be trusted."""
    charset: str | None
    """Likewise."""


class _AddressRefused(OSError):
    """The address is not allowed."""


class UrlFetcher:
    """Fetches what clients name. Sends no cookies or credentials and uses no proxy.

    Args:
        networks: Where it may connect to.
        limits: Of each fetch.
        resolver: Looks names up; default: the system's.
    """

    def __init__(self, networks: Networks, limits: FetchLimits, *, resolver: AbstractResolver | None = None) -> None:
        self._networks = networks
        self._limits = limits
        self._resolver = resolver
        self._places = asyncio.Semaphore(limits.at_once)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0, force_close=True, use_dns_cache=False, resolver=self._resolver, socket_factory=self._open_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # one timeout over everything, in `fetch`
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def fetch(self, url: str, accepted: tuple[str, ...]) -> Fetched:
        """The body that ``url`` leads to, not empty.

        Args:
            accepted: Beginnings of the media types that may be declared, such as ``image/``. Servers that know no
                better declare ``application/octet-stream``, which is always accepted.

        Raises:
            ApiError: FAILED_TO_DOWNLOAD; INVALID_VALUE, no URL that can be fetched; OVERLOADED.
        """
        async with place(self._places, timeout_s=self._limits.timeout_s, doing="fetching too many URLs"):
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    return await self._follow(self._networks.check_url(url), accepted)
            except TimeoutError:
                raise _failed(f"it took more than {self._limits.timeout_s:g} seconds") from None
            except aiohttp.ClientConnectorError as error:
                if isinstance(error.os_error, _AddressRefused):
                    raise refused() from None
                raise _failed("the server cannot be reached") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a URL that only aiohttp rejects
                raise _failed("the server's answer is broken") from error

    async def _follow(self, url: URL, accepted: tuple[str, ...]) -> Fetched:
        for _ in range(self._limits.max_redirects + 1):
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response, accepted)
                target = url.join(URL(response.headers.get("Location", "")))
            url = self._networks.check_url(target)
        raise _failed(f"it was redirected more than {self._limits.max_redirects} times")

    async def _read(self, response: aiohttp.ClientResponse, accepted: tuple[str, ...]) -> Fetched:
        if response.status != 200:
            raise _failed(f"the server answered with status {response.status}")
        media_type = response.content_type.lower()  # application/octet-stream if there is none
        if not media_type.startswith((*accepted, "application/octet-stream", "binary/octet-stream")):
            raise _failed("the URL leads to a media type that is not supported here")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _failed("the server compresses its answer though it was asked not to")
        data = bytearray()
        if (response.content_length or 0) <= self._limits.max_bytes:
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > self._limits.max_bytes:
                    break
            else:
                if not data:
                    raise _failed("the server's answer is empty")
                return Fetched(bytes(data), media_type, response.charset)
        raise _failed(f"there are more than {self._limits.max_bytes} bytes")

    def _open_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """A socket that is about to be connected to the address in ``info``."""
        family, kind, protocol, _, (host, port, *_) = info
        address = ipaddress.ip_address(str(host).partition("%")[0])
        if not self._networks.allow(address, int(port)):
            raise _AddressRefused("the address is not allowed")
        return socket.socket(family, kind, protocol)


def _failed(reason: str) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_FAILED_TO_DOWNLOAD, f"Failed to download: {reason}.")
