"""One kind of service in the foreground, as containers run them: settings and logs are those of the process."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import NoReturn, TextIO

from stack import programs
from stack.errors import StackError
from stack.models.catalog import obtain
from stack.supervisor import supervisor


def edges(processes: int, environ: Mapping[str, str], *, drain_timeout_s: float, out: TextIO) -> None:
    """Run edges that share their ports until SIGINT or SIGTERM, which lets running responses end; a second one kills.

    Raises:
        StackError: an edge keeps on ending right after its start.
    """
    try:
        asyncio.run(_run_edges(processes, environ, drain_timeout_s=drain_timeout_s, out=out))
    except ExceptionGroup as faults:
        known, unknown = faults.split(StackError)
        if known is None or unknown is not None:
            raise
        raise known.exceptions[0] from None


async def _run_edges(processes: int, environ: Mapping[str, str], *, drain_timeout_s: float, out: TextIO) -> None:
    stopping = asyncio.Event()
    async with supervisor(lambda line: print(line, file=out, flush=True)) as children:

        def on_signal() -> None:
            if stopping.is_set():
                children.kill()
            stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        await children.start(
            *(
                programs.sharing_edge(number, environ, drain_timeout_s=drain_timeout_s)
                for number in range(1, processes + 1)
            )
        )
        await stopping.wait()


def worker(model: str, environ: Mapping[str, str], *, out: TextIO) -> NoReturn:
    """Become an inference worker for ``model``, after fetching it if it is not in the cache.

    Raises:
        StackError: no such model, no network, no space.
    """
    found = obtain(model, environ, out=out)
    name = environ.get("INFERENCE_MODEL_NAME") or found.name
    settings = {**programs.model_settings(found, environ), "INFERENCE_MODEL_NAME": name}
    os.execve(sys.executable, [sys.executable, "-m", "inference"], settings)
