"""Settings of an edge process, read once from environment variables with the prefix ``EDGE_``."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from antiphon.tls import TlsFiles, is_local
from edge.auth import parse_api_keys
from edge.media.networks import parse_networks
from edge.sealing import parse_keys
from edge.workers.discovery import parse_targets

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
    """gRPC targets of the workers, separated by commas. Every address behind a name written ``dns:///host:port`` is a
    worker, one that appears later too."""
    resolve_interval_s: Seconds = 2.0
    """How often such names are looked up."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """redis://, rediss://, unix:// or redis+cluster:// URL of the store."""
    reuse_port: bool = False
    """Let several edge processes listen on the same ports; the kernel spreads connections."""

    api_keys: str = ""
    """API keys as `antiphon keys new OWNER` prints them, OWNER:SHA-256, separated by commas or line ends. With any, and
    with a file of them, nobody is served without one, but for the health checks."""
    api_keys_file: str = ""
    """A file of such lines. Its changes take effect within a second or two."""
    owner: str = "default"
    """Who owns everything, as long as there are no API keys."""
    open_access: bool = False
    """Serve anybody without an API key though others than this machine can reach a door of this server."""
    trusted_callers: str = ""
    """Who may act for other owners over gRPC, with the metadata `x-antiphon-owner`, separated by commas: owners of API
    keys, or names in client certificates. From anybody else it is refused."""
    limits_file: str = ""
    """What owners may use: see docs/owners.md. Its changes take effect within a second or two."""

    http_tls_cert: str = ""
    """PEM file of the HTTP door's certificate, with its chain; then it speaks HTTPS. A renewed file takes effect within
    a second or two, as those of the other doors do at their next connection."""
    http_tls_key: str = ""
    """PEM file of its private key."""
    grpc_tls_cert: str = ""
    """The same, of the gRPC door."""
    grpc_tls_key: str = ""
    """PEM file of its private key."""
    grpc_tls_ca: str = ""
    """PEM file of authorities: callers by gRPC must show a certificate of one of them (mTLS). Who shows no API key is
    then the owner whom the certificate names: its first alternative name, else its common name."""
    workers_tls_ca: str = ""
    """PEM file of authorities that the workers' certificates must come from; with it, workers are called by TLS. The
    certificate must name the host by which EDGE_WORKERS reaches the worker."""
    workers_tls_cert: str = ""
    """PEM file of this edge's certificate, which it shows to workers."""
    workers_tls_key: str = ""
    """PEM file of its private key."""
    allow_plaintext: bool = False
    """Talk without TLS to other machines too: on a network that nobody else is on, or behind a proxy that has TLS."""

    encryption_keys: str = ""
    """Keys for what clients keep for this server, such as `encrypted_content`: base64 of 32 bytes each, separated by
    commas. The first one encrypts, all of them decrypt: to change it, put a new one before it, and take the old one
    away when nobody keeps what it encrypted. The same in all edges; empty: such content is not offered."""

    response_ttl_s: Count = 30 * 24 * 3600
    """How long a stored response is kept after it, or a response that continues it, was last used to continue."""
    max_chain_depth: Count = 1000
    """Most ancestors that a response may have."""
    commit_timeout_s: Seconds = 10.0
    """How long a finished response tries to be stored before it fails."""

    lease_s: Annotated[float, Meta(ge=1)] = 5.0
    """How long a logged response stays with an edge that does not say that it is alive; then another one goes on with
    it. The same in all edges."""
    max_background: Count = 32
    """Most background responses that run at once in this process; they are begun when a worker has room."""
    background_attempts: Count = 3
    """How often in a row a background response is begun without getting a token further, before it fails: after the
    death of an edge, or without a worker."""
    max_background_waiting: Count = 10_000
    """Most background responses that wait, of all owners; more are refused with 503. The same in all edges."""
    max_background_waiting_per_owner: Count = 1000
    """The same, of one owner."""
    log_interval_s: Seconds = 0.03
    """Events of a logged response are written, and so shown, at most this often."""
    log_ttl_s: Count = 24 * 3600
    """How long the events of a logged response are kept after its end; Idempotency-Keys live no longer."""
    resumable_streams: bool = False
    """Log stored foreground responses too, so that a stream that broke off can be resumed from any edge, and goes on
    when this process dies. Not for WebSockets."""
    abandon_after_s: Seconds = 30.0
    """A resumable foreground response is cancelled once nobody has read it for this long."""

    max_body_bytes: Count = 64 * 1024 * 1024
    """Largest HTTP request body and gRPC request."""
    strict_fields: bool = False
    """Refuse request fields that the API does not have, instead of naming them in the header `x-antiphon-warning`. A
    request can say otherwise with the header `x-antiphon-strict: true` or `false`."""
    max_running: Count = 1024
    """Most responses at once in this process; more are refused with 503."""
    response_timeout_s: Seconds = 3600.0
    """Longest time that a response may take."""

    unseen_media: Literal["note", "refuse"] = "note"
    """Images and videos for a model that cannot see them: the model is told that they are there, and the answer has a
    warning header; or the request is refused."""
    fetch_urls: bool = True
    """Fetch the URLs of images and files in the input; if false, they are refused."""
    fetch_allowed_networks: str = ""
    """Networks that may be fetched from though they are not public, such as 10.1.0.0/16,fd00::/8; any port is allowed
    there. All other private, loopback, link-local and reserved addresses are refused."""
    fetch_ports: Annotated[str, Meta(pattern=r"^[0-9]{1,5}(,[0-9]{1,5})*$")] = "80,443"
    """Ports that may be fetched from."""
    fetch_max_bytes: Count = 32 * 1024 * 1024
    """Largest answer of one URL."""
    fetch_timeout_s: Seconds = 15.0
    """Longest time that one URL may take, redirects included."""
    fetch_max_redirects: Annotated[int, Meta(ge=0)] = 5
    """Most redirects of one URL; each is checked as the URL itself is."""
    fetch_at_once: Count = 16
    """Most URLs at once in this process; more wait."""

    idle_timeout_s: Seconds = 75.0
    """An HTTP connection is closed when so long after its start, or after an answer, the headers of its next request
    are not all there. More than a proxy in front keeps idle connections, or it may send a request into one that closes.
    """
    body_timeout_s: Seconds = 60.0
    """Longest time in which the body of a request must have arrived; then 408, and the connection ends."""
    heartbeat_interval_s: Seconds = 15.0
    """A stream says something at least this often: a repeated event before the first item, a comment afterwards."""
    slow_reader_timeout_s: Seconds = 60.0
    """A connection that takes nothing of what waits for it for this long is cut. Without Linux that holds over HTTP
    only while a response runs."""
    worker_silence_s: Seconds = 10.0
    """A worker that sends nothing for this long counts as gone."""
    eject_after: Count = 5
    """So many generations in a row that a worker's engine failed, and the worker gets nothing new for a while."""
    eject_s: Seconds = 10.0
    """How long that is at first; it doubles with each failure right after it, up to five minutes."""
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

    @property
    def http_tls(self) -> TlsFiles:
        """Of the HTTP door."""
        return TlsFiles(self.http_tls_cert, self.http_tls_key)

    @property
    def grpc_tls(self) -> TlsFiles:
        """Of the gRPC door."""
        return TlsFiles(self.grpc_tls_cert, self.grpc_tls_key, self.grpc_tls_ca)

    @property
    def workers_tls(self) -> TlsFiles:
        """Of the way to the workers."""
        return TlsFiles(self.workers_tls_cert, self.workers_tls_key, self.workers_tls_ca)


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
        settings = msgspec.convert(values, EdgeSettings, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise ValueError(f"{PREFIX}{path.rstrip('`').upper()}: {message}") from error
    try:
        parse_targets(settings.workers)
    except ValueError as error:
        raise ValueError(f"{PREFIX}WORKERS: {error}") from error
    try:
        parse_networks(settings.fetch_allowed_networks)
    except ValueError as error:
        raise ValueError(f"{PREFIX}FETCH_ALLOWED_NETWORKS: {error}") from error
    try:
        parse_keys(settings.encryption_keys)
    except ValueError as error:
        raise ValueError(f"{PREFIX}ENCRYPTION_KEYS: {error}") from error
    _check_access(settings)
    _check_tls(settings)
    return settings


def _check_access(settings: EdgeSettings) -> None:
    """Refuse to serve strangers, unless that is meant.

    Raises:
        ValueError: it seems not to be.
    """
    try:
        parse_api_keys(settings.api_keys)
    except ValueError as error:
        raise ValueError(f"{PREFIX}API_KEYS: {error}") from error
    has_keys = bool(settings.api_keys or settings.api_keys_file)
    if has_keys and settings.open_access:
        raise ValueError(f"{PREFIX}OPEN_ACCESS: nobody is served without a key as long as there are keys")
    if has_keys or settings.open_access:
        return
    for name, address in (("HTTP_LISTEN", settings.http_listen), ("GRPC_LISTEN", settings.grpc_listen)):
        is_open = name == "HTTP_LISTEN" or not settings.grpc_tls_ca
        if is_open and not is_local(address):
            raise ValueError(
                f"{PREFIX}{name}: {address} can be reached from other machines, and anybody could use this server."
                f" Give API keys with {PREFIX}API_KEYS_FILE or {PREFIX}API_KEYS (`antiphon keys new OWNER` makes one),"
                f" or allow it with {PREFIX}OPEN_ACCESS=true."
            )


def _check_tls(settings: EdgeSettings) -> None:
    """Refuse plaintext that others could read, unless that is meant.

    Raises:
        ValueError: it seems not to be, or a file cannot be used.
    """
    settings.http_tls.check(f"{PREFIX}HTTP_TLS")
    settings.grpc_tls.check(f"{PREFIX}GRPC_TLS")
    settings.workers_tls.check(f"{PREFIX}WORKERS_TLS")
    if settings.grpc_tls_ca and not settings.grpc_tls_cert:
        raise ValueError(f"{PREFIX}GRPC_TLS_CA: client certificates need {PREFIX}GRPC_TLS_CERT")
    if settings.workers_tls_cert and not settings.workers_tls_ca:
        raise ValueError(f"{PREFIX}WORKERS_TLS_CERT: it is shown by TLS alone, which needs {PREFIX}WORKERS_TLS_CA")
    if settings.allow_plaintext:
        return
    targets, names = parse_targets(settings.workers)
    far = [target for target in targets if not is_local(target)] + [name.host for name in names]
    for name, is_plain, address in (
        ("HTTP_LISTEN", not settings.http_tls_cert and not is_local(settings.http_listen), settings.http_listen),
        ("GRPC_LISTEN", not settings.grpc_tls_cert and not is_local(settings.grpc_listen), settings.grpc_listen),
        ("WORKERS", not settings.workers_tls_ca and bool(far), ", ".join(far)),
    ):
        if is_plain:
            raise ValueError(
                f"{PREFIX}{name}: {address} is on other machines' way, and everything would go there unencrypted."
                f" Give certificates (docs/tls.md), or allow it with {PREFIX}ALLOW_PLAINTEXT=true."
            )
