"""Results of TensorRT-LLM, which grow and may shrink, as steps."""

from dataclasses import dataclass, field

import pytest

from inference.engines.base import EngineError, EngineStop, SamplingParams, Step, TokenLogprob
from inference.engines.trtllm.steps import UNKNOWN_LOGPROB, StepReader

EOS, OTHER_EOS = 900, 901


@dataclass
class Value:
    logprob: float


@dataclass
class Output:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Value] | float] = field(default_factory=list)
    finish_reason: str | None = None


class Result:
    """One object that grows."""

    def __init__(self) -> None:
        self.output = Output()
        self.outputs = [self.output]
        self.cached_tokens = 3
        self.prompt_token_ids = [0] * 5

    @property
    def finished(self) -> bool:
        return self.output.finish_reason is not None

    async def __anext__(self) -> object:
        raise AssertionError("a reader does not wait")

    def abort(self) -> None:
        raise AssertionError("a reader does not abort")


def reader(top_logprobs: int | None = None) -> StepReader:
    return StepReader(SamplingParams(max_tokens=4, top_logprobs=top_logprobs), {EOS, OTHER_EOS})


def test_each_step_has_what_is_new() -> None:
    steps, result = reader(), Result()
    result.output.token_ids = [1, 2]
    assert steps.read(result) == Step((1, 2), cached_tokens=3)
    result.output.token_ids += [3]
    assert steps.read(result) == Step((3,), cached_tokens=3)
    result.output.token_ids += [4]
    result.output.finish_reason = "length"
    assert steps.read(result) == Step((4,), stop=EngineStop.MAX_TOKENS, cached_tokens=3)


def test_steps_say_how_many_tokens_a_prompt_has_that_could_not_be_told_before() -> None:
    steps, result = StepReader(SamplingParams(max_tokens=4), {EOS}, prompt_tokens=5), Result()
    result.output.token_ids = [1]
    assert steps.read(result) == Step((1,), cached_tokens=3, prompt_tokens=5)


@pytest.mark.parametrize("ending", [[], [EOS], [OTHER_EOS]])
def test_the_token_that_ended_the_turn_is_no_output_wherever_the_library_leaves_it(ending: list[int]) -> None:
    steps, result = reader(), Result()
    result.output.token_ids = [1]
    steps.read(result)
    result.output.token_ids = [1, 2, *ending]
    result.output.finish_reason = "stop"
    assert steps.read(result) == Step((2,), stop=EngineStop.END_OF_TURN, cached_tokens=3)


def test_a_turn_that_ends_with_nothing_new_has_an_empty_last_step() -> None:
    steps, result = reader(), Result()
    result.output.token_ids = [1, 2]
    steps.read(result)
    result.output.token_ids = [1]  # shortened by a stop word
    result.output.finish_reason = "stop"
    assert steps.read(result) == Step((), stop=EngineStop.END_OF_TURN, cached_tokens=3)


@pytest.mark.parametrize("reason", ["timeout", "cancelled", "not_finished", "new in a later version"])
def test_other_ends_are_failures(reason: str) -> None:
    result = Result()
    result.output.finish_reason = reason
    with pytest.raises(EngineError, match=reason):
        reader().read(result)


def test_fewer_tokens_than_asked_for_are_no_length() -> None:
    result = Result()
    result.output.token_ids = [1]
    result.output.finish_reason = "length"
    with pytest.raises(EngineError, match="1 of 4"):
        reader().read(result)


def test_log_probabilities_are_sorted_and_cut_to_what_was_asked_for() -> None:
    result = Result()
    result.output.token_ids = [7]
    result.output.logprobs = [{7: Value(-2.5), 8: Value(-0.5), 9: Value(-1.5)}]
    assert reader(top_logprobs=2).read(result).logprobs == (TokenLogprob(7, -2.5, ((8, -0.5), (9, -1.5))),)


def test_a_token_that_is_missing_among_its_candidates_has_an_unknown_probability() -> None:
    result = Result()
    result.output.token_ids = [7]
    result.output.logprobs = [{8: Value(-0.5)}]
    assert reader(top_logprobs=1).read(result).logprobs == (TokenLogprob(7, UNKNOWN_LOGPROB, ((8, -0.5),)),)


def test_bare_numbers_do_where_no_candidates_were_asked_for() -> None:
    result = Result()
    result.output.token_ids = [7]
    result.output.logprobs = [-0.5]
    assert reader(top_logprobs=0).read(result).logprobs == (TokenLogprob(7, -0.5, ()),)
    with pytest.raises(EngineError, match="no log probabilities"):
        reader(top_logprobs=1).read(result)


def test_tokens_without_log_probabilities_are_a_failure() -> None:
    result = Result()
    result.output.token_ids = [7, 8]
    result.output.logprobs = [{7: Value(-0.5)}]
    with pytest.raises(EngineError, match="without their log probabilities"):
        reader(top_logprobs=1).read(result)
