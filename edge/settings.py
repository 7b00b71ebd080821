"""Settings of an edge process, read once from environment variables with the prefix ``EDGE_``."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]

PREFIX = "EDGE_"


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting; the variable is the upper-case name after ``EDGE_``."""

    http_listen: str = "127.0.0.1:8080"
    """host:port of the HTTP door; port 0 picks a free one."""
    grpc_listen: str = "127.0.0.1:50051"
    """host:port, or unix:PATH, of the gRPC door."""
    workers: str = "127.0.0.1:50061"
    """gRPC targets of the workers, separated by commas."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """redis://, rediss://, unix:// or redis+cluster:// URL of the store."""
    reuse_port: bool = False
    """Let several edge processes listen on the same ports; the kernel spreads connections."""
    owner: str = "default"
    """Who owns what is stored, as long as there are no API keys."""

    response_ttl_s: Count = 30 * 24 * 3600
    """How long a stored response is kept after it, or a response that continues it, was last used to continue."""
    max_chain_depth: Count = 1000
    """Most ancestors that a response may have."""
    commit_timeout_s: Seconds = 10.0
    """How long a finished response tries to be stored before it fails."""

    max_body_bytes: Count = 64 * 1024 * 1024
    """Largest HTTP request body and gRPC request."""
    max_running: Count = 1024
    """Most responses at once in this process; more are refused with 503."""
    response_timeout_s: Seconds = 3600.0
    """Longest time that a response may take."""

    heartbeat_interval_s: Seconds = 15.0
    """A stream says something at least this often: a repeated event before the first item, a comment afterwards."""
    slow_reader_timeout_s: Seconds = 60.0
    """A connection that takes nothing of what waits for it for this long is cut."""
    worker_silence_s: Seconds = 10.0
    """A worker that sends nothing for this long counts as gone."""
    worker_wait_s: Seconds = 30.0
    """How long a request waits for a worker when there is none."""
    websocket_lifetime_s: Seconds = 3600.0
    """After this long a WebSocket connection takes no more turns, and ends when the one that runs has ended."""
    websocket_memory_bytes: Count = 8 * 1024 * 1024
    """Most bytes of the latest response that was not stored which a WebSocket connection remembers, to be continued."""
    allowed_origins: str = ""
    """Origins of web pages that may change things or open WebSockets here, separated by commas, such as
    ``https://chat.example.org``; ``*`` for any. A page of this server's own IP address or localhost always may."""
    drain_timeout_s: Seconds = 60.0
    """How long running responses may go on after SIGTERM."""
    log_level: str = "INFO"
    """Least severe log lines to write: DEBUG, INFO, WARNING or ERROR."""


def from_environment(environment: Mapping[str, str]) -> EdgeSettings:
    """Read the settings.

    Raises:
        ValueError: a variable is malformed or unknown; the message names it.
    """
    names = {PREFIX + field.encode_name.upper(): field.encode_name for field in msgspec.structs.fields(EdgeSettings)}
    values: dict[str, str] = {}
    for variable, value in environment.items():
        if variable.startswith(PREFIX):
            if variable not in names:
                raise ValueError(f"{variable}: no such setting")
            values[names[variable]] = value
    try:
        return msgspec.convert(values, EdgeSettings, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise ValueError(f"{PREFIX}{path.rstrip('`').upper()}: {message}") from error
