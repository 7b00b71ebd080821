"""Thoughts are told from answers, however the text arrives."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from antiphon.inference.v1.inference_pb2 import PartKind
from inference.parsing.base import OutputParser, ParserEvent, PartEnded, PartStarted, TextDelta
from inference.parsing.plain import PlainParser
from inference.parsing.thinking import ThinkingMarks, ThinkingParser

THINK = ThinkingMarks("<think>", "</think>")
REASONING, TEXT = PartKind.PART_KIND_REASONING, PartKind.PART_KIND_TEXT
CORPUS = Path(__file__).parent.parent / "corpora" / "thinking.json"

Parts = list[tuple[PartKind.ValueType, str]]


def parser(*, is_open: bool = False, marks: ThinkingMarks = THINK) -> ThinkingParser:
    return ThinkingParser(marks, is_open=is_open, new_answer_parser=PlainParser)


def parts_of(parsing: OutputParser, portions: Iterable[str]) -> Parts:
    """The parts that the portions add up to; checks the order of the events."""
    parts: Parts = []
    is_open = False
    events: list[ParserEvent] = [event for portion in portions for event in parsing.feed(portion)]
    for event in [*events, *parsing.finish()]:
        match event:
            case PartStarted():
                assert not is_open
                is_open = True
                parts.append((event.kind, ""))
            case TextDelta():
                assert is_open
                assert event.text
                parts[-1] = (parts[-1][0], parts[-1][1] + event.text)
            case PartEnded():
                assert is_open
                is_open = False
    assert not is_open
    return parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello.", [(TEXT, "Hello.")]),
        ("<think>\nHm.\n</think>\n\nHello.", [(REASONING, "Hm."), (TEXT, "Hello.")]),
        ("\n<think>a\n\nb</think>c\n", [(REASONING, "a\n\nb"), (TEXT, "c\n")]),
        ("<think>\n\n</think>\n\nHello.", [(TEXT, "Hello.")]),
        ("<think>\n  indented </think>x", [(REASONING, "  indented "), (TEXT, "x")]),
        ("First. <think>Hm.</think> Then.", [(TEXT, "First. "), (REASONING, "Hm."), (TEXT, " Then.")]),
        ("<think>Cut by the lim", [(REASONING, "Cut by the lim")]),
        ("<think>Cut.\n", [(REASONING, "Cut.")]),
        ("<think>\n", []),
        ("<think>Only thoughts.</think>\n", [(REASONING, "Only thoughts.")]),
        ("<thin", [(TEXT, "<thin")]),
        (" \n", [(TEXT, " \n")]),
        ("a < b <think or not", [(TEXT, "a < b <think or not")]),
        ("<think>a</thin</think>b", [(REASONING, "a</thin"), (TEXT, "b")]),
        ("<think>a</think>b<think>c</think>", [(REASONING, "a"), (TEXT, "b<think>c</think>")]),
        ("", []),
    ],
)
def test_a_model_that_may_think(text: str, expected: Parts) -> None:
    assert parts_of(parser(), [text]) == expected
    assert parts_of(parser(), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hm.\n</think>\n\nHello.", [(REASONING, "Hm."), (TEXT, "Hello.")]),
        ("\nHm.</think>Hello.", [(REASONING, "Hm."), (TEXT, "Hello.")]),
        ("\n</think>\n\nHello.", [(TEXT, "Hello.")]),
        ("<think>\nHm.</think>Hello.", [(REASONING, "Hm."), (TEXT, "Hello.")]),
        ("<thinking> is a word.</think>x", [(REASONING, "<thinking> is a word."), (TEXT, "x")]),
        ("Never ends", [(REASONING, "Never ends")]),
        ("<th", []),
        ("", []),
    ],
)
def test_a_model_whose_prompt_opened_its_thoughts(text: str, expected: Parts) -> None:
    assert parts_of(parser(is_open=True), [text]) == expected
    assert parts_of(parser(is_open=True), text) == expected


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", "thi", "nk>", "\n", " ", "a", "é火", ">", "<think"]),
    max_size=14,
).map("".join)


def portions(text: str, sizes: list[int]) -> list[str]:
    cut: list[str] = []
    for size in sizes:
        cut.append(text[:size])
        text = text[size:]
    return [*cut, text]


@given(text=PIECES, sizes=st.lists(st.integers(0, 5), max_size=20), is_open=st.booleans())
@example(text="<think>\na\n</think>\n\nb", sizes=[1] * 20, is_open=False)
def test_portions_change_nothing(text: str, sizes: list[int], is_open: bool) -> None:
    whole = parts_of(parser(is_open=is_open), [text])
    assert parts_of(parser(is_open=is_open), portions(text, sizes)) == whole
    assert parts_of(parser(is_open=is_open), text) == whole


@given(
    before=st.sampled_from(["", "\n", " \n"]),
    thought=st.text(st.sampled_from("ab<>/ \né火"), max_size=20).filter(lambda text: "</think>" not in text),
    answer=st.text(st.sampled_from("ab<>/ \né火"), max_size=20),
    sizes=st.lists(st.integers(0, 5), max_size=20),
    is_open=st.booleans(),
)
def test_no_mark_leaks_and_no_thought_is_lost(
    before: str, thought: str, answer: str, sizes: list[int], is_open: bool
) -> None:
    output = f"{thought}</think>{answer}" if is_open else f"{before}<think>{thought}</think>{answer}"
    expected: Parts = [(REASONING, thought.strip("\n"))] if thought.strip() else []
    expected += [(TEXT, answer.lstrip("\n"))] if answer.lstrip("\n") else []
    assert parts_of(parser(is_open=is_open), portions(output, sizes)) == expected


def _streams() -> list[dict[str, Any]]:
    streams: list[dict[str, Any]] = json.loads(CORPUS.read_text())["streams"]
    return streams


@pytest.mark.parametrize("stream", _streams(), ids=lambda stream: stream["name"])
@pytest.mark.parametrize(
    "cut",
    [lambda tokens: tokens, lambda tokens: ["".join(tokens)], "".join],
    ids=["token by token", "in one token", "character by character"],
)
def test_token_streams_of_the_families(stream: dict[str, Any], cut: Callable[[list[str]], Iterable[str]]) -> None:
    parsing = parser(is_open=stream["prompt_opens"], marks=ThinkingMarks(*stream["marks"]))
    expected = [(PartKind.Value(f"PART_KIND_{kind.upper()}"), text) for kind, text in stream["parts"]]
    assert parts_of(parsing, cut(stream["tokens"])) == expected
