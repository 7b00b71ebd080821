"""``antiphon edges`` and ``antiphon probe``: what containers run, and how they are asked whether they can serve."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.antiphon import ANTIPHON, ROOT, antiphon, clean_environ
from tests.support.edge import free_port
from tests.support.processes import children_of, is_running, wait_until

WAIT_S = 30.0


class Edges:
    """A running ``antiphon edges --processes 2``, without workers and store."""

    def __init__(self, process: "subprocess.Popen[str]", http: str, grpc: str) -> None:
        self.process = process
        self.http = http
        self.grpc = grpc

    def pids(self) -> list[int]:
        return [pid for pid, command in children_of(self.process.pid).items() if command[-2:] == ["-m", "edge"]]


@pytest.fixture
def edges() -> Iterator[Edges]:
    http, grpc, absent = (f"127.0.0.1:{free_port()}" for _ in range(3))
    environ = clean_environ(
        EDGE_HTTP_LISTEN=http, EDGE_GRPC_LISTEN=grpc, EDGE_WORKERS=absent, EDGE_REDIS_URL=f"redis://{absent}/0"
    )
    command = [*ANTIPHON, "edges", "--processes", "2"]
    process = subprocess.Popen(command, env=environ, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    running = Edges(process, http, grpc)
    try:
        wait_until(lambda: is_up(http), timeout_s=WAIT_S, what="an edge serving")
        wait_until(lambda: len(running.pids()) == 2, timeout_s=WAIT_S, what="two edges")
        yield running
    finally:
        process.kill()  # the edges die with it
        process.communicate()


def probe(url: str) -> "subprocess.CompletedProcess[str]":
    return antiphon("probe", url, environ=clean_environ())


def is_up(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def test_an_edge_that_dies_is_replaced_and_all_end_on_sigterm(edges: Edges) -> None:
    dead, other = edges.pids()
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: len(set(edges.pids()) - {dead}) == 2, timeout_s=WAIT_S, what="a new edge")
    assert other in edges.pids()
    pids = edges.pids()
    edges.process.terminate()
    assert edges.process.wait(WAIT_S) == 0
    assert not any(is_running(pid) for pid in pids)


def test_a_probe_tells_by_its_exit_code(edges: Edges) -> None:
    assert probe(f"grpc://{edges.grpc}").returncode == 0
    not_ready = probe(f"http://{edges.http}/readyz")
    assert not_ready.returncode == 1
    assert f"antiphon: http://{edges.http}/readyz is not ready: 503 " in not_ready.stderr

    for url in (f"http://127.0.0.1:{free_port()}/readyz", f"grpc://127.0.0.1:{free_port()}", "ftp://127.0.0.1"):
        failed = probe(url)
        assert failed.returncode == 1
        assert failed.stderr.startswith("antiphon: ")
        assert "Traceback" not in failed.stderr
