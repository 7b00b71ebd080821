"""The sockets of the HTTP door."""

import errno
import socket
from contextlib import ExitStack

import pytest

from edge.rest.listen import listening_sockets

ELSEWHERE = "192.0.2.1"
"""Of documentation (RFC 5737): no machine has it."""


def listen(host: str) -> list[str]:
    """The addresses that are listened on."""
    with ExitStack() as opened:
        sockets = listening_sockets(host, 0, reuse_port=False, slow_reader_timeout_s=1)
        return [opened.enter_context(listening).getsockname()[0] for listening in sockets]


def test_a_host_is_served_at_those_of_its_addresses_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in (ELSEWHERE, "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: known)
    assert listen("both.example") == ["127.0.0.1"]


def test_a_host_that_is_elsewhere_is_refused() -> None:
    with pytest.raises(OSError, match=rf"Errno {errno.EADDRNOTAVAIL}\b"):
        listen(ELSEWHERE)
