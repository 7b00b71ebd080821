"""Generates the Python modules beside the .proto files.

Run by hatch when the package is installed or built, and by hand (``python protos/build.py``) after a .proto changed.
``protos/`` is protoc's include root and on the Python path, so folder, proto package and import name agree.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent


def generate() -> None:
    """Write ``*_pb2.py``, ``*_pb2_grpc.py`` and their stubs.

    Raises:
        RuntimeError: protoc refused a file; its own message is on standard error.
    """
    from grpc_tools import protoc

    for stale in [*ROOT.rglob("*_pb2*.py"), *ROOT.rglob("*_pb2*.pyi")]:
        stale.unlink()
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    scripts = Path(sys.executable).parent
    plugins = [
        f"--plugin={name}={scripts / name}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
        if (scripts / name).exists()
    ]
    outputs = ["python", "grpc_python", "mypy", "mypy_grpc"]
    code = protoc.main(
        ["protoc", f"-I{ROOT}", *plugins, *(f"--{output}_out={ROOT}" for output in outputs), *protos],
    )
    if code != 0:
        raise RuntimeError("protoc failed")
    for grpc_module in ROOT.rglob("*_pb2_grpc.py"):  # files without a service get empty ones
        if "service " not in grpc_module.with_name(grpc_module.name.replace("_pb2_grpc.py", ".proto")).read_text():
            grpc_module.unlink()
            grpc_module.with_suffix(".pyi").unlink(missing_ok=True)


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatch leaves its parameter open
    """Hatch's hook: generates before anything is packed or linked."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()


if __name__ == "__main__":
    generate()
