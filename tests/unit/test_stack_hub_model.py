"""Models of a hub, fetched over real HTTP from one on loopback."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.errors import StackError
from stack.models.cache import CorruptModel
from stack.models.catalog import Model, obtain
from tests.support.hub import REVISION, LocalHub, local_hub

CONTENT = b"GGUF" + bytes(range(256)) * 1024


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        hub.files["someone/some-model"] = {"some.Q4_K_M.gguf": CONTENT}
        yield hub


def pull(hub: LocalHub, name: str, cache: Path, *, replace_corrupt: bool = False) -> Model:
    environ = {"HF_ENDPOINT": hub.endpoint, "ANTIPHON_CACHE": str(cache)}
    return obtain(name, environ, out=io.StringIO(), replace_corrupt=replace_corrupt)


def test_the_only_gguf_file_of_a_repository_is_its_model_and_then_needs_no_network(
    hub: LocalHub, tmp_path: Path
) -> None:
    hub.files["someone/some-model"]["README.md"] = b"text"
    model = pull(hub, "someone/some-model", tmp_path)
    assert model.name == "someone/some-model"
    assert model.path.read_bytes() == CONTENT
    requests = len(hub.requests)
    assert pull(hub, "someone/some-model", tmp_path) == model
    assert pull(hub, "someone/some-model:some.Q4_K_M.gguf", tmp_path) == model
    assert len(hub.requests) == requests


def test_of_several_files_the_user_has_to_name_one(hub: LocalHub, tmp_path: Path) -> None:
    hub.files["someone/some-model"]["some.Q8_0.gguf"] = CONTENT + b"8"
    with pytest.raises(StackError, match=r"name one file of someone/some-model.*some\.Q4_K_M\.gguf, some\.Q8_0\.gguf"):
        pull(hub, "someone/some-model", tmp_path)
    assert pull(hub, "someone/some-model:some.Q8_0.gguf", tmp_path).path.read_bytes() == CONTENT + b"8"


def test_a_download_that_keeps_breaking_off_goes_on_where_it_was(hub: LocalHub, tmp_path: Path) -> None:
    hub.bytes_before_break = 100_000
    assert pull(hub, "someone/some-model", tmp_path).path.read_bytes() == CONTENT
    ranges = [range_ for path, range_ in hub.requests if "resolve" in path]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_a_pull_goes_on_with_what_an_interrupted_one_left(hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "someone" / "some-model"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(CONTENT).hexdigest()
    (folder / f"some.Q4_K_M.gguf.{digest[:12]}.part").write_bytes(CONTENT[:1000])
    assert pull(hub, "someone/some-model", tmp_path).path.read_bytes() == CONTENT
    assert hub.requests[-1] == (f"/someone/some-model/resolve/{REVISION}/some.Q4_K_M.gguf", "bytes=1000-")


def test_bytes_that_are_not_the_promised_ones_are_thrown_away(hub: LocalHub, tmp_path: Path) -> None:
    hub.claimed["some.Q4_K_M.gguf"] = CONTENT[:-1] + b"?"
    with pytest.raises(StackError, match=r"some\.Q4_K_M\.gguf arrived damaged"):
        pull(hub, "someone/some-model", tmp_path)
    assert [path.name for path in (tmp_path / "models").rglob("*.gguf*")] == ["some.Q4_K_M.gguf.lock"]


def test_a_damaged_cached_file_is_refused_and_replaced_by_a_pull(hub: LocalHub, tmp_path: Path) -> None:
    model = pull(hub, "someone/some-model", tmp_path)
    model.path.write_bytes(CONTENT[:-1])
    with pytest.raises(CorruptModel, match="is corrupt"):
        pull(hub, "someone/some-model", tmp_path)
    pull(hub, "someone/some-model", tmp_path, replace_corrupt=True)
    assert model.path.read_bytes() == CONTENT


def test_a_model_that_the_hub_does_not_have_is_named(hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"^no such model on http://127.*nobody/nothing.* gives 404$"):
        pull(hub, "nobody/nothing", tmp_path)
    with pytest.raises(StackError, match=r"has no file other\.gguf; it has some\.Q4_K_M\.gguf$"):
        pull(hub, "someone/some-model:other.gguf", tmp_path)


def test_a_file_name_cannot_leave_the_cache(hub: LocalHub, tmp_path: Path) -> None:
    hub.files["someone/evil"] = {"../../../evil.gguf": CONTENT}
    with pytest.raises(StackError, match="is no file of someone/evil"):
        pull(hub, "someone/evil", tmp_path)


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path) -> None:
    unreachable = LocalHub()
    unreachable.endpoint = "http://127.0.0.1:9"  # discard: nobody listens
    with pytest.raises(StackError, match=r"^cannot reach http://127\.0\.0\.1:9: .*; is there a network\?$"):
        pull(unreachable, "someone/some-model", tmp_path)


def test_a_file_of_the_users_own_is_used_where_it_is(hub: LocalHub, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(CONTENT)
    assert pull(hub, str(path), tmp_path) == Model("mine", path)
    path.write_bytes(b"<html>")
    with pytest.raises(CorruptModel, match=r"mine\.gguf is corrupt or not GGUF"):
        pull(hub, str(path), tmp_path)
    with pytest.raises(StackError, match=r"cannot read the model file .*gone\.gguf: No such file"):
        pull(hub, str(tmp_path / "gone.gguf"), tmp_path)


def test_a_name_of_no_known_form_is_refused_with_the_forms_there_are(hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"^no model 'gpt': give SmolLM2-135M-Instruct, a path .* owner/repo:file"):
        pull(hub, "gpt", tmp_path)
