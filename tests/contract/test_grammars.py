"""llama.cpp takes the grammars that schemas become, and keeps to them."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from inference.engines.base import EngineError, EngineStop, SamplingParams, TokenLogprob
from inference.engines.llamacpp import LlamaCppEngine
from inference.grammar import Grammar
from tests.support.engines import GREEDY, Subject, generate, started

pytestmark = pytest.mark.asyncio(loop_scope="module")

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "score": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "role": {"enum": ["admin", "user", "guest", "owner", "nobody"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
        "boss": {"anyOf": [{"$ref": "#/$defs/boss"}, {"type": "null"}]},
    },
    "required": ["name", "age", "score", "role", "code", "born"],
    "additionalProperties": False,
    "$defs": {"boss": {"type": "object", "properties": {"name": {"const": "é漢字🙂"}}, "required": ["name"]}},
}

SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"const": '"\\\n\x00é漢字🙂<|im_end|>'}], "minItems": 2},
    {"type": "string", "minLength": 2, "maxLength": 4000, "pattern": "^[a-c]{2,20}$"},
    {"type": "string", "format": "uri", "maxLength": 2083},
    {"type": "object", "properties": {f"p{n}": {"type": "boolean"} for n in range(60)}, "minProperties": 1},
    {"enum": [f"value number {n}" for n in range(1000)]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 1500},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llamacpp() -> AsyncGenerator[Subject, None]:
    async with started("llamacpp") as subject:
        yield subject


def grammar_of(schema: object) -> str:
    grammar = Grammar()
    return grammar.render(grammar.add_schema(schema, param="schema"))


async def generated_text(subject: Subject, params: SamplingParams) -> tuple[str, EngineStop | None]:
    token_ids: list[int] = []
    stop = None
    async with asyncio.timeout(60), aclosing(subject.engine.generate("test", subject.chat("Say hi."), params)) as steps:
        async for step in steps:
            token_ids += step.token_ids
            stop = step.stop
    return subject.engine.tokenizer.decode(token_ids).decode(), stop


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_what_ends_its_turn_under_a_grammar_is_valid(
    llamacpp: Subject, schema: dict[str, Any], temperature: float
) -> None:
    params = SamplingParams(max_tokens=300, temperature=temperature, seed=7, grammar=grammar_of(schema))
    text, stop = await generated_text(llamacpp, params)
    if stop is EngineStop.END_OF_TURN:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    else:
        assert schema.get("maxItems") == 1500 or schema.get("format") == "uri", text


async def test_the_turn_ends_as_soon_as_nothing_may_follow_and_not_before(llamacpp: Subject) -> None:
    grammar = grammar_of({"const": list(range(40))})
    whole = await generate(llamacpp.engine, llamacpp.chat("Say hi."), replace(GREEDY, max_tokens=300, grammar=grammar))
    assert whole.stop is EngineStop.END_OF_TURN
    assert json.loads(llamacpp.engine.tokenizer.decode(whole.token_ids)) == list(range(40))


@pytest.mark.parametrize("top_logprobs", [None, 2])
async def test_tokens_inside_characters_are_told(llamacpp: Subject, top_logprobs: int | None) -> None:
    params = replace(GREEDY, max_tokens=40, grammar='root ::= "é漢字🙂x"\n', top_logprobs=top_logprobs)
    steps = [step async for step in llamacpp.engine.generate("test", llamacpp.chat("Say hi."), params)]
    token_ids = [token_id for step in steps for token_id in step.token_ids]
    logprobs: list[TokenLogprob] = [logprob for step in steps for logprob in step.logprobs]
    assert llamacpp.engine.tokenizer.decode(token_ids).decode() == "é漢字🙂x"
    assert [logprob.token_id for logprob in logprobs] == ([] if top_logprobs is None else token_ids)


async def test_a_control_token_does_not_stand_for_the_text_that_names_it(llamacpp: Subject) -> None:
    text, _ = await generated_text(llamacpp, replace(GREEDY, max_tokens=40, grammar='root ::= "<|im_start|>"\n'))
    assert text == "<|im_start|>"


@pytest.mark.parametrize("may_come", [True, False])
async def test_a_control_token_that_may_come_stands_for_the_text_that_names_it(
    llamacpp: Subject, may_come: bool
) -> None:
    tokenizer = llamacpp.engine.tokenizer
    start, end = tokenizer.markers["<|im_start|>"], tokenizer.markers["<|im_end|>"]
    prompt = [*llamacpp.chat("Say hi."), *tokenizer.encode("Hi!"), end, *tokenizer.encode("\n")]
    grammar = 'root ::= "<|im_start|>user"\n'
    markers = (start,) if may_come else ()
    params = replace(GREEDY, max_tokens=40, grammar=grammar, marker_token_ids=markers)
    generated = await generate(llamacpp.engine, prompt, params)
    assert (list(generated.token_ids) == [start, *tokenizer.encode("user")]) == may_come
    assert (start in generated.token_ids) == may_come


@pytest.mark.parametrize("grammar", ["root ::= nothing\n", 'root ::= "a\n', 'other ::= "a"\n'])
async def test_a_broken_grammar_fails_the_generation(llamacpp: Subject, grammar: str) -> None:
    with pytest.raises(EngineError):
        await generated_text(llamacpp, replace(GREEDY, grammar=grammar))
    await generate(llamacpp.engine, llamacpp.chat("Say hi."), GREEDY)


async def test_the_engine_says_that_it_holds_to_grammars(llamacpp: Subject) -> None:
    assert isinstance(llamacpp.engine, LlamaCppEngine)
    assert llamacpp.engine.info.capabilities.grammar
