"""The gRPC door's server: ResponsesService, health and reflection."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from antiphon.responses.v1 import responses_service_pb2
from antiphon.responses.v1.responses_service_pb2_grpc import add_ResponsesServiceServicer_to_server
from antiphon.tls import server_credentials
from edge.auth import Authenticator
from edge.core import Core
from edge.limits import Limiter
from edge.rpc.identity import Callers
from edge.rpc.servicer import ResponsesServicer
from edge.settings import EdgeSettings

SERVICE = responses_service_pb2.DESCRIPTOR.services_by_name["ResponsesService"].full_name

_OTHER_CALLS = 64
"""Calls at once that are no responses, such as health checks."""


async def start_server(
    core: Core, settings: EdgeSettings, authenticator: Authenticator, limiter: Limiter
) -> tuple[grpc.aio.Server, int]:
    """Start to serve; return the server and its port (1 for a unix socket).

    Raises:
        OSError: the address cannot be had.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", int(settings.reuse_port)),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
        # responses are bounded before that, with an error that says more; these are for what else may be called
        maximum_concurrent_rpcs=settings.max_running + _OTHER_CALLS,
    )
    servicer = ResponsesServicer(
        core, Callers(authenticator, settings), limiter, slow_reader_timeout_s=settings.slow_reader_timeout_s
    )
    add_ResponsesServiceServicer_to_server(servicer, server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection([SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    try:
        if settings.grpc_tls_cert:
            port = server.add_secure_port(settings.grpc_listen, server_credentials(settings.grpc_tls))
        else:
            port = server.add_insecure_port(settings.grpc_listen)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {settings.grpc_listen}: {error}") from error
    await server.start()
    for service in ("", SERVICE):
        await health_servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    return server, port
