"""Whatever image a client sends, a worker gets a plain PNG, or the client an error."""

import io
import struct
import zlib

import pytest
from PIL import Image

from antiphon.errors import ApiError
from antiphon.responses.v1.content_pb2 import InputImage
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.media import plain
from edge.media.extractor import ExtractLimits, Extractor
from edge.media.plain import PlainImages, image_key
from inference.images import MAX_SIDE, check_image
from tests.support.media import data_uri, png

RED, GREEN = (255, 0, 0), (0, 128, 0)


async def to_plain(image: InputImage | bytes, images: PlainImages | None = None) -> Image.Image:
    """Its pixels, after it has passed the worker's check."""
    if isinstance(image, bytes):
        image = InputImage(data=image)
    images = images or PlainImages(Extractor(ExtractLimits(max_chars=1)))
    key = image_key(image)
    assert key is not None
    made = await images.png(image, key)
    check_image(made)
    return Image.open(io.BytesIO(made))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def test_edge_and_worker_agree_on_the_size() -> None:
    assert plain.MAX_SIDE == MAX_SIDE


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.new("RGB", (9, 5), RED), "PNG", dpi=(72, 72)),
        saved(Image.new("RGBA", (9, 5), (*RED, 255)), "PNG"),
        saved(Image.new("RGB", (9, 5), RED), "WEBP", lossless=True),
        saved(Image.new("RGB", (9, 5), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (9, 5), GREEN)]),
        saved(Image.new("RGB", (9, 5), RED), "JPEG", quality=100, subsampling=0),
    ],
    ids=["png", "alpha", "webp", "gif", "jpeg"],
)
async def test_every_format_keeps_its_pixels(data: bytes) -> None:
    image = await to_plain(data)
    assert image.size == (9, 5)
    pixel = image.getpixel((4, 2))
    assert isinstance(pixel, tuple)
    assert all(abs(got - wanted) <= 2 for got, wanted in zip(pixel, RED, strict=True))


async def test_what_is_transparent_is_white_and_grey_of_16_bits_is_grey() -> None:
    assert (await to_plain(saved(Image.new("RGBA", (3, 3), (0, 0, 0, 0)), "PNG"))).getpixel((1, 1)) == (255,) * 3
    rows = (b"\0" + b"\x80\x00" * 3) * 3
    grey = struct.pack(">IIBBBBB", 3, 3, 16, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", grey), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    assert (await to_plain(data)).getpixel((1, 1)) == (128,) * 3


async def test_a_photo_lies_as_its_camera_says_and_is_no_larger_than_models_need() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right (CIPA DC-008, orientation)
    turned = await to_plain(saved(Image.new("RGB", (4000, 1000), GREEN), "JPEG", exif=exif))
    assert turned.size == (512, 2048)


async def test_a_data_uri_is_read_as_bytes_are_and_once_for_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    images = PlainImages(Extractor(ExtractLimits(max_chars=1)))
    image = InputImage(image_url=data_uri(png(colour=RED), "image/png"))
    assert (await to_plain(image, images)).getpixel((0, 0)) == RED
    monkeypatch.setattr("sys.executable", "/nowhere/python")  # no further process can start
    assert (await to_plain(image, images)).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    "data",
    [
        png(2, 401),
        png()[:50],
        png().replace(b"IDAT", b"IDAU"),
        saved(Image.new("RGB", (64, 64), RED), "JPEG")[:400],
        b"GIF89a" + struct.pack("<HH", 8, 8) + b"\0" * 20,
        png(9000, 9000)[:5000],
    ],
    ids=["narrow", "cut png", "no pixels", "cut jpeg", "empty gif", "cut bomb"],
)
async def test_what_cannot_be_seen_is_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        await to_plain(data)
    assert refused.value.reason == ErrorReason.ERROR_REASON_INVALID_MEDIA


async def test_an_image_that_needs_too_much_memory_is_refused() -> None:
    images = PlainImages(Extractor(ExtractLimits(max_chars=1, max_memory_bytes=200 * 2**20)))
    with pytest.raises(ApiError) as refused:
        await to_plain(png(9000, 9000), images)
    assert refused.value.reason == ErrorReason.ERROR_REASON_INVALID_MEDIA
