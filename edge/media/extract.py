"""``python extract.py pdf|html MAX_CHARS MAX_MEMORY_BYTES MAX_CPU_S < file > text``: a file's text, as UTF-8.
``python extract.py image MAX_SIDE MAX_MEMORY_BYTES MAX_CPU_S < file > png``: an image as a plain PNG of 8-bit RGB.

A program of its own, run by ``edge.media.extractor``: parsers of hostile files loop, crash and grow, and this is where
they may. It limits itself before it reads the first byte, and gets no environment. The exit code says how it went.
"""

import enum
import io
import logging
import resource
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final


class Outcome(enum.IntEnum):
    """Exit codes. Any other: the parser crashed, or met a limit."""

    OK = 0
    UNREADABLE = 3
    ENCRYPTED = 4
    TOO_LONG = 5
    NO_TEXT = 6


_SILENT: Final = frozenset({"noscript", "script", "style", "svg", "template"})
_PARAGRAPHS: Final = frozenset(
    {
        "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
        "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main",
        "nav", "ol", "p", "pre", "section", "summary", "table", "title", "tr", "ul",
    }
)  # fmt: skip
_MENDED_END: Final = b"\nstartxref\n0\n%%EOF\n"
"""Makes the reader of a PDF without a cross-reference table look for the objects themselves."""


def main(arguments: list[str]) -> Outcome:
    """Extract what the standard input holds to the standard output."""
    kind, limit, max_memory, max_cpu_s = arguments[0], *map(int, arguments[1:])
    _limit(max_memory, max_cpu_s)
    data = sys.stdin.buffer.read()
    try:
        output = _image(data, limit) if kind == "image" else _text(kind, data, limit)
    except _Refused as refusal:
        return refusal.outcome
    except Exception:  # whatever the parser did not expect in a hostile file
        return Outcome.UNREADABLE
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    return Outcome.OK


class _Refused(Exception):
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


def _limit(max_memory: int, max_cpu_s: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, max_memory),
        (resource.RLIMIT_CPU, max_cpu_s),
        (resource.RLIMIT_FSIZE, 0),  # no files: the output is a pipe
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _text(kind: str, data: bytes, max_chars: int) -> bytes:
    pieces = list(_bounded(_pdf(data) if kind == "pdf" else _html(data), max_chars))
    text = "".join(pieces).strip()
    if not text:
        raise _Refused(Outcome.NO_TEXT)
    return text.encode("utf-8", "replace")


def _bounded(pieces: Iterator[str], max_chars: int) -> Iterator[str]:
    for piece in pieces:
        max_chars -= len(piece)
        if max_chars < 0:
            raise _Refused(Outcome.TOO_LONG)
        yield piece


def _pdf(data: bytes) -> Iterator[str]:
    """The text of each page."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, PdfReadError

    logging.disable()  # it tells of every flaw
    try:
        try:
            reader = PdfReader(io.BytesIO(data))
        except PdfReadError:
            reader = PdfReader(io.BytesIO(data + _MENDED_END))
        for page in reader.pages:
            yield page.extract_text() + "\n\n"
    except (DependencyError, FileNotDecryptedError):
        raise _Refused(Outcome.ENCRYPTED) from None


def _html(data: bytes) -> Iterator[str]:
    parser = _HtmlText()
    parser.feed(data.decode())
    parser.close()
    blocks = (" ".join(block.split()) for block in "".join(parser.pieces).split("\0"))
    return (block + "\n" for block in blocks if block)


def _image(data: bytes, max_side: int) -> bytes:
    """Upright, on white, its first frame; scaled down before anything else is made of it."""
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # the size was checked, and memory is limited
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "WEBP")) as image:
        image.draft("RGB", (max_side, max_side))  # a JPEG is made smaller while it is decoded
        image.load()
        upright: Image.Image = image
        if image.mode.startswith("I"):  # 16 bits a sample
            upright = image.convert("F").point(lambda value: value / 256).convert("L")
        elif image.mode not in ("L", "RGB", "RGBA"):
            upright = image.convert("RGBA" if image.has_transparency_data else "RGB")
        upright.thumbnail((max_side, max_side))
        upright = ImageOps.exif_transpose(upright)
        if upright.has_transparency_data:
            layer = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        plain = Image.new("RGB", upright.size)  # without metadata
        plain.paste(upright)
    output = io.BytesIO()
    plain.save(output, "PNG", compress_level=1)
    return output.getvalue()


class _HtmlText(HTMLParser):
    """Collects the text that a page shows, its paragraphs parted by null characters."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._silent: list[str] = []
        """Open elements without a text, outermost first."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag in _PARAGRAPHS:
            self.pieces.append("\0")
        elif tag in ("td", "th"):
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag in _PARAGRAPHS:
            self.pieces.append("\0")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
