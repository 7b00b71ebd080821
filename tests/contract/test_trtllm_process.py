"""``python -m inference`` with the TensorRT-LLM engine, on a fake tensorrt_llm: from start to every kind of end."""

import asyncio
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.contract.test_worker_process import exit_code, run_worker
from tests.support.processes import children_of
from tests.support.trtllm import FAKE, write_scripted_model
from tests.support.worker import WorkerProcess, script, worker_process


@contextmanager
def trtllm_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: str = ""
) -> Generator[WorkerProcess, None, None]:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    model = write_scripted_model(folder / "model")
    settings = folder / "trtllm.toml"
    settings.write_text(options)
    with worker_process(
        folder / "worker", engine="trtllm", model_path=str(model), engine_settings=str(settings)
    ) as worker:
        yield worker


async def texts(worker: WorkerProcess, request: pb.GenerateRequest) -> str:
    async with grpc.aio.insecure_channel(worker.target) as channel:
        messages = InferenceServiceStub(channel).Generate(request, timeout=20)
        return "".join([message.delta.text async for message in messages])


async def test_a_worker_serves_until_it_is_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trtllm_process(tmp_path, monkeypatch) as worker:
        assert await texts(worker, script("say Hello world", model="scripted")) == "Hello world"
        schema = '{"enum": [1, 2]}'
        request = script("say no", model="scripted")
        request.text.format.json_schema.schema = schema
        assert await texts(worker, request) in ("1", "2")
        async with grpc.aio.insecure_channel(worker.target) as channel:
            model = (await InferenceServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=20)).model
        assert model.engine == "trtllm 1.2.1"
        assert not model.capabilities.seed
        worker.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(exit_code, worker) == 0


async def test_a_worker_ends_with_its_gpu_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trtllm_process(tmp_path, monkeypatch) as worker:
        (pool_worker,) = children_of(worker.pid)
        os.kill(pool_worker, signal.SIGKILL)  # nothing is being generated
        assert await asyncio.to_thread(exit_code, worker) == 1


async def test_a_worker_whose_engine_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trtllm_process(tmp_path, monkeypatch, "progress_timeout_s = 0.5\n") as worker:
        with pytest.raises(grpc.aio.AioRpcError):
            await texts(worker, script("hold", model="scripted"))
        assert await asyncio.to_thread(exit_code, worker) == 1
        assert "engine died" in [line["message"] for line in worker.log_lines()]


def test_a_wrong_settings_file_is_a_wrong_setting(tmp_path: Path) -> None:
    settings = tmp_path / "trtllm.toml"
    settings.write_text("unknown = 1\n")
    done = run_worker(engine="trtllm", model_path=str(tmp_path), engine_settings=str(settings))
    assert done.returncode == 2
    assert "unknown" in done.stderr


def test_a_machine_without_tensorrt_llm_is_told_so(tmp_path: Path) -> None:
    done = run_worker(engine="trtllm", model_path=str(tmp_path))
    assert done.returncode == 1
    assert "tensorrt_llm is not installed" in done.stderr
