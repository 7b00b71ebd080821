"""The state folder and the ports of a stack."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stack.errors import StackError
from stack.ports import PortWish, address, free_ports, reachable_host
from stack.state import default_folder, opened_state


def test_a_state_folder_is_private_and_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with opened_state(tmp_path / "state") as state:
            assert state.socket == tmp_path / "state" / "valkey.sock"
            assert state.data.is_dir()
            assert state.folder.stat().st_mode & 0o077 == 0


def test_the_lock_stays_for_as_long_as_a_child_holds_it(tmp_path: Path) -> None:
    with opened_state(tmp_path) as state:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[state.lock_fd]
        )
    with child:
        with (
            pytest.raises(StackError, match=rf"is used by another stack \(process {os.getpid()}\)"),
            opened_state(tmp_path),
        ):
            pass
        child.kill()
        with opened_state(tmp_path):  # patient enough for its end
            pass


def test_a_deep_state_folder_has_its_socket_at_a_short_path_that_goes_away(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with opened_state(deep) as state:
        assert len(os.fsencode(state.socket)) < 104
        assert state.socket.parent.stat().st_mode & 0o077 == 0
        short = state.socket.parent
    assert not short.exists()
    assert deep.is_dir()


def test_the_log_of_the_start_before_is_kept(tmp_path: Path) -> None:
    with opened_state(tmp_path) as state:
        for text in ("first", "second", "third"):
            state.new_log("edge-1").write_text(text)
        assert {path.name: path.read_text() for path in state.logs.iterdir()} == {
            "edge-1.log": "third",
            "edge-1.log.1": "second",
        }


def test_the_default_folder_follows_the_desktop_standard() -> None:
    assert default_folder({"XDG_STATE_HOME": "/somewhere"}) == Path("/somewhere/antiphon")
    assert default_folder({}) == Path.home() / ".local/state/antiphon"


def test_ports_are_told_apart_and_free_afterwards() -> None:
    ports = free_ports([PortWish("127.0.0.1", 0, "--port")] * 8)
    assert len(set(ports)) == 8
    assert free_ports([PortWish("127.0.0.1", port, "--port") for port in ports]) == ports


def test_a_port_that_another_server_would_share_counts_as_taken() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StackError, match=f"^port {port} is in use: choose another with --grpc-port$"):
            free_ports([PortWish("127.0.0.1", port, "--grpc-port")])


def test_the_same_port_cannot_be_had_twice() -> None:
    (port,) = free_ports([PortWish("127.0.0.1", 0, "--port")])
    with pytest.raises(StackError, match=f"port {port} is in use: choose another with --grpc-port"):
        free_ports([PortWish("127.0.0.1", port, "--port"), PortWish("127.0.0.1", port, "--grpc-port")])


def test_workers_beyond_the_last_port_are_refused() -> None:
    with pytest.raises(StackError, match=r"^port 65536 is above 65535: choose a lower one with --worker-port$"):
        free_ports([PortWish("127.0.0.1", 65536, "--worker-port")])


def test_addresses_are_written_as_urls_have_them() -> None:
    assert address("127.0.0.1", 80) == "127.0.0.1:80"
    assert address("::1", 80) == "[::1]:80"
    assert [reachable_host(host) for host in ("0.0.0.0", "::", "10.0.0.1")] == ["127.0.0.1", "::1", "10.0.0.1"]
