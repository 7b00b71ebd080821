"""Images on the TensorRT-LLM engine: prompts of text, in which the library finds control tokens and images itself.

Its fake sees the size and the first pixel of an image, and reads their description in its place.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.content_pb2 import ContentPart, InputImage, InputText
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import ROLE_USER, Item, Message
from inference.engines.base import EngineDead, EngineError, MixedPrompt, SamplingParams
from inference.engines.scripted.tokenizer import ScriptedTokenizer
from inference.engines.trtllm.engine import TrtllmEngine
from inference.engines.trtllm.options import Images
from inference.generation import Generations
from inference.output import Delta
from inference.prompt import PromptBuilder
from inference.server import WorkerServer
from inference.settings import InferenceSettings
from tests.support.engines import Generated, generate
from tests.support.media import png
from tests.support.trtllm import ABORT_MODE, IMAGE, trtllm_engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

RED, BLUE = png(colour=(255, 0, 0)), png(64, 48, colour=(0, 0, 255))
SEES_RED, SEES_BLUE = "[32x32 (255, 0, 0)]", "[64x48 (0, 0, 255)]"
TOKENS_PER_IMAGE = 30
LONG = SamplingParams(max_tokens=300, temperature=0)
WINDOW = 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncGenerator[TrtllmEngine, None]:
    with trtllm_engine(
        context_window=WINDOW, sees=True, images=Images(tokens_per_image=TOKENS_PER_IMAGE), abort_mode=ABORT_MODE
    ) as engine:
        await engine.start()
        yield engine
        await engine.close()


@pytest.fixture(scope="module")
def prompts(engine: TrtllmEngine) -> PromptBuilder:
    return PromptBuilder(engine.tokenizer, engine.chat_template, WINDOW, count_mixed=engine.count_tokens)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generations(
    engine: TrtllmEngine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Generations, None]:
    listen = f"unix:{tmp_path_factory.mktemp('worker') / 'socket'}"
    server = WorkerServer(engine, InferenceSettings(listen=listen, model_path="unused", min_p=0))
    yield server.generations
    await server.stop()


def look(*images: bytes, text: str = "?") -> MixedPrompt:
    """A prompt of all ``images`` in a row, and ``text``."""
    tail = f"{text}<|im_end|>\n<|im_start|>assistant\n"
    return MixedPrompt(("<|im_start|>user\n", *[""] * (len(images) - 1), tail), images)


def user(*contents: str | bytes) -> Item:
    return Item(message=Message(role=ROLE_USER, content=map(_part, contents)))


def _part(content: str | bytes) -> ContentPart:
    if isinstance(content, bytes):
        return ContentPart(input_image=InputImage(data=content, media_type="image/png"))
    return ContentPart(input_text=InputText(text=content))


def said(engine: TrtllmEngine, generated: Generated) -> str:
    return engine.tokenizer.decode(generated.token_ids).decode()


async def test_pixels_reach_the_model_in_their_places(engine: TrtllmEngine) -> None:
    assert engine.info.capabilities.images
    assert said(engine, await generate(engine, look(RED, BLUE, text="!"), LONG)) == f"{SEES_RED}{SEES_BLUE}!"
    assert said(engine, await generate(engine, look(BLUE, RED, text="!"), LONG)) == f"{SEES_BLUE}{SEES_RED}!"


async def test_texts_are_counted_and_images_bounded_until_the_engine_tells(engine: TrtllmEngine) -> None:
    prompt = look(RED, BLUE)
    texts = 3 + sum(len(text) for text in ("user\n", "?", "\nassistant\n"))
    assert engine.count_tokens(prompt) == texts + 2 * TOKENS_PER_IMAGE
    seen = sum(len(ScriptedTokenizer().encode(text)) for text in (SEES_RED, SEES_BLUE))
    async with aclosing(engine.generate("test", prompt, LONG)) as steps:
        assert {step.prompt_tokens async for step in steps} == {texts + seen}


async def test_usage_tells_what_images_took_and_not_what_was_reckoned(generations: Generations) -> None:
    request = pb.GenerateRequest(items=[user("Look:", RED)], max_output_tokens=100)
    events = [event async for event in generations.run(request)]
    assert events[0] == pb.Accepted(input_tokens=await generations.count_tokens(request))
    assert isinstance(events[0], pb.Accepted)
    assert isinstance(events[-1], pb.Finished)
    seen = len(ScriptedTokenizer().encode(SEES_RED))
    assert events[0].input_tokens - events[-1].usage.input_tokens == TOKENS_PER_IMAGE - seen > 0
    assert "".join(event.text for event in events if isinstance(event, Delta)) == f"Look:\n{SEES_RED}"


async def test_an_image_that_takes_more_tokens_than_it_may_fails_alone() -> None:
    wide = png(1000, 1, colour=(255, 255, 255))
    trial = len(ScriptedTokenizer().encode("[64x64 (0, 0, 0)]"))
    with trtllm_engine(sees=True, images=Images(tokens_per_image=trial), abort_mode=ABORT_MODE) as engine:
        await engine.start()
        with pytest.raises(EngineError, match="tokens_per_image is too low") as failed:
            await generate(engine, look(wide), LONG)
        assert not isinstance(failed.value, EngineDead)
        assert engine.in_flight == 0
        await engine.close()


@pytest.mark.parametrize(
    ("sees", "images", "reason"),
    [
        (True, {"tokens_per_image": 5}, "too low"),
        (True, {"placeholder": "<video>"}, "control tokens alone"),
        (False, {}, "does not say what stands for an image"),
        (False, {"placeholder": "<think>"}, "no input processor for images"),
    ],
)
async def test_a_model_that_does_not_see_as_it_is_said_to_is_not_served(
    sees: bool, images: dict[str, Any], reason: str
) -> None:
    with trtllm_engine(sees=sees, images=Images(**{"tokens_per_image": 30} | images)) as engine:
        with pytest.raises(EngineDead, match=reason):
            await engine.start()
        await engine.close()


async def test_a_model_that_is_not_said_to_see_takes_no_images() -> None:
    with trtllm_engine(sees=True) as engine:
        await engine.start()
        assert not engine.info.capabilities.images
        with pytest.raises(EngineError, match="takes no images"):
            engine.count_tokens(look(RED))
        with pytest.raises(EngineError, match="takes no images"):
            await generate(engine, look(RED))
        await engine.close()


async def test_what_is_no_image_fails_alone(engine: TrtllmEngine) -> None:
    for image in (b"no image", RED[:50]):
        with pytest.raises(EngineError, match="cannot be decoded"):
            await generate(engine, look(image))
    assert (await generate(engine, look(RED))).token_ids


async def test_a_prompt_that_the_models_processor_trips_over_fails_alone(engine: TrtllmEngine) -> None:
    """transformers' processors raise IndexError, among others, when places and images do not fit together."""
    inputs = engine._module.with_images("no place", [RED])
    with pytest.raises(EngineError, match="IndexError") as failed:
        engine._submit(inputs, LONG, [])
    assert not isinstance(failed.value, EngineDead)
    assert not engine.died.is_set()


async def test_only_the_same_images_are_found_in_the_cache(engine: TrtllmEngine) -> None:
    """Not others, whose tokens are alike."""
    text = "x" * 200
    other = png(colour=(255, 0, 0), last=(0, 0, 0))
    params = replace(LONG, cache_salt="fresh")
    cached = [(await generate(engine, look(image, text=text), params)).cached_tokens for image in (RED, RED, other)]
    assert cached[0] == cached[2] == 0
    assert cached[1] > 200


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([*ScriptedTokenizer().markers, IMAGE, "<placeholder>", "<|placeholder|>", "\ufffc"]),
        st.text(max_size=3),
    ),
    max_size=5,
).map("".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(HOSTILE, min_size=3, max_size=3))
async def test_the_library_finds_no_control_tokens_but_the_templates(
    engine: TrtllmEngine, prompts: PromptBuilder, texts: list[str]
) -> None:
    markers = set(ScriptedTokenizer().markers.values())

    async def found(texts: list[str]) -> Iterator[int]:
        before, between, after = texts
        items = [user(before, RED, between, BLUE, after)]
        prompt = prompts.build(pb.GenerateRequest(items=items, instructions=f"x{before}")).mixed
        assert prompt is not None
        inputs, _ = engine._with_images(prompt)
        assert engine._library is not None
        token_ids, _ = engine._library._llm._input_processor(inputs)
        outside = max(token_ids)
        return (id_ for id_ in token_ids if id_ in markers or id_ == outside)

    assert list(await found(texts)) == list(await found(["x"] * 3))


async def test_what_a_model_has_generated_stands_for_no_image(engine: TrtllmEngine) -> None:
    """As it could between its thoughts and its answer, which are two runs of the engine."""
    generated = await generate(engine, look(RED, text=f"a{IMAGE}b"), LONG)
    assert said(engine, generated) == f"{SEES_RED}a<\u200bimage>b"


async def test_no_worker_goes_on_after_images_where_another_has_died(generations: Generations) -> None:
    request = pb.GenerateRequest(items=[user(RED, "What is it?")], resume_token_ids=[10, 11], max_output_tokens=8)
    with pytest.raises(ApiError) as refused:
        async for _ in generations.run(request):
            pass
    assert refused.value.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED
