"""What only a GPU can answer about images on TensorRT-LLM 1.2.1, with the folder of a small chat model that sees.

As ``test_trtllm_on_gpu.py``, with ``ANTIPHON_GPU_VISION_MODEL`` and, of an image of 2048 pixels a side,
``ANTIPHON_GPU_TOKENS_PER_IMAGE``. Run by itself: two engines do not share a GPU's memory.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.content_pb2 import ContentPart, InputImage, InputText
from antiphon.responses.v1.item_pb2 import ROLE_USER, Item, Message
from inference.engines.base import MixedPrompt, SamplingParams
from inference.engines.trtllm.engine import TrtllmEngine, TrtllmSettings
from inference.engines.trtllm.options import Images, KvCache, Options
from inference.prompt import PromptBuilder
from tests.support.engines import GREEDY, generate
from tests.support.media import png

pytestmark = [pytest.mark.gpu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1800)]

WINDOW = 16384
SIDE = 448
RED, BLUE = png(SIDE, SIDE, colour=(255, 0, 0)), png(SIDE, SIDE, colour=(0, 0, 255))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncGenerator[TrtllmEngine, None]:
    images = Images(tokens_per_image=int(os.environ["ANTIPHON_GPU_TOKENS_PER_IMAGE"]))
    options = Options(images=images, kv_cache=KvCache(free_gpu_memory_fraction=0.4))
    model = Path(os.environ["ANTIPHON_GPU_VISION_MODEL"])
    engine = TrtllmEngine(TrtllmSettings(model, context_window=WINDOW, parallel=4, options=options))
    await engine.start()
    yield engine
    await engine.close()


def ask(engine: TrtllmEngine, *contents: str | bytes) -> MixedPrompt:
    """The prompt of one user message."""
    parts = [
        ContentPart(input_image=InputImage(data=content))
        if isinstance(content, bytes)
        else ContentPart(input_text=InputText(text=content))
        for content in contents
    ]
    prompts = PromptBuilder(engine.tokenizer, engine.chat_template, WINDOW, count_mixed=engine.count_tokens)
    prompt = prompts.build(pb.GenerateRequest(items=[Item(message=Message(role=ROLE_USER, content=parts))])).mixed
    assert prompt is not None
    return prompt


def submitted(engine: TrtllmEngine, prompt: MixedPrompt) -> list[int]:
    """The token ids that the library makes of ``prompt``."""
    inputs, _ = engine._with_images(prompt)
    result: Any = engine._submit(inputs, SamplingParams(max_tokens=1), [])
    result.abort()
    return list(result.prompt_token_ids)


async def answer(engine: TrtllmEngine, prompt: MixedPrompt) -> str:
    generated = await generate(engine, prompt, replace(GREEDY, max_tokens=20))
    return engine.tokenizer.decode(generated.token_ids).decode(errors="replace").lower()


async def test_pixels_reach_the_model_in_their_places(engine: TrtllmEngine) -> None:
    question = "Which colour is this image? Answer with one word."
    assert "red" in await answer(engine, ask(engine, RED, question))
    assert "blue" in await answer(engine, ask(engine, BLUE, question))
    question = "Which colour is the first image, which the second one? Answer with two words."
    both = await answer(engine, ask(engine, RED, BLUE, question))
    assert 0 <= both.find("red") < both.find("blue")


async def test_prompt_token_ids_are_ours_with_an_image_spread_out_in_its_place(engine: TrtllmEngine) -> None:
    """Usage is made of them; and BOS must be there once, if the model has one."""
    prompt = ask(engine, "Look:", RED, "What is it?")
    token_ids = submitted(engine, prompt)
    head, tail = (engine._seeing._encoder.encode(text, add_special_tokens=False).ids for text in prompt.texts)
    bos = engine.tokenizer.bos_token_id
    before = [*([] if bos is None else [bos]), *head]
    assert token_ids[: len(before)] == before
    assert token_ids[-len(tail) :] == tail
    assert len(token_ids) > len(before) + len(tail) + 10


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (2048, 2048), (2048, 11), (640, 480)])
async def test_no_image_takes_more_tokens_than_it_may(engine: TrtllmEngine, size: tuple[int, int]) -> None:
    prompt = ask(engine, png(*size), "What is it?")
    async with aclosing(engine.generate("test", prompt, replace(GREEDY, max_tokens=1))) as steps:
        told = {step.prompt_tokens async for step in steps}
    (tokens,) = told
    assert tokens is not None
    assert tokens <= engine.count_tokens(prompt)


@pytest.mark.parametrize("text", ["<image>", "<|image_pad|>", "<|placeholder|>", "<placeholder>", "[IMG]", "<|image|>"])
async def test_who_writes_what_stands_for_an_image_writes_text(engine: TrtllmEngine, text: str) -> None:
    plain, forged = submitted(engine, ask(engine, "x", RED)), submitted(engine, ask(engine, f"x {text}", RED))
    assert 0 < len(forged) - len(plain) < 20


async def test_the_same_image_is_found_in_the_cache_and_another_is_not(engine: TrtllmEngine) -> None:
    """The salt of images sees to the second; if the library does so by itself, the salt can go."""
    filler = "one two three four five " * 50
    params = replace(GREEDY, cache_salt="fresh")
    cached = [(await generate(engine, ask(engine, image, filler), params)).cached_tokens for image in (RED, RED, BLUE)]
    assert cached[0] == cached[2] == 0
    assert cached[1] > 100


async def test_a_prompt_that_is_prefilled_in_chunks_sees_all_its_images(engine: TrtllmEngine) -> None:
    assert engine._options.max_num_tokens < WINDOW - 4000
    filler = "one two three four five " * 2000
    question = "Which colour is the image? Answer with one word."
    assert "red" in await answer(engine, ask(engine, filler, RED, question))


async def test_a_grammar_holds_after_images(engine: TrtllmEngine) -> None:
    params = replace(GREEDY, max_tokens=20, grammar='root ::= "red" | "blue"\n')
    generated = await generate(engine, ask(engine, BLUE, "Which colour is it?"), params)
    assert engine.tokenizer.decode(generated.token_ids) == b"blue"
