"""Callers by gRPC in another language, written from docs/grpc.md alone."""

import shutil
from pathlib import Path

import pytest

from tests.support.antiphon import ROOT
from tests.support.programs import install_packages, run
from tests.support.stack import RunningStack


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_example_in_javascript_ends_well(model_stack: RunningStack, tmp_path: Path) -> None:
    for folder in ("examples", "protos"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("node_modules"))
    install_packages(tmp_path / "examples" / "node")
    printed = run("node", tmp_path / "examples" / "node" / "responses_client.mjs", model_stack.grpc_target)
    assert " events in 2 streams\nDEADLINE_EXCEEDED\nNOT_FOUND: RESPONSE_NOT_FOUND of antiphon\n" in printed
