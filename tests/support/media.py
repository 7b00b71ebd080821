"""Images, PDF files and servers that hold them."""

import base64
import struct
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def png(
    width: int = 32,
    height: int = 32,
    colour: tuple[int, int, int] = (0, 0, 0),
    *,
    last: tuple[int, int, int] | None = None,
) -> bytes:
    """An image of one colour, black by default; ``last`` is another one for the last pixel."""
    rows = ((b"\0" + bytes(colour) * width) * height)[:-3] + bytes(colour if last is None else last)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def pdf(text: str = "", *, content: bytes | None = None, encrypted: bool = False) -> bytes:
    """A PDF file of one page, without a cross-reference table, as the public compliance suite sends one.

    Args:
        text: What the page shows.
        content: The page's drawing commands in place of ``text``; they are compressed.
        encrypted: Say that it is encrypted, with a method that nobody knows.
    """
    commands = b"BT /F1 12 Tf 72 72 Td (%s) Tj ET" % text.encode() if content is None else zlib.compress(content, 9)
    filters = b"" if content is None else b" /Filter /FlateDecode"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 144] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(commands), filters, commands),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Filter /Standard /V 5 /R 6 /O (%b) /U (%b) /OE (%b) /UE (%b) /Perms (%b) /P -1 /Length 256 >>"
        % (b"o" * 48, b"u" * 48, b"e" * 32, b"f" * 32, b"p" * 16),
    )
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, data) for number, data in enumerate(objects, 1))
    trailer = b"/Encrypt 6 0 R /ID [(i) (i)]" if encrypted else b""
    return b"%PDF-1.4\n" + body + b"trailer\n<< /Root 1 0 R " + trailer + b" >>\n%%EOF"


def data_uri(data: bytes, media_type: str) -> str:
    """``data`` as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@asynccontextmanager
async def file_server(paths: Mapping[str, Handler], *, host: str = "127.0.0.1") -> AsyncGenerator[str, None]:
    """A web server on loopback; gives its URL, without a slash at its end."""
    app = web.Application()
    for path, handler in paths.items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    try:
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(body: bytes, media_type: str | None, **headers: str) -> Handler:
    """A handler that answers with ``body``; header names have underscores in place of hyphens."""

    async def handle(request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = web.Response(body=body, headers=named)
        if media_type is None:
            del response.headers["Content-Type"]
        else:
            response.headers["Content-Type"] = media_type
        return response

    return handle


def redirect(target: str, status: int = 302) -> Handler:
    """A handler that sends its client to ``target``."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": target})

    return handle
