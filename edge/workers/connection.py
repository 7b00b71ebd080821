"""Keeps one worker connected, for as long as the edge lives."""

import asyncio
import logging
import os
import random
import socket
from typing import TYPE_CHECKING

import grpc

from antiphon.errors import ApiError, from_trailing_metadata
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceStub
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.tls import TlsFiles, channel_credentials
from edge.workers.outliers import Outlier
from edge.workers.stream import WorkerSilent, WorkerStream

if TYPE_CHECKING:
    from antiphon.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 2.0
_CALL_TIMEOUT_S = 5.0
_COUNT_TIMEOUT_S = 30.0
"""A prompt of megabytes takes seconds to tokenize."""

_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


class WorkerConnection:
    """One worker at one address.

    Args:
        target: A gRPC target, such as ``127.0.0.1:50061`` or ``unix:/run/worker.sock``.
        silence_s: A worker that sends nothing for this long counts as gone.
        changed: Set whenever a worker comes or goes.
        outlier: Of this worker.
        tls: How it is called by TLS; None: without.
        certified_name: What its certificate must name; None: the host of ``target``.
    """

    def __init__(
        self,
        target: str,
        *,
        silence_s: float,
        changed: asyncio.Event,
        outlier: Outlier,
        tls: TlsFiles | None = None,
        certified_name: str | None = None,
    ) -> None:
        self.target = target
        self.model: pb.ModelInfo | None = None
        """What the worker serves; kept while it is away, so that its model's name stays known."""
        self.is_leaving = False
        """Its address is not to be used any more: it gets nothing new."""
        self.outlier = outlier
        self._silence_s = silence_s
        self._changed = changed
        self._tls = tls
        self._certified_name = certified_name
        self._stream: WorkerStream | None = None
        self._counting = 0
        self._stub: InferenceServiceAsyncStub | None = None

    @property
    def stream(self) -> WorkerStream | None:
        """The open stream; None while the worker is away."""
        return self._stream if self._stream is not None and self._stream.is_open else None

    @property
    def is_ready(self) -> bool:
        """It takes new generations."""
        return self.stream is not None and not self.stream.load.draining and not self.is_leaving

    @property
    def is_idle(self) -> bool:
        """Nothing that this edge asked of it is under way."""
        return self._counting == 0 and (self.stream is None or self.stream.in_flight == 0)

    @property
    def load(self) -> int:
        """Generations it has, from all edges as it last said, or from this one, whichever is more."""
        stream = self.stream
        return 0 if stream is None else max(stream.in_flight, stream.load.running + stream.load.waiting)

    @property
    def room(self) -> int:
        """Generations that it could begin at once."""
        stream = self.stream
        return 0 if stream is None else max(0, stream.load.capacity - self.load)

    async def count_tokens(self, request: pb.GenerateRequest) -> int:
        """Tokens of the prompt that ``request`` would have.

        Raises:
            ApiError: the worker refuses the request, or WORKER_UNAVAILABLE if it has gone.
        """
        assert self._stub is not None  # it was ready
        self._counting += 1
        try:
            answer = await self._stub.CountTokens(pb.CountTokensRequest(request=request), timeout=_COUNT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refusal = from_trailing_metadata(error.trailing_metadata())
            if refusal is not None:
                raise refusal from None
            log.warning("tokens not counted", extra={"worker": self.target, "code": error.code().name})
            message = "The inference worker failed while counting tokens. Try again."
            raise ApiError(ErrorReason.ERROR_REASON_WORKER_UNAVAILABLE, message, retry_after_ms=1000) from error
        finally:
            self._counting -= 1
        return answer.input_tokens

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        retry_s = _FIRST_RETRY_S
        while True:
            async with self._channel() as channel:
                stub: InferenceServiceAsyncStub = InferenceServiceStub(channel)
                self._stub = stub
                was_open = await self._serve(stub)
            retry_s = _FIRST_RETRY_S if was_open else min(retry_s * 2, _LAST_RETRY_S)
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))

    def _channel(self) -> grpc.aio.Channel:
        """A channel of its own for each connection, so that a renewed certificate is used."""
        if self._tls is None:
            return grpc.aio.insecure_channel(self.target, options=_CHANNEL_OPTIONS)
        name = [] if self._certified_name is None else [("grpc.ssl_target_name_override", self._certified_name)]
        return grpc.aio.secure_channel(self.target, channel_credentials(self._tls), options=[*_CHANNEL_OPTIONS, *name])

    async def _serve(self, stub: "InferenceServiceAsyncStub") -> bool:
        """Hold one stream until it ends; say whether it was ever open."""
        name = f"{socket.gethostname()}:{os.getpid()}"
        stream: WorkerStream | None = None
        try:
            model = await stub.GetModel(pb.GetModelRequest(), timeout=_CALL_TIMEOUT_S)
            stream = WorkerStream(
                stub.Attach(),
                name=name,
                silence_s=self._silence_s,
                opened=self._changed.set,
                outlier=self.outlier,
            )
            self.outlier.reconnected()
            self.model, self._stream = model.model, stream
            log.info("worker connected", extra={"worker": self.target, "model": model.model.id})
            await stream.run()
            log.warning("worker ended its stream", extra={"worker": self.target})
        except grpc.aio.AioRpcError as error:
            level = logging.WARNING if stream is not None else logging.DEBUG
            log.log(level, "worker lost", extra={"worker": self.target, "code": error.code().name})
        except WorkerSilent:
            log.warning("worker silent", extra={"worker": self.target, "silence_s": self._silence_s})
        finally:
            self._stream = None
            self._changed.set()
        return stream is not None
