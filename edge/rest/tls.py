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
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(["http/1.1"])
        self._files = files
        self._file = WatchedFile(Path(files.certificate), self._load)

    def _load(self, text: str) -> None:
        try:
            self.context.load_cert_chain(self._files.certificate, self._files.key)
        except ssl.SSLError as error:
            raise ValueError(f"no certificate with its key: {error.reason}") from error

    async def watch(self) -> None:
        """Use renewed files for new connections, until cancelled: write the key before the certificate."""
        await self._file.watch()
