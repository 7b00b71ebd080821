"""xgrammar's own C++ core, of the version inside TensorRT-LLM 1.2.1, without the packages that it is wrapped in."""

import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

VERSION = "0.1.32"
_RAW_VOCABULARY = 0


def load_core(folder: Path) -> ModuleType:
    """Fetch the wheel and load its one extension module: the package around it imports torch, which is gigabytes."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--only-binary=:all:", "--dest", str(folder), f"xgrammar=={VERSION}"], check=True)
    (wheel,) = folder.glob("xgrammar-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.startswith("xgrammar/xgrammar_bindings."))
        path = Path(archive.extract(name, folder))
    spec = importlib.util.spec_from_file_location("xgrammar_bindings", path)
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    return core


class XGrammar:
    """Compiles grammars as TensorRT-LLM's guided decoder does: from their text, with xgrammar's cache on."""

    def __init__(self, core: ModuleType, vocabulary: Sequence[bytes], stop_token_ids: Sequence[int]) -> None:
        self._core = core
        tokens = core.TokenizerInfo(list(vocabulary), _RAW_VOCABULARY, len(vocabulary), list(stop_token_ids), False)
        self._compiler = core.GrammarCompiler(tokens, 1, True, -1)

    def matches(self, grammar: str, texts: Sequence[str]) -> list[bool]:
        """For each of ``texts`` whether the whole of it is generated.

        Raises:
            RuntimeError: the grammar is none.
        """
        compiled = self._compiler.compile_grammar(grammar, "root")
        return [self._matches(compiled, text) for text in texts]

    def _matches(self, compiled: object, text: str) -> bool:
        matcher = self._core.GrammarMatcher(compiled, None, True, 0)
        return bool(matcher.accept_string(text, False) and matcher.is_terminated())
