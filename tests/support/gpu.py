"""A machine with GPUs, as far as workers ask: an ``nvidia-smi`` that lists them."""

from pathlib import Path


def machine_with_gpus(folder: Path, count: int | None) -> str:
    """``PATH`` of processes that see ``count`` GPUs, listed out of order; None: there is no driver."""
    folder.mkdir(parents=True, exist_ok=True)
    if count is not None:
        rows = [f"echo '{index}, GPU-{index:036x}'" for index in reversed(range(count))] or [
            "echo No devices were found"
        ]
        check = '[ "$*" = "--query-gpu=index,uuid --format=csv,noheader" ] || exit 1'
        program = folder / "nvidia-smi.new"
        program.write_text("\n".join(["#!/bin/sh", check, *rows, ""]))
        program.chmod(0o755)
        program.replace(folder / "nvidia-smi")  # others may be running it
    return f"{folder}:/usr/bin:/bin"
