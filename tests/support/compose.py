"""The stack of compose.yaml, run by Docker."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.antiphon import ROOT, clean_environ
from tests.support.edge import free_port

BUILD_TIMEOUT_S = 1800.0
UP_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ComposeStack:
    """A project of its own: names, networks, volumes and ports are shared with no other."""

    command: Sequence[str]
    """Docker Compose with its files."""
    environ: Mapping[str, str]
    port: int
    grpc_port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str, timeout_s: float = UP_TIMEOUT_S) -> str:
        """What a Compose command prints."""
        return run([*self.command, *arguments], environ=self.environ, timeout_s=timeout_s)

    def up(self, **scale: int) -> None:
        """Start what does not run yet, so many containers of each service."""
        options = [option for service, count in scale.items() for option in ("--scale", f"{service}={count}")]
        self.compose("up", "--detach", "--no-recreate", *options)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self.compose("ps", "--quiet", service).split()

    def health(self, service: str) -> list[str]:
        """``starting``, ``healthy`` or ``unhealthy``, of each container."""
        ids = self.containers(service)
        return run(["docker", "inspect", "--format", "{{.State.Health.Status}}", *ids]).split() if ids else []


def run(command: Sequence[str], *, environ: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> str:
    """What ``command`` prints to standard output; AssertionError with all that it printed if it fails."""
    done = subprocess.run(
        command, env=None if environ is None else dict(environ), cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def log_lines(container: str) -> list[dict[str, Any]]:
    """What the service in ``container`` has logged."""
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=60, check=True)
    lines = (done.stdout + done.stderr).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def compose_command() -> list[str]:
    """Docker Compose, as a plugin or as the program that it was before; AssertionError if Docker does not run."""
    run(["docker", "version"])
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


@contextmanager
def compose_stack(*files: str, **variables: str) -> Iterator[ComposeStack]:
    """A project of ``files`` with its images built, but not started; nothing of it is left in the end.

    Args:
        files: Relative to the project's root.
        variables: For what the files leave open.
    """
    port, grpc_port = free_port(), free_port()
    project = f"antiphon-test-{uuid.uuid4().hex[:8]}"
    named = [option for file in files for option in ("--file", file)]
    environ = clean_environ(ANTIPHON_PORT=str(port), ANTIPHON_GRPC_PORT=str(grpc_port), **variables)
    stack = ComposeStack([*compose_command(), "--project-name", project, *named], environ, port, grpc_port)
    # pip's settings of this machine, so that builds find the index that everything else here finds
    indexes = [name for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ]
    stack.compose("build", *(f"--build-arg={name}={os.environ[name]}" for name in indexes), timeout_s=BUILD_TIMEOUT_S)
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")
