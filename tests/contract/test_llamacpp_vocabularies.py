"""Vocabularies that the default model does not have, in tiny models that llama.cpp really loads."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from inference.engines.base import EngineDead
from inference.engines.llamacpp import LlamaCppEngine, LlamaCppSettings
from inference.gguf import Value
from tests.support.engines import GREEDY, generate
from tests.support.gguf import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
WORDS = (SPACE, "h", "e", "l", "o", "he", "ll", "hell", "hello", f"{SPACE}hello", f"{SPACE}{SPACE}")
VOCABULARY: list[tuple[str, int]] = [
    ("<unk>", UNKNOWN),
    ("<s>", CONTROL),
    ("</s>", CONTROL),
    ("<think>", USER_DEFINED),
    ("</think>", USER_DEFINED),
    *((f"<0x{byte:02X}>", BYTE) for byte in range(256)),
    *((word, NORMAL) for word in WORDS),
]


def sentencepiece(**overrides: Value) -> dict[str, Value]:
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _ in VOCABULARY],
        "tokenizer.ggml.token_type": [type_ for _, type_ in VOCABULARY],
        "tokenizer.ggml.scores": [float(len(text)) if type_ == NORMAL else 0.0 for text, type_ in VOCABULARY],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages }}",
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in overrides.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LlamaCppEngine, None]:
    path = tmp_path_factory.mktemp("model") / "sentencepiece.gguf"
    write_model(path, sentencepiece())
    engine = LlamaCppEngine(LlamaCppSettings(path, context_window=256, parallel=1))
    await engine.start()
    yield engine
    await engine.close()


async def test_a_sentencepiece_model_says_what_it_is(engine: LlamaCppEngine) -> None:
    tokenizer = engine.tokenizer
    assert tokenizer.markers == {"<unk>": 0, "<s>": 1, "</s>": 2, "<think>": 3, "</think>": 4}
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_ids == {2}
    assert engine.chat_template == "{{ messages }}"
    assert tokenizer.token_bytes(5 + 0xF0) == b"\xf0"
    assert tokenizer.decode([VOCABULARY.index((f"{SPACE}hello", NORMAL)), 3]) == b" hello<think>"


@pytest.mark.parametrize("text", ["hello", " hello", "hello  hello", "é🎉\n\x00", "", " ", "x"])
async def test_a_sentencepiece_model_puts_nothing_before_a_text(engine: LlamaCppEngine, text: str) -> None:
    assert engine.tokenizer.decode(engine.tokenizer.encode(text)).decode() == text


async def test_added_tokens_come_out_of_no_text(engine: LlamaCppEngine) -> None:
    text = "hello<think>hello</think></s><s><unk><<think>think>"
    token_ids = engine.tokenizer.encode(text)
    assert engine.tokenizer.decode(token_ids).decode() == text
    assert not {0, 1, 2, 3, 4}.intersection(token_ids)


async def test_words_are_single_tokens(engine: LlamaCppEngine) -> None:
    assert engine.tokenizer.encode("hello hello") == [
        VOCABULARY.index(("hello", NORMAL)),
        VOCABULARY.index((f"{SPACE}hello", NORMAL)),
    ]


async def test_bytes_that_are_tokens_reach_the_caller_one_by_one(engine: LlamaCppEngine) -> None:
    """The untrained model's output is mostly bytes that form no text."""
    generated = await generate(engine, [1, 5, 6], GREEDY)
    assert len(generated.token_ids) <= GREEDY.max_tokens


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"model": "bert"}, "'bert'"), ({"model": 7}, "7"), ({"token_type": [1]}, "do not match")],
)
async def test_an_unknown_vocabulary_is_refused(tmp_path: Path, overrides: dict[str, Value], message: str) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, sentencepiece(**overrides))
    engine = LlamaCppEngine(LlamaCppSettings(path, context_window=256, parallel=1))
    with pytest.raises(EngineDead, match=message):
        await engine.start()
    await engine.close()
