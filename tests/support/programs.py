"""Programs of others, in Python and JavaScript, that must end well."""

import os
import subprocess
import sysconfig
from pathlib import Path

from tests.support.antiphon import ROOT

SCRIPTS = Path(sysconfig.get_path("scripts"))
_RUN_TIMEOUT_S = 300


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program, which must end with 0; return what it said."""
    environ = os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}  # the extra's Node first
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_RUN_TIMEOUT_S,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    return ended.stdout


def install_packages(folder: Path) -> None:
    """What ``package.json`` in ``folder`` asks for, the newest in its ranges."""
    run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", cwd=folder)
