"""inference/Dockerfile and the sharing of GPUs, without any: plain Python is in the place of NVIDIA's image."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compose import ComposeStack, compose_stack, log_lines, run
from tests.support.processes import wait_until
from tests.support.trtllm import FAKE

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

BASE = """
FROM python:3.12-slim-bookworm
COPY tensorrt_llm /tmp/tensorrt_llm
RUN cp -r /tmp/tensorrt_llm "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
"""
"""In the place of NVIDIA's image: a package with the names that TensorRT-LLM has."""
BASE_IMAGE = "antiphon-without-tensorrt-llm"
WORKER_IMAGE = "antiphon-inference-on-python"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    base: Path = tmp_path_factory.mktemp("base")
    shutil.copytree(FAKE / "tensorrt_llm", base / "tensorrt_llm")
    (base / "Dockerfile").write_text(BASE)
    run(["docker", "build", "--tag", BASE_IMAGE, str(base)], timeout_s=600)
    run(
        ["docker", "build", "--file", "inference/Dockerfile", "--tag", WORKER_IMAGE,
         "--build-arg", f"TENSORRT_LLM_IMAGE={BASE_IMAGE}", "."],
        timeout_s=1200,
    )  # fmt: skip
    with compose_stack("compose.yaml", "tests/containers/gpus.yaml", WORKER_IMAGE=WORKER_IMAGE) as stack:
        yield stack


def taken(container: str) -> list[str]:
    """The GPUs that a worker said it took, each time it started."""
    return [gpu for line in log_lines(container) if line["message"] == "GPUs taken" for gpu in line["gpus"]]


def test_three_replicas_take_a_gpu_each_and_one_that_comes_back_takes_the_free_one(stack: ComposeStack) -> None:
    stack.compose("up", "--detach", "--no-deps", "--scale", "inference=3", "inference")
    wait_until(lambda: stack.health("inference") == ["healthy"] * 3, timeout_s=120, what="three workers")
    workers = stack.containers("inference")
    assert sorted(gpu for worker in workers for gpu in taken(worker)) == ["GPU-0", "GPU-1", "GPU-2"]

    mine = taken(workers[1])
    run(["docker", "kill", workers[1]])
    run(["docker", "start", workers[1]])
    wait_until(lambda: taken(workers[1]) == mine * 2, timeout_s=60, what="the same GPU again")
