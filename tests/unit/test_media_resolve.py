"""What a worker gets of images, for models that see and models that do not."""

import ipaddress
from collections.abc import Sequence

import pytest

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import Capabilities
from antiphon.responses.v1.content_pb2 import IMAGE_DETAIL_LOW, ContentPart, InputFile, InputImage, InputText
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import ROLE_USER, ContentParts, FunctionCallOutput, Item, Message
from edge.media.extractor import ExtractLimits, Extractor
from edge.media.fetch import FetchLimits, UrlFetcher
from edge.media.networks import Networks
from edge.media.resolve import MAX_PARTS, MAX_URLS, MediaResolver, Shown
from inference.images import check_image
from tests.support.media import answer, data_uri, file_server, png

LOOPBACK = Networks([ipaddress.IPv4Network("127.0.0.1/32")], ())
LIMITS = FetchLimits(max_bytes=100_000, timeout_s=10, max_redirects=3, at_once=4)
PNG = data_uri(png(), "image/jpeg")


def image(url: str) -> ContentPart:
    return ContentPart(input_image=InputImage(image_url=url, detail=IMAGE_DETAIL_LOW))


def file(**fields: str) -> ContentPart:
    return ContentPart(input_file=InputFile(**fields))


def user(*parts: ContentPart) -> Item:
    return Item(id="msg_1", message=Message(role=ROLE_USER, content=parts))


async def resolve(
    own: Sequence[Item], *, before: Sequence[Item] = (), sees: bool = True, max_bytes: int = 1_000_000
) -> Shown:
    async def capabilities() -> Capabilities:
        return Capabilities(images=sees)

    async with UrlFetcher(LOOPBACK, LIMITS) as fetcher:
        extractor = Extractor(ExtractLimits(max_chars=1000))
        resolver = MediaResolver(LOOPBACK, fetcher, extractor, unseen="note", max_bytes=max_bytes)
        return await resolver.resolve(before, own, capabilities)


async def test_a_model_that_sees_gets_the_bytes_and_their_true_type() -> None:
    async with file_server({"/a": answer(png(), "image/gif")}) as url:
        own = user(ContentPart(input_text=InputText(text="Look:")), image(PNG), image(f"{url}/a"))
        shown = await resolve([own])
    assert shown.warnings == []
    text, *images = shown.items[0].message.content
    assert text.input_text.text == "Look:"
    for part in images:
        check_image(part.input_image.data)
        assert (part.input_image.media_type, part.input_image.detail) == ("image/png", IMAGE_DETAIL_LOW)
    # stored: what was fetched, and what is in the record anyway not twice
    stored = own.message.content
    assert (stored[1].input_image.HasField("data"), stored[2].input_image.data) == (False, png())
    assert stored[2].input_image.image_url == f"{url}/a"


async def test_later_turns_use_what_the_first_one_read() -> None:
    async with file_server({"/a": answer(png(), "image/png"), "/b": answer(b"text", "text/plain")}) as url:
        first = user(image(f"{url}/a"), file(file_url=f"{url}/b"), image(PNG))
        seen = await resolve([first])
    again = await resolve([], before=[first])
    assert again.items == seen.items
    unseen = await resolve([], before=[first], sees=False)
    assert [part.WhichOneof("part") for part in unseen.items[0].message.content] == ["input_text"] * 3
    assert unseen.warnings == []


async def test_a_picture_that_was_never_fetched_is_noted_when_the_model_changes() -> None:
    first = user(image("http://127.0.0.1:1/gone.png"))
    await resolve([first], sees=False)
    (item,) = (await resolve([], before=[first])).items
    assert item.message.content[0].input_text.text == "[image: not shown, it was not kept]"


async def test_items_without_media_ask_nothing_and_stay_the_same_objects() -> None:
    async def capabilities() -> Capabilities:
        raise AssertionError("nobody needs to know")

    resolver = MediaResolver(LOOPBACK, None, Extractor(ExtractLimits(max_chars=1)), unseen="refuse", max_bytes=1)
    items = [user(ContentPart(input_text=InputText(text="x"))), Item(id="fc_1")]
    shown = await resolver.resolve(items[:1], items[1:], capabilities)
    assert shown.items[0] is items[0]
    assert shown.items[1] is items[1]


async def test_tool_outputs_are_read_as_messages_are() -> None:
    parts = ContentParts(parts=[image(PNG), file(filename="a", file_data="eA==")])
    item = Item(id="fco_1", function_call_output=FunctionCallOutput(call_id="c", parts=parts))
    (shown,) = (await resolve([item])).items
    output = shown.function_call_output
    assert (shown.id, output.call_id) == ("fco_1", "c")
    check_image(output.parts.parts[0].input_image.data)
    assert output.parts.parts[1].input_text.text == '<file name="a">\nx\n</file>'


async def test_one_requests_media_are_bounded_together() -> None:
    async def refusal(*parts: ContentPart, max_bytes: int = 1_000_000) -> ApiError:
        with pytest.raises(ApiError) as refused:
            await resolve([user(*parts)], max_bytes=max_bytes)
        return refused.value

    too_many = await refusal(*[image(PNG)] * (MAX_PARTS + 1))
    assert too_many.reason == ErrorReason.ERROR_REASON_ARRAY_ABOVE_MAX_LENGTH
    async with file_server({"/a": answer(b"x" * 600, "text/plain")}) as url:
        parts = [file(file_url=f"{url}/a") for _ in range(MAX_URLS + 1)]
        assert (await refusal(*parts)).reason == ErrorReason.ERROR_REASON_FAILED_TO_DOWNLOAD
        too_large = await refusal(file(file_url=f"{url}/a"), max_bytes=1000)
    assert (too_large.reason, too_large.param) == (
        ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
        "input[0].content[0].file_url",
    )


async def test_the_first_fault_ends_the_reading_of_the_others() -> None:
    with pytest.raises(ApiError) as refused:
        await resolve([user(image(PNG)), user(image(PNG), image("data:image/png;base64,!"))])
    assert refused.value.param == "input[1].content[1].image_url"
