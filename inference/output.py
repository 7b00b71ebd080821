"""From an engine's steps to what the caller is told about one generation. Pure."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2, response_pb2
from inference.detokenizer import Detokenizer, StopSequences
from inference.engines.base import EngineStop, Step, TokenLogprob
from inference.params import TokenLimit
from inference.parsing import base as parsing
from inference.tokenizer import Tokenizer

_REASONING_KINDS = (pb.PART_KIND_REASONING, pb.PART_KIND_REASONING_SUMMARY)


class Delta(NamedTuple):
    """What was appended to the open part; ``pb.Delta`` without the cost of a message per token."""

    text: str
    token_ids: list[int]
    """Belongs to whoever gets the delta."""
    logprobs: Sequence[content_pb2.Logprob] = ()


OutputEvent = pb.PartStarted | Delta | pb.PartEnded | pb.Finished


class Output:
    """The output of one generation: detokenizer, stop sequences and parser, one token at a time.

    Every token id is reported in the first delta after it was taken in, and never later than an event that it caused:
    whoever has all deltas and events up to some step knows exactly what the token ids in them lead to. That is what
    makes a generation continue elsewhere: ``resume_token_ids`` go through the same machinery in silence. A token that
    ends within a character waits for the one that completes it, as the character does: nobody could go on in its middle
    under a grammar.

    Output tokens are all that the engine generated up to the stop, those before a resume and those whose text was held
    back or was markup included, the end-of-turn token excluded. Reasoning tokens are those of the thoughts and of the
    markup around them. Token ids of markup between two parts belong to neither: their delta comes before the part.

    Args:
        input_tokens: Tokens of the prompt, without the resumed ones.
        limit: What it means when the engine has generated all it was allowed to.
        resume_token_ids: What another worker generated; the caller has its deltas already.
        spelled: As ``Detokenizer`` takes it.
        pauses_after_reasoning: Pause where the first thoughts end; see ``is_paused``.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        parser: parsing.OutputParser,
        input_tokens: int,
        limit: TokenLimit,
        resume_token_ids: Sequence[int] = (),
        spelled: Mapping[int, bytes] | None = None,
        pauses_after_reasoning: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._spelled = spelled
        self._detokenizer = Detokenizer(tokenizer, spelled)
        self._stop_sequences = stop
        self._stop = StopSequences(stop)
        self._has_stop = bool(stop)  # hardly anyone asks for it: not worth a call per token
        self._parser = parser
        self._limit = limit
        self._cached_tokens: int | None = None
        self._usage = response_pb2.Usage(input_tokens=input_tokens)
        self._output_tokens = 0
        self._reasoning_tokens = 0
        self._kind: pb.PartKind.ValueType | None = None
        self._token_ids: list[int] = []  # since the last delta
        self._tokens_since_delta = 0  # the same, but for resumed ones, which are counted and not told
        self._logprobs: list[content_pb2.Logprob] = []
        self._reasoning: list[str] = []
        self._pauses_after_reasoning = pauses_after_reasoning
        self._has_paused = False
        self.token_ids = list(resume_token_ids)
        """All that were generated so far."""
        self.is_finished = False
        """``Finished`` has been returned."""
        self.is_paused = False
        """The last token taken in ended the thoughts: more of the same step was dropped, and the engine is to generate
        anew after ``token_ids``, perhaps under other rules. The next ``feed`` goes on."""
        self.has_answer = False
        """A part that is no reasoning has begun."""
        self.first_call = ""
        """The function that was called first; empty: none yet."""
        self._answer_start: int | None = None if pauses_after_reasoning else 0
        for token_id in resume_token_ids:
            self.is_paused = False
            self._take(token_id, None, [])
        self._token_ids = []

    @property
    def usage(self) -> response_pb2.Usage:
        """Tokens in and out so far."""
        self._usage.output_tokens = self._output_tokens
        self._usage.reasoning_tokens = self._reasoning_tokens
        return self._usage

    @property
    def answer_token_ids(self) -> list[int] | None:
        """Those after the first thoughts, which a grammar holds for; None as long as these may come or go on.

        Only with ``pauses_after_reasoning``; else all.
        """
        return None if self._answer_start is None else self.token_ids[self._answer_start :]

    @property
    def reasoning(self) -> str:
        """The text of the thoughts so far."""
        return "".join(self._reasoning)

    def resumed(self) -> list[OutputEvent]:
        """The end, if the resumed tokens leave nothing to generate; else nothing. To be asked before the first step."""
        if self._stop.found is not None:
            return self._finish([], pb.STOP_REASON_STOP_SEQUENCE)
        if self._output_tokens >= self._limit.max_tokens:
            return self._finish([], self._limit.stop_reason)
        return []

    def feed(self, step: Step) -> list[OutputEvent]:
        """What ``step`` adds. Nothing may be fed after ``Finished`` came."""
        assert not self.is_finished
        self.is_paused = False
        events: list[OutputEvent] = []
        if step.cached_tokens is not None and self._cached_tokens is None:
            # of several runs the first counts; resumed tokens are part of what is prefilled, but not of the prompt
            self._cached_tokens = step.cached_tokens
            if step.prompt_tokens is not None:
                self._usage.input_tokens = step.prompt_tokens
            self._usage.cached_tokens = min(step.cached_tokens, self._usage.input_tokens)
        for index, token_id in enumerate(step.token_ids):
            self.token_ids.append(token_id)
            self._take(token_id, step.logprobs[index] if step.logprobs else None, events)
            if self.is_paused:
                break
            if self._stop.found is not None:
                return self._finish(events, pb.STOP_REASON_STOP_SEQUENCE)
        match None if self.is_paused and len(self.token_ids) < self._limit.max_tokens else step.stop:
            case None:
                return events
            case EngineStop.END_OF_TURN:
                return self._finish(events, pb.STOP_REASON_END_OF_TURN)
            case EngineStop.MAX_TOKENS:
                return self._finish(events, self._limit.stop_reason)
            case EngineStop.CONTENT_FILTER:
                return self._finish(events, pb.STOP_REASON_CONTENT_FILTER)

    def restart(self, parser: parsing.OutputParser) -> None:
        """Forget every token: what the last ``feed`` returned was told to nobody, and nothing before it was."""
        self._parser = parser
        self._detokenizer = Detokenizer(self._tokenizer, self._spelled)
        self._stop = StopSequences(self._stop_sequences)
        self._output_tokens = self._reasoning_tokens = self._tokens_since_delta = 0
        self._kind = None
        self._token_ids, self._logprobs, self._reasoning, self.token_ids = [], [], [], []
        self._answer_start, self.first_call = 0, ""
        self.is_finished = self.is_paused = self._has_paused = self.has_answer = False

    def _take(self, token_id: int, logprob: TokenLogprob | None, events: list[OutputEvent]) -> None:
        self._output_tokens += 1
        self._tokens_since_delta += 1
        self._token_ids.append(token_id)
        if logprob is not None and self._tokenizer.token_bytes(token_id):  # control tokens are not shown
            self._logprobs.append(self._to_logprob(logprob))
        text = self._detokenizer.feed((token_id,))
        if self._has_stop:
            text = self._stop.feed(text)
        if text:
            self._apply(self._parser.feed(text), events)
        if self._token_ids and self._kind is not None and not self._detokenizer.is_inside_character:
            self._append_delta("", events)

    def _apply(self, parsed: Sequence[parsing.ParserEvent], events: list[OutputEvent]) -> None:
        for index, event in enumerate(parsed):
            match event:
                case parsing.TextDelta():
                    self._append_delta(event.text, events)
                case parsing.PartStarted():
                    following = itertools.takewhile(lambda e: isinstance(e, parsing.TextDelta), parsed[index + 1 :])
                    text = "".join(e.text for e in following if isinstance(e, parsing.TextDelta))
                    self._part_from_markup(event.kind, text, events)
                    self._kind = event.kind
                    if event.kind not in _REASONING_KINDS:
                        self.has_answer, self.is_paused = True, False
                        self.first_call = self.first_call or event.name
                        if self._answer_start is None:
                            self._answer_start = 0
                    events.append(pb.PartStarted(kind=event.kind, name=event.name))
                case parsing.PartEnded():
                    if self._token_ids:
                        self._append_delta("", events)
                    is_first = self._pauses_after_reasoning and not self._has_paused
                    self.is_paused = is_first and self._kind == pb.PART_KIND_REASONING
                    if self.is_paused:
                        self._has_paused, self._answer_start = True, self._output_tokens
                    self._kind = None
                    self._logprobs = []  # of markup
                    events.append(pb.PartEnded())

    def _part_from_markup(self, kind: pb.PartKind.ValueType, text: str, events: list[OutputEvent]) -> None:
        """Part the tokens of markup, told now, from those at the end that spell ``text``, the beginning of a part.

        Under stop sequences, where text can lag behind its tokens, the part gets them all.
        """
        spelling, missing = len(self._token_ids), len(text.encode())
        while spelling and missing > 0:
            spelling -= 1
            missing -= len(self._tokenizer.token_bytes(self._token_ids[spelling]))
        if spelling == 0 or self._has_stop:
            return
        markup, self._token_ids = self._token_ids[:spelling], self._token_ids[spelling:]
        if kind in _REASONING_KINDS:
            self._reasoning_tokens += self._tokens_since_delta - len(self._token_ids)
        self._tokens_since_delta = len(self._token_ids)
        shown = sum(1 for token_id in self._token_ids if self._tokenizer.token_bytes(token_id))
        self._logprobs = self._logprobs[len(self._logprobs) - min(shown, len(self._logprobs)) :]
        events.append(Delta("", markup))

    def _append_delta(self, text: str, events: list[OutputEvent]) -> None:
        logprobs: Sequence[content_pb2.Logprob] = ()
        if self._kind != pb.PART_KIND_TEXT:
            self._logprobs = []  # of answers alone
        elif text and self._logprobs:
            logprobs, self._logprobs = self._logprobs, []
        if self._kind in _REASONING_KINDS:
            self._reasoning_tokens += self._tokens_since_delta
            self._reasoning.append(text)
        self._tokens_since_delta = 0
        events.append(Delta(text, self._token_ids, logprobs))
        self._token_ids = []

    def _finish(self, events: list[OutputEvent], reason: pb.StopReason.ValueType) -> list[OutputEvent]:
        self.is_finished = True
        if reason != pb.STOP_REASON_STOP_SEQUENCE:
            rest = self._stop.feed(self._detokenizer.finish())
            if self._stop.found is None:
                rest += self._stop.finish()
            else:
                reason = pb.STOP_REASON_STOP_SEQUENCE
            self._apply(self._parser.feed(rest), events)
        self._apply(self._parser.finish(), events)
        events.append(pb.Finished(stop_reason=reason, usage=self.usage, stop_sequence=self._stop.found or ""))
        return events

    @functools.cached_property
    def _marker_names(self) -> dict[int, str]:
        return {token_id: text for text, token_id in self._tokenizer.markers.items()}

    def _to_logprob(self, logprob: TokenLogprob) -> content_pb2.Logprob:
        utf8 = self._tokenizer.token_bytes(logprob.token_id)
        return content_pb2.Logprob(
            token=utf8.decode(errors="replace"),
            logprob=logprob.logprob,
            utf8=utf8,
            top_logprobs=[self._to_top_logprob(*candidate) for candidate in logprob.top],
        )

    def _to_top_logprob(self, token_id: int, logprob: float) -> content_pb2.TopLogprob:
        """Candidates may be control tokens, such as the end of the turn; their own text names them."""
        utf8 = self._tokenizer.token_bytes(token_id) or self._marker_names.get(token_id, "").encode()
        return content_pb2.TopLogprob(token=utf8.decode(errors="replace"), logprob=logprob, utf8=utf8)
