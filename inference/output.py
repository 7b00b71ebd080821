"""From an engine's steps to what the caller is told about one generation. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import content_pb2, response_pb2
from inference.detokenizer import Detokenizer, StopSequences
from inference.engines.base import EngineStop, Step, TokenLogprob
from inference.params import TokenLimit
from inference.parsing import base as parsing
from inference.tokenizer import Tokenizer

_REASONING_KINDS = (pb.PartKind.PART_KIND_REASONING, pb.PartKind.PART_KIND_REASONING_SUMMARY)


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
    makes a generation continue elsewhere: ``resume_token_ids`` go through the same machinery in silence.

    Output tokens are all that the engine generated up to the stop, those before a resume and those whose text was held
    back or was markup included, the end-of-turn token excluded.

    Args:
        input_tokens: Tokens of the prompt, without the resumed ones.
        limit: What it means when the engine has generated all it was allowed to.
        resume_token_ids: What another worker generated; the caller has its deltas already.
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
    ) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopSequences(stop)
        self._has_stop = bool(stop)  # hardly anyone asks for it: not worth a call per token
        self._parser = parser
        self._limit = limit
        self._usage = response_pb2.Usage(input_tokens=input_tokens)
        self._output_tokens = 0
        self._reasoning_tokens = 0
        self._kind: pb.PartKind.ValueType | None = None
        self._token_ids: list[int] = []  # since the last delta
        self._tokens_since_delta = 0  # the same, but for resumed ones, which are counted and not told
        self._logprobs: list[content_pb2.Logprob] = []
        self.is_finished = False
        """``Finished`` has been returned."""
        for token_id in resume_token_ids:
            self._take(token_id, None, [])
        self._token_ids = []

    @property
    def usage(self) -> response_pb2.Usage:
        """Tokens in and out so far."""
        self._usage.output_tokens = self._output_tokens
        self._usage.reasoning_tokens = self._reasoning_tokens
        return self._usage

    def resumed(self) -> list[OutputEvent]:
        """The end, if the resumed tokens leave nothing to generate; else nothing. To be asked before the first step."""
        if self._stop.found is not None:
            return self._finish([], pb.StopReason.STOP_REASON_STOP_SEQUENCE)
        if self._output_tokens >= self._limit.max_tokens:
            return self._finish([], self._limit.stop_reason)
        return []

    def feed(self, step: Step) -> list[OutputEvent]:
        """What ``step`` adds. Nothing may be fed after ``Finished`` came."""
        assert not self.is_finished
        events: list[OutputEvent] = []
        if step.cached_tokens is not None:
            # resumed tokens are part of what the engine prefills, but not of the caller's prompt
            self._usage.cached_tokens = min(step.cached_tokens, self._usage.input_tokens)
        for index, token_id in enumerate(step.token_ids):
            self._take(token_id, step.logprobs[index] if step.logprobs else None, events)
            if self._stop.found is not None:
                return self._finish(events, pb.StopReason.STOP_REASON_STOP_SEQUENCE)
        match step.stop:
            case None:
                return events
            case EngineStop.END_OF_TURN:
                return self._finish(events, pb.StopReason.STOP_REASON_END_OF_TURN)
            case EngineStop.MAX_TOKENS:
                return self._finish(events, self._limit.stop_reason)
            case EngineStop.CONTENT_FILTER:
                return self._finish(events, pb.StopReason.STOP_REASON_CONTENT_FILTER)

    def _take(self, token_id: int, logprob: TokenLogprob | None, events: list[OutputEvent]) -> None:
        self._output_tokens += 1
        self._tokens_since_delta += 1
        self._token_ids.append(token_id)
        if logprob is not None:
            self._logprobs.append(self._to_logprob(logprob))
        text = self._detokenizer.feed((token_id,))
        if self._has_stop:
            text = self._stop.feed(text)
        if text:
            self._apply(self._parser.feed(text), events)
        if self._token_ids and self._kind is not None:
            self._append_delta("", events)

    def _apply(self, parsed: Sequence[parsing.ParserEvent], events: list[OutputEvent]) -> None:
        for event in parsed:
            match event:
                case parsing.TextDelta():
                    self._append_delta(event.text, events)
                case parsing.PartStarted():
                    self._kind = event.kind
                    events.append(pb.PartStarted(kind=event.kind, name=event.name))
                case parsing.PartEnded():
                    if self._token_ids:
                        self._append_delta("", events)
                    self._kind = None
                    self._logprobs = []  # of markup
                    events.append(pb.PartEnded())

    def _append_delta(self, text: str, events: list[OutputEvent]) -> None:
        logprobs: Sequence[content_pb2.Logprob] = ()
        if text and self._logprobs:
            logprobs, self._logprobs = self._logprobs, []
        if self._kind in _REASONING_KINDS:
            self._reasoning_tokens += self._tokens_since_delta
        self._tokens_since_delta = 0
        events.append(Delta(text, self._token_ids, logprobs))
        self._token_ids = []

    def _finish(self, events: list[OutputEvent], reason: pb.StopReason.ValueType) -> list[OutputEvent]:
        self.is_finished = True
        if reason != pb.StopReason.STOP_REASON_STOP_SEQUENCE:
            rest = self._stop.feed(self._detokenizer.finish())
            if self._stop.found is None:
                rest += self._stop.finish()
            else:
                reason = pb.StopReason.STOP_REASON_STOP_SEQUENCE
            self._apply(self._parser.feed(rest), events)
        self._apply(self._parser.finish(), events)
        events.append(pb.Finished(stop_reason=reason, usage=self.usage, stop_sequence=self._stop.found or ""))
        return events

    def _to_logprob(self, logprob: TokenLogprob) -> content_pb2.Logprob:
        utf8 = self._tokenizer.token_bytes(logprob.token_id)
        return content_pb2.Logprob(
            token=utf8.decode(errors="replace"),
            logprob=logprob.logprob,
            utf8=utf8,
            top_logprobs=[self._to_top_logprob(*candidate) for candidate in logprob.top],
        )

    def _to_top_logprob(self, token_id: int, logprob: float) -> content_pb2.TopLogprob:
        utf8 = self._tokenizer.token_bytes(token_id)
        return content_pb2.TopLogprob(token=utf8.decode(errors="replace"), logprob=logprob, utf8=utf8)
