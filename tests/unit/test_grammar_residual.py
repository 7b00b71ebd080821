"""What may follow the beginning of a text, as a grammar: judged by a reader of grammars that shares no code with it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.tool_pb2 import FunctionTool, Tool, ToolChoiceMode
from inference.constraint import constraint
from inference.grammar import Grammar
from inference.grammar.residual import residual
from inference.tools.format import ToolFormat
from inference.tools.native import FORMATS
from inference.tools.rules import call_rules
from tests.support.gbnf import Gbnf
from tests.support.schemas import Case, cases

ODD = ' x"0{}],:\\é\n^-한\U000c3f09'
GRAMMARS = [
    'root ::= ("a" | "aa" | "aaa"){0,9} tail\ntail ::= "b"? | "ba" tail\n',
    'root ::= list "." | list ";"\nlist ::= item ("," item)*\nitem ::= "x" | "(" list ")" | ""\n',
    'root ::= rest-1{2,}\nrest-1 ::= "\\"\\\\\\u005E" | [\\u005D-\\u0060^"]{2} | (("é" | "\\U0001F642")* "|"){1,3}\n',
    'root ::= "' + "0123456789" * 4 + '"{2}\n',
]


def grammar_of(schema: object) -> str:
    grammar = Grammar()
    return grammar.render(grammar.add_schema(schema, param="schema"))


def calls_grammar(tool_format: ToolFormat, mode: str) -> str:
    parameters = '{"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}'
    tools = [Tool(function=FunctionTool(name=name, parameters=parameters)) for name in ("get_weather", "get_time")]
    request = GenerateRequest(tools=tools)
    request.tool_choice.mode = ToolChoiceMode.Value(f"TOOL_CHOICE_MODE_{mode}")
    grammar = constraint(request, call_rules(request), tool_format)
    assert grammar is not None
    return grammar


def check(grammar: str, text: str, other: str) -> None:
    """After every beginning of ``text``, a text of the grammar, just those texts go on that the grammar says.

    After a few beginnings of a long one.
    """
    whole = Gbnf(grammar)
    assert whole.matches(text)
    for end in range(len(text) % 7, len(text) + 1, 1 + len(text) // 8):
        known, rest = text[:end], text[end:]
        remains = residual(grammar, known)
        assert remains is not None
        left = Gbnf(remains)
        assert left.matches(rest)
        for changed in {"", rest[1:], rest[:-1], rest + rest[-1:], other + rest, rest[:1] + other + rest[2:]}:
            assert left.matches(changed) == whole.matches(known + changed), (known, changed, remains)
        again = left.generate(end)
        assert whole.matches(known + again)


@pytest.mark.parametrize("grammar", GRAMMARS, ids=range(len(GRAMMARS)))
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), other=st.sampled_from(ODD))
def test_a_grammar_goes_on_after_every_beginning_of_its_texts(grammar: str, seed: int, other: str) -> None:
    check(grammar, Gbnf(grammar).generate(seed, symbols=60), other)


@pytest.mark.parametrize("tool_format", FORMATS, ids=lambda known: known.name)
@settings(max_examples=6)
@given(
    mode=st.sampled_from(["AUTO", "REQUIRED", "NONE"]), seed=st.integers(0, 10**6), other=st.sampled_from([*ODD, "<"])
)
def test_calls_of_any_family_go_on_after_every_beginning(
    tool_format: ToolFormat, mode: str, seed: int, other: str
) -> None:
    grammar = calls_grammar(tool_format, mode)
    check(grammar, Gbnf(grammar).generate(seed, symbols=40), other)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(case=cases(), seed=st.integers(0, 10**6), other=st.sampled_from(ODD))
def test_the_grammar_of_a_schema_goes_on_after_every_beginning(case: Case, seed: int, other: str) -> None:
    grammar = grammar_of(case.schema)
    check(grammar, Gbnf(grammar).generate(seed, symbols=40), other)


@given(text=st.text(ODD, min_size=1), seed=st.integers(0, 10**6))
def test_what_the_grammar_does_not_begin_with_has_no_residual(text: str, seed: int) -> None:
    grammar = grammar_of({"type": "array", "items": {"enum": [0, "x", "é"]}})
    gbnf = Gbnf(grammar)
    whole = gbnf.generate(seed)
    for end in range(len(whole) + 1):
        remains = residual(grammar, whole[:end] + text)
        assert remains is None or gbnf.matches(whole[:end] + text + Gbnf(remains).generate(seed))


def test_after_a_whole_text_only_the_end_may_come() -> None:
    assert residual(grammar_of({"enum": ["a", "b"]}), '"a"') == 'root ::= ""\n'


def test_ways_that_end_alike_share_a_rule() -> None:
    grammar = 'root ::= "a" ("b" | "bc") tail tail\ntail ::= "x"\n'
    assert residual(grammar, "ab") == 'root ::= rest-1 | "c" rest-1\nrest-1 ::= tail tail\ntail ::= "x"\n'


def test_a_hundred_thousand_characters_are_followed_and_endless_nesting_is_given_up() -> None:
    schema = {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "maxLength": 99}}}}
    element = json.dumps({"a": "x" * 90}) + ", "
    remains = residual(grammar_of(schema), "[" + element.replace(" ", "") * 1000)
    assert remains is not None
    assert Gbnf(remains).matches('{"a":"é"}]')
    assert residual(grammar_of({}), "[" * 100_000) is None
