"""Child processes that are started, watched, started again when they die, and stopped in order."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError
from stack.parent_death import dies_with_parent

EARLY_DEATH_S = 10.0
"""A life shorter than this is a failed start."""
FAILED_STARTS = 4
"""So many failed starts in a row end the stack."""
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
_LOG_TAIL_LINES = 12
_LOG_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Program:
    """What a child process runs."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    log_path: Path | None
    """Gets what the child writes, appended; None: it goes where this process writes to."""
    stop_grace_s: float
    """How long it may take to end after SIGTERM before it is killed."""
    inherited_fds: tuple[int, ...] = ()


class CrashLoop(StackError):
    """A program that ends again and again right after its start."""


@dataclass
class _Child:
    program: Program
    process: Process
    """The running one, or the last one while the next is on its way."""


class Supervisor:
    """Owns the child processes of one stack.

    A child leads its own process group, so that Ctrl-C in the terminal reaches only the supervisor; on Linux the kernel
    kills it when the supervisor dies, however that happens.
    """

    def __init__(self, tasks: asyncio.TaskGroup, report: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._report = report
        self._stages: list[list[_Child]] = []
        self._keepers: list[asyncio.Task[None]] = []
        self.is_stopping = False

    async def start(self, *programs: Program) -> None:
        """Start programs and keep them running; they form a stage, and stages are stopped last one first."""
        stage: list[_Child] = []
        self._stages.append(stage)
        for program in programs:
            child = _Child(program, await _spawn(program))
            stage.append(child)
            self._keepers.append(self._tasks.create_task(self._keep(child), name=f"keep {program.name}"))

    async def stop(self) -> None:
        """End all children, stage by stage: SIGTERM, then SIGKILL to those that take longer than their grace."""
        self.is_stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)  # their errors are the task group's to raise
        for stage in reversed(self._stages):
            await asyncio.gather(*(self._stop(child) for child in stage))

    def kill(self) -> None:
        """Kill all children now; a `stop` that is under way then finishes at once."""
        for stage in self._stages:
            for child in stage:
                if child.process.returncode is None:
                    _kill_group(child.process)

    async def _keep(self, child: _Child) -> None:
        program = child.program
        loop = asyncio.get_running_loop()
        failed_starts = 0
        while True:
            started_at = loop.time()
            code = await child.process.wait()
            _kill_group(child.process)  # what it may have started itself
            if loop.time() - started_at >= EARLY_DEATH_S:
                failed_starts = 0
            elif code != -signal.SIGKILL:  # a kill from outside says nothing against the program
                failed_starts += 1
            delay_s = min(_FIRST_DELAY_S * 2**failed_starts, _LONGEST_DELAY_S)
            if failed_starts == FAILED_STARTS:
                told = (
                    ""
                    if program.log_path is None
                    else f"; the end of {program.log_path}:\n{_log_tail(program.log_path)}"
                )
                raise CrashLoop(f"{program.name} does not start: it {_describe(code)}, {failed_starts} times{told}")
            self._report(f"{program.name} {_describe(code)}, starting it again")
            await asyncio.sleep(delay_s)
            child.process = await _spawn(program)

    async def _stop(self, child: _Child) -> None:
        process = child.process
        if process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(child.program.stop_grace_s):
                await process.wait()
        except TimeoutError:
            self._report(f"{child.program.name} takes too long to stop, killing it")
        _kill_group(process)
        await process.wait()


@asynccontextmanager
async def supervisor(report: Callable[[str], None]) -> AsyncGenerator[Supervisor, None]:
    """A supervisor whose children live as long as the block; a crash loop cancels the block.

    Args:
        report: gets one line for the user whenever something happens to a child.

    Raises:
        CrashLoop: (in an ExceptionGroup) a program keeps on ending right after its start.
    """
    async with asyncio.TaskGroup() as tasks:
        children = Supervisor(tasks, report)
        try:
            yield children
        finally:
            await children.stop()


async def _spawn(program: Program) -> Process:
    with nullcontext() if program.log_path is None else program.log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *program.command,
            env=dict(program.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            pass_fds=program.inherited_fds,
            preexec_fn=dies_with_parent(),
        )


def _kill_group(process: Process) -> None:
    with suppress(ProcessLookupError):  # nobody is left in it
        os.killpg(process.pid, signal.SIGKILL)


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _log_tail(path: Path) -> str:
    with path.open("rb") as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (empty)"
