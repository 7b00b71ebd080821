"""GGUF files from a model hub, by the HTTP interface of the Hugging Face hub."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TextIO

import msgspec

from stack.errors import StackError
from stack.models.cache import fetch_once, is_whole, read_stamp, require_space, write_stamp
from stack.progress import Progress

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30
_FRUITLESS_CONNECTIONS = 3
_MAX_LISTING_BYTES = 32 << 20
_SPARE_BYTES = 1 << 20
_PUBLIC_HUB = "https://huggingface.co"


class Hub(msgspec.Struct, frozen=True):
    """Which hub, and as whom; the variables are those of the hub's own tools."""

    endpoint: str
    """``HF_ENDPOINT``: base URL without a slash at its end."""
    token: str | None
    """``HF_TOKEN``, for private and gated models."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Hub":
        endpoint = (environ.get("HF_ENDPOINT") or _PUBLIC_HUB).rstrip("/")
        if urllib.parse.urlsplit(endpoint).scheme not in ("http", "https"):
            raise StackError(f"HF_ENDPOINT is not an http or https URL: {endpoint}")
        return cls(endpoint, environ.get("HF_TOKEN") or None)


class _Blob(msgspec.Struct, frozen=True):
    sha256: str
    size: int


class _File(msgspec.Struct, frozen=True):
    rfilename: str
    lfs: _Blob | None = None


class _Repository(msgspec.Struct, frozen=True):
    """Answer of ``GET /api/models/{repo}?blobs=true``, as far as it is used."""

    sha: str
    siblings: list[_File]


def obtain(hub: Hub, repo: str, file: str | None, models: Path, *, replace_corrupt: bool, out: TextIO) -> Path:
    """Return the file of ``repo`` in the cache, after fetching it if it is not there; cached ones need no network.

    Args:
        repo: ``owner/name``.
        file: path in the repository; None if it holds one GGUF file only, or one of them is in the cache.

    Raises:
        CorruptModel: the file there is damaged and ``replace_corrupt`` is false.
        StackError: no such model, no network, no space.
    """
    folder = models / repo
    cached = [path for path in folder.rglob("*.gguf") if read_stamp(path)]
    if file is None and len(cached) == 1:
        path = cached[0]
        stored = str(path.relative_to(folder))
    else:
        stored = file or _only_gguf(repo, _repository(hub, repo).siblings)
        if ".." in PurePosixPath(stored).parts or stored.startswith("/"):
            raise StackError(f"{stored!r} is no file of {repo}")
        path = folder / stored

    def is_there() -> bool:
        stamp = read_stamp(path)
        return stamp is not None and is_whole(path, stamp.sha256, out=out)

    fetch_once(
        path, lambda: _fetch(hub, repo, stored, path, out), is_there=is_there, replace_corrupt=replace_corrupt, out=out
    )
    return path


def _fetch(hub: Hub, repo: str, file: str, path: Path, out: TextIO) -> None:
    repository = _repository(hub, repo)
    blob = next((entry.lfs for entry in repository.siblings if entry.rfilename == file), None)
    if blob is None:
        raise StackError(f"{repo} has no file {file}; it has {_listing(_gguf_names(repository.siblings))}")
    part = path.with_name(f"{path.name}.{blob.sha256[:12]}.part")  # of this very version: one cut off is gone on with
    if part.exists() and part.stat().st_size > blob.size:
        part.unlink()
    missing = blob.size - (part.stat().st_size if part.exists() else 0)
    require_space(path.parent, missing + _SPARE_BYTES)
    url = f"{hub.endpoint}/{repo}/resolve/{repository.sha}/{urllib.parse.quote(file)}"
    with Progress(f"fetching {path.name}", total_bytes=blob.size, stream=out) as progress:
        _download(hub, url, part, blob.size, progress)
    with part.open("rb") as complete:
        digest = hashlib.file_digest(complete, "sha256").hexdigest()
    if digest != blob.sha256:
        part.unlink()
        raise StackError(f"{file} arrived damaged: its SHA-256 is {digest}, not {blob.sha256}; run the command again")
    part.replace(path)
    write_stamp(path, blob.sha256)


def _download(hub: Hub, url: str, part: Path, size_bytes: int, progress: Progress) -> None:
    """Append to ``part`` until it has ``size_bytes``, over as many connections as that takes.

    Raises:
        StackError: three connections in a row brought nothing.
    """
    fruitless = 0
    while (have := part.stat().st_size if part.exists() else 0) < size_bytes:
        reason = "it ends too early"
        before = have
        try:
            with _open(hub, url, first_byte=have) as response, part.open("ab") as file:
                if have and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                    file.truncate(0)
                    have = 0
                while chunk := response.read(min(_CHUNK_BYTES, size_bytes - have)):
                    file.write(chunk)
                    have += len(chunk)
                    progress.update(have)
                file.flush()
                os.fsync(file.fileno())
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        fruitless = 0 if have > before else fruitless + 1
        if fruitless == _FRUITLESS_CONNECTIONS:
            raise StackError(f"cannot fetch {url}: {reason}")
        if fruitless:
            time.sleep(fruitless)


def _repository(hub: Hub, repo: str) -> _Repository:
    with _open(hub, f"{hub.endpoint}/api/models/{repo}?blobs=true") as response:
        try:
            return msgspec.json.decode(response.read(_MAX_LISTING_BYTES), type=_Repository)
        except (msgspec.DecodeError, http.client.HTTPException) as error:
            raise StackError(f"{hub.endpoint} does not answer like a model hub: {error}") from error


def _open(hub: Hub, url: str, *, first_byte: int = 0) -> http.client.HTTPResponse:
    request = urllib.request.Request(url)
    if first_byte:
        request.add_header("Range", f"bytes={first_byte}-")
    if hub.token:
        request.add_unredirected_header("Authorization", f"Bearer {hub.token}")  # not for the storage behind the hub
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403, 404):
            raise StackError(
                f"no such model on {hub.endpoint}, or it wants a token in HF_TOKEN: {url} gives {error.code}"
            ) from error
        raise StackError(f"{hub.endpoint} answers {error.code} {error.reason}: try again later") from error
    except urllib.error.URLError as error:
        raise StackError(f"cannot reach {hub.endpoint}: {error.reason}; is there a network?") from error
    return response


def _only_gguf(repo: str, files: Sequence[_File]) -> str:
    names = _gguf_names(files)
    if len(names) != 1:
        raise StackError(f"name one file of {repo}, as in {repo}:file.gguf; it has {_listing(names)}")
    return names[0]


def _gguf_names(files: Sequence[_File]) -> list[str]:
    return [entry.rfilename for entry in files if entry.rfilename.endswith(".gguf")]


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names) or "no GGUF file"
