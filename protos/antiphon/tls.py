"""TLS between the services, and to them: certificates in files, which may be renewed while they are used."""

import logging
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import grpc

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; empty: none.

    Args:
        certificate: This side's own, with its chain.
        key: The private key of that.
        authority: Those that the other side's certificate must come from.
    """

    certificate: str = ""
    key: str = ""
    authority: str = ""

    def check(self, prefix: str) -> None:
        """Refuse half a pair, and files that cannot be read.

        Args:
            prefix: What the names of the settings begin with, for messages.

        Raises:
            ValueError: the message names the setting.
        """
        if bool(self.certificate) != bool(self.key):
            missing = "KEY" if self.certificate else "CERT"
            raise ValueError(f"{prefix}_{missing}: a certificate and its key come together")
        for name, path in (("CERT", self.certificate), ("KEY", self.key), ("CA", self.authority)):
            if path:
                try:
                    Path(path).read_bytes()
                except OSError as error:
                    raise ValueError(f"{prefix}_{name}: {path}: {error.strerror}") from error


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Of a server with a certificate; with an authority, callers must show a certificate of it (mTLS).

    Files that have changed are read again at the next handshake; if that fails, what was read before stays.

    Raises:
        OSError: a file cannot be read.
    """
    seen = _versions(files)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        try:
            versions = _versions(files)
            if versions == seen:
                return None
            seen = versions
            configuration = _server_configuration(files)
        except OSError as error:
            log.error("certificate not reloaded", extra={"error": str(error)})
            return None
        log.info("certificate reloaded", extra={"path": files.certificate})
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        _server_configuration(files),
        fetch,  # type: ignore[arg-type]  # None is "as before", says gRPC's documentation
        require_client_authentication=bool(files.authority),
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Of a caller that trusts the authority's servers alone, and shows its own certificate if it has one.

    Raises:
        OSError: a file cannot be read.
    """
    own = (Path(files.key).read_bytes(), Path(files.certificate).read_bytes()) if files.certificate else (None, None)
    return grpc.ssl_channel_credentials(Path(files.authority).read_bytes(), *own)


def is_local(address: str) -> bool:
    """Only this machine can be at, or can reach, ``address``: host:port, or a socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _server_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    pair = (Path(files.key).read_bytes(), Path(files.certificate).read_bytes())
    authority = Path(files.authority).read_bytes() if files.authority else None
    return grpc.ssl_server_certificate_configuration([pair], authority)


def _versions(files: TlsFiles) -> list[tuple[int, int]]:
    statuses = [Path(path).stat() for path in (files.certificate, files.key, files.authority) if path]
    return [(status.st_ino, status.st_mtime_ns) for status in statuses]
