"""Items as a client sent them -> items as a worker takes them: text, and images for a model that sees. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from antiphon.responses.v1.content_pb2 import ContentPart, InputFile, InputImage, InputText
from antiphon.responses.v1.item_pb2 import Item
from edge.media.plain import image_key

_MEDIA = frozenset({"input_image", "input_file", "input_video"})


class Place(NamedTuple):
    """A part that is no text, and where it is in its item, such as ``content[1]``."""

    where: str
    part: ContentPart


def media_parts(item: Item) -> Iterator[Place]:
    """The images, files and videos of ``item``, in order."""
    for name, parts in (("content", item.message.content), ("output", item.function_call_output.parts.parts)):
        for index, part in enumerate(parts):
            if part.WhichOneof("part") in _MEDIA:
                yield Place(f"{name}[{index}]", part)


def shown(items: Sequence[Item], pngs: Mapping[bytes, bytes] | None) -> list[Item]:
    """``items`` with every file as text, and every image and video as what the model gets of it.

    Files must have been read before; items without media are the same objects.

    Args:
        pngs: All images that are there, by ``image_key``; None for a model that sees none.
    """
    return [_shown_item(item, pngs) if any(media_parts(item)) else item for item in items]


def _shown_item(item: Item, pngs: Mapping[bytes, bytes] | None) -> Item:
    copy = Item(id=item.id, status=item.status)
    if item.HasField("message"):
        copy.message.role, copy.message.phase = item.message.role, item.message.phase
        copy.message.content.extend(_shown_part(part, pngs) for part in item.message.content)
    else:
        output = item.function_call_output
        copy.function_call_output.call_id = output.call_id
        copy.function_call_output.parts.parts.extend(_shown_part(part, pngs) for part in output.parts.parts)
    return copy


def _shown_part(part: ContentPart, pngs: Mapping[bytes, bytes] | None) -> ContentPart:
    match part.WhichOneof("part"):
        case "input_file":
            return _text(_file_text(part.input_file))
        case "input_image" if pngs is not None:
            return _shown_image(part.input_image, pngs)
        case "input_image":
            return _text("[image: not shown, this model cannot see images]")
        case "input_video":
            return _text("[video: not shown, this model cannot see videos]")
        case _:
            return part


def _shown_image(image: InputImage, pngs: Mapping[bytes, bytes]) -> ContentPart:
    key = image_key(image)
    if key is None:
        return _text("[image: not shown, it was not kept]")
    return ContentPart(input_image=InputImage(detail=image.detail, data=pngs[key], media_type="image/png"))


def _file_text(file: InputFile) -> str:
    name = file.filename or _last_segment(file.file_url)
    head = f"<file name={json.dumps(name, ensure_ascii=False)}>" if name else "<file>"
    return f"{head}\n{file.text}\n</file>"


def _last_segment(url: str) -> str:
    return unquote(url.partition("#")[0].partition("?")[0].rpartition("/")[2])


def _text(text: str) -> ContentPart:
    return ContentPart(input_text=InputText(text=text))
