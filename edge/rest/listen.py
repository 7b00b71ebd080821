"""The sockets that the HTTP door listens on."""

import errno
import socket
import sys
from contextlib import ExitStack
from typing import Final

_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def listening_sockets(host: str, port: int, *, reuse_port: bool, slow_reader_timeout_s: float) -> list[socket.socket]:
    """Listen on every address of ``host`` that this machine has, or on all of its own if it is empty.

    A name such as ``localhost`` has addresses of IPv6 too, where there may be none.

    On Linux the kernel itself cuts a connection that takes nothing of what waits for it, or does not acknowledge it:
    the option goes over to the connections. Only the kernel sees what is in its buffers, and aiohttp sends plain
    answers and the ends of streams after their handlers, with no bound of its own.

    Raises:
        OSError: the port cannot be had, or the host has no address here.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        refusals: list[OSError] = []
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                listening = opened.enter_context(socket.create_server(address, family=family, reuse_port=reuse_port))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                refusals.append(error)
                continue
            sockets.append(listening)
            if sys.platform == "linux":
                timeout_ms = max(1, round(1000 * slow_reader_timeout_s))
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        if not sockets:
            raise refusals[0]
        opened.pop_all()
    return sockets
