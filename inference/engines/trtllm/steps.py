"""What a result of TensorRT-LLM has gained since it was last looked at, as a step. Pure.

A result is one object that grows: ``async for`` yields it again and again. Its ``token_ids`` may end with the token
that ended the turn, or not, and may get shorter by it; its own ``*_diff`` members are not to be relied on.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from inference.engines.base import EngineError, EngineStop, SamplingParams, Step, TokenLogprob

UNKNOWN_LOGPROB = -9999.0
"""What OpenAI's API says for it."""


class Logprob(Protocol):
    """``tensorrt_llm.executor.result.Logprob``."""

    @property
    def logprob(self) -> float: ...


class Completion(Protocol):
    """``tensorrt_llm.executor.result.CompletionOutput``."""

    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[Mapping[int, Logprob] | float] | None: ...
    @property
    def finish_reason(self) -> str | None: ...


class Result(Protocol):
    """``tensorrt_llm.executor.result.GenerationResult``.

    After an exception it never ends: nothing may be awaited of it again.
    """

    @property
    def outputs(self) -> Sequence[Completion]: ...
    @property
    def prompt_token_ids(self) -> Sequence[int]:
        """Those of images among them."""
        ...

    @property
    def finished(self) -> bool: ...
    @property
    def cached_tokens(self) -> int:
        """0 until the first response."""
        ...

    async def __anext__(self) -> object:
        """Itself, after one more response."""
        ...

    def abort(self) -> None:
        """Ask for the end, which comes as one more response."""
        ...


class StepReader:
    """Reads one result, after each of its responses.

    Args:
        end_token_ids: That end a turn.
        prompt_tokens: As ``Step`` has it.
    """

    def __init__(
        self, params: SamplingParams, end_token_ids: Collection[int], *, prompt_tokens: int | None = None
    ) -> None:
        self._params = params
        self._prompt_tokens = prompt_tokens
        self._end_token_ids = end_token_ids
        self._seen = 0

    def read(self, result: Result) -> Step:
        """What is new; the last one has ``stop`` set.

        Raises:
            EngineError: the generation has ended in a way that is no end of an answer.
        """
        output = result.outputs[0]
        token_ids = list(output.token_ids[self._seen :])
        stop = self._stop(output.finish_reason, is_finished=result.finished)
        if stop is EngineStop.END_OF_TURN and token_ids and token_ids[-1] in self._end_token_ids:
            token_ids.pop()
        logprobs = self._logprobs(token_ids, output.logprobs)
        self._seen += len(token_ids)
        if stop is EngineStop.MAX_TOKENS and self._seen != self._params.max_tokens:
            raise EngineError(
                f"TensorRT-LLM ended at {self._seen} of {self._params.max_tokens} tokens:"
                " does its context window differ?"
            )
        return Step(tuple(token_ids), logprobs, stop, result.cached_tokens, self._prompt_tokens)

    def _stop(self, finish_reason: str | None, *, is_finished: bool) -> EngineStop | None:
        match finish_reason:
            case None if not is_finished:
                return None
            case "stop":
                return EngineStop.END_OF_TURN
            case "length":
                return EngineStop.MAX_TOKENS
            case _:
                raise EngineError(f"TensorRT-LLM ended a generation: {finish_reason}")

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Logprob] | float] | None
    ) -> tuple[TokenLogprob, ...]:
        count = self._params.top_logprobs
        if count is None:
            return ()
        new = (logprobs or ())[self._seen : self._seen + len(token_ids)]
        if len(new) < len(token_ids):
            raise EngineError("TensorRT-LLM gave tokens without their log probabilities")
        return tuple(_token_logprob(token_id, given, count) for token_id, given in zip(token_ids, new, strict=True))


def _token_logprob(token_id: int, given: Mapping[int, Logprob] | float, count: int) -> TokenLogprob:
    """The sampled token may be missing among the likeliest ones, and is one more if it is not one of them."""
    if not isinstance(given, Mapping):
        if count:
            raise EngineError("TensorRT-LLM gave no log probabilities of other tokens")
        return TokenLogprob(token_id, given, ())
    values = {id_: logprob.logprob for id_, logprob in given.items()}
    top = sorted(values.items(), key=lambda candidate: -candidate[1])[:count]
    return TokenLogprob(token_id, values.get(token_id, UNKNOWN_LOGPROB), tuple(top))
