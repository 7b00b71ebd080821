"""Results as they grow: one mutable object, fed through a queue by the engine's thread."""

import asyncio
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ..sampling_params import SamplingParams
from .utils import RequestError


@dataclass(slots=True)
class Logprob:
    """Of one token."""

    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    """What has been generated so far."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    generation_logits: Any = None
    additional_context_outputs: Any = None
    additional_generation_outputs: Any = None
    disaggregated_params: Any = None
    request_perf_metrics: Any = None


@dataclass(frozen=True, slots=True)
class Response:
    """What the engine's thread sends: new tokens, and at last the reason of the end."""

    token_ids: Sequence[int] = ()
    logprobs: Sequence[dict[int, Logprob]] = ()
    finish_reason: str | None = None
    is_stop_word: bool = False
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """One request has failed, or, if it is fatal, all have."""

    message: str
    is_fatal: bool = False


class GenerationResultBase:
    """A result. Its queue belongs to the event loop that runs when it is made; without one nothing can be awaited."""

    def __init__(self, sampling_params: SamplingParams) -> None:
        self.sampling_params = sampling_params
        self.cached_tokens = 0
        self.decoding_iter = 0
        self._done = False
        self._output = CompletionOutput(0)
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._waiting: queue.SimpleQueue[Response | ErrorResponse] = queue.SimpleQueue()
        self._arrived = asyncio.Event()

    @property
    def outputs(self) -> list[CompletionOutput]:
        return [self._output]

    def put(self, response: Response | ErrorResponse) -> None:
        """From the engine's thread."""
        assert self._loop is not None
        self._waiting.put(response)
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def _get(self) -> Response | ErrorResponse:
        assert self._loop is not None, "The asyncio event loop was not present during initialization"
        while self._waiting.empty():
            self._arrived.clear()
            if self._waiting.empty():
                await self._arrived.wait()
        return self._waiting.get_nowait()

    def _handle_response(self, response: Response | ErrorResponse) -> None:
        if isinstance(response, ErrorResponse):  # and nothing is done: who awaits another one waits for ever
            raise RuntimeError(response.message) if response.is_fatal else RequestError(response.message)
        output = self._output
        self.cached_tokens = response.cached_tokens
        output.token_ids.extend(response.token_ids)
        output.logprobs.extend(response.logprobs)
        self._done = response.finish_reason is not None
        output.finish_reason = response.finish_reason
        if response.is_stop_word and not self.sampling_params.include_stop_str_in_output:
            output.stop_reason = output.token_ids[-1]
            output.token_ids = output.token_ids[:-1]


class GenerationResult(GenerationResultBase):
    """A result that can be waited for, and aborted."""

    def __init__(
        self,
        sampling_params: SamplingParams,
        request_id: int,
        abort_request: Callable[[int], None],
        prompt_token_ids: list[int],
    ) -> None:
        super().__init__(sampling_params)
        self._prompt_token_ids = prompt_token_ids
        self._request_id = request_id
        self._abort_request = abort_request

    @property
    def request_id(self) -> int:
        return self._request_id

    @property
    def prompt_token_ids(self) -> list[int]:
        return self._prompt_token_ids

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        self._abort_request(self._request_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        if self._done:
            raise StopAsyncIteration
        self._handle_response(await self._get())
        return self
