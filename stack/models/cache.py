"""The folder that keeps fetched model files, and the check that they are whole."""

import errno
import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import msgspec

from stack.errors import StackError
from stack.progress import MEGABYTE

_ELSEWHERE = "(ANTIPHON_CACHE names another folder)"


class CorruptModel(StackError):
    """The file is there, but its bytes are not the model's."""


class Verified(msgspec.Struct, frozen=True):
    """Written beside a model file once its hash was checked, so that a start need not read the whole file again."""

    sha256: str
    size_bytes: int
    mtime_ns: int


def models_folder(environ: Mapping[str, str]) -> Path:
    """``models`` in ``$ANTIPHON_CACHE``, else in ``antiphon`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    own = environ.get("ANTIPHON_CACHE")
    cache = Path(own) if own else Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "antiphon"
    return cache.expanduser().absolute() / "models"


def is_whole(path: Path, sha256: str, *, out: TextIO) -> bool:
    """Whether ``path`` holds the file of that hash; False if there is none.

    The file is hashed only when its size or time of change differ from those of its last check.

    Raises:
        CorruptModel: it holds something else.
    """
    if not path.is_file():
        return False
    if read_stamp(path) == _stamp(path, sha256):
        return True
    print(f"checking {path.name}", file=out, flush=True)
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise CorruptModel(f"the model file {path} is corrupt (`antiphon pull` fetches it again)")
    write_stamp(path, sha256)
    return True


def read_stamp(path: Path) -> Verified | None:
    """What was noted when ``path`` was last checked; None if that is missing or unreadable."""
    try:
        return msgspec.json.decode(_stamp_path(path).read_bytes(), type=Verified)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_stamp(path: Path, sha256: str) -> None:
    """Note that ``path``, as it is now, has that hash."""
    _stamp_path(path).write_bytes(msgspec.json.encode(_stamp(path, sha256)))


def _stamp(path: Path, sha256: str) -> Verified:
    status = path.stat()
    return Verified(sha256, status.st_size, status.st_mtime_ns)


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def fetch_once(
    path: Path, fetch: Callable[[], None], *, is_there: Callable[[], bool], replace_corrupt: bool, out: TextIO
) -> None:
    """Run ``fetch``, under a lock between processes, unless the file at ``path`` is there and whole.

    Raises:
        CorruptModel: the file is damaged and ``replace_corrupt`` is false.
        StackError: the disk is full or the folder cannot be written.
    """

    def is_usable() -> bool:
        try:
            return is_there()
        except CorruptModel:
            if replace_corrupt:
                return False
            raise

    with _disk_errors(path.parent):
        if is_usable():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that is fetching {path.name}", file=out, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_usable():  # else the other process has fetched it
                fetch()


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise StackError now rather than run into a full disk in the middle."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StackError(
            f"disk full: the model needs {-(-needed_bytes // MEGABYTE)} MB in {folder},"
            f" {free_bytes // MEGABYTE} MB are free {_ELSEWHERE}"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                raise StackError(f"disk full: {folder} {_ELSEWHERE}") from error
            case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR | errno.EEXIST:
                raise StackError(f"cannot write {folder}: {error.strerror} {_ELSEWHERE}") from error
            case _:
                raise
