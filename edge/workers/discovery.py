"""Where the workers are: fixed targets, and names whose addresses come and go."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple
from urllib.parse import urlsplit

DNS_SCHEME = "dns:///"


class Name(NamedTuple):
    """A host name all of whose addresses are workers, such as a headless Service or a scaled Compose service."""

    host: str
    port: int


Resolve = Callable[[Name], Awaitable[Collection[str]]]
"""The gRPC targets behind a name, at this moment. Raises OSError if that cannot be found out, or there are none."""


def parse_targets(text: str) -> tuple[list[str], list[Name]]:
    """The workers that ``EDGE_WORKERS`` names: gRPC targets, and those written ``dns:///host:port``.

    Raises:
        ValueError: a part of it is no target, or there is none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("names no worker")
    targets = [part for part in parts if not part.startswith(DNS_SCHEME)]
    names = [_parse_name(part) for part in parts if part.startswith(DNS_SCHEME)]
    return list(dict.fromkeys(targets)), list(dict.fromkeys(names))


def _parse_name(part: str) -> Name:
    address = urlsplit(f"//{part.removeprefix(DNS_SCHEME)}")
    try:
        host, port = address.hostname, address.port
        (host or "").encode("idna")  # as a look-up does, which must not be the first to find fault
    except ValueError:
        host = port = None
    if not host or not port or address.path or address.username is not None:
        raise ValueError(f"{part!r} is not dns:///host:port")
    return Name(host, port)


async def resolve(name: Name) -> Collection[str]:
    """As the system resolves ``name``; how long that may take is the system's setting (resolv.conf).

    Only one family's addresses, IPv4 if there are any: a worker that has both would otherwise count as two.

    Raises:
        OSError: there is no such name, or no answer.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    hosts = {(family, str(address[0])) for family, _, _, _, address in found}
    v4 = {f"{host}:{name.port}" for family, host in hosts if family == socket.AF_INET}
    v6 = {f"[{host}]:{name.port}" for family, host in hosts if family == socket.AF_INET6}
    return v4 or v6
