"""The names of tensorrt_llm that this engine relies on, checked in its source: without importing it.

Importing it takes a GPU, its source does not: so this runs when the worker's image is built, and again, as the package
may have been changed since, when a worker starts::

    python -m inference.engines.trtllm.surface [ROOT]          ROOT holds tensorrt_llm/; by default where Python has it
    python -m inference.engines.trtllm.surface --calls FOLDER  keyword arguments in FOLDER's code that it does not have

Exit codes: 0 nothing missing, 1 something is, 2 there is no such package or folder. ``surface.toml`` has the names.
"""

import ast
import functools
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

PACKAGE = "tensorrt_llm"


class SurfaceClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class, its fields and attributes."""

    file: str
    name: str
    conf: str
    used: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    """Used ones that are properties, or set by ``__init__``."""


class SurfaceMethod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method and its arguments."""

    file: str
    owner: str = msgspec.field(name="class")
    name: str
    conf: str
    used: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


class Surface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What surface.toml says."""

    version: str
    classes: tuple[SurfaceClass, ...] = msgspec.field(name="class")
    methods: tuple[SurfaceMethod, ...] = msgspec.field(name="method")


class Differences(NamedTuple):
    """Between the surface and a package."""

    missing: list[str]
    """What our code needs and is not there."""
    told: list[str]
    """What is not as it was thought to be, and does not matter to our code."""


@functools.cache
def expected() -> Surface:
    """The surface of the supported version."""
    text = Path(__file__).with_name("surface.toml").read_text()
    return msgspec.convert(tomllib.loads(text), Surface)


def installed_root() -> Path | None:
    """The folder that holds the installed package; None if there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent.parent


def check(root: Path) -> Differences:
    """Compare the package in ``root`` with the surface.

    Raises:
        OSError: there is no such package.
        SyntaxError: a file of it is no Python.
    """
    surface = expected()
    found = Differences([], [])
    version = re.search(r'^__version__\s*=\s*"([^"]*)"', (root / PACKAGE / "version.py").read_text(), re.MULTILINE)
    if version is None or version[1] != surface.version:
        found.missing.append(f"version {surface.version}: it is {version and version[1]}")
    parse = functools.cache(lambda file: _classes(root / file))
    for wanted in surface.classes:
        classes: Mapping[str, ast.ClassDef] = parse(wanted.file)
        if wanted.name not in classes:
            found.missing.append(f"{wanted.file}: class {wanted.name}")
            continue
        members = set(_members(classes[wanted.name]))
        place = f"{wanted.file}: {wanted.name}"
        found.missing.extend(f"{place}.{name}" for name in (*wanted.used, *wanted.attributes) if name not in members)
        found.told.extend(f"{place}.{name}" for name in wanted.known if name not in members)
    for method in surface.methods:
        place = f"{method.file}: {method.owner}.{method.name}"
        owner: ast.ClassDef | None = parse(method.file).get(method.owner)
        arguments = None if owner is None else _arguments(owner, method.name)
        if arguments is None:
            found.missing.append(f"{place}()")
            continue
        found.missing.extend(f"{place}({name}=)" for name in method.used if name not in arguments)
        found.told.extend(f"{place}({name}=)" for name in method.known if name not in arguments)
    return found


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    if not file.exists():
        return {}
    return {node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}


def _members(owner: ast.ClassDef) -> Iterator[str]:
    """Names of fields, methods and properties, and of what methods set on ``self``."""
    for node in owner.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
                for inner in ast.walk(node):
                    match inner:
                        case ast.Attribute(value=ast.Name(id="self"), attr=attribute, ctx=ast.Store()):
                            yield attribute
                        case _:
                            pass
            case _:
                pass


def _arguments(owner: ast.ClassDef, method: str) -> set[str] | None:
    """Those of a method; None if there is no such method."""
    for node in owner.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == method:
            return {arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    return None


def check_calls(folder: Path) -> list[str]:
    """Keyword arguments of calls in ``folder``'s code, by the called thing's name, that the surface does not have."""
    surface = expected()
    arguments: dict[str, set[str]] = {wanted.name: {*wanted.used, *wanted.known} for wanted in surface.classes}
    base = arguments["DecodingBaseConfig"]
    for name in arguments:
        if name.endswith("DecodingConfig"):
            arguments[name] |= base
    arguments |= {method.name: {*method.used, *method.known} for method in surface.methods}
    arguments["LLM"] = arguments["__init__"] | arguments["BaseLlmArgs"] | arguments["TorchLlmArgs"]
    unknown = []
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=keywords) if (
                    name in arguments
                ):
                    unknown += [
                        f"{file}:{node.lineno}: {name}({keyword.arg}=)"
                        for keyword in keywords
                        if keyword.arg is not None and keyword.arg not in arguments[name]
                    ]
                case _:
                    pass
    return unknown


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    match arguments:
        case ["--calls", folder]:
            missing, told = (check_calls(Path(folder)), []) if Path(folder).is_dir() else (None, [])
        case []:
            root = installed_root()
            missing, told = (None, []) if root is None else check(root)
        case [root_name]:
            has_package = (Path(root_name) / PACKAGE / "version.py").exists()
            missing, told = check(Path(root_name)) if has_package else (None, [])
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    if missing is None:
        print(f"no {PACKAGE} there", file=sys.stderr)
        return 2
    for line in missing:
        print(f"missing: {line}")
    for line in told:
        print(f"not as thought, and not used: {line}")
    if not missing:
        print(f"{PACKAGE} {expected().version}: nothing that is used is missing")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
