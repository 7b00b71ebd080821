"""The worker's gRPC server: InferenceService, health and reflection, from start to drain."""

import asyncio
import logging
import os
import socket
import time
from hashlib import sha256
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from antiphon.tls import server_credentials
from inference.admission import Admission
from inference.attach import AttachLimits
from inference.engines.base import Engine
from inference.generation import Generations
from inference.prompt import PromptBuilder
from inference.servicer import InferenceServicer
from inference.settings import InferenceSettings

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name

_STREAMS_END_S = 2.0
"""How long the ends of streams and calls may take to reach their peers."""


class WorkerServer:
    """Serves one started engine. Made on the event loop, after the engine has started.

    Raises:
        OSError: the chat template of the settings cannot be read.
    """

    def __init__(self, engine: Engine, settings: InferenceSettings) -> None:
        self._settings = settings
        self.admission = Admission(
            capacity=engine.info.capacity,
            max_waiting=settings.max_waiting,
            kv_cache_usage=lambda: engine.kv_cache_usage,
        )
        chat_template = _chat_template(engine, settings)
        prompts = PromptBuilder(
            engine.tokenizer,
            chat_template,
            engine.info.context_window,
            thinking_marks=settings.thinking_marks,
            count_mixed=engine.count_tokens if engine.info.capabilities.images else None,
            tool_format=settings.tool_format,
        )
        self.generations = Generations(
            engine=engine,
            prompts=prompts,
            model=_model_info(engine, settings.model_name, chat_template, is_thinker=prompts.reasoning.is_thinker),
            admission=self.admission,
            min_p=settings.min_p,
            end_bias=settings.end_bias,
            default_max_output_tokens=settings.default_max_output_tokens,
        )
        self._servicer = InferenceServicer(
            self.generations,
            name=f"{socket.gethostname()}:{os.getpid()}",
            limits=AttachLimits(
                heartbeat_ms=settings.heartbeat_ms,
                stall_timeout_s=settings.stall_timeout_s,
                max_request_bytes=settings.max_request_bytes,
            ),
        )
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_request_bytes + 4096),
                ("grpc.max_send_message_length", -1),  # frames are bounded where they are made
                ("grpc.so_reuseport", 0),  # a second worker on the same port is a mistake
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ],
            maximum_concurrent_rpcs=engine.info.capacity + settings.max_waiting + 64,
        )
        add_InferenceServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME], self._server
        )

    async def start(self) -> str:
        """Listen and serve; return the address, with the port that was bound.

        Raises:
            OSError: the address cannot be bound.
        """
        listen = self._settings.listen
        try:
            if self._settings.tls_cert:
                port = self._server.add_secure_port(listen, server_credentials(self._settings.tls))
            else:
                port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: {error}") from None
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and let what runs finish for ``timeout_s``; say whether all of it did."""
        self.admission.is_draining = True
        await self._health.enter_graceful_shutdown()
        try:
            async with asyncio.timeout(timeout_s):
                await self.admission.empty()
        except TimeoutError:
            log.warning("generations cut off", extra={"running": self.admission.running})
            return False
        return True

    async def stop(self) -> None:
        """End what is left, in bounded time."""
        self._servicer.close_streams()
        await self._server.stop(_STREAMS_END_S)
        self.generations.close()


def _chat_template(engine: Engine, settings: InferenceSettings) -> str:
    return Path(settings.chat_template).read_text() if settings.chat_template else engine.chat_template


def _model_info(engine: Engine, name: str, chat_template: str, *, is_thinker: bool) -> pb.ModelInfo:
    info = engine.info
    capabilities = info.capabilities
    return pb.ModelInfo(
        id=name,
        owned_by="antiphon",
        created_at=int(time.time()),
        engine=info.engine,
        context_window=info.context_window,
        fingerprint=fingerprint(engine, chat_template),
        capabilities=pb.Capabilities(
            penalties=capabilities.penalties,
            seed=capabilities.seed,
            max_top_logprobs=capabilities.max_top_logprobs,
            grammar=capabilities.grammar,
            images=capabilities.images,
            cache_salt=capabilities.cache_salt,
            reasoning=is_thinker,
        ),
    )


_PROBE = "The quick brown fox: 1234567890, naïve café; 速い茶色の狐 🦊\n\n\t  def f(x):\r\n        return x**2"
"""Text whose tokens tell tokenizers with one vocabulary but different merges or pre-tokenizers apart."""


def fingerprint(engine: Engine, chat_template: str) -> str:
    """SHA-256 of tokenizer and chat template: equal for workers that turn the same items into the same token ids."""
    tokenizer = engine.tokenizer
    digest = sha256()
    token_id = 0
    while True:
        try:
            utf8 = tokenizer.token_bytes(token_id)
        except KeyError:
            break
        digest.update(len(utf8).to_bytes(4) + utf8)
        token_id += 1
    for part in (
        sorted(tokenizer.markers.items()),
        tokenizer.bos_token_id,
        sorted(tokenizer.eos_token_ids),
        tokenizer.encode(_PROBE),
        chat_template,
    ):
        digest.update(repr(part).encode())
    return digest.hexdigest()
