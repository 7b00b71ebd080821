"""From a URL to a Redis, Valkey or cluster that commands can be sent to. Only Redis 7.0's command set is used."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from store.batcher import CommandBatcher

_CLUSTER_SUFFIX = "+cluster"
_CLUSTER_PORT = 6379
_PIPELINES = 4
"""Pipelines of one process that may be under way at once."""
_MAX_CONNECTIONS = _PIPELINES + 4
"""Per node; the rest is for health checks."""

_OPTIONS: dict[str, Any] = {
    "protocol": 2,  # RESP3 adds nothing here but a handshake of several commands
    "driver_info": None,  # CLIENT SETINFO is newer than Redis 7.0
    "client_name": "antiphon",
    "socket_connect_timeout": 1.0,
    "socket_timeout": 2.5,  # longer than a slow fsync, shorter than an operation
    "max_connections": _MAX_CONNECTIONS,
}
"""What a URL does not say otherwise, as in ``?socket_timeout=1``. Times in seconds."""


@asynccontextmanager
async def connect(url: str, *, timeout_s: float = 5.0) -> AsyncGenerator[CommandBatcher, None]:
    """Commands to the Redis at ``url``, each given up after ``timeout_s`` seconds, retries included.

    Connections are made when they are needed, and again after a failure; the server need not be there yet. Forms:

    - ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` for TLS (``?ssl_ca_certs=FILE`` and so on)
    - ``unix://[[user]:password@]/path[?db=0]``
    - ``redis+cluster://[[user]:password@]host[:port][,host[:port]...]``, ``rediss+cluster://``: any nodes of a cluster

    Raises:
        ValueError: The URL has another form.
    """
    client = open_client(url)
    try:
        async with CommandBatcher(client, pipelines=_PIPELINES, timeout_s=timeout_s) as commands:
            yield commands
    finally:
        await client.aclose()


def open_client(url: str) -> Redis | RedisCluster:
    """redis-py's client for ``url``, in the forms that ``connect`` takes; it is the caller's to close."""
    if urlsplit(url).scheme.endswith(_CLUSTER_SUFFIX):
        return _open_cluster(url.replace(_CLUSTER_SUFFIX, "", 1))
    # the batcher retries: two retries inside each other would multiply
    options = {**_OPTIONS, "retry": Retry(NoBackoff(), 0), "timeout": _OPTIONS["socket_timeout"], **parse_url(url)}
    return Redis.from_pool(BlockingConnectionPool(**options))


def _open_cluster(url: str) -> RedisCluster:
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    nodes = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if not all(node.hostname for node in nodes):
        raise ValueError("the URL of a cluster names its nodes: redis+cluster://host:port,host:port")
    first = parts._replace(netloc=f"{credentials}{at}{nodes[0].netloc}").geturl()
    # one retry of its own: it is how redis-py reads the topology again after a node died
    options = {**_OPTIONS, "retry": Retry(NoBackoff(), 1), **parse_url(first)}
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    for name in ("host", "port"):
        options.pop(name, None)
    return RedisCluster(
        startup_nodes=[ClusterNode(node.hostname or "", node.port or _CLUSTER_PORT) for node in nodes], **options
    )
