"""Every family's outputs, read however they arrive; and what a family's grammar allows, read by its parser."""

import itertools
import json
from collections.abc import Callable, Iterable

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import TextConfig, TextFormat, TextFormatJsonSchema
from antiphon.responses.v1.tool_pb2 import FunctionTool, Tool
from inference.constraint import constraint
from inference.engines.base import EngineStop, Step
from inference.output import Delta, Output
from inference.params import TokenLimit
from inference.parsing.base import OutputParser, ParserEvent, TextDelta
from inference.settings import read_settings
from inference.tools.format import ToolFormat
from inference.tools.native import FORMATS, find_format
from inference.tools.rules import CallRules
from tests.support.corpora import Stream, streams
from tests.support.gbnf import Gbnf
from tests.support.parsing import Parts, parts_of
from tests.support.tokenizer import ByteTokenizer

CALL, TEXT = pb.PART_KIND_FUNCTION_CALL, pb.PART_KIND_TEXT
STREAMS = list(streams())
each_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.id)
each_format = pytest.mark.parametrize("tool_format", FORMATS, ids=lambda known: known.name)


def read(stream: Stream, places: list[int]) -> Parts:
    cuts = [0, *sorted(place % (len(stream.text) + 1) for place in places), len(stream.text)]
    return parts_of(stream.new_parser(), [stream.text[start:end] for start, end in itertools.pairwise(cuts)])


def same(found: Parts, expected: Parts) -> bool:
    """Arguments that were converted count by value."""
    return [(kind, name) for kind, name, _ in found] == [(kind, name) for kind, name, _ in expected] and all(
        text == wanted or (kind == CALL and _value(text) == _value(wanted) is not None)
        for (kind, _, text), (_, _, wanted) in zip(found, expected, strict=True)
    )


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_an_unknown_format_ends_the_start() -> None:
    with pytest.raises(ValueError, match="INFERENCE_TOOL_FORMAT: there is no tool format 'nonsense'; known are auto"):
        read_settings({"INFERENCE_ENGINE": "scripted", "INFERENCE_TOOL_FORMAT": "nonsense"})
    assert read_settings({"INFERENCE_ENGINE": "scripted", "INFERENCE_TOOL_FORMAT": "harmony"}).tool_format == "harmony"


def test_every_format_has_a_corpus() -> None:
    assert {stream.format.name for stream in STREAMS} == {known.name for known in FORMATS}


@each_stream
def test_an_output_is_read_token_by_token(stream: Stream) -> None:
    found = parts_of(stream.new_parser(), stream.tokens)
    assert same(found, stream.parts), found
    for kind, _, text in found:
        if kind == CALL and not stream.is_cut:
            assert isinstance(json.loads(text), dict)


@each_stream
def test_a_split_at_any_point_and_single_characters_change_nothing(stream: Stream) -> None:
    whole = read(stream, [])
    assert same(whole, stream.parts), whole
    for place in range(1, len(stream.text)):
        assert read(stream, [place]) == whole, place
    assert parts_of(stream.new_parser(), stream.text) == whole


@settings(max_examples=300, deadline=None)
@given(stream=st.sampled_from(STREAMS), places=st.lists(st.integers(0, 10_000), max_size=12))
def test_splits_at_several_points_change_nothing(stream: Stream, places: list[int]) -> None:
    assert read(stream, places) == read(stream, [])


@settings(max_examples=400, deadline=None)
@given(data=st.data(), places=st.lists(st.integers(0, 10_000), max_size=8))
def test_any_portions_of_any_mixture_of_outputs_make_the_same_parts(data: st.DataObject, places: list[int]) -> None:
    """Marks and pieces of one family's outputs in any order."""
    stream = data.draw(st.sampled_from(STREAMS))
    pieces = sorted({token for other in STREAMS if other.family == stream.family for token in other.tokens})
    text = "".join(data.draw(st.lists(st.sampled_from([*stream.control_tokens, *pieces, "{", '"', "\n"]), max_size=14)))
    cuts = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    whole = parts_of(stream.new_parser(), [text])
    assert parts_of(stream.new_parser(), [text[start:end] for start, end in itertools.pairwise(cuts)]) == whole
    assert parts_of(stream.new_parser(), text) == whole


@st.composite
def mutilated(draw: st.DrawFn) -> tuple[Stream, list[str]]:
    """The tokens of an output, of which some are missing, doubled, changed for others, or cut off."""
    stream = draw(st.sampled_from(STREAMS))
    tokens = list(stream.tokens)
    strays = [*stream.control_tokens, "<think>", "</think>", "{", "[", '"', "\\", " ", "\r", "\x0b", "\u2028", "é"]
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(tokens)))
        match draw(st.sampled_from(["without", "twice", "instead", "between", "cut"])):
            case "without":
                del tokens[place : place + 1]
            case "twice":
                tokens[place:place] = tokens[place : place + 1]
            case "instead":
                tokens[place : place + 1] = [draw(st.sampled_from(strays))]
            case "between":
                tokens.insert(place, draw(st.sampled_from(strays)))
            case _:
                del tokens[max(place, 1) :]
    return stream, tokens


def told(parser: OutputParser, portions: Iterable[str]) -> list[ParserEvent]:
    """The events before the output ends, deltas joined."""
    events: list[ParserEvent] = []
    for event in (event for portion in portions for event in parser.feed(portion)):
        match event, events[-1:]:
            case TextDelta(), [TextDelta(text)]:
                events[-1] = TextDelta(text + event.text)
            case _:
                events.append(event)
    return events


@settings(max_examples=250, deadline=None)
@given(output=mutilated(), places=st.lists(st.integers(0, 10_000), max_size=8), may_mix=st.booleans())
def test_outputs_gone_wrong_are_read_the_same_however_they_arrive(
    output: tuple[Stream, list[str]], places: list[int], may_mix: bool
) -> None:
    """So is what is told of any beginning: what waits depends on the text alone."""
    stream, tokens = output
    text = "".join(tokens)
    cuts = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    portions = [text[start:end] for start, end in itertools.pairwise(cuts)]
    whole = parts_of(stream.new_parser(may_mix=may_mix), [text])
    for arrival in (portions, tokens, text):
        assert parts_of(stream.new_parser(may_mix=may_mix), arrival) == whole
        assert told(stream.new_parser(may_mix=may_mix), arrival) == told(stream.new_parser(may_mix=may_mix), [text])


SPOKEN = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<think>", "</think>")
"""Tokens that stand for themselves in an answer: [ARGS] could be of a manual; thoughts come only once."""


@settings(max_examples=300, deadline=None)
@given(output=mutilated())
def test_no_answer_has_markup_in_it(output: tuple[Stream, list[str]]) -> None:
    stream, tokens = output
    for kind, _, text in parts_of(stream.new_parser(), tokens):
        for token in stream.control_tokens:
            assert kind != TEXT or token in SPOKEN or token not in text


@each_stream
def test_what_was_told_is_enough_to_go_on_elsewhere(stream: Stream) -> None:
    """Token ids of text that is held back travel with what comes before it: a successor tells just the rest."""
    tokenizer = ByteTokenizer([token for token in stream.control_tokens if "|" in token or "[" in token])
    token_ids = [
        token_id
        for token in stream.tokens
        for token_id in ([tokenizer.markers[token]] if token in tokenizer.markers else tokenizer.encode(token))
    ]
    spelled = {token_id: text.encode() for text, token_id in tokenizer.markers.items()}

    def output(resumed: list[int]) -> Output:
        return Output(
            tokenizer=tokenizer,
            stop=(),
            parser=stream.new_parser(),
            input_tokens=1,
            limit=TokenLimit(10_000, pb.STOP_REASON_MAX_OUTPUT_TOKENS),
            resume_token_ids=resumed,
            spelled=spelled,
        )

    def run(resumed: list[int], *, until: int | None = None) -> tuple[list[int], list[str]]:
        """The ids that were told, and what else: parts by name, texts."""
        made, told, said = output(resumed), list(resumed), []
        steps = [Step(token_ids=(token_id,)) for token_id in token_ids[len(resumed) : until]]
        if until is None:
            steps.append(Step(stop=EngineStop.END_OF_TURN))
        for event in itertools.chain.from_iterable(map(made.feed, steps)):
            match event:
                case Delta():
                    told += event.token_ids
                    said.append(event.text)
                case pb.PartStarted():
                    said.append(f"[{event.kind} {event.name}]")
                case _:
                    pass
        return told, said

    whole = "".join(run([])[1])
    for place in range(0, len(token_ids), 4):
        told, before = run([], until=place)
        assert "".join(before + run(told)[1]) == whole, place


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Graz", "Linz an der Donau"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "note": {"type": "string"},
        "zip": {"type": "string", "pattern": "^[0-9]{4}$"},
        "kind": {"$ref": "#/$defs/kind"},
        "place": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}, "required": ["x"]},
        "any": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "boolean"}]},
    },
    "required": ["city", "zip"],
    "additionalProperties": False,
    "$defs": {"kind": {"const": "short"}},
}
SCHEMAS = {"weather": WEATHER, "now": {"type": "object", "properties": {}, "additionalProperties": False}}
TOOLS = [Tool(function=FunctionTool(name=name, parameters=json.dumps(schema))) for name, schema in SCHEMAS.items()]
RULES = [
    CallRules(("weather", "now"), most=None),
    CallRules(("weather", "now"), is_required=True, most=None),
    CallRules(("weather",), is_required=True, most=1),
    CallRules(("weather", "now"), is_required=True, most=3, first="now"),
    CallRules(("now",), most=2),
]


def read_generated(tool_format: ToolFormat, text: str, *, may_mix: bool = True) -> Parts:
    functions = {name: json.dumps(schema) for name, schema in SCHEMAS.items()}
    return parts_of(tool_format.new_parser(may_mix=may_mix, functions=functions), [text])


@each_format
@pytest.mark.parametrize("rules", RULES, ids=range(len(RULES)))
def test_all_that_a_grammar_allows_reads_back_as_the_rules_say(tool_format: ToolFormat, rules: CallRules) -> None:
    rendered = constraint(pb.GenerateRequest(tools=TOOLS), rules, tool_format)
    assert rendered is not None
    generator = Gbnf(rendered)
    had_calls = False
    for seed in range(20):
        text = generator.generate(seed)
        parts = read_generated(tool_format, text)
        calls = [(name, json.loads(arguments)) for kind, name, arguments in parts if kind == CALL]
        assert rules.most is None or len(calls) <= rules.most, text
        if rules.is_required:
            assert len(calls) == len(parts) >= 1, text
            assert rules.first is None or calls[0][0] == rules.first
        for name, arguments in calls:
            had_calls = True
            assert name in rules.names
            jsonschema.validate(arguments, SCHEMAS[name])
    assert had_calls


@each_format
def test_a_text_that_must_not_call_has_no_call(tool_format: ToolFormat) -> None:
    rendered = constraint(pb.GenerateRequest(tools=TOOLS), CallRules(), tool_format)
    assert rendered is not None
    generator = Gbnf(rendered)
    for seed in range(20):
        text = generator.generate(seed)
        assert all(kind == TEXT for kind, _, _ in read_generated(tool_format, text)), text


@each_format
def test_an_answer_in_a_format_is_whole_and_not_taken_for_a_call(tool_format: ToolFormat) -> None:
    schema = json.dumps({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})
    text_format = TextFormat(json_schema=TextFormatJsonSchema(name="x", schema=schema))
    request = pb.GenerateRequest(tools=TOOLS, text=TextConfig(format=text_format))
    rendered = constraint(request, CallRules(("now",), most=1), tool_format)
    assert rendered is not None
    generator = Gbnf(rendered)
    kinds = set()
    for seed in range(20):
        [(kind, _, text)] = read_generated(tool_format, generator.generate(seed), may_mix=False)
        kinds.add(kind)
        assert isinstance(json.loads(text), dict)
    assert kinds == {CALL, TEXT}


@each_format
def test_functions_whose_schema_cannot_be_told_take_any_arguments(tool_format: ToolFormat) -> None:
    odd = [Tool(function=FunctionTool(name="odd", parameters='{"if": {}, "properties": {}}', strict=False))]
    rendered = constraint(pb.GenerateRequest(tools=odd), CallRules(("odd",), is_required=True, most=1), tool_format)
    assert rendered is not None
    functions = {"odd": ""}
    for seed in range(20):
        parts = parts_of(tool_format.new_parser(may_mix=True, functions=functions), [Gbnf(rendered).generate(seed)])
        assert [name for _, name, _ in parts] == ["odd"]
        assert isinstance(json.loads(parts[0][2]), dict)


@pytest.mark.parametrize("name", ["pythonic", "qwen3_coder"])
def test_a_parameter_that_a_format_cannot_name_is_refused(name: str) -> None:
    parameters = '{"properties": {"a>b": {"type": "string"}}}'
    odd = [Tool(function=FunctionTool(name="odd", parameters=parameters, strict=True))]
    with pytest.raises(ApiError) as error:
        constraint(pb.GenerateRequest(tools=odd), CallRules(("odd",), is_required=True, most=1), find_format(name))
    assert error.value.reason == ErrorReason.ERROR_REASON_INVALID_JSON_SCHEMA


@each_format
def test_the_beginning_of_a_call_is_that_of_its_grammar(tool_format: ToolFormat) -> None:
    rules = CallRules(("now",), is_required=True, most=1)
    rendered = constraint(pb.GenerateRequest(tools=TOOLS), rules, tool_format)
    assert rendered is not None
    takes: Callable[[str], bool] = Gbnf(rendered).matches
    arguments = {"qwen3_coder": "", "pythonic": ""}.get(tool_format.name, "{}")
    written = tool_format.call_text("now", arguments).replace(">\n\n</function>", ">\n</function>")
    assert written.startswith(tool_format.call_head("now"))
    assert takes(written)
