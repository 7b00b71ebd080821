"""``python -m inference`` as containers start it: readiness, signals, exit codes."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.antiphon import ROOT, clean_environ
from tests.support.attach import attach
from tests.support.worker import WorkerProcess, script, worker_process


def exit_code(worker: WorkerProcess) -> int:
    return worker.process.wait(timeout=15)


def run_worker(**settings: str) -> subprocess.CompletedProcess[str]:
    """A worker that is expected to end by itself."""
    environ = clean_environ(**{f"INFERENCE_{name.upper()}": value for name, value in settings.items()})
    command = [sys.executable, "-m", "inference"]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60)


async def test_sigterm_lets_what_runs_finish_and_ends_with_zero(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker") as worker:
        async with (
            grpc.aio.insecure_channel(worker.target) as channel,
            attach(InferenceServiceStub(channel)) as client,
        ):
            await client.start(1, script("say one", "wait 500", "say two"))
            await client.read_until(lambda: client.slots[1].text == "one")
            worker.process.send_signal(signal.SIGTERM)
            await client.read_ended(1)
            assert client.slots[1].text == "onetwo"
            await client.read_to_end()
            assert await client.call.code() == grpc.StatusCode.OK
        assert await asyncio.to_thread(exit_code, worker) == 0
        messages = [line["message"] for line in worker.log_lines()]
        assert messages[0] == "serving"
        assert messages[-1] == "stopped"
        assert messages.count("generation ended") == 1


@pytest.mark.parametrize("hurry", [False, True], ids=["after the timeout", "on a second signal"])
async def test_what_does_not_finish_is_cut_off(tmp_path: Path, hurry: bool) -> None:
    with worker_process(tmp_path / "worker", drain_timeout_s="60" if hurry else "0.2") as worker:
        async with (
            grpc.aio.insecure_channel(worker.target) as channel,
            attach(InferenceServiceStub(channel)) as client,
        ):
            await client.start(1, script("say one", "hold"))
            await client.read_until(lambda: client.slots[1].text == "one")
            worker.process.send_signal(signal.SIGINT)
            if hurry:
                await client.read_until(lambda: client.frames[-1].load.draining)
                worker.process.send_signal(signal.SIGTERM)
            await client.read_to_end()
        assert await asyncio.to_thread(exit_code, worker) == 0


async def test_a_dead_engine_ends_the_process_at_once_and_not_with_zero(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker") as worker:
        async with (
            grpc.aio.insecure_channel(worker.target) as channel,
            attach(InferenceServiceStub(channel)) as client,
        ):
            await client.start(1, script("say one", "hold"))
            await client.read_until(lambda: client.slots[1].text == "one")
            await client.start(2, script("die"))
            await client.read_ended(1, 2)
        assert await asyncio.to_thread(exit_code, worker) == 1


async def test_a_worker_that_is_killed_breaks_the_streams_of_its_peers(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker") as worker:
        async with (
            grpc.aio.insecure_channel(worker.target) as channel,
            attach(InferenceServiceStub(channel)) as client,
        ):
            await client.start(1, script("say one", "hold"))
            await client.read_until(lambda: client.slots[1].text == "one")
            worker.process.kill()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await client.read_to_end()
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_worker_that_was_stopped_for_a_while_goes_on(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker", stall_timeout_s="0.3") as worker:
        async with (
            grpc.aio.insecure_channel(worker.target) as channel,
            attach(InferenceServiceStub(channel)) as client,
        ):
            await client.start(1, script("pace 50", "tokens 50"))
            await client.read_until(lambda: client.slots[1].text)
            worker.process.send_signal(signal.SIGSTOP)
            reading = asyncio.ensure_future(client.read_ended(1))
            done, _ = await asyncio.wait({reading}, timeout=1)
            assert not done
            worker.process.send_signal(signal.SIGCONT)
            await reading
            assert client.slots[1].text == " token" * 50


async def test_a_free_port_is_chosen_and_named_in_the_log(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker", listen="127.0.0.1:0") as worker:
        assert not worker.target.endswith(":0")
        async with grpc.aio.insecure_channel(worker.target) as channel:
            model = await InferenceServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=5)
            assert model.model.engine == "scripted"


def test_a_wrong_setting_is_named_and_ends_with_two() -> None:
    for settings, variable in (
        ({"parallel": "none"}, "INFERENCE_PARALLEL"),
        ({"parallel": "0", "engine": "scripted"}, "INFERENCE_PARALLEL"),
        ({"paralel": "1"}, "INFERENCE_PARALEL"),
        ({"listen": "nonsense"}, "INFERENCE_LISTEN"),
        ({"engine": "llamacpp"}, "INFERENCE_MODEL_PATH"),
        ({"engine": "scripted", "end_bias": "2"}, "INFERENCE_END_BIAS"),
    ):
        ended = run_worker(**settings)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"inference: {variable}: ")
        assert len(ended.stderr.splitlines()) == 1


def test_an_address_in_use_and_a_missing_model_end_with_one(tmp_path: Path) -> None:
    with worker_process(tmp_path / "worker", listen="127.0.0.1:0") as worker:
        taken = run_worker(engine="scripted", listen=worker.target)
        assert taken.returncode == 1
        assert json.loads(taken.stderr.splitlines()[-1])["message"] == "cannot start"
    missing = run_worker(listen="127.0.0.1:0", model_path=str(tmp_path / "missing.gguf"))
    assert missing.returncode == 1
    assert json.loads(missing.stderr.splitlines()[-1])["message"] == "cannot start"
