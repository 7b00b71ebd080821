"""Images, files and videos through HTTP: what the model gets, what is stored, and what is refused."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.support.edge import edge_process
from tests.support.http import Client, client_of, output_text
from tests.support.media import answer, data_uri, file_server, pdf, png
from tests.support.stack import RunningStack
from tests.support.stream_rules import Json

MODEL = "SmolLM2-135M-Instruct"
PNG = data_uri(png(), "image/png")
PDF = data_uri(pdf("Title: A Small File"), "application/pdf")
IMAGE_NOTE = "[image: not shown, this model cannot see images]"
ECHO = {"type": "input_text", "text": "script:\necho"}


def user(*parts: Json) -> list[Json]:
    return [{"type": "message", "role": "user", "content": list(parts)}]


def image(url: str = PNG) -> Json:
    return {"type": "input_image", "image_url": url}


def file(**fields: str) -> Json:
    return {"type": "input_file", **fields}


async def test_the_default_model_answers_about_images_and_files(model_client: Client) -> None:
    question = {"type": "input_text", "text": "What do you see in this image? Answer in one sentence."}
    task = {"type": "input_text", "text": "Read the attached file and answer with its title only."}
    limits = {"model": MODEL, "max_output_tokens": 16}
    seen = await model_client.create(input=user(question, image()), **limits)
    read = await model_client.create(input=user(task, file(filename="a.pdf", file_data=PDF)), **limits)
    plain = await model_client.create(input=user(task), **limits)
    assert output_text(seen)
    assert read["usage"]["input_tokens"] > plain["usage"]["input_tokens"] + 10


async def test_a_model_that_cannot_see_is_told_and_the_client_is_warned(client: Client) -> None:
    video = {"type": "input_video", "video_url": "https://example.com/a.mp4"}
    parts = user(image(), image("https://example.com/a.png"), video, ECHO)
    answered = await client.call("POST", "/v1/responses", json={"model": MODEL, "input": parts})
    assert answered.status == 200, answered.body
    assert output_text(answered.body).count(IMAGE_NOTE) == 2
    assert "[video: not shown, this model cannot see videos]" in output_text(answered.body)
    assert answered.headers["x-antiphon-warning"] == "; ".join(
        f"input[0].content[{index}]: not shown to this model" for index in range(3)
    )
    async with client.stream(model=MODEL, input=parts) as stream:
        assert "content[0]" in stream.response.headers["x-antiphon-warning"]
        await stream.rest()
    counted = await client.call("POST", "/v1/responses/input_tokens", json={"model": MODEL, "input": parts})
    assert counted.headers["x-antiphon-warning"] == answered.headers["x-antiphon-warning"]


async def test_an_image_in_a_tool_output_does_not_end_the_conversation(client: Client) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "screenshot", "arguments": "{}"}
    output = {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": [{"type": "input_text", "text": "Done:"}, image(), file(filename="log.txt", file_data="b25l")],
    }
    request = [{"role": "user", "content": "script:\necho"}, call, output, {"role": "user", "content": "script:\necho"}]
    first = await client.create(model=MODEL, input=request)
    assert f'Done:\n{IMAGE_NOTE}\n<file name="log.txt">\none\n</file>' in output_text(first)
    again = await client.create(model=MODEL, input="script:\necho", previous_response_id=first["id"])
    assert IMAGE_NOTE in output_text(again)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (PDF, "Title: A Small File"),
        (PDF.partition(",")[2], "Title: A Small File"),
        (data_uri(b"<!doctype html><title>Page</title><p>One<script>x</script>", "text/plain"), "Page\nOne"),
        (data_uri("# Grüße".encode(), "text/markdown"), "# Grüße"),
        (data_uri("a;ß\n".encode("latin-1"), "text/csv;charset=iso-8859-1"), "a;ß\n"),
        (data_uri("äöü".encode("utf-16"), "application/octet-stream"), "äöü"),
        ("data:application/json,%7B%22a%22:1%7D", '{"a":1}'),
    ],
)
async def test_files_reach_the_model_as_text(client: Client, data: str, text: str) -> None:
    response = await client.create(model=MODEL, input=user(file(filename='a "b".x', file_data=data), ECHO))
    assert f'<file name="a \\"b\\".x">\n{text}\n</file>' in output_text(response)


async def test_a_chain_goes_on_with_the_text_of_a_file(client: Client) -> None:
    first = await client.create(model=MODEL, input=user(file(filename="a.pdf", file_data=PDF)))
    second = await client.create(model=MODEL, input="script:\necho", previous_response_id=first["id"])
    assert "Title: A Small File" in output_text(second)


@pytest.mark.parametrize(
    ("part", "code", "field"),
    [
        (image("data:image/png;base64,%%%"), "invalid_media", "image_url"),
        (image("data:image/png;base64,aGVsbG8="), "invalid_media", "image_url"),
        (image(data_uri(png()[:20], "image/png")), "invalid_media", "image_url"),
        (image(data_uri(png(20_000, 1), "image/png")), "invalid_media", "image_url"),
        (image("http://127.0.0.1/a.png"), "failed_to_download", "image_url"),
        (image("http://2130706433/a.png"), "invalid_value", "image_url"),
        (file(file_data="not base64!"), "invalid_media", "file_data"),
        (file(file_data=base64.b64encode(b"PK\x03\x04\0\0\xff").decode()), "invalid_media", "file_data"),
        (file(file_data=base64.b64encode(b"%PDF-1.4 nothing").decode()), "invalid_media", "file_data"),
        (file(file_data=data_uri(png(), "application/pdf")), "invalid_media", "file_data"),
        (file(file_url="http://169.254.169.254/latest/meta-data"), "failed_to_download", "file_url"),
        (file(file_url="http://localhost:6379/"), "failed_to_download", "file_url"),
        (file(file_url="http://[::ffff:127.0.0.1]/"), "failed_to_download", "file_url"),
        (file(file_url="http://user:password@1.1.1.1/"), "invalid_value", "file_url"),
        (file(file_url="http://1.1.1.1:22/"), "failed_to_download", "file_url"),
        ({"type": "input_video", "video_url": "data:video/mp4;base64,?"}, "invalid_media", "video_url"),
    ],
)
async def test_what_cannot_be_read_is_refused_at_its_place(
    client: Client, part: dict[str, Any], code: str, field: str
) -> None:
    for stream in (False, True):
        error = await client.refused(400, model=MODEL, input=user(ECHO, part), stream=stream)
        assert (error["code"], error["param"]) == (code, f"input[0].content[1].{field}")


async def test_an_unknown_model_is_named_before_anything_is_read(client: Client) -> None:
    error = await client.refused(404, model="nothing", input=user(file(file_url="http://127.0.0.1/")))
    assert error["code"] == "model_not_found"


async def test_urls_are_fetched_once_for_a_whole_chain(scripted_stack: RunningStack, tmp_path: Path) -> None:
    fetched = 0

    async def handle(request: Any) -> Any:
        nonlocal fetched
        fetched += 1
        return await answer(f"Fetched {fetched} times.".encode(), "text/plain")(request)

    redis = f"unix://{scripted_stack.state}/valkey.sock"
    targets = scripted_stack.worker_targets
    with edge_process(tmp_path / "edge", workers=targets, redis_url=redis, fetch_allowed_networks="127.0.0.1") as edge:
        async with file_server({"/notes a.txt": handle}) as url, client_of(edge.base_url) as client:
            part = file(file_url=f"{url}/notes%20a.txt?x=1")
            first = await client.create(model=MODEL, input=user(part, ECHO))
            second = await client.create(model=MODEL, input="script:\necho", previous_response_id=first["id"])
    for response in (first, second):
        assert '<file name="notes a.txt">\nFetched 1 times.\n</file>' in output_text(response)
    assert fetched == 1


async def test_fetching_and_unseen_media_can_be_refused(scripted_stack: RunningStack, tmp_path: Path) -> None:
    redis = f"unix://{scripted_stack.state}/valkey.sock"
    targets = scripted_stack.worker_targets
    with edge_process(
        tmp_path / "edge", workers=targets, redis_url=redis, fetch_urls="false", unseen_media="refuse"
    ) as edge:
        async with client_of(edge.base_url) as client:
            for part in (image(), {"type": "input_video", "video_url": "https://example.com/"}):
                error = await client.refused(400, model=MODEL, input=user(part))
                assert error["code"] == "unsupported_value"
            error = await client.refused(400, model=MODEL, input=user(file(file_url="https://example.com/a.txt")))
            assert (error["code"], error["param"]) == ("unsupported_value", "input[0].content[0].file_url")
            await client.create(model=MODEL, input=user(file(file_data=PDF)))
