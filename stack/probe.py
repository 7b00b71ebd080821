"""``antiphon probe``: whether a service can serve, for images that have no other HTTP or gRPC client."""

import asyncio
import socket
import ssl
from http import HTTPStatus
from urllib.parse import urlsplit

from stack.errors import StackError
from stack.ports import reachable_host

_MAX_ANSWER_BYTES = 65_536


def probe(url: str, *, timeout_s: float) -> None:
    """Ask an edge (``http://host:port/readyz``, or ``https``), or a gRPC server's health service (``grpc://host:port``).

    ``tcp://host:port`` only asks whether somebody listens: a worker with TLS does once it can serve.
    Certificates are not checked: it is the probe's own machine that is asked, and no secret is sent.

    Raises:
        StackError: it does not serve, or does not say so in time.
    """
    target = urlsplit(url)
    try:
        if target.scheme in ("http", "https"):
            context = _unchecked() if target.scheme == "https" else None
            verdict = asyncio.run(_probe_http(target.netloc, target.path or "/", timeout_s, context))
        elif target.scheme == "tcp":
            socket.create_connection((target.hostname or "", target.port or 0), timeout=timeout_s).close()
            verdict = None
        elif target.scheme == "grpc":
            verdict = _probe_grpc(target.netloc, timeout_s)
        else:
            raise StackError(f"{url!r} begins with none of http://, https://, grpc:// and tcp://")
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise StackError(f"{url} does not answer: {str(error) or type(error).__name__}") from None
    if verdict is not None:
        raise StackError(f"{url} is not ready: {verdict}")


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _probe_http(address: str, path: str, timeout_s: float, context: ssl.SSLContext | None) -> str | None:
    async with asyncio.timeout(timeout_s):
        status, answer = await http_get(address, path, context)
    return None if status == HTTPStatus.OK else f"{status} {answer}"


def _probe_grpc(address: str, timeout_s: float) -> str | None:
    import grpc  # only where it is asked for: it takes longer than all the rest
    from grpc_health.v1 import health_pb2

    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
    serves = answer.status == health_pb2.HealthCheckResponse.SERVING
    return None if serves else str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def http_get(http: str, path: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Status and body of a GET at ``host:port``, past any proxy.

    Raises:
        OSError: no connection.
        ValueError: no HTTP answer.
    """
    target = urlsplit(f"//{http}")
    reader, writer = await asyncio.open_connection(reachable_host(target.hostname or ""), target.port, ssl=context)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {http}\r\n\r\n".encode())
        answer = await reader.read(_MAX_ANSWER_BYTES)
    finally:
        writer.close()
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    _, _, rest = head.partition(" ")  # after the protocol's version
    return int(rest[:3]), body.strip()
