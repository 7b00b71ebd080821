"""xgrammar, which holds TensorRT-LLM to grammars, reads ours as llama.cpp does: judged by its own core, on a CPU."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.tool_pb2 import FunctionTool, Tool, ToolChoiceMode
from inference.constraint import constraint
from inference.engines.scripted.tokenizer import ScriptedTokenizer
from inference.grammar import Grammar, char_class
from inference.grammar.residual import residual
from inference.tools.format import ToolFormat
from inference.tools.native import FORMATS
from inference.tools.rules import call_rules
from tests.contract.test_grammars import SCHEMAS, grammar_of
from tests.support.gbnf import Gbnf
from tests.support.schemas import Case, cases
from tests.support.xgrammar import XGrammar, load_core

pytestmark = pytest.mark.slow  # fetches a wheel

ODD = ' x"0{}],:\\é\n^-한\U000c3f09'


@pytest.fixture(scope="module")
def xgrammar(tmp_path_factory: pytest.TempPathFactory) -> XGrammar:
    tokenizer = ScriptedTokenizer()
    names = {token_id: text.encode() for text, token_id in tokenizer.markers.items()}
    vocabulary = [tokenizer.token_bytes(token_id) or names[token_id] for token_id in range(max(names) + 1)]
    return XGrammar(load_core(tmp_path_factory.mktemp("xgrammar")), vocabulary, sorted(tokenizer.eos_token_ids))


def check(xgrammar: XGrammar, grammar: str, *, texts: int = 6) -> None:
    """Texts that the grammar generates match, and such texts with one character changed match if they should."""
    gbnf = Gbnf(grammar)
    generated = [gbnf.generate(seed, symbols=200 if seed else 0) for seed in range(texts)]
    changed = []
    for seed, text in enumerate(generated):
        chooser = random.Random(seed)
        place = chooser.randrange(len(text) + 1)
        changed.append(text[:place] + chooser.choice(ODD) + text[place + chooser.randrange(2) :])
    wanted = [True] * len(generated) + [gbnf.matches(text) for text in changed]
    assert xgrammar.matches(grammar, generated + changed) == wanted, grammar
    text = generated[-1]
    for end in {len(text) // 3, len(text) - 1, len(text)}:
        remains = residual(grammar, text[:end])
        assert remains is not None
        rests = [text[end:], changed[-1][end:], text[end + 1 :]]
        assert xgrammar.matches(remains, rests) == [gbnf.matches(text[:end] + rest) for rest in rests], remains


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_it_reads_the_grammars_of_schemas(xgrammar: XGrammar, schema: dict[str, Any]) -> None:
    check(xgrammar, grammar_of(schema))


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_it_reads_the_grammars_of_any_schema(xgrammar: XGrammar, case: Case) -> None:
    check(xgrammar, grammar_of(case.schema))


@pytest.mark.parametrize("tool_format", FORMATS, ids=lambda known: known.name)
@pytest.mark.parametrize("choice", ["AUTO", "REQUIRED", "NONE"])
def test_it_reads_the_grammars_of_calls(xgrammar: XGrammar, choice: str, tool_format: ToolFormat) -> None:
    parameters = '{"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}'
    tools = [Tool(function=FunctionTool(name=name, parameters=parameters)) for name in ("get_weather", "get_time")]
    request = GenerateRequest(tools=tools)
    request.tool_choice.mode = ToolChoiceMode.Value(f"TOOL_CHOICE_MODE_{choice}")
    grammar = constraint(request, call_rules(request), tool_format)
    assert grammar is not None
    check(xgrammar, grammar, texts=30)


def _code_points() -> st.SearchStrategy[int]:
    ranges = ((1, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))
    return st.one_of(*(st.integers(low, high) for low, high in ranges))


@settings(deadline=None, max_examples=300)
@given(ends=st.lists(_code_points(), min_size=2, max_size=2).map(sorted), others=st.lists(_code_points()))
def test_it_reads_every_range_of_characters(xgrammar: XGrammar, ends: list[int], others: list[int]) -> None:
    low, high = ends
    if low < 0xD800 <= high:
        high = 0xD7FF
    blocks = (low, high, high & ~0xFFF, high & ~0x3F, (high & ~0x3F) - 1, *others)
    near = {place + step for place in blocks for step in (-1, 0, 1)}
    asked = [code for code in sorted(near) if 0 < code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF]
    grammar = f"root ::= {char_class([(low, high)])}\n"
    assert xgrammar.matches(grammar, list(map(chr, asked))) == [low <= code <= high for code in asked]


@pytest.mark.parametrize("codes", ["^", "^a", "^-", "]^", "\\^]"])
def test_it_reads_characters_that_mean_something_in_classes(xgrammar: XGrammar, codes: str) -> None:
    grammar = f"root ::= {char_class([(ord(code), ord(code)) for code in codes])}\n"
    assert xgrammar.matches(grammar, [chr(code) for code in range(32, 127)]) == [
        chr(c) in codes for c in range(32, 127)
    ]


def test_it_refuses_a_broken_grammar(xgrammar: XGrammar) -> None:
    for broken in ("root ::= nothing\n", 'root ::= "a\n', 'other ::= "a"\n'):
        with pytest.raises(RuntimeError):
            xgrammar.matches(broken, ["a"])


def test_any_string_of_a_schema_may_be_korean(xgrammar: XGrammar) -> None:
    grammar = Grammar()
    text = grammar.render(grammar.add_schema({"type": "string"}, param="schema"))
    assert xgrammar.matches(text, ['"한국어 화해"', '"\U0010ffff\U00010000"']) == [True, True]
