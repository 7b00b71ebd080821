"""Images on llama.cpp: a tiny model that really sees pixels, and a vocabulary that it would let a user forge."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.content_pb2 import ContentPart, InputImage, InputText
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import ROLE_ASSISTANT, ROLE_USER, ContentParts, FunctionCallOutput, Item, Message
from antiphon.responses.v1.response_pb2 import Truncation
from antiphon.responses.v1.tool_pb2 import FunctionTool, Tool, ToolChoice, ToolChoiceMode
from inference.engines.base import EngineDead, EngineError, EngineStop, MixedPrompt, SamplingParams
from inference.engines.llamacpp import LlamaCppEngine, LlamaCppSettings
from inference.generation import Generations
from inference.output import Delta
from inference.prompt import PromptBuilder
from inference.server import WorkerServer
from inference.settings import InferenceSettings
from tests.support.engines import GREEDY, Generated, generate
from tests.support.gguf import IMAGE_TOKENS
from tests.support.media import png
from tests.support.vision import MARKERS, VisionModel, vision_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW = 2048
RED, BLUE = png(colour=(255, 0, 0)), png(64, 48, colour=(0, 0, 255))
SCORED = replace(GREEDY, top_logprobs=3, grammar="root ::= [a-z] [a-z] [a-z]")
"""A character that is a token has log probabilities; a part of one, as this model prefers, may have none."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> VisionModel:
    return vision_model(tmp_path_factory.mktemp("vision"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(files: VisionModel) -> AsyncGenerator[LlamaCppEngine, None]:
    engine = LlamaCppEngine(
        LlamaCppSettings(files.model, projector_path=files.projector, context_window=WINDOW, parallel=2)
    )
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def prompts(engine: LlamaCppEngine) -> PromptBuilder:
    return PromptBuilder(engine.tokenizer, engine.chat_template, WINDOW, count_mixed=engine.count_tokens)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generations(
    engine: LlamaCppEngine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Generations, None]:
    socket = tmp_path_factory.mktemp("worker") / "socket"
    server = WorkerServer(engine, InferenceSettings(listen=f"unix:{socket}", model_path="unused"))
    yield server.generations
    await server.stop()


def look(*images: bytes, text: str = "?") -> MixedPrompt:
    """A prompt of all ``images`` in a row."""
    return MixedPrompt(("<|im_start|>user\n", *[""] * (len(images) - 1), f"{text}<|im_end|>"), images)


def part(content: str | bytes) -> ContentPart:
    if isinstance(content, bytes):
        return ContentPart(input_image=InputImage(data=content, media_type="image/png"))
    return ContentPart(input_text=InputText(text=content))


def user(*contents: str | bytes) -> Item:
    return Item(message=Message(role=ROLE_USER, content=map(part, contents)))


def mixed(prompts: PromptBuilder, request: pb.GenerateRequest) -> MixedPrompt:
    prompt = prompts.build(request)
    assert prompt.mixed is not None
    return prompt.mixed


async def fresh(engine: LlamaCppEngine, prompt: MixedPrompt, salt: str) -> Generated:
    """A generation that finds nothing in any KV cache."""
    generated = await generate(engine, prompt, replace(SCORED, cache_salt=salt))
    assert generated.cached_tokens == 0
    return generated


async def test_only_a_model_with_a_projector_sees(engine: LlamaCppEngine, files: VisionModel) -> None:
    assert engine.info.capabilities.images
    blind = LlamaCppEngine(LlamaCppSettings(files.model, context_window=256, parallel=1))
    await blind.start()
    try:
        assert not blind.info.capabilities.images
        with pytest.raises(EngineError):
            await generate(blind, look(RED))
        with pytest.raises(EngineError):
            blind.count_tokens(look(RED))
    finally:
        await blind.close()


async def test_a_file_that_is_no_projector_is_refused(files: VisionModel, tmp_path: Path) -> None:
    for projector in (files.model, tmp_path / "missing.gguf"):
        engine = LlamaCppEngine(LlamaCppSettings(files.model, projector_path=projector, context_window=256, parallel=1))
        with pytest.raises(EngineDead):
            await engine.start()
        await engine.close()


async def test_a_file_whose_control_tokens_are_text_by_their_type_is_refused(tmp_path: Path) -> None:
    """llama.cpp knows these by name and parses them all the same; the file with the others is served."""
    for token, is_control in (("<|fim_prefix|>", True), ("<|eot_id|>", True), ("<b>", False)):
        folder = tmp_path / str(len(token))
        folder.mkdir()
        files = vision_model(folder, token)
        engine = LlamaCppEngine(
            LlamaCppSettings(files.model, projector_path=files.projector, context_window=256, parallel=1)
        )
        if is_control:
            with pytest.raises(EngineDead, match="wrong type"):
                await engine.start()
        else:
            await engine.start()
        await engine.close()


async def test_pixels_and_their_order_decide_what_comes_and_nothing_else_does(engine: LlamaCppEngine) -> None:
    red, again = await fresh(engine, look(RED), "1"), await fresh(engine, look(RED), "2")
    assert red.token_ids == again.token_ids
    assert [lp.logprob for lp in red.logprobs] == pytest.approx([lp.logprob for lp in again.logprobs], abs=1e-3)
    blue = await fresh(engine, look(BLUE), "3")
    both, reverse = await fresh(engine, look(RED, BLUE), "4"), await fresh(engine, look(BLUE, RED), "5")
    firsts = [generated.logprobs[0].top for generated in (red, blue, both, reverse)]
    assert all(abs(one[0][1] - other[0][1]) > 1e-3 for one in firsts for other in firsts if one is not other)


async def test_a_prompt_has_as_many_tokens_as_llama_cpp_evaluates(engine: LlamaCppEngine) -> None:
    for prompt, texts in ((look(RED), 8), (look(BLUE, RED, BLUE, text="hello"), 10)):
        tokens = engine.count_tokens(prompt)
        assert tokens == IMAGE_TOKENS * len(prompt.images) + texts
        await generate(engine, prompt)
        assert (await generate(engine, prompt)).cached_tokens == tokens - 1  # the last one is always evaluated anew


async def test_a_conversation_about_an_image_finds_it_in_the_cache(
    engine: LlamaCppEngine, prompts: PromptBuilder
) -> None:
    first = [user("What is this?", RED, "And why?")]
    prompt = prompts.build(pb.GenerateRequest(items=first))
    assert prompt.mixed is not None
    await generate(engine, prompt.mixed)
    said = Item(message=Message(role=ROLE_ASSISTANT, content=[part("An image.")]))
    later = mixed(prompts, pb.GenerateRequest(items=[*first, said, user(BLUE, "This?")]))
    assert [later.images[0], later.images[1]] == [RED, BLUE]
    assert (await generate(engine, later)).cached_tokens >= prompt.input_tokens - 1


async def test_texts_and_images_share_slots_in_any_order(engine: LlamaCppEngine) -> None:
    """llama.cpp's assertions end the process: none may be reached."""
    text = engine.tokenizer.encode("hello")
    first = MixedPrompt(("", "x"), (RED,))
    for prompt in (
        text,
        look(RED),
        text,
        look(RED),
        look(RED),
        look(RED, RED),
        text,
        first,
        look(RED, text="x"),
        first,
    ):
        await generate(engine, prompt, SamplingParams(max_tokens=2))
    outputs = await asyncio.gather(generate(engine, look(BLUE)), generate(engine, text))
    assert all(output.token_ids for output in outputs)


async def test_a_prompt_that_ends_with_an_image_is_refused(engine: LlamaCppEngine) -> None:
    """llama.cpp ends the process over one."""
    with pytest.raises(EngineError):
        await generate(engine, MixedPrompt(("x", ""), (RED,)))
    with pytest.raises(EngineError):
        await generate(engine, MixedPrompt(("x", "y"), (b"no image",)))
    assert (await generate(engine, look(RED))).token_ids


async def test_a_grammar_holds_after_images_and_characters_of_several_tokens_come_whole(engine: LlamaCppEngine) -> None:
    generated = await generate(engine, look(RED), replace(SCORED, max_tokens=20, grammar='root ::= "né🎉"'))
    assert engine.tokenizer.decode(generated.token_ids).decode() == "né🎉"
    assert generated.stop is EngineStop.END_OF_TURN


async def test_forced_tokens_have_the_log_probabilities_of_free_ones(engine: LlamaCppEngine) -> None:
    free = await generate(engine, look(RED), replace(SCORED, max_tokens=1, grammar='root ::= "h"'))
    (token_id,) = free.token_ids
    params = SamplingParams(max_tokens=1, temperature=0.0, top_logprobs=0, forced_token_ids=(token_id,))
    forced = await generate(engine, look(RED), params)
    assert forced.token_ids == [token_id]
    assert forced.logprobs[0].logprob == pytest.approx(free.logprobs[0].logprob, abs=0.01)


async def test_an_aborted_generation_frees_its_place(engine: LlamaCppEngine) -> None:
    for _ in range(4):
        params = SamplingParams(max_tokens=1500, temperature=0.0, grammar='root ::= "h" root')
        async with aclosing(engine.generate("test", look(RED), params)) as steps:
            async for step in steps:
                assert step.stop is None
                break
    assert (await generate(engine, look(BLUE))).token_ids


HOSTILE = st.lists(
    st.one_of(st.sampled_from([*MARKERS, "<__media__>", "\ufffc"]), st.text(max_size=3)), max_size=5
).map("".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(HOSTILE, min_size=3, max_size=3))
async def test_llama_cpp_finds_no_control_tokens_but_the_templates(
    engine: LlamaCppEngine, prompts: PromptBuilder, texts: list[str]
) -> None:
    """Tokenized as llama.cpp does it after images: with control tokens parsed."""

    def found(texts: list[str]) -> list[list[int]]:
        before, between, after = texts
        prompt = mixed(
            prompts, pb.GenerateRequest(items=[user(before, RED, between, BLUE, after)], instructions=f"x{before}")
        )
        assert prompt.images == (RED, BLUE)
        token_ids = [engine._alive_server().tokenize(text, parse_special=True) for text in prompt.texts]
        return [[id_ for id_ in ids if id_ < len(MARKERS)] for ids in token_ids]

    assert found(texts) == found(["x"] * 3)


async def test_who_writes_llama_cpps_image_marker_writes_text(engine: LlamaCppEngine) -> None:
    marker = engine._alive_server()._marker
    assert marker is not None
    forged = look(RED, text=f"<{marker}{marker}>")
    assert engine.count_tokens(forged) > engine.count_tokens(look(RED)) + len(marker)
    await generate(engine, forged)
    assert (await generate(engine, forged)).cached_tokens == engine.count_tokens(forged) - 1


async def test_truncation_counts_images(engine: LlamaCppEngine) -> None:
    items = [user("one", RED), user("two", RED, BLUE), user("three", BLUE)]
    whole = PromptBuilder(engine.tokenizer, engine.chat_template, WINDOW, count_mixed=engine.count_tokens)
    wanted = whole.build(pb.GenerateRequest(items=items[1:]))
    narrow = PromptBuilder(
        engine.tokenizer, engine.chat_template, wanted.input_tokens + 9, count_mixed=engine.count_tokens
    )
    request = pb.GenerateRequest(items=items, truncation=Truncation.TRUNCATION_AUTO, max_output_tokens=8)
    assert narrow.build(request) == wanted
    with pytest.raises(ApiError) as refused:
        narrow.build(pb.GenerateRequest(items=items))
    assert refused.value.reason == ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED


async def test_a_worker_answers_about_images_with_a_call_if_one_is_required(generations: Generations) -> None:
    tool = Tool(function=FunctionTool(name="name_it", parameters='{"type": "object"}'))
    shown = FunctionCallOutput(call_id="c", parts=ContentParts(parts=[part(BLUE)]))
    request = pb.GenerateRequest(
        items=[user("Look:", RED), Item(function_call_output=shown)],
        tools=[tool],
        tool_choice=ToolChoice(mode=ToolChoiceMode.TOOL_CHOICE_MODE_REQUIRED),
        max_output_tokens=200,
    )
    tokens = await generations.count_tokens(request)
    events = [event async for event in generations.run(request)]
    assert events[0] == pb.Accepted(input_tokens=tokens)
    (call,) = [event for event in events if isinstance(event, pb.PartStarted)][:1]
    assert call.name == "name_it"
    assert isinstance(events[-1], pb.Finished)
    assert events[-1].usage.input_tokens == tokens
    assert "".join(event.text for event in events if isinstance(event, Delta)).startswith("{")


async def test_no_worker_goes_on_after_images_where_another_has_died(generations: Generations) -> None:
    request = pb.GenerateRequest(items=[user(RED, "What is it?")], resume_token_ids=[10, 11], max_output_tokens=8)
    with pytest.raises(ApiError) as refused:
        async for _ in generations.run(request):
            pass
    assert refused.value.reason == ErrorReason.ERROR_REASON_ENGINE_FAILED


async def test_an_image_that_is_not_plain_is_refused_with_its_place(generations: Generations) -> None:
    with pytest.raises(ApiError) as refused:
        await generations.count_tokens(pb.GenerateRequest(items=[user("x", RED, RED[:-3])]))
    assert (refused.value.reason, refused.value.param) == (
        ErrorReason.ERROR_REASON_INVALID_MEDIA,
        "input[0].content[2].image_url",
    )
