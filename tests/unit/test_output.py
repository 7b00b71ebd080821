"""Steps of an engine to deltas: order, token ids, usage, stop reasons, and going on where another worker ended."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.inference.v1.inference_pb2 import PartKind, StopReason
from antiphon.responses.v1.response_pb2 import Usage
from inference.engines.base import EngineStop, Step, TokenLogprob
from inference.output import Delta, Output, OutputEvent
from inference.params import TokenLimit
from inference.parsing.base import OutputParser, ParserEvent, PartEnded, PartStarted, TextDelta
from inference.parsing.plain import PlainParser
from inference.parsing.thinking import ThinkingMarks, ThinkingParser
from tests.support.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


class ThoughtsParser:
    """A format with markup of two characters: what is between << and >> is reasoning, everything else text."""

    def __init__(self) -> None:
        self._held = ""
        self._kind: PartKind.ValueType | None = None
        self._wanted = PartKind.PART_KIND_TEXT

    def feed(self, text: str) -> list[ParserEvent]:
        events: list[ParserEvent] = []
        for character in text:
            mark = "<" if self._wanted == PartKind.PART_KIND_TEXT else ">"
            if self._held and character == mark:
                self._held = ""
                events += self._end()
                self._wanted = PartKind.PART_KIND_REASONING if mark == "<" else PartKind.PART_KIND_TEXT
            elif character == mark:
                self._held = mark
            else:
                events += self._append(self._held + character)
                self._held = ""
        return events

    def finish(self) -> list[ParserEvent]:
        return [*(self._append(self._held) if self._held else []), *self._end()]

    def _append(self, text: str) -> list[ParserEvent]:
        started: list[ParserEvent] = []
        if self._kind is None:
            self._kind = self._wanted
            started = [PartStarted(self._kind)]
        return [*started, TextDelta(text)]

    def _end(self) -> list[ParserEvent]:
        ended: list[ParserEvent] = [] if self._kind is None else [PartEnded()]
        self._kind = None
        return ended


def output(
    *,
    stop: Sequence[str] = (),
    parser: OutputParser | None = None,
    input_tokens: int = 7,
    limit: TokenLimit | None = None,
    resume: Sequence[int] = (),
) -> Output:
    return Output(
        tokenizer=TOKENIZER,
        stop=stop,
        parser=parser or PlainParser(),
        input_tokens=input_tokens,
        limit=limit or TokenLimit(1000, StopReason.STOP_REASON_MAX_OUTPUT_TOKENS),
        resume_token_ids=resume,
    )


@dataclass
class Told:
    """What a caller knows after some events; checks their order as it goes."""

    parts: list[tuple[PartKind.ValueType, str]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    is_open: bool = False
    finished: pb.Finished | None = None

    def hear(self, events: Iterable[OutputEvent]) -> "Told":
        for event in events:
            assert self.finished is None
            match event:
                case pb.PartStarted():
                    assert not self.is_open
                    self.is_open = True
                    self.parts.append((event.kind, ""))
                case Delta(text, token_ids):
                    assert text or token_ids
                    self.token_ids += token_ids
                    if not self.is_open:
                        assert not text, "text outside of a part"
                        continue
                    kind, before = self.parts[-1]
                    self.parts[-1] = (kind, before + text)
                case pb.PartEnded():
                    assert self.is_open
                    self.is_open = False
                case pb.Finished():
                    assert not self.is_open
                    self.finished = event
        return self

    def copy(self) -> "Told":
        return Told(list(self.parts), list(self.token_ids), self.is_open, self.finished)


def steps_of(token_ids: Sequence[int], sizes: Iterable[int], stop: EngineStop) -> list[Step]:
    """``token_ids`` in portions, the stop on the last of them."""
    portions: list[Sequence[int]] = []
    rest = token_ids
    for size in sizes:
        portions.append(rest[:size])
        rest = rest[size:]
    portions.append(rest)
    return [
        Step(tuple(portion), stop=stop if index == len(portions) - 1 else None)
        for index, portion in enumerate(portions)
    ]


def run(generation: Output, steps: Iterable[Step], told: Told | None = None) -> Told:
    told = told or Told()
    told.hear(generation.resumed())
    for step in steps:
        if generation.is_finished:
            break
        told.hear(generation.feed(step))
    return told


TEXTS = st.text(st.sampled_from("ab<>eé火🦊 STOP"), max_size=30)
TOKENS = st.one_of(
    TEXTS.map(TOKENIZER.encode),
    st.lists(st.sampled_from([*b"ab<>", *"é火🦊".encode()]), max_size=40),  # characters cut anywhere, broken ones too
)
STOPS = st.lists(st.sampled_from(["STOP", "ST", "b<", "火", "aa"]), max_size=3)
SIZES = st.lists(st.integers(0, 4), max_size=12)


def test_one_step_reads_as_the_contract_says() -> None:
    generation = output()
    assert generation.feed(Step((ord("h"),))) == [
        pb.PartStarted(kind=PartKind.PART_KIND_TEXT),
        Delta("h", [ord("h")]),
    ]
    assert generation.feed(Step((ord("i"),), stop=EngineStop.END_OF_TURN, cached_tokens=3)) == [
        Delta("i", [ord("i")]),
        pb.PartEnded(),
        pb.Finished(
            stop_reason=StopReason.STOP_REASON_END_OF_TURN,
            usage=Usage(input_tokens=7, cached_tokens=3, output_tokens=2),
        ),
    ]


def test_token_ids_of_text_that_is_held_back_are_told_at_once() -> None:
    generation = output(stop=["STOP"])
    generation.feed(Step((ord("a"),)))
    assert generation.feed(Step((ord("S"),))) == [Delta("", [ord("S")])]
    assert generation.feed(Step((ord("u"),))) == [Delta("Su", [ord("u")])]


def test_token_ids_are_told_with_the_character_that_they_are_a_part_of() -> None:
    generation = output()
    generation.feed(Step((ord("a"),)))
    first, second = "é".encode()
    assert generation.feed(Step((first,))) == []
    assert generation.feed(Step((second, ord("b")))) == [Delta("é", [first, second]), Delta("b", [ord("b")])]


def test_before_any_part_token_ids_wait_for_the_first_delta() -> None:
    generation = output()
    first, second = "é".encode()
    assert generation.feed(Step((first,))) == []
    assert generation.feed(Step((second,))) == [
        pb.PartStarted(kind=PartKind.PART_KIND_TEXT),
        Delta("é", [first, second]),
    ]


def test_nothing_generated_is_a_finish_without_parts() -> None:
    told = run(output(), [Step(stop=EngineStop.END_OF_TURN)])
    assert told.parts == []
    assert told.finished is not None
    assert told.finished.usage.output_tokens == 0


def test_a_stop_sequence_across_tokens_ends_the_text_before_it_and_what_follows_in_the_step_is_dropped() -> None:
    told = run(output(stop=["STOP"]), [Step(tuple(b"abST")), Step(tuple(b"OPcd"))])
    assert told.parts == [(PartKind.PART_KIND_TEXT, "ab")]
    assert told.token_ids == list(b"abSTOP")
    assert told.finished == pb.Finished(
        stop_reason=StopReason.STOP_REASON_STOP_SEQUENCE,
        stop_sequence="STOP",
        usage=Usage(input_tokens=7, output_tokens=6),
    )


@pytest.mark.parametrize(
    ("stop", "limit_reason", "expected"),
    [
        (EngineStop.END_OF_TURN, StopReason.STOP_REASON_CONTEXT_WINDOW, StopReason.STOP_REASON_END_OF_TURN),
        (EngineStop.MAX_TOKENS, StopReason.STOP_REASON_CONTEXT_WINDOW, StopReason.STOP_REASON_CONTEXT_WINDOW),
        (EngineStop.MAX_TOKENS, StopReason.STOP_REASON_MAX_OUTPUT_TOKENS, StopReason.STOP_REASON_MAX_OUTPUT_TOKENS),
        (EngineStop.CONTENT_FILTER, StopReason.STOP_REASON_CONTEXT_WINDOW, StopReason.STOP_REASON_CONTENT_FILTER),
    ],
)
def test_the_engine_s_stop_becomes_the_stop_reason(
    stop: EngineStop, limit_reason: StopReason.ValueType, expected: StopReason.ValueType
) -> None:
    told = run(output(limit=TokenLimit(1, limit_reason)), [Step((97,), stop=stop)])
    assert told.finished is not None
    assert told.finished.stop_reason == expected


def test_reasoning_tokens_are_those_told_in_reasoning_parts() -> None:
    told = run(output(parser=ThoughtsParser()), [Step(tuple(b"a<<bc>>d"), stop=EngineStop.END_OF_TURN)])
    assert told.parts == [
        (PartKind.PART_KIND_TEXT, "a"),
        (PartKind.PART_KIND_REASONING, "bc"),
        (PartKind.PART_KIND_TEXT, "d"),
    ]
    assert told.finished is not None
    assert told.finished.usage.output_tokens == 8
    assert told.finished.usage.reasoning_tokens == 4  # b, c and the markup that ended them


def test_log_probabilities_come_with_the_text_of_their_tokens() -> None:
    def logprob(token_id: int) -> TokenLogprob:
        return TokenLogprob(token_id, -0.5, ((token_id, -0.5), (120, -1.5)))

    def step(*token_ids: int) -> Step:
        return Step(token_ids, tuple(map(logprob, token_ids)))

    generation = output(stop=["cd"])
    first, second = "é".encode()
    told = [generation.feed(step(token_id)) for token_id in (97, first, second, 99, 100)]
    logprobs = [[lp.utf8 for e in events if isinstance(e, Delta) for lp in e.logprobs] for events in told]
    assert logprobs == [[b"a"], [], [bytes([first]), bytes([second])], [], []]
    [delta] = [event for event in told[0] if isinstance(event, Delta)]
    assert [(top.token, top.logprob) for top in delta.logprobs[0].top_logprobs] == [("a", -0.5), ("x", -1.5)]


def test_marks_that_are_control_tokens_are_seen_by_the_parser_and_are_no_part_s_tokens() -> None:
    tokenizer = ByteTokenizer(("<|think|>", "<|/think|>", "<|other|>"))
    start, end, other = (tokenizer.markers[text] for text in ("<|think|>", "<|/think|>", "<|other|>"))
    assert tokenizer.decode([start, end, other]) == b""
    marks = ThinkingMarks("<|think|>", "<|/think|>")
    generation = Output(
        tokenizer=tokenizer,
        stop=(),
        parser=ThinkingParser(marks, is_open=False, new_answer_parser=PlainParser),
        input_tokens=7,
        limit=TokenLimit(1000, StopReason.STOP_REASON_MAX_OUTPUT_TOKENS),
        spelled={start: b"<|think|>", end: b"<|/think|>"},
    )
    lf = ord("\n")
    steps = [Step((token_id,)) for token_id in (start, lf, ord("a"), lf, end, lf, other, ord("b"))]
    assert [event for step in steps for event in generation.feed(step)] == [
        Delta("", [start, lf]),
        pb.PartStarted(kind=PartKind.PART_KIND_REASONING),
        Delta("a", [ord("a")]),
        Delta("", [lf]),
        Delta("", [end]),
        pb.PartEnded(),
        Delta("", [lf, other]),
        pb.PartStarted(kind=PartKind.PART_KIND_TEXT),
        Delta("b", [ord("b")]),
    ]
    assert generation.usage.reasoning_tokens == 5  # with both marks and the line ends inside


def test_log_probabilities_leave_out_control_tokens_and_name_them_as_candidates() -> None:
    tokenizer = ByteTokenizer(("<|end|>",))
    end = tokenizer.markers["<|end|>"]
    generation = Output(
        tokenizer=tokenizer,
        stop=(),
        parser=PlainParser(),
        input_tokens=7,
        limit=TokenLimit(1000, StopReason.STOP_REASON_MAX_OUTPUT_TOKENS),
    )
    logprobs = (TokenLogprob(end, -0.5, ((end, -0.5),)), TokenLogprob(97, -1.5, ((end, -0.1), (97, -1.5))))
    [_, started, delta] = generation.feed(Step((end, 97), logprobs))
    assert isinstance(started, pb.PartStarted)
    assert isinstance(delta, Delta)
    [shown] = delta.logprobs
    assert (shown.token, shown.utf8) == ("a", b"a")
    assert [(top.token, top.utf8) for top in shown.top_logprobs] == [("<|end|>", b"<|end|>"), ("a", b"a")]


@given(token_ids=TOKENS, sizes=SIZES, stop=STOPS)
def test_portions_change_nothing_but_where_deltas_end(token_ids: list[int], sizes: list[int], stop: list[str]) -> None:
    whole = run(output(stop=stop, parser=ThoughtsParser()), steps_of(token_ids, (), EngineStop.END_OF_TURN))
    split = run(output(stop=stop, parser=ThoughtsParser()), steps_of(token_ids, sizes, EngineStop.END_OF_TURN))
    assert split == whole


@given(token_ids=TOKENS)
def test_plain_text_and_all_its_token_ids_arrive(token_ids: list[int]) -> None:
    told = run(output(), steps_of(token_ids, [1] * len(token_ids), EngineStop.END_OF_TURN))
    assert "".join(text for _, text in told.parts) == TOKENIZER.decode(token_ids).decode(errors="replace")
    assert told.finished is not None
    assert told.finished.usage.output_tokens == len(token_ids)
    assert told.token_ids in ([], token_ids)
    assert bool(told.token_ids) == bool(token_ids)


@given(token_ids=TOKENS, sizes=SIZES, stop=STOPS, lost_after=st.integers(0, 12))
def test_a_generation_goes_on_elsewhere_as_if_nothing_had_happened(
    token_ids: list[int], sizes: list[int], stop: list[str], lost_after: int
) -> None:
    """The first worker is lost after any step; the second one gets the token ids that the caller knows."""
    steps = steps_of(token_ids, sizes, EngineStop.END_OF_TURN)
    unbroken = run(output(stop=stop, parser=ThoughtsParser()), steps)

    told = run(output(stop=stop, parser=ThoughtsParser()), steps[: min(lost_after, len(steps) - 1)])
    if told.finished is not None:
        return
    known = list(told.token_ids)
    assert known == token_ids[: len(known)]
    successor = output(stop=stop, parser=ThoughtsParser(), resume=known)
    run(successor, [Step(tuple(token_ids[len(known) :]), stop=EngineStop.END_OF_TURN)], told)
    assert told == unbroken


@given(token_ids=TOKENS, stop=STOPS, split=st.integers(0, 40))
@example(token_ids=[*b"<<a"], stop=[], split=1)
def test_resumed_tokens_and_the_rest_make_the_unbroken_output(
    token_ids: list[int], stop: list[str], split: int
) -> None:
    """Any split, even one inside a character or a stop sequence."""
    head, tail = token_ids[:split], token_ids[split:]
    unbroken = run(output(stop=stop, parser=ThoughtsParser()), [Step(tuple(token_ids), stop=EngineStop.END_OF_TURN)])
    first = output(stop=stop, parser=ThoughtsParser())
    told = Told().hear(first.feed(Step(tuple(head))))
    if first.is_finished:
        return
    run(
        output(stop=stop, parser=ThoughtsParser(), resume=head),
        [Step(tuple(tail), stop=EngineStop.END_OF_TURN)],
        told,
    )
    assert told.parts == unbroken.parts
    assert told.finished == unbroken.finished


def test_resumed_tokens_count_as_output_and_the_cache_only_as_far_as_the_prompt() -> None:
    generation = output(input_tokens=7, resume=list(b"abc"))
    told = run(
        generation,
        [Step(tuple(b"de"), stop=EngineStop.END_OF_TURN, cached_tokens=9)],
        Told([(PartKind.PART_KIND_TEXT, "abc")], list(b"abc"), is_open=True),
    )
    assert told.parts == [(PartKind.PART_KIND_TEXT, "abcde")]
    assert told.finished is not None
    assert told.finished.usage == Usage(input_tokens=7, cached_tokens=7, output_tokens=5)


def test_a_generation_resumed_at_its_limit_ends_without_the_engine() -> None:
    limit = TokenLimit(3, StopReason.STOP_REASON_MAX_OUTPUT_TOKENS)
    assert output(limit=limit, resume=list(b"abc")).resumed() == [
        pb.PartEnded(),
        pb.Finished(stop_reason=StopReason.STOP_REASON_MAX_OUTPUT_TOKENS, usage=Usage(input_tokens=7, output_tokens=3)),
    ]
