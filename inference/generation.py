"""Generations from request to last event: what ``Generate`` and ``Attach`` have in common."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from antiphon.errors import ApiError, reason_name
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.trace import valid_traceparent
from inference.admission import Admission
from inference.constraint import check_size, constraint, has_free_text
from inference.engines.base import Engine, EngineError, Step
from inference.grammar.residual import residual
from inference.output import Delta, Output, OutputEvent
from inference.params import TokenLimit, check_request, sampling_params, token_limit
from inference.parsing.base import OutputParser
from inference.parsing.plain import PlainParser
from inference.parsing.thinking import ThinkingParser
from inference.prompt import Prompt, PromptBuilder, ThinkingPlace
from inference.summary import summary_request
from inference.tools.choice import choose, saying_nothing
from inference.tools.rules import CallRules, call_rules

log = logging.getLogger(__name__)

_S = TypeVar("_S")
_T = TypeVar("_T")

GenerationEvent = pb.Accepted | pb.Started | OutputEvent

_PROMPT_THREADS = 2
"""Rendering holds the interpreter's lock most of the time: more threads would only slow the token path down."""

_MAX_UNTRAINED_CALLS = 8
_MAX_UNTRAINED_STRING = 1024
"""Calls, and characters of one string in them, of models that were not trained to call, and may not find an end."""
_ROOM_FOR_NOTHING = 8
"""Tokens by which a message that says nothing can be longer than the one it stands for."""


class Generations:
    """Runs generations on one engine. Everything that can fail in one ends as an ApiError, logged once.

    Args:
        min_p: See ``InferenceSettings``, as for ``end_bias``, which the engine must be capable of.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        prompts: PromptBuilder,
        model: pb.ModelInfo,
        admission: Admission,
        min_p: float,
        end_bias: float,
        default_max_output_tokens: int,
    ) -> None:
        self.model = model
        self.admission = admission
        self._engine = engine
        self._prompts = prompts
        self._min_p = min_p
        self._end_bias = end_bias
        self._default_max_output_tokens = default_max_output_tokens
        self._threads = ThreadPoolExecutor(_PROMPT_THREADS, thread_name_prefix="prompt")

    async def run(self, request: pb.GenerateRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Accepted, Started, the output, Finished. Closing it, or cancelling the task that runs it, aborts.

        Raises:
            ApiError: before Accepted: the request is refused; after it: the generation failed.
        """
        report = _Report(request)
        try:
            async with aclosing(self._run(request, report)) as events:
                async for event in events:
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            report.outcome = "cancelled"
            raise
        except ApiError as error:
            report.outcome = reason_name(error.reason).lower()
            raise
        except EngineError as error:
            report.outcome = "engine_failed"
            raise self._engine_failed(request, error) from error
        except Exception as error:
            report.outcome = "internal"
            log.exception("generation failed", extra={"request_id": request.request_id})
            raise _internal() from error
        finally:
            report.write()

    async def count_tokens(self, request: pb.GenerateRequest) -> int:
        """Tokens of the prompt that ``request`` would have.

        Raises:
            ApiError: the request is refused, as ``run`` would refuse it.
        """
        try:
            return (await self._prepare(request)).prompt.input_tokens
        except EngineError as error:
            raise self._engine_failed(request, error) from error

    def close(self) -> None:
        """Let go of the threads; requests still in them are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _engine_failed(self, request: pb.GenerateRequest, error: EngineError) -> ApiError:
        log.error("engine failed", extra={"request_id": request.request_id, "error": str(error)})
        return ApiError(ErrorReason.ERROR_REASON_ENGINE_FAILED, "The model failed to generate.")

    async def _run(self, request: pb.GenerateRequest, report: "_Report") -> AsyncGenerator[GenerationEvent, None]:
        is_resumed = bool(request.resume_token_ids)
        with self.admission.enter(request.service_tier, request.owner, is_resumed=is_resumed) as place:
            job = await self._prepare(request)
            output = report.output = self._output(job)
            end = output.resumed()
            if is_resumed and not end:
                await self._resume(job, output)
            yield pb.Accepted(input_tokens=job.prompt.input_tokens)
            await place.turn()
            report.started()
            yield pb.Started()
            if end:
                for event in end:
                    yield event
                return
            async with aclosing(self._generate(job, output, report)) as events:
                async for event in events:
                    yield event

    async def _prepare(self, request: pb.GenerateRequest) -> "_Job":
        """Whatever may refuse a request: its prompt, its room, its grammar."""
        info = self._engine.info
        check_request(request, info, self.model.id)
        prompt = await self._in_thread(self._prompts.build, request)
        limit = token_limit(
            request,
            input_tokens=prompt.input_tokens,
            context_window=info.context_window,
            default=self._default_max_output_tokens,
        )
        job = _Job(request, prompt, limit, self._rules(request))
        job.grammar = await self._in_thread(self._constraint, job)
        return job

    async def _generate(self, job: "_Job", output: Output, report: "_Report") -> AsyncGenerator[OutputEvent, None]:
        """Thoughts, their summary, the answer: in one run of the engine, or in one each if they must be kept apart.

        A grammar holds for the answer alone. A model that may think and does not has its first tokens taken back, and
        begins again under the grammar.
        """
        if self._has_pause(job) and output.answer_token_ids is None:
            async with aclosing(self._run_engine(job, output, report)) as steps:
                async for events in steps:
                    if job.grammar is not None and output.has_answer and not output.reasoning:
                        output.restart(self._answer_parser(job))
                        break
                    for event in events:
                        yield event
        if output.is_finished:
            return
        if output.is_paused and job.request.reasoning.summary and output.reasoning:
            async with aclosing(self._summarize(job.request, output.reasoning)) as summary:
                async for event in summary:
                    yield event
        if self._has_choice(job) and not output.answer_token_ids:
            await self._choose(job, output)
        async with aclosing(self._run_engine(job, output, report, grammar=job.grammar)) as steps:
            async for events in steps:
                for event in events:
                    yield event

    async def _run_engine(
        self, job: "_Job", output: Output, report: "_Report | None" = None, *, grammar: str | None = None
    ) -> AsyncGenerator[list[OutputEvent], None]:
        """Generate after what ``output`` has, until it is finished or pauses: what each step adds."""
        max_tokens = job.limit.max_tokens - len(output.token_ids)
        params = sampling_params(
            job.request, max_tokens=max_tokens, min_p=self._min_p, end_bias=self._end_bias, grammar=grammar
        )
        if grammar is not None:
            params = replace(params, marker_token_ids=tuple(self._prompts.spelled(self._looked_for(job))))
        if job.rules.is_required and not self._prompts.has_native_tools:
            params = replace(params, temperature=0.0)  # what an untrained model knows of calls drowns in its noise
        prompt = self._prompts.continued(job.prompt, output.token_ids)
        steps = self._engine.generate(job.request.request_id, prompt, params)
        async with aclosing(steps):  # the one place where an engine request is aborted
            async for step in steps:
                if report is not None:
                    report.stepped()
                yield output.feed(step)
                if output.is_finished or output.is_paused:
                    return
        raise EngineError("the engine ended a generation without a reason")

    async def _summarize(self, request: pb.GenerateRequest, reasoning: str) -> AsyncGenerator[OutputEvent, None]:
        """A summary part, made in the generation's own place at the engine. Its tokens count nowhere.

        Its deltas carry no token ids: a successor goes on from the generation's own.
        """
        job = await self._summary_job(request, reasoning)
        if job is None:
            log.warning("no room for a summary", extra={"request_id": request.request_id})
            return
        output = Output(
            tokenizer=self._engine.tokenizer,
            stop=(),
            parser=self._answer_parser(job),
            input_tokens=job.prompt.input_tokens,
            limit=job.limit,
            spelled=self._prompts.spelled(self._looked_for(job)),
        )
        is_text = False  # more thoughts are no summary
        async with aclosing(self._run_engine(job, output)) as steps:
            async for events in steps:
                for event in events:
                    match event:
                        case pb.PartStarted():
                            is_text = event.kind == pb.PART_KIND_TEXT
                            if is_text:
                                yield pb.PartStarted(kind=pb.PART_KIND_REASONING_SUMMARY)
                        case Delta() if event.text and is_text:
                            yield Delta(event.text, [])
                        case pb.PartEnded() if is_text:
                            yield event
                        case _:
                            pass

    async def _summary_job(self, request: pb.GenerateRequest, reasoning: str) -> "_Job | None":
        """Of thoughts that are too long the end; None if the context window is too small for any."""
        while reasoning:
            asked = summary_request(request, reasoning)
            try:
                prompt = await self._in_thread(self._prompts.build, asked)
            except ApiError as error:
                if error.reason != ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED:
                    raise
                reasoning = reasoning[(len(reasoning) + 1) // 2 :]
                continue
            window = self._engine.info.context_window
            limit = token_limit(asked, input_tokens=prompt.input_tokens, context_window=window)
            return _Job(asked, prompt, limit, CallRules())
        return None

    def _rules(self, request: pb.GenerateRequest) -> CallRules:
        rules = call_rules(request)
        return rules if self._prompts.has_native_tools else rules.at_most(_MAX_UNTRAINED_CALLS)

    def _constraint(self, job: "_Job") -> str | None:
        if not self._engine.info.capabilities.grammar:
            return None
        max_string = None if self._prompts.has_native_tools else _MAX_UNTRAINED_STRING
        grammar = constraint(job.request, job.rules, self._prompts.tool_format, max_string=max_string)
        check_size(grammar, self._engine.info.capabilities.max_grammar_chars, job.request)
        return grammar

    def _has_choice(self, job: "_Job") -> bool:
        """Whether it is for us to find out if the model wants to call, and what."""
        rules = job.rules
        is_open = rules.allows_calls and (not rules.is_required or len(rules.names) > 1)
        return is_open and not self._prompts.has_native_tools and self._engine.info.capabilities.scoring

    async def _choose(self, job: "_Job", output: Output) -> None:
        """Narrow the rules of ``job`` to an answer or a first call."""
        heads = await self._in_thread(self._prompts.call_heads, job.rules.names)
        room = self._engine.info.context_window - job.prompt.input_tokens - len(output.token_ids)
        if room <= max(map(len, heads.values())) + _ROOM_FOR_NOTHING:
            job.rules = job.rules if job.rules.is_required else job.rules.answering()
        else:
            blank = await self._in_thread(self._prompts.build, saying_nothing(job.request))
            choice = await choose(
                self._engine,
                heads,
                prompt=lambda beginning: self._prompts.continued(job.prompt, [*output.token_ids, *beginning]),
                blank=lambda beginning: self._prompts.continued(blank, beginning),
                request_id=job.request.request_id,
                cache_salt=job.request.cache_salt,
            )
            output.feed(Step(cached_tokens=choice.cached_tokens))
            is_call = job.rules.is_required or choice.is_call
            job.rules = job.rules.calling(choice.best) if is_call else job.rules.answering()
        job.grammar = await self._in_thread(self._constraint, job)

    def _looked_for(self, job: "_Job") -> tuple[str, ...]:
        """The marks that are to be seen in answers; none where all is text."""
        tool_format = self._prompts.tool_format
        return tool_format.marks if job.rules.allows_calls or tool_format.answer_start else ()

    def _answer_parser(self, job: "_Job") -> OutputParser:
        tool_format, rules = self._prompts.tool_format, job.rules
        if not self._looked_for(job):
            return PlainParser()
        functions = {
            tool.function.name: tool.function.parameters
            for tool in job.request.tools
            if tool.HasField("function") and tool.function.name in rules.names
        }
        return tool_format.new_parser(may_mix=has_free_text(job.request), functions=functions)

    def _may_think(self, job: "_Job") -> bool:
        return self._prompts.reasoning.marks is not None and job.prompt.thinking is not ThinkingPlace.CLOSED

    def _has_pause(self, job: "_Job") -> bool:
        """Whether something has to happen between thoughts and answer."""
        return self._may_think(job) and (bool(job.request.reasoning.summary) or job.grammar is not None)

    def _output(self, job: "_Job") -> Output:
        tokenizer, marks = self._engine.tokenizer, self._prompts.reasoning.marks
        parser = self._answer_parser(job)
        looked_for = self._looked_for(job)
        if marks is not None and self._may_think(job):
            is_open = job.prompt.thinking is ThinkingPlace.OPEN
            parser = ThinkingParser(marks, is_open=is_open, new_answer_parser=lambda: self._answer_parser(job))
            looked_for = (*looked_for, marks.start, marks.end)
        try:
            return Output(
                tokenizer=tokenizer,
                stop=job.request.stop,
                parser=parser,
                input_tokens=job.prompt.input_tokens,
                limit=job.limit,
                resume_token_ids=job.request.resume_token_ids,
                spelled=self._prompts.spelled(looked_for),
                pauses_after_reasoning=self._has_pause(job),
            )
        except KeyError:
            raise ApiError(
                ErrorReason.ERROR_REASON_INVALID_VALUE, "The model has no such token.", "resume_token_ids"
            ) from None

    async def _resume(self, job: "_Job", output: Output) -> None:
        """Hold ``job`` to what may follow the tokens that ``output`` was given, if these are under a grammar already.

        Raises:
            ApiError: ENGINE_FAILED, they cannot be gone on after: those after images, which are tokenized anew, those
                that the grammar cannot be followed through in time, and those that it does not generate.
        """
        if job.prompt.mixed is not None:
            raise _cannot_resume()
        if job.grammar is None or not output.answer_token_ids:
            return
        if self._has_choice(job) and output.has_answer:  # it was made: the output tells how
            first, rules = output.first_call, job.rules
            job.rules = rules.calling(first) if first else rules.answering()
            job.grammar = await self._in_thread(self._constraint, job)
        spelled = self._prompts.spelled(self._looked_for(job))
        token_bytes = self._engine.tokenizer.token_bytes
        answer = b"".join(spelled.get(token_id) or token_bytes(token_id) for token_id in output.answer_token_ids)
        if job.grammar is not None:
            job.grammar = await self._in_thread(functools.partial(self._residual, job.grammar), answer)

    def _residual(self, grammar: str, answer: bytes) -> str:
        """What remains of ``grammar`` after ``answer``."""
        try:
            rest = residual(grammar, answer.decode())
        except UnicodeDecodeError:  # it ends in the middle of a character
            raise _cannot_resume() from None
        most = self._engine.info.capabilities.max_grammar_chars
        if rest is None or (most is not None and len(rest) > most):
            raise _cannot_resume()
        return rest

    async def _in_thread(self, function: Callable[[_S], _T], argument: _S) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, argument)


@dataclass(slots=True)
class _Job:
    """One generation, ready for the engine."""

    request: pb.GenerateRequest
    prompt: Prompt
    limit: TokenLimit
    rules: CallRules
    grammar: str | None = None
    """What the answer and the calls are held to."""


class _Report:
    """What the log says about one request when it ends: sizes and times, never prompt or output."""

    def __init__(self, request: pb.GenerateRequest) -> None:
        self.outcome = "finished"
        self.output: Output | None = None
        self._request_id = request.request_id
        self._traceparent = valid_traceparent(request.traceparent)
        self._arrived = time.monotonic()
        self._started: float | None = None
        self._first_step: float | None = None

    def started(self) -> None:
        self._started = time.monotonic()

    def stepped(self) -> None:
        if self._first_step is None:
            self._first_step = time.monotonic()

    def write(self) -> None:
        """Log the one line."""
        ended = time.monotonic()
        usage = response_pb2.Usage() if self.output is None else self.output.usage
        log.info(
            "generation ended",
            extra={
                "request_id": self._request_id,
                "traceparent": self._traceparent,
                "outcome": self.outcome,
                "input_tokens": usage.input_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": usage.output_tokens,
                "queued_ms": _milliseconds(self._arrived, self._started or ended),
                "prefill_ms": _milliseconds(self._started or ended, self._first_step or ended),
                "decode_ms": _milliseconds(self._first_step or ended, ended),
            },
        )


def _milliseconds(start: float, end: float) -> int:
    return round((end - start) * 1000)


def _cannot_resume() -> ApiError:
    message = "The inference worker failed, and no other one can go on with this output. Try again."
    return ApiError(ErrorReason.ERROR_REASON_ENGINE_FAILED, message)


def _internal() -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INTERNAL, "The server had an error processing the request.")
