"""A model hub on loopback: the few requests of the Hugging Face hub that the launcher makes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef"


class LocalHub:
    """Serves files of repositories; connections can be made to break off."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """Contents by repository and file name."""
        self.claimed: dict[str, bytes] = {}
        """Contents that the listing speaks of where they differ from what is served, by file name."""
        self.bytes_before_break: int | None = None
        """A download connection ends after so many bytes; None: it does not."""
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range header of each request."""
        self.endpoint = ""


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A hub that lives as long as the block."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            hub.requests.append((self.path, self.headers["Range"]))
            for repo, files in hub.files.items():
                if self.path == f"/api/models/{repo}?blobs=true":
                    return self._answer(200, _listing(hub, files))
                for name, content in files.items():
                    if self.path == f"/{repo}/resolve/{REVISION}/{name}":
                        return self._file(content)
            self._answer(404, b"{}")

        def _file(self, content: bytes) -> None:
            first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            self._answer(206 if first else 200, content[first:], breaks_after=hub.bytes_before_break)

        def _answer(self, status: int, body: bytes, *, breaks_after: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:breaks_after])
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _listing(hub: LocalHub, files: dict[str, bytes]) -> bytes:
    siblings = []
    for name, content in files.items():
        claimed = hub.claimed.get(name, content)
        lfs = {"sha256": hashlib.sha256(claimed).hexdigest(), "size": len(claimed), "pointerSize": 135}
        siblings.append({"rfilename": name, "size": len(claimed), "lfs": lfs})
    return json.dumps({"id": "unused", "sha": REVISION, "siblings": siblings}).encode()
