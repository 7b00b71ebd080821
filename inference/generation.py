"""Generations from request to last event: what ``Generate`` and ``Attach`` have in common."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from antiphon.errors import ApiError, reason_name
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.admission import Admission
from inference.engines.base import Engine, EngineError, Step
from inference.output import Delta, Output, OutputEvent
from inference.params import TokenLimit, check_request, sampling_params, token_limit
from inference.plan import Plan, cannot_resume
from inference.prompt import Prompt, PromptBuilder
from inference.report import Report
from inference.summary import summary_request
from inference.tools.choice import choose, saying_nothing
from inference.tools.rules import CallRules, call_rules

log = logging.getLogger(__name__)

_S = TypeVar("_S")
_T = TypeVar("_T")

GenerationEvent = pb.Accepted | pb.Started | OutputEvent

_PROMPT_THREADS = 2
"""Rendering holds the interpreter's lock most of the time: more threads would only slow the token path down."""

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
        report = Report(request)
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

    async def _run(self, request: pb.GenerateRequest, report: Report) -> AsyncGenerator[GenerationEvent, None]:
        is_resumed = bool(request.resume_token_ids)
        with self.admission.enter(request.service_tier, request.owner, is_resumed=is_resumed) as place:
            plan = await self._prepare(request)
            output = report.output = plan.new_output()
            end = output.resumed()
            if is_resumed and not end:
                await self._resume(plan, output)
            yield pb.Accepted(input_tokens=plan.prompt.input_tokens)
            await place.turn()
            report.started()
            yield pb.Started()
            if end:
                for event in end:
                    yield event
                return
            async with aclosing(self._generate(plan, output, report)) as events:
                async for event in events:
                    yield event

    async def _prepare(self, request: pb.GenerateRequest) -> Plan:
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
        plan = self._plan(request, prompt, limit, call_rules(request))
        await self._in_thread(plan.constrain, plan.rules)
        return plan

    async def _generate(self, plan: Plan, output: Output, report: Report) -> AsyncGenerator[OutputEvent, None]:
        """Thoughts, their summary, the answer: in one run of the engine, or in one each if they must be kept apart.

        A grammar holds for the answer alone. A model that may think and does not has its first tokens taken back, and
        begins again under the grammar.
        """
        if plan.has_pause and output.answer_token_ids is None:
            async with aclosing(self._run_engine(plan, output, report)) as steps:
                async for events in steps:
                    if plan.grammar is not None and output.has_answer and not output.reasoning:
                        output.restart(plan.new_answer_parser())
                        break
                    for event in events:
                        yield event
        if output.is_finished:
            return
        if output.is_paused and plan.request.reasoning.summary and output.reasoning:
            async with aclosing(self._summarize(plan.request, output.reasoning)) as summary:
                async for event in summary:
                    yield event
        if plan.has_choice and not output.answer_token_ids:
            await self._choose(plan, output)
        async with aclosing(self._run_engine(plan, output, report, grammar=plan.grammar)) as steps:
            async for events in steps:
                for event in events:
                    yield event

    async def _run_engine(
        self, plan: Plan, output: Output, report: Report | None = None, *, grammar: str | None = None
    ) -> AsyncGenerator[list[OutputEvent], None]:
        """Generate after what ``output`` has, until it is finished or pauses: what each step adds."""
        max_tokens = plan.limit.max_tokens - len(output.token_ids)
        params = sampling_params(
            plan.request, max_tokens=max_tokens, min_p=self._min_p, end_bias=self._end_bias, grammar=grammar
        )
        if grammar is not None:
            params = replace(params, marker_token_ids=tuple(self._prompts.spelled(plan.marks)))
        if plan.rules.is_required and not self._prompts.has_native_tools:
            params = replace(params, temperature=0.0)  # what an untrained model knows of calls drowns in its noise
        prompt = self._prompts.continued(plan.prompt, output.token_ids)
        steps = self._engine.generate(plan.request.request_id, prompt, params)
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
        plan = await self._summary_plan(request, reasoning)
        if plan is None:
            log.warning("no room for a summary", extra={"request_id": request.request_id})
            return
        output = Output(
            tokenizer=self._engine.tokenizer,
            stop=(),
            parser=plan.new_answer_parser(),
            input_tokens=plan.prompt.input_tokens,
            limit=plan.limit,
            spelled=self._prompts.spelled(plan.marks),
        )
        is_text = False  # more thoughts are no summary
        async with aclosing(self._run_engine(plan, output)) as steps:
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

    async def _summary_plan(self, request: pb.GenerateRequest, reasoning: str) -> Plan | None:
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
            return self._plan(asked, prompt, limit, CallRules())
        return None

    async def _choose(self, plan: Plan, output: Output) -> None:
        """Narrow the rules of ``plan`` to an answer or a first call."""
        heads = await self._in_thread(self._prompts.call_heads, plan.rules.names)
        room = self._engine.info.context_window - plan.prompt.input_tokens - len(output.token_ids)
        if room <= max(map(len, heads.values())) + _ROOM_FOR_NOTHING:
            rules = plan.rules if plan.rules.is_required else plan.rules.answering()
        else:
            blank = await self._in_thread(self._prompts.build, saying_nothing(plan.request))
            choice = await choose(
                self._engine,
                heads,
                prompt=lambda beginning: self._prompts.continued(plan.prompt, [*output.token_ids, *beginning]),
                blank=lambda beginning: self._prompts.continued(blank, beginning),
                request_id=plan.request.request_id,
                cache_salt=plan.request.cache_salt,
            )
            output.feed(Step(cached_tokens=choice.cached_tokens))
            is_call = plan.rules.is_required or choice.is_call
            rules = plan.rules.calling(choice.best) if is_call else plan.rules.answering()
        await self._in_thread(plan.constrain, rules)

    async def _resume(self, plan: Plan, output: Output) -> None:
        """Hold the answer to what may follow the tokens of ``output``, if these came under a grammar already.

        Raises:
            ApiError: ENGINE_FAILED, they cannot be gone on after: those after images, which are tokenized anew, those
                that the grammar cannot be followed through in time, and those that it does not generate.
        """
        if plan.prompt.mixed is not None:
            raise cannot_resume()
        if plan.grammar is None or not output.answer_token_ids:
            return
        if plan.has_choice and output.has_answer:  # it was made: the output tells how
            first, rules = output.first_call, plan.rules
            await self._in_thread(plan.constrain, rules.calling(first) if first else rules.answering())
        await self._in_thread(plan.go_on_after, output.answer_token_ids)

    def _plan(self, request: pb.GenerateRequest, prompt: Prompt, limit: TokenLimit, rules: CallRules) -> Plan:
        return Plan(request, prompt, limit, rules, engine=self._engine, prompts=self._prompts)

    async def _in_thread(self, function: Callable[[_S], _T], argument: _S) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, argument)


def _internal() -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INTERNAL, "The server had an error processing the request.")
