"""``antiphon up`` with its real parts: start, recovery, end."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import is_running, wait_until
from tests.support.stack import PARTS, RunningStack, running_stack, starting_stack

WAIT_S = 60.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def test_the_ready_message_tells_how_to_call_it(stack: RunningStack) -> None:
    wait_until(lambda: "Ctrl-C stops everything" in stack.output(), timeout_s=WAIT_S, what="the ready message")
    shown = stack.output()
    assert f"curl {stack.base_url}/v1/responses -H 'Content-Type: application/json'" in shown
    assert f'client = OpenAI(base_url="{stack.base_url}/v1", api_key=' in shown
    assert f"gRPC: {stack.grpc_target} " in shown
    assert f"workers: {stack.worker_targets[0]} " in shown


@pytest.mark.parametrize("part", PARTS)
def test_the_stack_recovers_from_the_death_of_any_part(stack: RunningStack, part: str) -> None:
    stack.wait_until_ready()
    (dead,) = stack.pids(part)
    os.kill(dead, signal.SIGKILL)

    def is_replaced() -> bool:
        return stack.pids(part) not in ([], [dead]) and stack.is_ready()

    wait_until(is_replaced, timeout_s=WAIT_S, what=f"another {part}")
    assert "was killed by SIGKILL, starting it again" in stack.output()


def test_a_second_stack_keeps_out_of_the_state_folder_of_a_running_one(stack: RunningStack, tmp_path: Path) -> None:
    with starting_stack(tmp_path, "--state", str(stack.state)) as second:
        assert second.launcher.wait(WAIT_S) == 1
        assert second.output() == (
            f"antiphon: the state folder {stack.state} is used by another stack (process {stack.launcher.pid}):"
            " stop that one, or choose another with --state\n"
        )


@pytest.mark.parametrize("option", ["--port", "--grpc-port", "--worker-port"])
def test_a_busy_port_is_one_line_and_the_running_stack_is_left_alone(
    stack: RunningStack, tmp_path: Path, option: str
) -> None:
    busy = {"--port": stack.base_url, "--grpc-port": stack.grpc_target, "--worker-port": stack.worker_targets[0]}
    port = busy[option].rpartition(":")[2]
    with starting_stack(tmp_path, option, port) as second:
        assert second.launcher.wait(WAIT_S) == 1
        assert second.output() == f"antiphon: port {port} is in use: choose another with {option}\n"
    assert stack.launcher.poll() is None


def test_after_an_interrupt_no_process_and_no_listener_is_left(tmp_path: Path) -> None:
    with running_stack(tmp_path, workers=2, edges=2) as stack:
        assert [len(stack.pids(part)) for part in PARTS] == [1, 2, 2]
        pids = stack.all_pids()
        assert stack.stop(signal.SIGINT) == 0
    assert not any(map(is_running, pids))
    assert stack.output().endswith("stopping (Ctrl-C again kills)\nstopped\n")
    for target in (stack.base_url, stack.grpc_target, *stack.worker_targets):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(target.rpartition(":")[2]))) != 0


def test_an_interrupt_during_the_start_stops_it(tmp_path: Path) -> None:
    with starting_stack(tmp_path) as stack:
        wait_until(lambda: stack.pids("edge"), timeout_s=WAIT_S, what="the start of the edge")
        pids = stack.all_pids()
        assert stack.stop(signal.SIGINT) == 0
    assert not any(map(is_running, pids))


def test_a_killed_launcher_leaves_no_process_and_the_next_start_succeeds(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        pids = stack.all_pids()
        stack.launcher.kill()
        stack.launcher.wait()
        wait_until(lambda: not any(map(is_running, pids)), timeout_s=WAIT_S, what="the end of the children")
    with running_stack(tmp_path) as stack:
        assert stack.is_ready()


def test_a_model_file_that_does_not_load_ends_the_start_with_the_workers_own_words(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    with starting_stack(tmp_path, "--model", str(path)) as stack:
        wait_until(lambda: stack.pids("valkey"), timeout_s=WAIT_S, what="the start of Valkey")
        pids = stack.all_pids()
        assert stack.launcher.wait(WAIT_S) == 1
    assert "antiphon: worker-1 does not start: it ended with exit code 1" in stack.output()
    assert not any(map(is_running, pids))
