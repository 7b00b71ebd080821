"""Generations from request to last event: what ``Generate`` and ``Attach`` have in common."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from antiphon.errors import ApiError, reason_name
from antiphon.inference.v1 import inference_pb2 as pb
from antiphon.responses.v1 import response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference.admission import Admission
from inference.engines.base import Engine, EngineDead, EngineError
from inference.output import Output, OutputEvent
from inference.params import TokenLimit, check_request, sampling_params, token_limit
from inference.parsing.plain import PlainParser
from inference.prompt import PromptBuilder

log = logging.getLogger(__name__)

GenerationEvent = pb.Accepted | pb.Started | OutputEvent

_PROMPT_THREADS = 2
"""Rendering holds the interpreter's lock most of the time: more threads would only slow the token path down."""


class Generations:
    """Runs generations on one engine. Everything that can fail in one ends as an ApiError, logged once."""

    def __init__(self, *, engine: Engine, prompts: PromptBuilder, model: pb.ModelInfo, admission: Admission) -> None:
        self.model = model
        self.admission = admission
        self.engine_died = asyncio.Event()
        """The engine is beyond repair."""
        self._engine = engine
        self._prompts = prompts
        self._threads = ThreadPoolExecutor(_PROMPT_THREADS, thread_name_prefix="prompt")

    async def run(self, request: pb.GenerateRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Accepted, Started, the output, Finished. Closing it, or cancelling the task that runs it, aborts.

        Raises:
            ApiError: before Accepted: the request is refused; after it: the generation failed.
        """
        report = _Report(request.request_id)
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
            log.error("engine failed", extra={"request_id": request.request_id, "error": str(error)})
            if isinstance(error, EngineDead):
                self.engine_died.set()
            raise ApiError(ErrorReason.ERROR_REASON_ENGINE_FAILED, "The model failed to generate.") from error
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
        check_request(request, self._engine.info, self.model.id)
        return len(await self._build_prompt(request))

    def close(self) -> None:
        """Let go of the threads; requests still in them are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, request: pb.GenerateRequest, report: "_Report") -> AsyncGenerator[GenerationEvent, None]:
        with self.admission.enter(request.service_tier) as place:
            info = self._engine.info
            check_request(request, info, self.model.id)
            prompt = await self._build_prompt(request)
            limit = token_limit(request, input_tokens=len(prompt), context_window=info.context_window)
            output = report.output = self._output(request, input_tokens=len(prompt), limit=limit)
            yield pb.Accepted(input_tokens=len(prompt))
            await place.turn()
            report.started()
            yield pb.Started()
            if end := output.resumed():
                for event in end:
                    yield event
                return
            params = sampling_params(request, max_tokens=limit.max_tokens - len(request.resume_token_ids))
            steps = self._engine.generate(request.request_id, [*prompt, *request.resume_token_ids], params)
            async with aclosing(steps):  # the one place where an engine request is aborted
                async for step in steps:
                    report.stepped()
                    for event in output.feed(step):
                        yield event
                    if output.is_finished:
                        return
            raise EngineError("the engine ended a generation without a reason")

    def _output(self, request: pb.GenerateRequest, *, input_tokens: int, limit: TokenLimit) -> Output:
        try:
            return Output(
                tokenizer=self._engine.tokenizer,
                stop=request.stop,
                parser=PlainParser(),
                input_tokens=input_tokens,
                limit=limit,
                resume_token_ids=request.resume_token_ids,
            )
        except KeyError:
            raise ApiError(
                ErrorReason.ERROR_REASON_INVALID_VALUE, "The model has no such token.", "resume_token_ids"
            ) from None

    async def _build_prompt(self, request: pb.GenerateRequest) -> list[int]:
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(self._threads, self._prompts.build, request)
        return prompt.token_ids


class _Report:
    """What the log says about one request when it ends: sizes and times, never prompt or output."""

    def __init__(self, request_id: str) -> None:
        self.outcome = "finished"
        self.output: Output | None = None
        self._request_id = request_id
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


def _internal() -> ApiError:
    return ApiError(ErrorReason.ERROR_REASON_INTERNAL, "The server had an error processing the request.")
