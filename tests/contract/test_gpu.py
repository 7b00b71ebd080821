"""Workers that share a machine's GPUs: real processes, an nvidia-smi that lists what is not there."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from inference.settings import read_settings
from tests.support.antiphon import ROOT, clean_environ
from tests.support.gpu import machine_with_gpus

HOLDER = """
import json, os, subprocess, sys
from inference.__main__ import own_gpus
from inference.gpu import NoGpu
from inference.settings import read_settings
child = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
try:
    with own_gpus(read_settings(os.environ)):
        print(subprocess.run(child, capture_output=True, text=True, check=True).stdout, end="", flush=True)
        sys.stdin.read()
except NoGpu as error:
    print(json.dumps(str(error)), flush=True)
"""
"""Starts as a worker does, as far as its GPUs go; tells what a child of it sees."""


class Holder:
    """A process that takes GPUs and holds them until it is let go."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def answer(self) -> dict[str, str] | str:
        """The environment that an engine finds, or why it does not start."""
        assert self.process.stdout is not None
        answer: dict[str, str] | str = json.loads(self.process.stdout.readline())
        return answer

    def devices(self) -> list[int]:
        answer = self.answer()
        assert isinstance(answer, dict), answer
        assert answer["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        return [int(index) for index in answer["CUDA_VISIBLE_DEVICES"].split(",")]


@contextmanager
def holder(machine: Path, *, gpus: int | None, count: int = 1, wait_s: float = 0.1) -> Iterator[Holder]:
    """A worker that takes ``count`` GPUs of a machine that has ``gpus``, or no driver."""
    locks = machine / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    environ = clean_environ(
        INFERENCE_ENGINE="scripted",
        INFERENCE_GPUS=str(count),
        INFERENCE_GPU_LOCKS=str(locks),
        INFERENCE_GPU_WAIT_S=str(wait_s),
        PATH=machine_with_gpus(machine / "bin", gpus),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Holder(process)
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_processes_that_start_at_once_get_a_gpu_each(tmp_path: Path) -> None:
    with ExitStack() as running:
        holders = [running.enter_context(holder(tmp_path, gpus=4, wait_s=10)) for _ in range(4)]
        assert sorted(index for one in holders for index in one.devices()) == [0, 1, 2, 3]


def test_processes_that_need_two_get_two_or_none(tmp_path: Path) -> None:
    with ExitStack() as running:
        holders = [running.enter_context(holder(tmp_path, gpus=5, count=2, wait_s=1)) for _ in range(3)]
        answers = [one.answer() for one in holders]
        given = [answer["CUDA_VISIBLE_DEVICES"] for answer in answers if isinstance(answer, dict)]
        assert sorted(given) == ["0,1", "2,3"]
        assert "2 GPUs are needed; of the 5 here too many are taken, after 1 s" in answers


def test_a_gpu_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path, gpus=1) as first:
        assert first.devices() == [0]
        with holder(tmp_path, gpus=1, wait_s=30) as second:
            first.process.send_signal(signal.SIGKILL)
            assert second.devices() == [0]


def test_more_than_there_are_is_refused_at_once(tmp_path: Path) -> None:
    with holder(tmp_path, gpus=2, count=3, wait_s=1000) as one:
        assert one.answer() == "3 GPUs are needed, 2 are there"


@pytest.mark.parametrize("gpus", [None, 0])
def test_a_machine_without_a_driver_or_without_gpus_is_named(tmp_path: Path, gpus: int | None) -> None:
    with holder(tmp_path, gpus=gpus) as one:
        answer = one.answer()
        assert isinstance(answer, str)
        assert answer.startswith("nvidia-smi does not list the GPUs")


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"INFERENCE_GPUS": "1"}, "INFERENCE_GPU_LOCKS"),
        ({"INFERENCE_GPUS": "1", "INFERENCE_GPU_LOCKS": "/run/gpus", "CUDA_VISIBLE_DEVICES": "0"}, "INFERENCE_GPUS"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ: dict[str, str], variable: str) -> None:
    with pytest.raises(ValueError, match=variable):
        read_settings({"INFERENCE_ENGINE": "scripted", **environ})
