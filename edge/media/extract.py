"""``python extract.py pdf|html MAX_CHARS MAX_MEMORY_BYTES MAX_CPU_S < file > text``: a file's text, as UTF-8.

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
    """Extract the text of the standard input to the standard output."""
    kind, max_chars, max_memory, max_cpu_s = arguments[0], *map(int, arguments[1:])
    _limit(max_memory, max_cpu_s)
    data = sys.stdin.buffer.read()
    try:
        pieces = list(_bounded(_pdf(data) if kind == "pdf" else _html(data), max_chars))
    except _Refused as refusal:
        return refusal.outcome
    except Exception:  # whatever the parser did not expect in a hostile file
        return Outcome.UNREADABLE
    text = "".join(pieces).strip()
    if not text:
        return Outcome.NO_TEXT
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
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
