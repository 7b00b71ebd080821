"""Where tests find the model that `antiphon pull` has fetched."""

import os
from pathlib import Path

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_path() -> Path:
    """The default model's file; `ANTIPHON_TEST_MODEL` names another place.

    Raises:
        FileNotFoundError: it is not there. Tests must fail then, not skip.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("ANTIPHON_TEST_MODEL") or cache / "antiphon" / "models" / FILE_NAME)
    if not path.is_file():
        raise FileNotFoundError(f"no model at {path}: run `antiphon pull`, or name its file in ANTIPHON_TEST_MODEL")
    return path
