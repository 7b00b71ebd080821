"""Workers: in this process, for looking inside, and as a process of their own, for killing."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from antiphon.responses.v1 import content_pb2, item_pb2
from inference.engines.scripted import ScriptedEngine, ScriptedSettings
from inference.server import WorkerServer
from inference.settings import InferenceSettings
from tests.support.antiphon import ROOT, clean_environ
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

MODEL = "scripted"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True)
class InProcessWorker:
    """A worker on this event loop, with the scripted engine behind it."""

    target: str
    engine: ScriptedEngine
    server: WorkerServer
    channel: grpc.aio.Channel
    stub: "InferenceServiceAsyncStub"

    async def health(self, service: str = "") -> int:
        """The worker's own word on ``service``."""
        check = self.channel.unary_unary(
            HEALTH_CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        response = await check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return int(response.status)


@asynccontextmanager
async def in_process_worker(
    folder: Path,
    *,
    parallel: int = 64,
    context_window: int = 32768,
    engine_class: type[ScriptedEngine] = ScriptedEngine,
    **settings: Any,
) -> AsyncGenerator[InProcessWorker, None]:
    """A serving worker, listening on a socket in ``folder``.

    Args:
        settings: Fields of InferenceSettings.
    """
    target = f"unix:{folder}/worker.sock"
    engine = engine_class(ScriptedSettings(parallel=parallel, context_window=context_window))
    await engine.start()
    server = WorkerServer(engine, InferenceSettings(listen=target, engine="scripted", model_name=MODEL, **settings))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            yield InProcessWorker(target, engine, server, channel, InferenceServiceStub(channel))
    finally:
        await server.stop()
        await engine.close()


@dataclass(frozen=True)
class WorkerProcess:
    """A running ``python -m inference``."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def target(self) -> str:
        """Where it listens, as it says itself; empty as long as it does not."""
        addresses = (line["address"] for line in self.log_lines() if line["message"] == "serving")
        return str(next(addresses, ""))

    def is_serving(self) -> bool:
        """Whether its health service says so."""
        if not self.target:
            return False
        with grpc.insecure_channel(self.target) as channel:
            check = channel.unary_unary(
                HEALTH_CHECK,
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                return bool(check(health_pb2.HealthCheckRequest(), timeout=2).status == SERVING)
            except grpc.RpcError:
                return False

    def log_lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@contextmanager
def worker_process(
    folder: Path, *, start_timeout_s: float = 60, **settings: str
) -> Generator[WorkerProcess, None, None]:
    """Run ``python -m inference`` until the end of the context; it serves when this yields.

    Args:
        folder: For its socket and its log; must be new for each worker.
        start_timeout_s: How long it may take to serve.
        settings: Variables without ``INFERENCE_``, in lower case; by default the engine is the scripted one.
    """
    folder.mkdir(parents=True)
    variables = {"listen": f"unix:{folder}/worker.sock", "engine": "scripted", "model_name": MODEL, **settings}
    environ = clean_environ(**{f"INFERENCE_{name.upper()}": value for name, value in variables.items()})
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "inference"], env=environ, cwd=ROOT, stderr=output)
    worker = WorkerProcess(process, log)
    try:
        wait_until(
            lambda: process.poll() is not None or worker.is_serving(), timeout_s=start_timeout_s, what="worker serving"
        )
        assert process.poll() is None, log.read_text()
        yield worker
    finally:
        process.kill()
        process.wait(timeout=10)


class TextSink:
    """A sink of ``edge.workers.stream`` that keeps the text and how it ended."""

    def __init__(self) -> None:
        self.text = ""
        self.end = ""

    def has_text(self) -> bool:
        return bool(self.text)

    def accepted(self, input_tokens: int) -> None: ...

    def started(self) -> None: ...

    def part_started(self, kind: pb.PartKind.ValueType, name: str) -> None: ...

    def delta(self, text: str, token_ids: Sequence[int], logprobs: Sequence[content_pb2.Logprob]) -> None:
        self.text += text

    def part_ended(self) -> None: ...

    def finished(self, finished: pb.Finished) -> None:
        self.end = "finished"

    def failed(self, error: ApiError) -> None:
        self.end = "failed"

    def lost(self) -> None:
        self.end = "lost"

    def flush(self) -> None: ...


def user_message(text: str) -> item_pb2.Item:
    """An item of one user message."""
    part = content_pb2.ContentPart(input_text=content_pb2.InputText(text=text))
    return item_pb2.Item(message=item_pb2.Message(role=item_pb2.Role.ROLE_USER, content=[part]))


def script(*commands: str, **fields: Any) -> pb.GenerateRequest:
    """A request whose output is what ``commands`` of the scripted engine say.

    Args:
        fields: Further fields of the request.
    """
    return pb.GenerateRequest(items=[user_message("\n".join(["script:", *commands]))], **fields)


async def until(condition: Callable[[], object], *, timeout_s: float = 30, what: str = "condition") -> None:
    """Wait on this event loop until ``condition()`` is true."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - it may change in any task, or in another process
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {what}") from None
