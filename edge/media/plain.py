"""Images as workers take them: plain PNGs, made in a limited process of its own out of whatever a client sent.

Engines decode images in the worker's own process, some in C++. So hostile files are decoded here, where a crash is a
client's error, and a worker gets nothing but what ``extract.py`` has written.
"""

from collections import OrderedDict
from hashlib import sha256
from typing import Final

from antiphon.errors import ApiError
from antiphon.responses.v1.content_pb2 import InputImage
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.media.encoded import decode, is_data_uri
from edge.media.extractor import Extractor
from edge.media.images import inspect_image

MAX_SIDE: Final = 2048
"""Pixels; what is larger is scaled down to it. Workers refuse more (``inference.images``)."""
_MAX_RATIO: Final = 200
"""Of the sides. Models cut images into tiles or squeeze them: some fail at lines."""
_KEPT_BYTES: Final = 64 * 2**20
"""Of images that were made before, for the next turn of their conversation."""


def image_key(image: InputImage) -> bytes | None:
    """What tells ``image`` from others; None if it is not there: of an earlier turn, whose model could not see it."""
    if image.HasField("data"):
        return sha256(image.data).digest()
    return sha256(image.image_url.encode()).digest() if is_data_uri(image.image_url) else None


class PlainImages:
    """Makes plain PNGs and keeps the latest."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept_bytes = 0

    async def png(self, image: InputImage, key: bytes) -> bytes:
        """``image`` as a PNG of 8-bit RGB without metadata, MAX_SIDE pixels wide and high at most.

        Turned upright as its metadata say; what is transparent is white; of an animation the first frame.

        Args:
            key: As ``image_key`` gives it.

        Raises:
            ApiError: INVALID_MEDIA, it cannot be read within the limits; OVERLOADED.
        """
        png = self._kept.get(key)
        if png is None:
            data = image.data or decode(image.image_url, len(image.image_url)).data
            info = inspect_image(data)
            if max(info.width, info.height) > _MAX_RATIO * min(info.width, info.height):
                message = f"The image is too narrow: one side is more than {_MAX_RATIO} times the other."
                raise ApiError(ErrorReason.ERROR_REASON_INVALID_MEDIA, message)
            png = await self._extractor.to_png(data, max_side=MAX_SIDE)
            self._keep(key, png)
        self._kept.move_to_end(key)
        return png

    def _keep(self, key: bytes, png: bytes) -> None:
        self._kept_bytes += len(png) - len(self._kept.get(key, b""))
        self._kept[key] = png
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)
