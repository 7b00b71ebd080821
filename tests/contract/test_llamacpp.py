"""What the llama.cpp engine keeps to beyond the protocol: OpenAI's meaning of the parameters, and whole characters."""

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from inference.engines.base import EngineDead, EngineStop, SamplingParams
from inference.engines.llamacpp import LlamaCppEngine, LlamaCppSettings
from tests.support.engines import GREEDY, Subject, generate, started
from tests.support.model import model_path

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPLIT = "𝔘" * 22
"""A character of three tokens in the model's vocabulary, which goes on repeating it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject() -> AsyncGenerator[Subject, None]:
    async with started("llamacpp") as subject:
        yield subject


@pytest.mark.parametrize("max_tokens", [7, 8, 9])
async def test_every_part_of_a_character_is_a_token_of_its_own(subject: Subject, max_tokens: int) -> None:
    tokenizer = subject.engine.tokenizer
    generated = await generate(subject.engine, tokenizer.encode(SPLIT), replace(GREEDY, max_tokens=max_tokens))
    assert generated.token_ids == (tokenizer.encode("𝔘") * 3)[:max_tokens]


async def test_parts_of_characters_have_log_probabilities_like_other_tokens(subject: Subject) -> None:
    tokenizer = subject.engine.tokenizer
    params = replace(GREEDY, max_tokens=6, top_logprobs=2)
    generated = await generate(subject.engine, tokenizer.encode(SPLIT), params)
    assert [logprob.top[0] for logprob in generated.logprobs] == [
        (logprob.token_id, logprob.logprob) for logprob in generated.logprobs
    ]
    assert all(-3 < logprob.logprob < 0 and len(logprob.top) == 2 for logprob in generated.logprobs)


async def test_log_probabilities_are_those_before_sampling_params(subject: Subject) -> None:
    prompt = subject.repeating("one")
    plain = await generate(subject.engine, prompt, replace(GREEDY, max_tokens=1, top_logprobs=20))
    hot = await generate(subject.engine, prompt, SamplingParams(1, temperature=2.0, top_p=0.5, top_logprobs=20, seed=1))
    for (id_, value), (hot_id, hot_value) in zip(plain.logprobs[0].top, hot.logprobs[0].top, strict=True):
        assert id_ == hot_id
        assert value == pytest.approx(hot_value, abs=1e-3)


async def test_no_sampler_but_ours_narrows_the_choice(subject: Subject) -> None:
    """llama.cpp's own defaults keep the 40 likeliest tokens only, and of them those of 5 % of the likeliest's."""
    params = SamplingParams(max_tokens=40, temperature=2.0, top_logprobs=20, seed=3)
    generated = await generate(subject.engine, subject.repeating("one"), params)
    unlikely = [logprob for logprob in generated.logprobs if logprob.token_id not in dict(logprob.top)]
    assert len(unlikely) > len(generated.logprobs) / 2


async def test_top_p_leaves_out_the_unlikely(subject: Subject) -> None:
    greedy = await generate(subject.engine, subject.repeating("one"), replace(GREEDY, max_tokens=10))
    nearly = SamplingParams(max_tokens=10, temperature=1.0, top_p=1e-6, seed=3)
    assert (await generate(subject.engine, subject.repeating("one"), nearly)).token_ids == greedy.token_ids


async def test_the_end_bias_ends_a_turn_and_shows_in_no_log_probability(subject: Subject) -> None:
    prompt = subject.repeating("one")
    params = replace(GREEDY, max_tokens=8, top_logprobs=20)
    plain = await generate(subject.engine, prompt, params)
    biased = await generate(subject.engine, prompt, replace(params, end_bias=1.0))  # the end is behind by more
    assert biased.logprobs == plain.logprobs
    ended = await generate(subject.engine, prompt, replace(params, end_bias=100.0))
    assert (ended.token_ids, ended.stop) == ([], EngineStop.END_OF_TURN)


async def test_different_seeds_and_no_seeds_differ(subject: Subject) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.5)
    seeds = (1, 2, -1, 2**32 - 1, 2**63, None, None)
    outputs = [
        tuple((await generate(subject.engine, subject.repeating("one"), replace(params, seed=seed))).token_ids)
        for seed in seeds
    ]
    assert len(set(outputs)) == len(seeds)


async def test_penalties_count_generated_tokens_and_not_the_prompt(subject: Subject) -> None:
    tokenizer = subject.engine.tokenizer
    prompt = tokenizer.encode(SPLIT)
    params = replace(GREEDY, max_tokens=12)
    penalized = replace(params, presence_penalty=0.01)
    assert (await generate(subject.engine, prompt, penalized)).token_ids == (
        await generate(subject.engine, prompt, params)
    ).token_ids, "a penalty too small to matter changes nothing"
    one_at_most = replace(params, presence_penalty=2.0, frequency_penalty=2.0, max_tokens=24)
    generated = (await generate(subject.engine, prompt, one_at_most)).token_ids
    assert generated[:3] == tokenizer.encode("𝔘"), "what is in the prompt is not penalized"
    assert max(Counter(generated).values()) < max(
        Counter((await generate(subject.engine, prompt, replace(params, max_tokens=24))).token_ids).values()
    )


async def test_a_prompt_and_its_output_fill_the_context_window_to_the_last_token(subject: Subject) -> None:
    prompt = subject.long_prefill(subject.engine.info.context_window - 2)
    generated = await generate(subject.engine, prompt, replace(GREEDY, max_tokens=2))
    assert generated.stop is EngineStop.MAX_TOKENS


@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
async def test_a_cut_off_model_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.gguf"
    with model_path().open("rb") as whole:
        path.write_bytes(whole.read(size))
    engine = LlamaCppEngine(LlamaCppSettings(path, context_window=256, parallel=1))
    with pytest.raises(EngineDead, match=r"model\.gguf"):
        await engine.start()
    await engine.close()
