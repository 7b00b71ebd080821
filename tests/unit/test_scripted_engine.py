"""The scripted engine's language, as `inference/engines/scripted` documents it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from inference.engines.base import EngineDead, EngineError, EngineStop, SamplingParams
from inference.engines.scripted import ScriptedEngine, ScriptedSettings
from tests.support.engines import Generated, Subject, generate

PLENTY = SamplingParams(max_tokens=1000)


@pytest.fixture
async def engine() -> AsyncGenerator[ScriptedEngine, None]:
    engine = ScriptedEngine(ScriptedSettings(parallel=8))
    await engine.start()
    yield engine
    await engine.close()


async def run(engine: ScriptedEngine, message: str, params: SamplingParams = PLENTY) -> Generated:
    return await generate(engine, Subject("scripted", engine).chat(message), params)


@pytest.mark.parametrize(
    ("message", "output"),
    [
        ("What is it?", b"What is it?"),
        ("script:\nsay Hello world.", b"Hello world."),
        ("script:\nsay one\n\nsay two\n", b"onetwo"),
        ('script:\njson " a\\n<b>"', b" a\n<b>"),
        ("script:\ntokens 3", b" token token token"),
        ("script:\nbytes f09f8e89", "🎉".encode()),
        ("script:\nmarker <think>\nsay so\nmarker </think>", b"<think>so</think>"),
        ("script:\nmarker <|im_end|>\nsay never", b""),
        ("script:\nsay one\nend\nsay never", b"one"),
        ("script:\nwait 1\nsay one", b"one"),
        ("script:\npace 1000\nsay one two three", b"one two three"),
        ("no script:\nsay one", b"no script:\nsay one"),
        ("script:", b""),
        ("", b""),
    ],
)
async def test_a_message_is_generated_or_obeyed(engine: ScriptedEngine, message: str, output: bytes) -> None:
    generated = await run(engine, message)
    assert (engine.tokenizer.decode(generated.token_ids), generated.stop) == (output, EngineStop.END_OF_TURN)


async def test_words_are_single_tokens_and_bytes_are_too(engine: ScriptedEngine) -> None:
    assert len((await run(engine, "script:\nsay Hello world")).token_ids) == 2
    assert (await run(engine, "script:\nbytes f09f8e89")).token_ids == [0xF0, 0x9F, 0x8E, 0x89]


async def test_echo_gives_the_prompt_without_control_tokens(engine: ScriptedEngine) -> None:
    generated = await run(engine, "script:\necho")
    assert engine.tokenizer.decode(generated.token_ids) == b"user\nscript:\necho\nassistant\n"


async def test_only_the_last_user_message_counts(engine: ScriptedEngine) -> None:
    subject = Subject("scripted", engine)
    prompt = subject.chat("script:\nfail") + subject.chat("script:\nsay one")
    assert engine.tokenizer.decode((await generate(engine, prompt, PLENTY)).token_ids) == b"one"


async def test_a_filter_ends_the_generation(engine: ScriptedEngine) -> None:
    assert (await run(engine, "script:\nsay one\nfilter")).stop is EngineStop.CONTENT_FILTER


async def test_fail_fails_one_generation(engine: ScriptedEngine) -> None:
    with pytest.raises(EngineError, match="out of luck") as caught:
        await run(engine, "script:\nfail out of luck")
    assert not isinstance(caught.value, EngineDead)
    await run(engine, "script:\nsay one")


async def test_die_fails_every_generation(engine: ScriptedEngine) -> None:
    chat = Subject("scripted", engine).chat
    scripts = ("script:\nsay one\nhold", "script:\npace 100\ntokens 1000000", "script:\ntokens 1000000")
    running = [engine.generate("test", chat(script), SamplingParams(max_tokens=10**9)) for script in scripts]
    for steps in running:
        await anext(steps)
    with pytest.raises(EngineDead):
        await run(engine, "script:\ndie")
    for steps in running:
        with pytest.raises(EngineDead):
            async for _ in steps:
                pass
    with pytest.raises(EngineDead):
        await run(engine, "script:\nsay one")


@pytest.mark.parametrize(
    "line",
    [
        "sing",
        "tokens",
        "tokens many",
        "bytes f",
        "bytes fff",
        "marker <no>",
        "pace -1",
        "pace nan",
        "prefill 0",
        "json {",
        "wait inf",
    ],
)
async def test_a_line_that_is_no_command_fails_the_generation_and_is_named(engine: ScriptedEngine, line: str) -> None:
    with pytest.raises(EngineError, match="line 3"):
        await run(engine, f"script:\nsay one\n{line}")


async def test_a_script_of_its_own_is_for_messages_without_one() -> None:
    engine = ScriptedEngine(ScriptedSettings(script="script:\nsay three"))
    await engine.start()
    assert engine.tokenizer.decode((await run(engine, "anything")).token_ids) == b"three"
    assert engine.tokenizer.decode((await run(engine, "script:\nsay four")).token_ids) == b"four"
    await engine.close()


async def test_tokens_come_at_the_pace_that_was_set(engine: ScriptedEngine) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await run(engine, "script:\npace 200\ntokens 20")
    assert loop.time() - start >= 20 / 200


async def test_what_was_generated_before_takes_no_time(engine: ScriptedEngine) -> None:
    prompt = Subject("scripted", engine).chat("script:\npace 1\n" + "say one \n" * 30 + "pace 0\nsay two")
    generated_before = engine.tokenizer.encode("one" * 30)
    async with asyncio.timeout(5):
        generated = await generate(engine, [*prompt, *generated_before], PLENTY)
    assert engine.tokenizer.decode(generated.token_ids) == b"two"


async def test_a_prefill_takes_as_long_as_its_uncached_tokens_do(engine: ScriptedEngine) -> None:
    loop = asyncio.get_running_loop()
    message = "script:\nprefill 500\nsay one"
    uncached = len(Subject("scripted", engine).chat(message))
    start = loop.time()
    await run(engine, message)
    assert loop.time() - start >= uncached / 500
    assert (await run(engine, message)).cached_tokens == uncached - 1


async def test_running_counts_generations_until_they_are_closed(engine: ScriptedEngine) -> None:
    prompt = Subject("scripted", engine).chat("script:\nsay one\nhold")
    async with aclosing(engine.generate("test", prompt, PLENTY)) as steps:
        await anext(steps)
        assert engine.running == 1
    assert engine.running == 0
