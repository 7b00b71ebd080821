"""Which addresses and URLs this server may fetch from: what everybody on the internet could fetch as well."""

import ipaddress
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from yarl import URL

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

MAX_URL: Final = 8192
"""Characters of a URL that is to be fetched."""

_LEGACY_IPV4: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}\.?", re.IGNORECASE)
"""Hosts that C libraries take for IPv4 addresses, such as 2130706433, 0x7f.1 and 0177.0.0.1."""

_EMBEDS_IPV4: Final = tuple(
    (ipaddress.IPv6Network(network), shift)
    for network, shift in (("::/96", 0), ("::ffff:0:0/96", 0), ("64:ff9b::/96", 0), ("2002::/16", 80))
)
"""IPv4-compatible, IPv4-mapped, NAT64 (RFC 6052) and 6to4 (RFC 3056): where their IPv4 address is, in bits from the
right."""


_UNICAST_IPV6: Final = IPv6Network("2000::/3")
"""All that is public (RFC 4291 and IANA's registry of IPv6 addresses)."""
_SPECIAL: Final = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001:db8::/32", "3fff::/20")))
"""Of IANA's registries of special-purpose addresses what not every version of Python knows."""


class Networks:
    """The networks that may be fetched from: the public internet on some ports, and exceptions on any port.

    Args:
        exceptions: Networks that are allowed although they are not public.
        ports: Allowed for public addresses.
    """

    def __init__(self, exceptions: Iterable[IPv4Network | IPv6Network], ports: Iterable[int]) -> None:
        self._exceptions = tuple(exceptions)
        self._ports = frozenset(ports)

    def allow(self, address: IPv4Address | IPv6Address, port: int) -> bool:
        """Whether a connection to ``address``, as it would be made, is allowed."""
        address = _innermost(address)
        if any(address in network for network in self._exceptions):
            return True
        if address.is_multicast or address.is_reserved or any(address in network for network in _SPECIAL):
            return False
        is_public = address.is_global and (address.version == 4 or address in _UNICAST_IPV6)
        return is_public and port in self._ports

    def check_url(self, url: str | URL) -> URL:
        """``url`` if it may be fetched, as far as that can be told without asking a name server.

        Raises:
            ApiError: INVALID_VALUE, no such URL; FAILED_TO_DOWNLOAD, an address that is not allowed.
        """
        if isinstance(url, str) and len(url) > MAX_URL:
            message = f"The URL is too long: this server fetches URLs of up to {MAX_URL} characters."
            raise ApiError(ErrorReason.ERROR_REASON_STRING_ABOVE_MAX_LENGTH, message)
        try:
            parsed = URL(url) if isinstance(url, str) else url
            host, port = parsed.host, parsed.port
        except ValueError:
            raise _invalid("it is malformed") from None
        if parsed.scheme not in ("http", "https") or not host or not port:
            raise _invalid("only http and https URLs are fetched")
        if parsed.user is not None or parsed.password is not None:
            raise _invalid("it holds a user name or password")
        address = _literal(host)
        if address is not None and not self.allow(address, port):
            raise refused()
        return parsed


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks in a list separated by commas, such as ``10.0.0.0/8, fd00::/8, 192.0.2.7``.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def refused() -> ApiError:
    """The error for an address that is not allowed. Says nothing of what is there."""
    return ApiError(
        ErrorReason.ERROR_REASON_FAILED_TO_DOWNLOAD,
        "Failed to download: the URL's address or port is not one that this server may fetch from.",
    )


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that ``host`` spells; None if it is a name.

    Raises:
        ApiError: INVALID_VALUE, an IPv4 address in a form that only some programs understand.
    """
    if host.rstrip(".").lower().rpartition(".")[2] == "localhost":  # RFC 6761: never asked of a name server
        return IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if _LEGACY_IPV4.fullmatch(host):
            raise _invalid("its host is no valid IPv4 address") from None
        return None


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address within ``address`` if packets to it go there."""
    if isinstance(address, IPv6Address) and int(address) > 1:  # neither :: nor ::1
        for network, shift in _EMBEDS_IPV4:
            if address in network:
                return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return address


def _invalid(reason: str) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, f"The URL cannot be fetched: {reason}.")
