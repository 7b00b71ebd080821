"""The check of tensorrt_llm's source: what it finds, and that our own code keeps to the names that it knows."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inference.engines.trtllm import options
from inference.engines.trtllm.surface import check, check_calls, expected
from tests.support.antiphon import ROOT
from tests.support.trtllm import FAKE

ENGINE = ROOT / "inference" / "engines" / "trtllm"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the fake to break."""
    shutil.copytree(FAKE / "tensorrt_llm", tmp_path / "tensorrt_llm")
    return tmp_path


def change(package: Path, file: str, old: str, new: str) -> None:
    path = package / "tensorrt_llm" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_fake_has_every_name_of_the_surface() -> None:
    assert check(FAKE) == ([], [])


@pytest.mark.parametrize(
    ("file", "old", "new", "missing"),
    [
        ("version.py", "1.2.1", "1.3.0", "version 1.2.1: it is 1.3.0"),
        ("sampling_params.py", "    max_tokens: Any = 32\n", "", "sampling_params.py: SamplingParams.max_tokens"),
        ("executor/utils.py", "RequestError", "RequestFailed", "executor/utils.py: class RequestError"),
        ("executor/result.py", "self.cached_tokens", "self.reused", "result.py: GenerationResultBase.cached_tokens"),
        ("executor/result.py", "def abort(", "def cancel(", "result.py: GenerationResult.abort()"),
        ("llmapi/llm.py", "cache_salt: str", "salt: str", "llm.py: BaseLLM.generate_async(cache_salt=)"),
    ],
)
def test_what_our_code_uses_is_missing_by_name(package: Path, file: str, old: str, new: str, missing: str) -> None:
    change(package, file, old, new)
    found = check(package)
    assert len(found.missing) == 1
    assert found.missing[0].endswith(missing)


def test_a_missing_file_is_missing_classes(package: Path) -> None:
    (package / "tensorrt_llm" / "sampling_params.py").unlink()
    assert [line.rpartition(" ")[2] for line in check(package).missing] == ["SamplingParams", "GuidedDecodingParams"]


def test_what_nobody_uses_is_only_told(package: Path) -> None:
    change(package, "sampling_params.py", "    beam_width_array: Any = None\n", "")
    assert check(package) == ([], ["tensorrt_llm/sampling_params.py: SamplingParams.beam_width_array"])


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference.engines.trtllm.surface", *arguments]
    environ = {"PYTHONPATH": str(path)} if path else {}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30)


def test_the_command_reads_the_installed_package_without_importing_it(package: Path) -> None:
    (package / "tensorrt_llm" / "__init__.py").write_text("raise ImportError('libcuda.so.1 is missing')\n")
    done = run(path=package)
    assert (done.returncode, done.stderr) == (0, "")
    change(package, "version.py", "1.2.1", "1.2.2")
    done = run(path=package)
    assert done.returncode == 1
    assert "missing: version 1.2.1: it is 1.2.2" in done.stdout


def test_the_command_tells_an_absent_package_from_a_wrong_one(tmp_path: Path) -> None:
    assert [run().returncode, run(str(tmp_path)).returncode, run("a", "b").returncode] == [2, 2, 2]


def test_our_calls_pass_only_names_that_are_there(tmp_path: Path) -> None:
    assert check_calls(ENGINE) == []
    (tmp_path / "call.py").write_text("llm.generate_async(inputs=[], priority=1)\nSamplingParams(max_token=1)\n")
    assert check_calls(tmp_path) == [
        f"{tmp_path}/call.py:1: generate_async(priority=)",
        f"{tmp_path}/call.py:2: SamplingParams(max_token=)",
    ]


def test_one_module_alone_imports_the_library() -> None:
    importers = set()
    for file in (ROOT / "inference").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Import(names=aliases):
                    names = [alias.name for alias in aliases]
                case ast.ImportFrom(module=str(name)):
                    names = [name]
                case _:
                    continue
            if any(name.partition(".")[0] in ("tensorrt_llm", "xgrammar", "torch") for name in names):
                importers.add(file.name)
    assert importers == {"library.py"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (options.KvCache, "KvCacheConfig"),
        (options.Scheduler, "SchedulerConfig"),
        (options.NGram, "NGramDecodingConfig"),
        (options.DraftTarget, "DraftTargetDecodingConfig"),
        (options.Eagle3, "EagleDecodingConfig"),
        (options.Mtp, "MTPDecodingConfig"),
    ],
)
def test_options_that_are_passed_on_have_the_librarys_names(ours: type[options.KvCache], theirs: str) -> None:
    used = {wanted.name: set(wanted.used) for wanted in expected().classes}
    if theirs.endswith("DecodingConfig"):
        used[theirs] |= used["DecodingBaseConfig"]
    assert set(ours.__struct_fields__) <= used[theirs]
