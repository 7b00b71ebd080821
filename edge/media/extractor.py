"""Runs ``extract.py`` on files and images, each in a process of its own, within limits of memory, CPU and time."""

import asyncio
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import IO, Final, Literal, NamedTuple

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.media import extract
from edge.media.extract import Outcome
from edge.media.places import place

_READ_BYTES: Final = 256 * 1024
_MAX_BYTES_OF_CHAR: Final = 4
_BYTES_OF_PIXEL: Final = 3

_MESSAGES: Final[dict[int, str]] = {
    Outcome.ENCRYPTED: "The file is encrypted.",
    Outcome.NO_TEXT: "The file holds no text; scanned pages are not read.",
}


class ExtractLimits(NamedTuple):
    """What one extraction may cost."""

    max_chars: int
    """Of the text."""
    max_memory_bytes: int = 512 * 1024 * 1024
    max_cpu_s: int = 10
    timeout_s: float = 30.0
    """From the start of the process to its end; also the longest wait for a place."""
    at_once: int = 2


class Extractor:
    """Finds the text of PDF and HTML files, and the pixels of images."""

    def __init__(self, limits: ExtractLimits) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.at_once)

    async def extract(self, kind: Literal["pdf", "html"], data: bytes) -> str:
        """The text of ``data``, not empty.

        Args:
            data: A PDF file, or an HTML page in UTF-8.

        Raises:
            ApiError: INVALID_MEDIA, it cannot be read within the limits; OVERLOADED, too many others are being read.
        """
        max_chars = self._limits.max_chars
        code, output = await self._extract(kind, data, max_chars, max_chars * _MAX_BYTES_OF_CHAR)
        text = output.decode("utf-8", "replace")
        if code == Outcome.TOO_LONG or len(text) > max_chars:
            raise _invalid(f"The file holds more than {max_chars} characters of text.")
        if code != Outcome.OK:
            raise _invalid(_MESSAGES.get(code, "The file cannot be read: it is damaged, or too complex."))
        return text

    async def to_png(self, data: bytes, *, max_side: int) -> bytes:
        """The image ``data`` as a PNG of 8-bit RGB, at most ``max_side`` pixels wide and high.

        Args:
            data: PNG, JPEG, GIF or WebP.

        Raises:
            ApiError: as ``extract``.
        """
        max_bytes = 2 * _BYTES_OF_PIXEL * max_side**2
        code, png = await self._extract("image", data, max_side, max_bytes)
        if code != Outcome.OK or len(png) > max_bytes:
            raise _invalid("The image cannot be read: it is damaged, or too large.")
        return png

    async def _extract(self, kind: str, data: bytes, limit: int, max_bytes: int) -> tuple[int, bytes]:
        """Exit code and output, when there is a place and within time."""
        async with place(self._places, timeout_s=self._limits.timeout_s, doing="reading too many files"):
            with tempfile.TemporaryFile() as file:
                await asyncio.to_thread(file.write, data)
                file.seek(0)
                try:
                    async with asyncio.timeout(self._limits.timeout_s):
                        return await self._run(kind, file, limit, max_bytes)
                except TimeoutError:
                    raise _invalid("The file takes too long to read.") from None

    async def _run(self, kind: str, file: IO[bytes], limit: int, max_bytes: int) -> tuple[int, bytes]:
        """Exit code and output."""
        numbers = (limit, self._limits.max_memory_bytes, self._limits.max_cpu_s)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", extract.__file__, kind, *map(str, numbers),
            stdin=file, stdout=PIPE, stderr=DEVNULL, env={}, cwd="/",
        )  # fmt: skip
        try:
            output = await _read(process, max_bytes)
            return await process.wait(), output
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _read(process: Process, max_bytes: int) -> bytes:
    """The output, up to a chunk more than ``max_bytes``; then the process writes into a pipe that nobody reads."""
    assert process.stdout is not None
    output = bytearray()
    while len(output) <= max_bytes and (chunk := await process.stdout.read(_READ_BYTES)):
        output += chunk
    if len(output) > max_bytes:
        process.kill()
    return bytes(output)


def _invalid(message: str) -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, message)
