"""Calls between ``<tool_call>`` and ``</tool_call>``: parsed however the text arrives; all that the grammar allows."""

import itertools
import json
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.inference.v1.inference_pb2 import GenerateRequest, PartKind
from antiphon.responses.v1.response_pb2 import TextConfig, TextFormat, TextFormatJsonSchema
from antiphon.responses.v1.tool_pb2 import FunctionTool, Tool
from inference.constraint import constraint
from inference.parsing.base import PartEnded, PartStarted, TextDelta
from inference.tools.hermes import HERMES
from inference.tools.rules import CallRules
from tests.support import parsing
from tests.support.gbnf import Gbnf
from tests.support.parsing import Parts

CALL, TEXT = PartKind.PART_KIND_FUNCTION_CALL, PartKind.PART_KIND_TEXT

TRICKY = r'{"a": "}</tool_call>\"{[", "b": [{"c": "\\"}, {}], "é": "<tool_call>"}'


def parts_of(portions: Iterable[str], *, may_mix: bool = True) -> Parts:
    return parsing.parts_of(HERMES.new_parser(may_mix=may_mix, functions={}), portions)


def written(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


CASES: list[tuple[str, Parts]] = [
    ("", []),
    ("Hello.", [(TEXT, "", "Hello.")]),
    ("\n Hello <tool> </tool_call> <tool_call\n", [(TEXT, "", "\n Hello <tool> <tool_call\n")]),
    (written("f", "{}"), [(CALL, "f", "{}")]),
    ("\n" + written("f", TRICKY) + "\n", [(CALL, "f", TRICKY)]),
    ("Look.\n\n" + written("f", "{}"), [(TEXT, "", "Look."), (CALL, "f", "{}")]),
    (written("f", '{"a": 1}') + "\n" + written("g-2", "{ }"), [(CALL, "f", '{"a": 1}'), (CALL, "g-2", "{ }")]),
    (written("f", "{}") + "\nDone.\n", [(CALL, "f", "{}"), (TEXT, "", "Done.\n")]),
    (written("f", "{}") * 3, [(CALL, "f", "{}")] * 3),
    ('<tool_call>{"name":"f","arguments":{}}</tool_call>', [(CALL, "f", "{}")]),
    ('<tool_call>{"arguments": {"a": [1, "é"]}, "name": "f"}</tool_call>', [(CALL, "f", '{"a": [1, "é"]}')]),
    ('<tool_call>{"name": "f"}</tool_call>', [(CALL, "f", "{}")]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}', [(CALL, "f", '{"a": 1}')]),  # end mark forgotten
    ('<tool_call>{"name": "f", "arguments": {"a": 1}} So', [(CALL, "f", '{"a": 1}'), (TEXT, "", "So")]),
    ('<tool_call>{"name": "f"}', [(CALL, "f", "{}")]),
    ('<tool_call>{"name": "f", "arguments": {"a": "cut', [(CALL, "f", '{"a": "cut')]),
    ('Well.<tool_call>\n{"name": "cut', [(TEXT, "", "Well.")]),
    ("<tool_call>\n", []),
    ("<tool_call>nonsense</tool_call> then", [(TEXT, "", "nonsense then")]),
    ('<tool_call>{"name": 1}</tool_call>', [(TEXT, "", '{"name": 1}')]),
    ('<tool_call>{"name": "f", "arguments": [NaN]}</tool_call>', [(TEXT, "", '{"name": "f", "arguments": [NaN]}')]),
    ("<tool_call> is how calls begin", [(TEXT, "", "is how calls begin")]),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_calls_are_told_from_text(text: str, expected: Parts) -> None:
    assert parts_of([text]) == expected


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_split_at_any_point_and_single_characters_change_nothing(text: str, expected: Parts) -> None:
    for place in range(1, len(text)):
        assert parts_of([text[:place], text[place:]]) == expected
    assert parts_of(text) == expected


PIECES = [
    "<tool_call>",
    "</tool_call>",
    '{"name": "f", "arguments": ',
    '"',
    "\\",
    "{",
    "}",
    "[",
    " ",
    "\n",
    "x",
    "é",
    "<",
]


@settings(max_examples=500)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_portions_of_any_text_make_the_same_parts(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    portions = [text[start:end] for start, end in itertools.pairwise(places)]
    parts = parts_of(portions)
    assert parts == parts_of([text])
    assert not any("<tool_call>" in part for kind, _, part in parts if kind == TEXT)


def test_arguments_come_as_they_are_written() -> None:
    parser = HERMES.new_parser(may_mix=True, functions={})
    assert parser.feed('<tool_call>\n{"name": "f", "arguments": {"a') == [PartStarted(CALL, "f"), TextDelta('{"a')]
    assert parser.feed('": 1') == [TextDelta('": 1')]
    assert parser.feed("}}") == [TextDelta("}"), PartEnded()]


@pytest.mark.timeout(20)
def test_much_white_space_in_the_beginning_of_a_call_is_not_tried_in_every_way() -> None:
    """Three places for it in a row, tried in every way, are a billion ways."""
    space = " " * 3000
    text = f'{{"name": "f", "arguments":{space}"none"}}'
    assert parts_of([f"<tool_call>{text}</tool_call>"]) == [(TEXT, "", text)]


def test_where_an_answer_and_calls_do_not_mix_an_answer_may_hold_the_mark() -> None:
    answer = '{"a": "' + written("f", "{}").replace('"', "'") + '"}'
    for portions in ([answer], answer):
        assert parts_of(portions, may_mix=False) == [(TEXT, "", answer)]
    calls = written("f", "{}") + "\n" + written("g", "{}")
    assert parts_of(calls, may_mix=False) == [(CALL, "f", "{}"), (CALL, "g", "{}")]


def tool(name: str, parameters: str | None = None, strict: bool | None = None) -> Tool:
    return Tool(function=FunctionTool(name=name, parameters=parameters, strict=strict))


CITY = json.dumps({"type": "object", "properties": {"city": {"enum": ["Graz", "Linz"]}}, "required": ["city"]})
TOOLS = [tool("weather", CITY), tool("now"), tool("log", '{"type": "object"}'), tool("odd", '{"if": {}}', strict=False)]
ARGUMENTS = {"weather": ['{"city": "Graz"}', '{"city":"Linz"}'], "now": ["{}"]}


def grammar(rules: CallRules, text: TextConfig | None = None, **limits: int) -> Gbnf:
    rendered = constraint(GenerateRequest(tools=TOOLS, text=text), rules, HERMES, **limits)
    assert rendered is not None
    return Gbnf(rendered)


@pytest.mark.parametrize(
    "rules",
    [
        CallRules(("weather", "now", "log", "odd"), most=None),
        CallRules(("weather", "now"), is_required=True, most=None),
        CallRules(("now",), is_required=True, most=1),
        CallRules(("weather", "now"), most=2),
        CallRules(("weather", "now"), is_required=True, most=3, first="now"),
        CallRules(),
    ],
)
def test_all_that_the_grammar_generates_reads_back_as_the_rules_say(rules: CallRules) -> None:
    generator = grammar(rules)
    for seed in range(150):
        parts = parts_of([generator.generate(seed)])
        calls = [(name, arguments) for kind, name, arguments in parts if kind == CALL]
        assert rules.most is None or len(calls) <= rules.most
        if rules.is_required:
            assert len(calls) == len(parts) >= 1
            assert rules.first is None or calls[0][0] == rules.first
        for name, arguments in calls:
            assert name in rules.names
            assert isinstance(json.loads(arguments), dict)
            assert name not in ARGUMENTS or json.loads(arguments) in map(json.loads, ARGUMENTS[name])


def test_the_grammar_takes_calls_with_and_without_line_ends() -> None:
    takes = grammar(CallRules(("weather",), is_required=True, most=2)).matches
    call = written("weather", '{"city": "Graz"}')
    assert takes(call)
    assert takes(call.replace("\n", ""))
    assert takes(call + "\n" + call)
    assert not takes("\n".join([call] * 3))
    assert not takes(call.replace("Graz", "Rome"))
    assert not takes(call.replace("weather", "now"))
    assert not takes("Look. " + call)


def test_text_before_calls_is_any_but_one_that_has_a_mark() -> None:
    takes = grammar(CallRules(("now",), most=1)).matches
    assert takes("")
    assert takes("a < b, <b>, <too, <<tool, </tool> é\n")
    assert takes("One moment.\n" + written("now", "{}"))
    assert not takes("One moment. <tool_call>")
    assert not takes("One <<tool_call>")
    assert not takes("</tool_call>")
    assert not takes(written("now", "{}") + " Done.")


@given(st.text(st.sampled_from("<tool_cal>/ x"), max_size=20))
def test_an_answer_without_calls_neither_has_a_mark_nor_begins_like_one(text: str) -> None:
    takes = grammar(CallRules()).matches
    assert takes(text) == (not text.startswith("<") and "<tool_" not in text and "</tool_" not in text)


def test_where_nothing_is_known_of_calls_there_is_no_grammar() -> None:
    assert constraint(GenerateRequest(), CallRules(), HERMES) is None


def test_an_answer_in_a_format_or_calls_are_alternatives() -> None:
    answer = TextFormatJsonSchema(name="a", schema='{"const": "<tool_call>"}')
    takes = grammar(CallRules(("now",), most=None), TextConfig(format=TextFormat(json_schema=answer))).matches
    assert takes('"<tool_call>"')
    assert takes(written("now", "{}") + "\n" + written("now", "{}"))
    assert not takes('"<tool_call>"' + written("now", "{}"))


def test_strings_of_any_length_can_be_bounded() -> None:
    parameters = {
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "string", "maxLength": 9},
            "c": {"const": {"type": "string"}},
        }
    }
    request = GenerateRequest(tools=[tool("f", json.dumps(parameters))])
    rendered = constraint(request, CallRules(("f",), is_required=True, most=1), HERMES, max_string=3)
    assert rendered is not None
    takes = Gbnf(rendered).matches
    assert takes(written("f", '{"a": "123", "b": "123456789"}'))
    assert takes(written("f", '{"c": {"type":"string"}}'))
    assert not takes(written("f", '{"a": "1234"}'))
    assert not takes(written("f", '{"b": "1234567890"}'))


def test_random_texts_of_a_grammar_differ() -> None:
    """Guards the tests above against a generator that always makes the same text."""
    generator = grammar(CallRules(("weather", "now"), most=None))
    assert len({generator.generate(random.Random(seed).randrange(10**6)) for seed in range(50)}) > 20
