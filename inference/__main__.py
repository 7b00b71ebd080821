"""Starts the worker: ``python -m inference``, settings from ``INFERENCE_*`` variables (see ``inference.settings``).

Exit codes: 0 after a drain, 1 when the worker could not start or its engine has died, 2 when a setting is wrong.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, assert_never

import uvloop

from antiphon.logs import configure_logging
from inference.engines.base import Engine, EngineDead
from inference.gpu import NoGpu, cuda_environment, taken_gpus
from inference.server import WorkerServer
from inference.settings import InferenceSettings, read_settings

log = logging.getLogger("inference")

_REPORT_DEATH_S = 2.0
"""How long failures may take to reach their callers once the engine has died."""
_CLOSE_S = 30.0
"""How long an engine may take to stop."""


def main() -> NoReturn:
    """Run the worker as this process.

    Leaves without Python's own clean-up, which waits for threads: an engine's may hang in native code.
    """
    held = ExitStack()  # for as long as this process lives
    try:
        settings = read_settings(os.environ)
        configure_logging(settings.log_level)
        held.enter_context(own_gpus(settings))
        engine = create_engine(settings)
    except (ValueError, NoGpu) as error:
        print(f"inference: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, NoGpu) else 2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # see ``run``
    try:
        code = uvloop.new_event_loop().run_until_complete(run(settings, engine))
    except Exception:
        log.exception("worker failed")
        code = 1
    logging.shutdown()
    os._exit(code)


@contextmanager
def own_gpus(settings: InferenceSettings) -> Iterator[None]:
    """Hold the GPUs that the settings ask for; CUDA, which nothing may have loaded yet, will see no others.

    Raises:
        NoGpu: they cannot be had.
    """
    if not settings.gpus:
        yield
        return
    with taken_gpus(settings.gpus, Path(settings.gpu_locks), wait_s=settings.gpu_wait_s) as gpus:
        os.environ.update(cuda_environment(gpus))
        log.info("GPUs taken", extra={"gpus": [gpu.uuid for gpu in gpus]})
        yield


def create_engine(settings: InferenceSettings) -> Engine:
    """The engine that the settings name, not started.

    Raises:
        ValueError: it cannot do what a setting asks for, or a setting of its own is wrong.
    """
    engine = _create_engine(settings)
    if settings.end_bias and not engine.info.capabilities.end_bias:
        raise ValueError(f"INFERENCE_END_BIAS: the engine {settings.engine} has no logit bias; leave it 0")
    return engine


def _create_engine(settings: InferenceSettings) -> Engine:
    """Each brings a library of its own, which is imported only now."""
    match settings.engine:
        case "llamacpp":
            from inference.engines.llamacpp import LlamaCppEngine, LlamaCppSettings

            return LlamaCppEngine(
                LlamaCppSettings(
                    model_path=Path(settings.model_path),
                    projector_path=Path(settings.projector_path) if settings.projector_path else None,
                    context_window=settings.context_window,
                    parallel=settings.parallel,
                    threads=settings.threads or max(1, (os.cpu_count() or 1) // 2),
                )
            )
        case "trtllm":
            from inference.engines.trtllm.engine import TrtllmEngine, TrtllmSettings
            from inference.engines.trtllm.options import read_options

            return TrtllmEngine(
                TrtllmSettings(
                    model_path=Path(settings.model_path),
                    context_window=settings.context_window,
                    parallel=settings.parallel,
                    options=read_options(Path(settings.engine_settings) if settings.engine_settings else None),
                )
            )
        case "scripted":
            from inference.engines.scripted import ScriptedEngine, ScriptedSettings

            return ScriptedEngine(ScriptedSettings(context_window=settings.context_window, parallel=settings.parallel))
        case _:
            assert_never(settings.engine)


async def run(settings: InferenceSettings, engine: Engine) -> int:
    """Serve until a signal comes or the engine dies; return the exit code."""
    # The engine comes before gRPC: some start processes, which must not inherit its threads. Until it is ready, which
    # may take minutes in native code, signals end the process as they do by default.
    try:
        await engine.start()
        server = WorkerServer(engine, settings)
        address = await server.start()
    except (EngineDead, OSError) as error:
        log.error("cannot start", extra={"error": str(error)})
        return 1
    stop = asyncio.Event()  # the first signal: drain
    hurry = asyncio.Event()  # the second: leave
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    gc.freeze()  # what lives now lives for good: the collector need not look at it again
    log.info("serving", extra={"address": address, "model": settings.model_name, "engine": engine.info.engine})

    died = engine.died
    cause = await _first(stop=stop.wait(), died=died.wait())
    log.info("draining", extra={"cause": cause})
    if cause == "stop":
        await _first(drained=server.drain(settings.drain_timeout_s), hurry=hurry.wait(), died=died.wait())
    else:
        await server.drain(_REPORT_DEATH_S)
    await server.stop()
    if died.is_set():
        return 1
    try:
        async with asyncio.timeout(_CLOSE_S):
            await engine.close()
    except TimeoutError:
        log.warning("engine did not stop in time")
    log.info("stopped")
    return 0


async def _first(**waits: Coroutine[Any, Any, object]) -> str:
    """The name of the first of ``waits`` to return, or what it raises; the others are cancelled."""
    tasks = {asyncio.ensure_future(wait): name for name, wait in waits.items()}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    first = done.pop()
    first.result()
    return tasks[first]


if __name__ == "__main__":
    main()
