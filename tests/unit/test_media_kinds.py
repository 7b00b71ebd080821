"""Bytes out of data URIs, and what they are."""

import base64
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.media.encoded import Decoded, decode
from edge.media.files import FileKind, decode_text, kind_of
from edge.media.images import ImageInfo, inspect_image
from tests.support.media import data_uri, png

JPEG = b"\xff\xd8\xff\xe0\x00\x04JF\xff\xff\xda\x00\x02" + b"\xff\xc2\x00\x11\x08\x01\x02\x03\x04\x03" + b"\0" * 9
GIF = b"GIF89a" + struct.pack("<HH", 3, 5) + b"\0" * 3
WEBP = b"RIFF\0\0\0\0WEBP"
EXTENDED = WEBP + b"VP8X\x0a\0\0\0\0\0\0\0" + b"\x63\0\0" + b"\xc7\0\0"
LOSSLESS = WEBP + b"VP8L\0\0\0\0\x2f" + struct.pack("<I", 99 | 199 << 14)
LOSSY = WEBP + b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 100, 200 | 1 << 14)


def reason_of(call: object, *arguments: object) -> ErrorReason.ValueType:
    with pytest.raises(ApiError) as refusal:
        call(*arguments)  # type: ignore[operator]
    return refusal.value.reason


@given(st.binary(min_size=1), st.sampled_from(["image/png", "text/plain;charset=utf-8", "", "a/b;x=y"]))
def test_what_was_encoded_is_decoded(data: bytes, media_type: str) -> None:
    decoded = decode(data_uri(data, media_type), 1 << 20)
    assert (decoded.data, decoded.media_type) == (data, media_type.partition(";")[0])
    assert decode(base64.encodebytes(data).decode(), 1 << 20).data == data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:,a%20b", Decoded(b"a b", "", None)),
        ("DATA:Text/HTML;Charset=Latin-1,%e4", Decoded(b"\xe4", "text/html", "Latin-1")),
        ('data:text/plain;charset="utf-8";base64,eA%3D%3D', Decoded(b"x", "text/plain", "utf-8")),
    ],
)
def test_data_uris_come_in_several_forms(text: str, expected: Decoded) -> None:
    assert decode(text, 100) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data:;base64,",
        "=",
        "eA",
        "eA=",
        "eA==eA==",
        "e A=",
        "eA==\0",
        "e-_=",
        "äöü=",
        "data:;base64,eA==!",
        "x,eA==",
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    assert reason_of(decode, text, 100) == ErrorReason.ERROR_REASON_INVALID_MEDIA


def test_more_bytes_than_the_limit_are_refused() -> None:
    assert decode(data_uri(b"xx", ""), 2).data == b"xx"
    assert reason_of(decode, data_uri(b"xxx", ""), 2) == ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(7, 9), ImageInfo("image/png", 7, 9)),
        (GIF, ImageInfo("image/gif", 3, 5)),
        (JPEG, ImageInfo("image/jpeg", 0x304, 0x102)),
        (EXTENDED, ImageInfo("image/webp", 100, 200)),
        (LOSSLESS, ImageInfo("image/webp", 100, 200)),
        (LOSSY, ImageInfo("image/webp", 100, 200)),
    ],
)
def test_images_are_known_by_their_bytes(data: bytes, expected: ImageInfo) -> None:
    assert inspect_image(data) == expected


@pytest.mark.parametrize("data", [b"", b"hello", png(0, 1), png(16_385, 1), png(15_000, 15_000)[:64], b"\xff\xd8\xff"])
def test_what_is_no_sane_image_is_refused(data: bytes) -> None:
    assert reason_of(inspect_image, data) == ErrorReason.ERROR_REASON_INVALID_MEDIA


@given(st.sampled_from([png(), GIF, JPEG, EXTENDED, LOSSLESS, LOSSY]), st.integers(0, 60), st.binary(max_size=40))
def test_broken_images_are_refused_or_sane(data: bytes, cut: int, tail: bytes) -> None:
    try:
        info = inspect_image(data[:cut] + tail)
    except ApiError:
        return
    assert 0 < info.width <= 16_384
    assert 0 < info.height <= 16_384


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        ("äöü".encode(), None, "äöü"),
        ("äöü".encode("utf-8-sig"), None, "äöü"),
        ("äöü".encode("utf-16"), None, "äöü"),
        ("äöü".encode("utf-32"), None, "äöü"),
        ("äöü".encode("latin-1"), "ISO-8859-1", "äöü"),
        ("äöü".encode("latin-1"), None, None),
        ("äöü".encode("latin-1"), "rot13", None),
        ("äöü".encode("latin-1"), "no such", None),
        ("äöü".encode("latin-1"), "x\0", None),
        (b"a\0b", "latin-1", None),
    ],
)
def test_text_is_known_by_its_bytes(data: bytes, charset: str | None, text: str | None) -> None:
    assert decode_text(data, charset) == text


@pytest.mark.parametrize(
    ("data", "media_type", "kind"),
    [
        (b"%PDF-1.7 ...", "text/plain", FileKind.PDF),
        (b"\xff\xfejunk\n%PDF-1.7", "", FileKind.PDF),
        (b"About %PDF-1.7", "text/markdown", FileKind.TEXT),
        (b"<!-- a --><!DOCTYPE html>", "text/plain", FileKind.HTML),
        (b"<html lang=en>", "", FileKind.HTML),
        (b"<p>x", "text/html", FileKind.HTML),
        (b"<htmlx>", "", FileKind.TEXT),
        (b"{}", "application/json", FileKind.TEXT),
    ],
)
def test_kinds_of_files_are_told_apart(data: bytes, media_type: str, kind: FileKind) -> None:
    assert kind_of(data, media_type, decode_text(data, None)) is kind


@example(b"<!---->" * 600)
@given(st.binary(max_size=100))
def test_any_file_has_a_kind_or_is_refused_at_once(data: bytes) -> None:
    text = decode_text(data, None)
    if text is None and b"%PDF-" not in data:
        assert reason_of(kind_of, data, "", text) == ErrorReason.ERROR_REASON_INVALID_MEDIA
    else:
        kind_of(data, "", text)
