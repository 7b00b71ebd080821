"""What kind of file some bytes are, and the text of those that are text."""

import codecs
import enum
import re
from typing import Final

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

_PDF_HEADER_WITHIN: Final = 1024
"""Readers accept a PDF header this late."""
_HTML: Final = re.compile(
    r"(?>\ufeff|\s|<!--.*?-->|<\?xml[^>]*>)*+<(!doctype\s+html|html[\s>])", re.IGNORECASE | re.DOTALL
)
"""Atomic, as comments in a row could otherwise be split in exponentially many ways."""
_HTML_HEAD: Final = 4096
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSETS: Final = frozenset(
    {
        "ascii", "big5", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258",
        "euc_jp", "euc_kr", "gb18030", "gb2312", "gbk", "iso8859-1", "iso8859-2", "iso8859-5", "iso8859-7",
        "iso8859-9", "iso8859-15", "iso2022_jp", "koi8-r", "koi8-u", "shift_jis", "utf-8", "utf-16", "utf-16-be",
        "utf-16-le", "utf-32",
    }
)  # fmt: skip
"""Python's names of the character encodings that are taken; Python also has codecs that are none."""


class FileKind(enum.Enum):
    """How a file's text is found."""

    PDF = "pdf"
    HTML = "html"
    TEXT = "text"


def kind_of(data: bytes, media_type: str, text: str | None) -> FileKind:
    """The kind of a file.

    Args:
        media_type: As declared; only tells kinds apart that look alike.
        text: ``data`` as text, if it is any.

    Raises:
        ApiError: INVALID_MEDIA, none that is supported.
    """
    head = data[:_PDF_HEADER_WITHIN]
    if head.lstrip().startswith(b"%PDF-") or (b"%PDF-" in head and (text is None or media_type == "application/pdf")):
        return FileKind.PDF
    if text is None:
        message = "The file is of no kind that is supported. Supported are PDF, HTML and plain text of every sort."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, message)
    if media_type in ("text/html", "application/xhtml+xml") or _HTML.match(text[:_HTML_HEAD]):
        return FileKind.HTML
    return FileKind.TEXT


def decode_text(data: bytes, charset: str | None) -> str | None:
    """``data`` as text; None if it is none.

    A byte order mark counts most, then UTF-8 if it fits, as few other texts do, then the declared charset.
    """
    encodings = [name for mark, name in _MARKS if data.startswith(mark)][:1] or ["utf-8"]
    if charset is not None and (name := _python_name(charset)) in _CHARSETS:
        encodings.append(name)
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    return None


def _python_name(charset: str) -> str:
    try:
        return codecs.lookup(charset.strip()).name
    except (LookupError, ValueError):  # ValueError: a null character
        return ""
