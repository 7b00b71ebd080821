"""From a URL to a Redis, Valkey or cluster that commands can be sent to. Only Redis 7.0's command set is used."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from store.batcher import CommandBatcher
from store.subscriber import Subscriber

_CLUSTER_SUFFIX = "+cluster"
_CLUSTER_PORT = 6379
_SENTINEL_SUFFIX = "+sentinel"
_SENTINEL_PORT = 26379
_SENTINEL_CREDENTIALS = ("sentinel_username", "sentinel_password")
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
    - ``redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/primary[/db]``, ``rediss+sentinel://`` (TLS to
      both): Sentinels, and the name they know the primary by; their own credentials as
      ``?sentinel_username=...&sentinel_password=...``

    Raises:
        ValueError: The URL has another form.
    """
    client = open_client(url)
    try:
        async with CommandBatcher(client, pipelines=_PIPELINES, timeout_s=timeout_s) as commands:
            yield commands
    finally:
        await client.aclose()


@asynccontextmanager
async def subscribe(url: str) -> AsyncGenerator[Subscriber, None]:
    """The one connection over which this process hears of changes in the Redis at ``url``, in the forms of ``connect``.

    Made again after a failure; the server need not be there yet.
    """
    client = open_client(url)

    async def new_connection() -> AbstractConnection:
        if isinstance(client, RedisCluster):
            await client.initialize()
            node = client.get_random_node()
            return node.connection_class(**node.connection_kwargs)
        connection: AbstractConnection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    try:
        async with Subscriber(new_connection) as subscriber:
            yield subscriber
    finally:
        await client.aclose()


def open_client(url: str) -> Redis | RedisCluster:
    """redis-py's client for ``url``, in the forms that ``connect`` takes; it is the caller's to close."""
    if urlsplit(url).scheme.endswith(_CLUSTER_SUFFIX):
        return _open_cluster(url.replace(_CLUSTER_SUFFIX, "", 1))
    if urlsplit(url).scheme.endswith(_SENTINEL_SUFFIX):
        return _open_sentinel(url.replace(_SENTINEL_SUFFIX, "", 1))
    # the batcher retries: two retries inside each other would multiply
    options = {**_OPTIONS, "retry": Retry(NoBackoff(), 0), "timeout": _OPTIONS["socket_timeout"], **parse_url(url)}
    return Redis.from_pool(BlockingConnectionPool(**options))


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the primary that the Sentinels name; who finds them all taken waits."""

    async def aclose(self) -> None:
        """Close these, and those to the Sentinels."""
        await super().aclose()
        await self.sentinel_manager.aclose()


def _open_cluster(url: str) -> RedisCluster:
    nodes, first = _split_hosts(url, _CLUSTER_PORT)
    # one retry of its own: it is how redis-py reads the topology again after a node died
    options = {**_OPTIONS, "retry": Retry(NoBackoff(), 1), **_options_of(first)}
    return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in nodes], **options)


def _open_sentinel(url: str) -> Redis:
    sentinels, first = _split_hosts(url, _SENTINEL_PORT)
    name, _, db = urlsplit(first).path.strip("/").partition("/")
    if not name:
        raise ValueError("the URL of Sentinels names the primary: redis+sentinel://host:port,host:port/primary")
    options = _options_of(urlsplit(first)._replace(path=f"/{db}").geturl())
    no_retry = {"retry": Retry(NoBackoff(), 0)}
    own = {key.removeprefix("sentinel_"): options.pop(key) for key in _SENTINEL_CREDENTIALS if key in options}
    options = {**_OPTIONS, **no_retry, **options}
    shared = {
        key: value for key, value in options.items() if key.startswith(("socket_", "ssl")) or key == "driver_info"
    }
    manager = Sentinel(sentinels, sentinel_kwargs={**shared, **no_retry, **own})  # type: ignore[no-untyped-call]
    options.setdefault("timeout", options["socket_timeout"])
    return Redis.from_pool(_SentinelPool(name, manager, **options))  # type: ignore[no-untyped-call]


def _split_hosts(url: str, default_port: int) -> tuple[list[tuple[str, int]], str]:
    """The hosts that ``url`` names, and ``url`` with the first of them alone."""
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    nodes = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if not all(node.hostname for node in nodes):
        raise ValueError("the URL names its nodes, as in redis+cluster://host:port,host:port")
    first = parts._replace(netloc=f"{credentials}{at}{nodes[0].netloc}").geturl()
    return [(node.hostname or "", node.port or default_port) for node in nodes], first


def _options_of(url: str) -> dict[str, Any]:
    """What ``url`` says besides its hosts."""
    options: dict[str, Any] = dict(parse_url(url))
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    for name in ("host", "port"):
        options.pop(name, None)
    return options
