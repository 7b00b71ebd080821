"""What every engine keeps to: `inference/engines/base.py`, and its tokenizer to `inference/tokenizer.py`."""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engines.base import EngineDead, EngineError, EngineStop, SamplingParams, Step
from tests.support.engines import CAPACITY, CONTEXT_WINDOW, GREEDY, NAMES, Name, Subject, generate, started

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = ("one", "two", "three", "four")
salts = (f"salt {n}" for n in itertools.count())
"""Fresh ones: a test of the cache starts from an empty one."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NAMES)
async def subject(request: pytest.FixtureRequest) -> AsyncGenerator[Subject, None]:
    name: Name = request.param
    async with started(name) as subject:
        yield subject


async def first_step(steps: AsyncGenerator[Step, None]) -> Step:
    async with asyncio.timeout(60):
        return await anext(steps)


async def test_a_generation_ends_its_turn_without_showing_the_token_that_ended_it(subject: Subject) -> None:
    generated = await generate(subject.engine, subject.ending_turn(), replace(GREEDY, max_tokens=100))
    assert generated.stop is EngineStop.END_OF_TURN
    assert subject.engine.tokenizer.decode(generated.token_ids).startswith(b"Hello")


@pytest.mark.parametrize("max_tokens", [1, 2, 33])
async def test_max_tokens_are_generated_and_no_more(subject: Subject, max_tokens: int) -> None:
    generated = await generate(subject.engine, subject.repeating("one"), replace(GREEDY, max_tokens=max_tokens))
    assert (len(generated.token_ids), generated.stop) == (max_tokens, EngineStop.MAX_TOKENS)


async def test_a_stop_token_ends_the_turn_and_is_not_shown(subject: Subject) -> None:
    whole = await generate(subject.engine, subject.ending_turn(), replace(GREEDY, max_tokens=100))
    stop_token_id = whole.token_ids[-1]
    before = whole.token_ids[: whole.token_ids.index(stop_token_id)]
    params = replace(GREEDY, max_tokens=100, stop_token_ids=(stop_token_id,))
    generated = await generate(subject.engine, subject.ending_turn(), params)
    assert (generated.token_ids, generated.stop) == (before, EngineStop.END_OF_TURN)


async def test_greedy_generations_repeat(subject: Subject) -> None:
    first, second = [await generate(subject.engine, subject.ending_turn()) for _ in range(2)]
    assert first.token_ids == second.token_ids


async def test_a_seed_repeats_what_it_gave(subject: Subject) -> None:
    params = SamplingParams(max_tokens=16, seed=2**53 + 1, cache_salt=next(salts))
    if not subject.engine.info.capabilities.seed:
        with pytest.raises(EngineError):
            await generate(subject.engine, subject.ending_turn(), params)
        return
    first = await generate(subject.engine, subject.ending_turn(), params)
    second = await generate(subject.engine, subject.ending_turn(), replace(params, cache_salt=next(salts)))
    assert first.token_ids == second.token_ids


async def test_closing_while_decoding_frees_the_place(subject: Subject) -> None:
    for _ in range(2):  # the second round would find no place
        running = [subject.engine.generate("test", subject.endless(), SamplingParams(900)) for _ in range(CAPACITY)]
        for steps in running:
            assert (await first_step(steps)).stop is None
        async with asyncio.timeout(60):
            await asyncio.gather(*(steps.aclose() for steps in running))
    await generate(subject.engine, subject.endless(), replace(GREEDY, max_tokens=2))


async def test_cancelling_while_prefilling_ends_the_prefill_and_frees_the_place(subject: Subject) -> None:
    prompt = subject.long_prefill(CONTEXT_WINDOW - 3)
    params = SamplingParams(max_tokens=3, temperature=0, cache_salt=next(salts))
    prefilling = asyncio.ensure_future(anext(subject.engine.generate("long", prompt, params)))
    await generate(subject.engine, subject.repeating("two"), replace(GREEDY, max_tokens=2))
    assert not prefilling.done(), "the prompt is too short for this test"
    prefilling.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([prefilling])
    assert prefilling.cancelled()
    again = await generate(subject.engine, prompt, params)
    assert again.cached_tokens < len(prompt) * 3 // 4, "the prefill went on to its end"
    assert again.stop is EngineStop.MAX_TOKENS  # and the context window is used to its last token


async def test_places_are_there_again_when_everybody_was_cancelled_twice(subject: Subject) -> None:
    prompt = subject.long_prefill(CONTEXT_WINDOW - 3)
    params = SamplingParams(max_tokens=3, temperature=0, cache_salt=next(salts))
    capacity = subject.engine.info.capacity
    running = [asyncio.ensure_future(anext(subject.engine.generate(f"{n}", prompt, params))) for n in range(capacity)]
    await asyncio.sleep(0)  # each of them has its place
    for _ in range(2):  # as by a cancel and then the end of its stream
        for task in running:
            task.cancel()
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        short = replace(GREEDY, max_tokens=2)
        others = [generate(subject.engine, subject.repeating("two"), short) for _ in range(capacity)]
        for whole in await asyncio.gather(*others):
            assert whole.stop is EngineStop.MAX_TOKENS
        await asyncio.wait(running)


async def test_a_repeated_prompt_comes_from_the_cache_but_for_its_last_token(subject: Subject) -> None:
    params = replace(GREEDY, cache_salt=next(salts))
    prompt = subject.repeating("four")
    assert (await generate(subject.engine, prompt, params)).cached_tokens == 0
    assert (await generate(subject.engine, prompt, params)).cached_tokens == len(prompt) - 1


async def test_the_next_turn_of_a_conversation_finds_the_last_one_in_the_cache(subject: Subject) -> None:
    params = replace(GREEDY, cache_salt=next(salts))
    turn = subject.repeating("three")
    turn += (await generate(subject.engine, turn, params)).token_ids
    others = [subject.repeating(word) for word in WORDS[: CAPACITY - 1]]
    await asyncio.gather(
        *(generate(subject.engine, other, replace(GREEDY, cache_salt=next(salts))) for other in others)
    )
    cached = (await generate(subject.engine, turn + subject.chat("And now?"), params)).cached_tokens
    assert len(turn) - 1 <= cached <= len(turn)  # the last token generated may never have been input


async def test_generations_with_different_salts_share_no_cache(subject: Subject) -> None:
    assert subject.engine.info.capabilities.cache_salt
    prompt = subject.repeating("two")
    mine, yours = next(salts), next(salts)
    cached = [
        (await generate(subject.engine, prompt, replace(GREEDY, cache_salt=salt))).cached_tokens
        for salt in (mine, yours, mine, yours)
    ]
    assert cached == [0, 0, len(prompt) - 1, len(prompt) - 1]


async def test_a_salt_finds_nothing_in_places_that_others_left_in_every_way(subject: Subject) -> None:
    prompt = subject.repeating("one")
    mine = replace(GREEDY, max_tokens=900, cache_salt=next(salts))
    for _ in range(2 * CAPACITY):
        await generate(subject.engine, prompt, replace(GREEDY, max_tokens=1, cache_salt=next(salts)))
        task = asyncio.ensure_future(anext(subject.engine.generate("test", prompt, mine)))
        await asyncio.sleep(0)  # it has begun, and is cancelled at once
        task.cancel()
        await asyncio.wait([task])
    cached = (await generate(subject.engine, prompt, replace(GREEDY, cache_salt=next(salts)))).cached_tokens
    assert cached == 0


async def test_generations_at_once_are_what_they_are_alone(subject: Subject) -> None:
    assert subject.engine.info.capacity == CAPACITY
    prompts = [subject.repeating(word) for word in WORDS[:CAPACITY]]
    params = replace(GREEDY, max_tokens=20)
    alone = [await generate(subject.engine, prompt, params) for prompt in prompts]
    together = await asyncio.gather(*(generate(subject.engine, prompt, params) for prompt in prompts))
    assert [generated.token_ids for generated in together] == [generated.token_ids for generated in alone]
    assert len({tuple(generated.token_ids) for generated in alone}) == CAPACITY


async def test_starts_ends_and_aborts_in_any_order_mix_nothing_and_leave_every_place_usable(subject: Subject) -> None:
    params = replace(GREEDY, max_tokens=5)
    alone = {word: (await generate(subject.engine, subject.repeating(word), params)).token_ids for word in WORDS}
    choices = random.Random(7)
    places = asyncio.Semaphore(CAPACITY)

    async def one(word: str, steps_until_abort: int) -> None:
        async with (
            places,
            aclosing(subject.engine.generate("test", subject.repeating(word), params)) as steps,
        ):
            seen: list[int] = []
            async for step in steps:
                seen += step.token_ids
                assert seen == alone[word][: len(seen)]
                steps_until_abort -= 1
                if steps_until_abort == 0:
                    break

    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        for _ in range(20):
            task = tasks.create_task(one(choices.choice(WORDS), choices.choice((1, 2, 9))))
            if choices.random() < 0.3:
                asyncio.get_running_loop().call_later(choices.random(), task.cancel)
    async with asyncio.timeout(100):
        await asyncio.gather(*(generate(subject.engine, subject.repeating(word)) for word in WORDS[:CAPACITY]))


@pytest.mark.parametrize("count", [0, 1, 20])
async def test_log_probabilities_come_with_every_token(subject: Subject, count: int) -> None:
    assert subject.engine.info.capabilities.max_top_logprobs >= count
    params = replace(GREEDY, top_logprobs=count)
    generated = await generate(subject.engine, subject.repeating("one"), params)
    for token_id, logprob in zip(generated.token_ids, generated.logprobs, strict=True):
        assert logprob.token_id == token_id
        assert logprob.logprob <= 0
        assert len(logprob.top) == len(dict(logprob.top)) == count
        values = [value for _, value in logprob.top]
        assert values == sorted(values, reverse=True)
        assert not count or logprob.top[0] == (token_id, logprob.logprob), "greedy takes the likeliest"


async def test_a_failed_generation_harms_no_other(subject: Subject) -> None:
    async with aclosing(
        subject.engine.generate("test", subject.endless(), SamplingParams(900, temperature=0))
    ) as other:
        await first_step(other)
        with pytest.raises(EngineError) as caught:
            await generate(subject.engine, subject.failing())
        assert not isinstance(caught.value, EngineDead)
        await first_step(other)
    await generate(subject.engine, subject.repeating("one"))


async def test_an_engine_that_is_alive_says_so(subject: Subject) -> None:
    assert not subject.engine.died.is_set()
    usage = subject.engine.kv_cache_usage
    assert usage is None or 0 <= usage <= 1


@pytest.mark.parametrize("name", NAMES)
async def test_closing_the_engine_ends_running_generations_with_engine_dead(name: Name) -> None:
    async with started(name) as subject:
        running = [subject.engine.generate("test", subject.endless(), SamplingParams(900)) for _ in range(2)]
        for steps in running:
            await first_step(steps)
        async with asyncio.timeout(30):
            await subject.engine.close()
        for steps in running:
            with pytest.raises(EngineDead):
                async for _ in steps:
                    pass
        with pytest.raises(EngineDead):
            await generate(subject.engine, subject.endless())
        assert subject.engine.died.is_set()


async def test_everyday_text_survives_encoding_and_decoding(subject: Subject) -> None:
    text = 'Grüße,\n\tпривет, 你好, สวัสดี, שלום, नमस्ते! 🎉👨‍👩‍👧 ½ "x" \\ <b> {} \r\n  end '
    assert subject.engine.tokenizer.decode(subject.engine.tokenizer.encode(text)).decode() == text


@settings(deadline=None)
@given(text=st.text())
async def test_any_text_survives_but_for_characters_the_vocabulary_cannot_spell(subject: Subject, text: str) -> None:
    decoded = subject.engine.tokenizer.decode(subject.engine.tokenizer.encode(text)).decode()
    assert len(decoded) == len(text)
    assert all(got in (wanted, "\N{REPLACEMENT CHARACTER}") for got, wanted in zip(decoded, text, strict=True))


@settings(deadline=None, max_examples=30)
@given(data=st.data())
async def test_text_that_spells_markers_stays_text(subject: Subject, data: st.DataObject) -> None:
    tokenizer = subject.engine.tokenizer
    pieces = st.one_of(st.sampled_from(sorted(tokenizer.markers)), st.text("<|>im_startend é", max_size=3))
    text = "".join(data.draw(st.lists(pieces)))
    token_ids = tokenizer.encode(text)
    assert not set(token_ids) & set(tokenizer.markers.values())
    assert tokenizer.decode(token_ids).decode() == text


async def test_the_tokenizer_and_the_template_agree_about_the_model(subject: Subject) -> None:
    tokenizer = subject.engine.tokenizer
    assert tokenizer.eos_token_ids
    assert all(tokenizer.token_bytes(token_id) == b"" for token_id in tokenizer.eos_token_ids)
    assert "<|im_start|>" in subject.engine.chat_template
    for no_token in (-1, 2**31 - 1):
        with pytest.raises(KeyError):
            tokenizer.token_bytes(no_token)
