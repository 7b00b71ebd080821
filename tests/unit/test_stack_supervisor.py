"""Supervision of real child processes: each is a few lines of Python."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stack.supervisor import FAILED_STARTS, CrashLoop, Program, supervisor
from tests.support.antiphon import ROOT, clean_environ
from tests.support.processes import is_running, wait_until

WAIT_S = 20.0
APPEND_PID = "import os, signal, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
RUN_UNTIL_TERM = APPEND_PID + "time.sleep(60)"
REFUSE_TERM = APPEND_PID + "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n" + RUN_UNTIL_TERM


class Children:
    """Programs that write their process ids into a file on each start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program(self, name: str, code: str = RUN_UNTIL_TERM, *, stop_grace_s: float = WAIT_S) -> Program:
        return Program(
            name=name,
            command=[sys.executable, "-S", "-c", code, str(self._folder / f"{name}.pids")],
            environ=os.environ,
            log_path=self._folder / f"{name}.log",
            stop_grace_s=stop_grace_s,
        )

    def pids(self, name: str) -> list[int]:
        path = self._folder / f"{name}.pids"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    async def started(self, name: str, *, times: int = 1) -> int:
        """The process id of the start of that number, once it has happened."""
        await asyncio.to_thread(
            wait_until, lambda: len(self.pids(name)) >= times, timeout_s=WAIT_S, what=f"start {times} of {name}"
        )
        return self.pids(name)[times - 1]


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path)


async def test_a_child_that_is_killed_is_started_again(children: Children) -> None:
    lines: list[str] = []
    async with supervisor(lines.append) as stack:
        await stack.start(children.program("worker"))
        os.kill(await children.started("worker"), signal.SIGKILL)
        await children.started("worker", times=2)
    assert lines == ["worker was killed by SIGKILL, starting it again"]


async def test_a_child_killed_more_often_than_starts_may_fail_is_still_started_again(children: Children) -> None:
    async with supervisor(lambda _: None) as stack:
        await stack.start(children.program("worker"))
        for times in range(1, FAILED_STARTS + 2):
            os.kill(await children.started("worker", times=times), signal.SIGKILL)
        await children.started("worker", times=FAILED_STARTS + 2)


async def test_a_program_that_does_not_start_ends_the_stack_with_the_end_of_its_log(children: Children) -> None:
    code = APPEND_PID + "print('no such model', flush=True); sys.exit(3)"
    with pytest.RaisesGroup(
        pytest.RaisesExc(
            CrashLoop, match=r"worker does not start: it ended with exit code 3, 4 times(.|\n)*no such model$"
        )
    ):
        async with asyncio.timeout(WAIT_S), supervisor(lambda _: None) as stack:
            await stack.start(children.program("valkey"))
            await stack.start(children.program("worker", code))
            await asyncio.Event().wait()
    assert len(children.pids("worker")) == FAILED_STARTS
    assert not any(map(is_running, children.pids("valkey")))


async def test_stages_are_stopped_last_one_first(children: Children, tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (open({str(order)!r}, 'a')"
        ".write(sys.argv[1].split('/')[-1] + '\\n'), sys.exit()))\n" + RUN_UNTIL_TERM
    )
    names = ["valkey", "worker", "edge"]
    async with supervisor(lambda _: None) as stack:
        for name in names:
            await stack.start(children.program(name, code))
            await children.started(name)
    assert order.read_text().split() == ["edge.pids", "worker.pids", "valkey.pids"]


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(children: Children) -> None:
    lines: list[str] = []
    async with supervisor(lines.append) as stack:
        await stack.start(children.program("edge", REFUSE_TERM, stop_grace_s=0.1))
        pid = await children.started("edge", times=2)  # it writes once before it refuses, once after
    assert not is_running(pid)
    assert lines == ["edge takes too long to stop, killing it"]


async def test_kill_cuts_a_stop_short(children: Children) -> None:
    refusing = children.program("edge", REFUSE_TERM, stop_grace_s=1000)
    async with asyncio.timeout(WAIT_S), supervisor(lambda _: None) as stack, asyncio.TaskGroup() as tasks:
        log_path = refusing.log_path
        assert log_path is not None
        await stack.start(refusing)
        pid = await children.started("edge", times=2)
        tasks.create_task(stack.stop())
        await asyncio.to_thread(
            wait_until, lambda: log_path.read_text() == "no\n", timeout_s=WAIT_S, what="the refusal"
        )
        stack.kill()
    assert not is_running(pid)


async def test_what_a_child_leaves_behind_dies_with_it(children: Children) -> None:
    fork = "import os\nready, tell = os.pipe()\nif os.fork(): os.read(ready, 1); os._exit(0)\n"
    with pytest.RaisesGroup(CrashLoop):
        async with asyncio.timeout(WAIT_S), supervisor(lambda _: None) as stack:
            await stack.start(children.program("edge", fork + APPEND_PID + "os.write(tell, b'.'); time.sleep(60)"))
            await asyncio.Event().wait()
    assert len(children.pids("edge")) == FAILED_STARTS
    wait_until(lambda: not any(map(is_running, children.pids("edge"))), timeout_s=WAIT_S, what="their end")


def start_supervisor(folder: Path) -> subprocess.Popen[bytes]:
    """A process of its own that supervises one child."""
    code = f"""
import asyncio
from pathlib import Path
from stack.supervisor import supervisor
from tests.unit.test_stack_supervisor import Children

async def main():
    async with supervisor(print) as stack:
        await stack.start(Children(Path({str(folder)!r})).program("worker"))
        await asyncio.Event().wait()

asyncio.run(main())
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=clean_environ(), stdin=subprocess.DEVNULL)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the death signal of Linux")
def test_children_do_not_outlive_a_supervisor_that_is_killed(children: Children, tmp_path: Path) -> None:
    with start_supervisor(tmp_path) as parent:
        try:
            (pid,) = wait_until(lambda: children.pids("worker"), timeout_s=WAIT_S, what="the child's start")
        finally:
            parent.kill()
    wait_until(lambda: not is_running(pid), timeout_s=WAIT_S, what="the child's end")


def test_an_interrupt_from_the_terminal_does_not_reach_the_children_directly(
    children: Children, tmp_path: Path
) -> None:
    with start_supervisor(tmp_path) as parent:
        try:
            (pid,) = wait_until(lambda: children.pids("worker"), timeout_s=WAIT_S, what="the child's start")
            assert os.getpgid(pid) == pid
            assert os.getpgid(parent.pid) != pid
        finally:
            parent.kill()
