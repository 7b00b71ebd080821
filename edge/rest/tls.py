"""HTTPS of the HTTP door."""

import ssl
from pathlib import Path

from antiphon.tls import TlsFiles
from edge.files import WatchedFile


class ServerTls:
    """The door's certificate, as its files are.

    Raises:
        OSError: they cannot be read, or do not belong together.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._file = WatchedFile(Path(files.certificate), self._load)
        self.context = self._file.value
        self.context.sni_callback = self._use_newest

    def _load(self, text: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._files.certificate, self._files.key)
        except ssl.SSLError as error:
            raise ValueError(f"no certificate with its key: {error.reason}") from error
        return context

    def _use_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Every handshake comes here, with a name or without: a context in use must not be given another certificate.

        While OpenSSL changes one, handshakes in other threads fail, or worse.
        """
        connection.context = self._file.value

    async def watch(self) -> None:
        """Use renewed files for new connections, until cancelled: write the key before the certificate."""
        await self._file.watch()
