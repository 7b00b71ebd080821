"""The sockets that the HTTP door listens on."""

import socket
import sys
from contextlib import ExitStack


def listening_sockets(host: str, port: int, *, reuse_port: bool, slow_reader_timeout_s: float) -> list[socket.socket]:
    """Listen on every address of ``host``, or on all of this machine's if it is empty.

    On Linux the kernel itself cuts a connection that takes nothing of what waits for it, or does not acknowledge it:
    the option goes over to the connections. Only the kernel sees what is in its buffers, and aiohttp sends plain
    answers and the ends of streams after their handlers, with no bound of its own.

    Raises:
        OSError: the port cannot be had, or the host has no address.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as opened:
        sockets = []
        for family, _, _, _, address in dict.fromkeys(found):
            listening = socket.create_server(address, family=family, reuse_port=reuse_port)
            sockets.append(opened.enter_context(listening))
            if sys.platform == "linux":
                timeout_ms = max(1, round(1000 * slow_reader_timeout_s))
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        opened.pop_all()
    return sockets
