"""Callers of the services need the contract package alone, and of that only gRPC and protobuf."""

import subprocess
import sys

from tests.support.antiphon import ROOT

_IMPORT_ALL = """
import importlib, pathlib, sys
for name in ("aiohttp", "redis", "msgspec", "uvloop", "edge", "inference", "store", "stack"):
    sys.modules[name] = None  # an import of it raises
import antiphon
folder = pathlib.Path(antiphon.__file__).parent
names = [".".join(("antiphon", *path.relative_to(folder).with_suffix("").parts)) for path in folder.rglob("*.py")]
for name in names:
    importlib.import_module(name)
print(*names)
"""


def test_the_contract_is_imported_without_the_servers_and_their_libraries() -> None:
    command = [sys.executable, "-W", "error", "-c", _IMPORT_ALL]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    names = ended.stdout.split()
    assert {"antiphon.errors", "antiphon.tls", "antiphon.responses.v1.responses_service_pb2_grpc"} <= set(names)
