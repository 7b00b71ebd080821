"""The media of a request: read once when they come in, and what the model gets of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, assert_never

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import Capabilities
from antiphon.responses.v1.content_pb2 import ContentPart, InputFile, InputImage
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Item
from edge.checks import MAX_TEXT
from edge.media.encoded import Decoded, decode, is_data_uri
from edge.media.extractor import ExtractLimits, Extractor
from edge.media.fetch import Fetched, FetchLimits, UrlFetcher
from edge.media.files import FileKind, decode_text, kind_of
from edge.media.images import inspect_image
from edge.media.networks import Networks, parse_networks
from edge.media.plain import PlainImages, image_key
from edge.media.shown import media_parts, shown
from edge.settings import EdgeSettings

MAX_PARTS: Final = 500
MAX_URLS: Final = 32
_LARGE_CHARS: Final = 64 * 1024
"""What is longer is decoded in a thread."""

_FILE_TYPES: Final = ("text/", "application/")
_IMAGE_TYPES: Final = ("image/",)


class Shown(NamedTuple):
    """A conversation as its worker gets it."""

    items: list[Item]
    warnings: list[str]
    """What the model does not see, with its place; safe in a header."""


class MediaResolver:
    """Reads images, files and videos.

    Args:
        networks: Where URLs may lead to.
        fetcher: None: URLs are not fetched.
        unseen: What becomes of images and videos for a model that cannot see them: a note in words, or an error.
        max_bytes: Of all that is read for one request.
    """

    def __init__(
        self,
        networks: Networks,
        fetcher: UrlFetcher | None,
        extractor: Extractor,
        *,
        unseen: Literal["note", "refuse"],
        max_bytes: int,
    ) -> None:
        self._networks = networks
        self._fetcher = fetcher
        self._extractor = extractor
        self._images = PlainImages(extractor)
        self._refuses_unseen = unseen == "refuse"
        self._max_bytes = max_bytes

    async def resolve(
        self, before: Sequence[Item], own: Sequence[Item], capabilities: Callable[[], Awaitable[Capabilities]]
    ) -> Shown:
        """What the worker gets of a conversation. What is read from ``own`` is put into it, to be stored with it.

        Args:
            before: Earlier items, whose media were read when they came in.
            own: The request's own input.
            capabilities: Of the model; asked only if there are media.

        Raises:
            ApiError: INVALID_MEDIA, FAILED_TO_DOWNLOAD, UNSUPPORTED_VALUE, REQUEST_TOO_LARGE, OVERLOADED and others;
                `param` is the place in ``own``, such as ``input[0].content[1].image_url``.
        """
        found = [
            (f"input[{index}].{place.where}", place.part)
            for index, item in enumerate(own)
            for place in media_parts(item)
        ]
        if not found and not any(True for item in before for _ in media_parts(item)):
            return Shown([*before, *own], [])
        if len(found) > MAX_PARTS:
            message = f"Too many images, files and videos: at most {MAX_PARTS} are allowed."
            raise ApiError(ErrorReason.ERROR_REASON_ARRAY_ABOVE_MAX_LENGTH, message, "input")
        sees_images = (await capabilities()).images
        await self._read_all(found, _Budget(self._max_bytes, MAX_URLS), sees_images)
        pngs = await self._plain_images(before, found) if sees_images else None
        unseen = ("input_video",) if sees_images else ("input_video", "input_image")
        warnings = [f"{place}: not shown to this model" for place, part in found if part.WhichOneof("part") in unseen]
        return Shown(await asyncio.to_thread(shown, [*before, *own], pngs), warnings)

    async def _plain_images(
        self, before: Sequence[Item], found: Sequence[tuple[str, ContentPart]]
    ) -> dict[bytes, bytes]:
        """All images as the worker gets them, by ``image_key``; one after the other, as each takes a process."""
        earlier = [("input", place.part) for item in before for place in media_parts(item)]
        budget = _Budget(self._max_bytes, 0)
        pngs: dict[bytes, bytes] = {}
        for place, part in [*earlier, *((f"{place}.image_url", part) for place, part in found)]:
            if part.HasField("input_image") and (key := image_key(part.input_image)) is not None and key not in pngs:
                with _at(place):
                    pngs[key] = await self._images.png(part.input_image, key)
                    budget.spend(len(pngs[key]))
        return pngs

    async def _read_all(self, found: Sequence[tuple[str, ContentPart]], budget: "_Budget", sees_images: bool) -> None:
        """Read all parts at once; the first error ends the others."""
        failures: BaseExceptionGroup[ApiError] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                for place, part in found:
                    tasks.create_task(self._read(part, place, budget, sees_images))
        except* ApiError as group:
            failures = group
        while failures is not None:
            first = failures.exceptions[0]
            if isinstance(first, ApiError):
                raise first
            failures = first

    async def _read(self, part: ContentPart, place: str, budget: "_Budget", sees_images: bool) -> None:
        """Put into ``part`` what the model gets of it, and check the rest as far as it is there."""
        match part.WhichOneof("part"):
            case "input_file" if not part.input_file.HasField("text"):
                file = part.input_file
                with _at(f"{place}.file_url" if file.HasField("file_url") else f"{place}.file_data"):
                    file.text = await self._file_text(file, budget)
            case "input_image" if sees_images:
                with _at(f"{place}.image_url"):
                    await self._read_image(part.input_image, budget)
            case "input_image":
                with _at(f"{place}.image_url"):
                    data = await self._check_unseen(part.input_image.image_url, "images", budget)
                    if data is not None:
                        inspect_image(data)
            case "input_video":
                with _at(f"{place}.video_url"):
                    await self._check_unseen(part.input_video.video_url, "videos", budget)
            case _:  # a file that was read before
                pass

    async def _file_text(self, file: InputFile, budget: "_Budget") -> str:
        if file.HasField("file_url"):
            content: Fetched | Decoded = await self._fetch(file.file_url, _FILE_TYPES, budget)
        else:
            content = await _decode(file.file_data, budget)
        kind, text = await asyncio.to_thread(_kind_and_text, content)
        match kind:
            case FileKind.PDF:
                text = await self._extractor.extract("pdf", content.data)
            case FileKind.HTML:
                text = await self._extractor.extract("html", text.encode())
            case FileKind.TEXT:
                pass
            case _:
                assert_never(kind)
        if len(text) > MAX_TEXT:
            message = f"The file holds more than {MAX_TEXT} characters of text."
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, message)
        budget.spend(len(text))
        return text

    async def _read_image(self, image: InputImage, budget: "_Budget") -> None:
        if is_data_uri(image.image_url):  # stored as it is: it need not be stored twice
            inspect_image((await _decode(image.image_url, budget)).data)
            return
        data = image.data or (await self._fetch(image.image_url, _IMAGE_TYPES, budget)).data
        image.media_type = inspect_image(data).media_type
        image.data = data

    async def _check_unseen(self, url: str, what: str, budget: "_Budget") -> bytes | None:
        """Check what the model cannot see; its bytes if ``url`` holds them. Nothing is fetched for nobody."""
        if self._refuses_unseen:
            raise ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE, f"This model cannot see {what}.")
        if is_data_uri(url):
            return (await _decode(url, budget)).data
        self._networks.check_url(url)
        return None

    async def _fetch(self, url: str, accepted: tuple[str, ...], budget: "_Budget") -> Fetched:
        if self._fetcher is None:
            message = "This server fetches no URLs: send the content itself."
            raise ApiError(ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE, message)
        budget.urls -= 1
        if budget.urls < 0:
            message = f"Too many URLs: this server fetches at most {MAX_URLS} for one request."
            raise ApiError(ErrorReason.ERROR_REASON_FAILED_TO_DOWNLOAD, message)
        fetched = await self._fetcher.fetch(url, accepted)
        budget.spend(len(fetched.data))
        return fetched


@asynccontextmanager
async def open_media(settings: EdgeSettings) -> AsyncGenerator[MediaResolver, None]:
    """The resolver that ``settings`` ask for."""
    networks = Networks(parse_networks(settings.fetch_allowed_networks), map(int, settings.fetch_ports.split(",")))
    limits = FetchLimits(
        max_bytes=settings.fetch_max_bytes,
        timeout_s=settings.fetch_timeout_s,
        max_redirects=settings.fetch_max_redirects,
        at_once=settings.fetch_at_once,
    )
    async with UrlFetcher(networks, limits) as fetcher:
        yield MediaResolver(
            networks,
            fetcher if settings.fetch_urls else None,
            Extractor(ExtractLimits(max_chars=MAX_TEXT)),
            unseen=settings.unseen_media,
            max_bytes=settings.max_body_bytes,
        )


@dataclass
class _Budget:
    """What one request may still read."""

    size: int
    """Bytes that are fetched, and characters that are found."""
    urls: int

    def spend(self, count: int) -> None:
        self.size -= count
        if self.size < 0:
            message = "The images and files of this request are too large together."
            raise ApiError(ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE, message)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say of an ApiError where it belongs."""
    try:
        yield
    except ApiError as error:
        error.param = place
        raise


async def _decode(text: str, budget: _Budget) -> Decoded:
    if len(text) < _LARGE_CHARS:
        return decode(text, budget.size)
    return await asyncio.to_thread(decode, text, budget.size)


def _kind_and_text(content: Fetched | Decoded) -> tuple[FileKind, str]:
    """The text is empty if a file is no text."""
    text = decode_text(content.data, content.charset)
    return kind_of(content.data, content.media_type, text), text or ""
