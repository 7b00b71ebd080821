"""Finds out before anything starts whether its ports are free."""

import errno
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

from stack.errors import StackError

HIGHEST_PORT = 65535


class PortWish(NamedTuple):
    """A port someone wants to listen on; 0 is any free one."""

    host: str
    port: int
    option: str
    """The command line option that changes it, for the message."""


def free_ports(wishes: Iterable[PortWish]) -> list[int]:
    """Return the port of each wish, after seeing that it can be listened on.

    All are held until the last is known, so no two are equal. They are bound without SO_REUSEPORT: another server that
    shares its port would otherwise silently get half of our connections.

    Raises:
        StackError: a port is taken or not allowed, or a host is no address of this machine.
    """
    with ExitStack() as held:
        return [held.enter_context(_listen(wish)).getsockname()[1] for wish in wishes]


def _listen(wish: PortWish) -> socket.socket:
    host, port, option = wish
    if port > HIGHEST_PORT:
        raise StackError(f"port {port} is above {HIGHEST_PORT}: choose a lower one with {option}")
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        listener.bind(address)
        listener.listen()
    except OSError as error:
        if listener is not None:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StackError(f"port {port} is in use: choose another with {option}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise StackError(f"port {port} is not allowed to this user: choose another with {option}") from error
        raise StackError(f"cannot listen on {host}: {error.strerror}: choose another address with --host") from error
    return listener


def address(host: str, port: int) -> str:
    """``host:port`` as URLs and gRPC targets write it, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_host(host: str) -> str:
    """Where a client on this machine finds a server that listens on ``host``: a wildcard is no destination."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
