"""Owners: new API keys, and the end of all that belongs to one."""

import re
import secrets
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final, TextIO

from stack.errors import StackError
from stack.state import SOCKET_NAME

_OWNER: Final = re.compile(r"[A-Za-z0-9._@-]{1,128}")
_KEY_PREFIX: Final = "sk-antiphon-"
"""So that people, and scanners for leaked secrets, see what it is."""
_KEY_BYTES: Final = 32


def new_key(owner: str, *, out: TextIO, err: TextIO) -> None:
    """Make an API key: it goes to ``err`` and is nowhere else, its line for the edges' file of keys goes to ``out``.

    Raises:
        StackError: no owner can have this name.
    """
    if not _OWNER.fullmatch(owner):
        raise StackError(f"not a name for an owner: {owner!r}; up to 128 letters, digits and ._@- are")
    key = _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    print(
        f"{key}\nThe key of {owner}, shown this once; the line below is for EDGE_API_KEYS_FILE.", file=err, flush=True
    )
    print(f"{owner}:{sha256(key.encode()).hexdigest()}", file=out)


def erase(owner: str, *, state: Path, redis_url: str | None, environ: Mapping[str, str]) -> int:
    """Have an edge's program erase ``owner``; its exit code.

    Args:
        state: The folder of the running stack, whose Valkey is meant.
        redis_url: Another server; None: that one.

    Raises:
        StackError: that one does not run.
    """
    if redis_url is None:
        socket = state.expanduser().absolute() / SOCKET_NAME
        if not socket.exists():
            raise StackError(f"no Valkey listens on {socket}: start the stack, or give another server by --redis-url")
        redis_url = f"unix://{socket}"
    command = [sys.executable, "-m", "edge.erase", owner]
    return subprocess.run(command, env={**environ, "EDGE_REDIS_URL": redis_url}, check=False).returncode
