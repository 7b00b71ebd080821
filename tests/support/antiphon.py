"""Running the ``antiphon`` command line as its user does."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANTIPHON = [sys.executable, "-m", "stack"]


def clean_environ(**changes: str) -> dict[str, str]:
    """This process's environment without settings of the services, plus ``changes``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "INFERENCE_"))}
    return {**kept, **changes}


def antiphon(*arguments: str | Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run_command([*ANTIPHON, *map(str, arguments)], environ=environ)


def run_command(command: list[str], *, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=dict(environ), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
