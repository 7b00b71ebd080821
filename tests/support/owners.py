"""An edge with API keys and limits, on a Valkey of its own."""

import json
import secrets
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import grpc
import redis

from antiphon.errors import ApiError, from_trailing_metadata
from tests.support.antiphon import antiphon, clean_environ
from tests.support.edge import EdgeProcess, edge_process
from tests.support.valkey import ValkeyServer, valkey_process
from tests.support.worker import worker_process

ENCRYPTION_KEYS = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@dataclass(frozen=True)
class OwnersEdge:
    """A running edge, and the files that say who may use it."""

    edge: EdgeProcess
    valkey: ValkeyServer
    keys_path: Path
    keys: dict[str, str]
    """One of each owner."""

    @property
    def base_url(self) -> str:
        return self.edge.base_url

    def give_key(self, owner: str) -> str:
        """Add a key of ``owner`` to the file, as the command line makes it."""
        made = antiphon("keys", "new", owner, environ=clean_environ())
        with self.keys_path.open("a") as file:
            file.write(made.stdout)
        key = made.stderr.splitlines()[0]
        assert made.stdout == f"{owner}:{sha256(key.encode()).hexdigest()}\n"
        self.keys[owner] = key
        return key

    def take_keys(self, owner: str) -> None:
        """Take all keys of ``owner`` out of the file."""
        lines = [line for line in self.keys_path.read_text().splitlines() if not line.startswith(f"{owner}:")]
        fresh = self.keys_path.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.replace(self.keys_path)
        self.keys.pop(owner, None)

    def erase(self, owner: str) -> "subprocess.CompletedProcess[str]":
        """``antiphon owners erase``."""
        environ = clean_environ(EDGE_API_KEYS_FILE=str(self.keys_path))
        return antiphon("owners", "erase", owner, "--redis-url", self.valkey.url, environ=environ)

    def command(self, *arguments: str) -> object:
        """Send a command to the Valkey."""
        with redis.Redis.from_url(self.valkey.url) as client:
            return client.execute_command(*arguments)


@contextmanager
def owners_edge(folder: Path, *, owners: tuple[str, ...], limits: str) -> Generator[OwnersEdge, None, None]:
    """Run a Valkey, a scripted worker and an edge that knows a key of each of ``owners``.

    Args:
        limits: The limits file.
    """
    files = folder / "valkey"
    files.mkdir()
    keys_path, limits_path = folder / "keys", folder / "limits.toml"
    keys = {owner: f"key-of-{owner}-{secrets.token_hex(8)}" for owner in owners}
    lines = [f"{owner}:{sha256(key.encode()).hexdigest()}" for owner, key in keys.items()]
    keys_path.write_text("\n".join(["# who may use the edge", *lines, ""]))
    limits_path.write_text(limits)
    with (
        valkey_process(files) as valkey,
        worker_process(folder / "worker") as worker,
        edge_process(
            folder / "edge",
            workers=[worker.target],
            redis_url=valkey.url,
            api_keys_file=str(keys_path),
            limits_file=str(limits_path),
            encryption_keys=ENCRYPTION_KEYS,
            commit_timeout_s="1",
        ) as edge,
    ):
        running = OwnersEdge(edge, valkey, keys_path, keys)
        yield running
        log = edge.log.read_text()
        assert not [owner for owner, key in running.keys.items() if key in log], "a key was logged"


def error_of(caught: grpc.aio.AioRpcError) -> ApiError:
    """What a failed call says."""
    error = from_trailing_metadata(caught.trailing_metadata())
    assert error is not None, caught
    return error


def reason_of(body: bytes) -> str:
    """The `code` of an error body."""
    return str(json.loads(body)["error"]["code"])
