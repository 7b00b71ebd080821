"""How a model thinks, found out from its chat template and vocabulary, and what a request's effort asks of it."""

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ReasoningConfig, ReasoningEffort
from inference.parsing.harmony import CHANNEL, ENDS, MESSAGE, START
from inference.parsing.thinking import ThinkingMarks
from inference.traced import TracedStr

AUTO: Final = "auto"
NONE: Final = "none"

_KNOWN_MARKS: Final = (
    ThinkingMarks("<think>", "</think>"),  # DeepSeek, Qwen, QwQ, GLM, MiniMax, Kimi, SmolLM3, Granite, Nemotron
    ThinkingMarks("[THINK]", "[/THINK]"),  # Magistral
    ThinkingMarks("<seed:think>", "</seed:think>"),  # Seed-OSS
    ThinkingMarks("◁think▷", "◁/think▷"),  # Kimi-VL
    ThinkingMarks(f"{CHANNEL}analysis{MESSAGE}", ENDS[0], (START, CHANNEL, *ENDS[1:])),  # gpt-oss
)
_HARMONY_END: Final = "<|end|>"
"""The end of any message, in other models' templates too."""
_SWITCHES: Final = ("enable_thinking", "thinking")
"""Variables by which templates turn thinking on and off: Qwen3's and DeepSeek-V3.1's."""
_EFFORT: Final = "reasoning_effort"

_LEVELS: Final = {
    ReasoningEffort.REASONING_EFFORT_LOW: "low",
    ReasoningEffort.REASONING_EFFORT_MEDIUM: "medium",
    ReasoningEffort.REASONING_EFFORT_HIGH: "high",
    ReasoningEffort.REASONING_EFFORT_XHIGH: "xhigh",
}


class ReasoningStyle(NamedTuple):
    """How one model thinks."""

    marks: ThinkingMarks | None = None
    """What is around its thoughts; None if it has none."""
    is_thinker: bool = False
    """Its template speaks of the marks; otherwise only the vocabulary knows them, and the model may never think."""
    always_thinks: bool = False
    """Its prompts end with the start mark, and nothing turns that off."""
    switch: str | None = None
    """The template's variable that turns thinking on and off."""
    efforts: frozenset[str] = frozenset()
    """The levels that the template's ``reasoning_effort`` knows; empty if it knows no such variable."""

    def variables(self, reasoning: ReasoningConfig) -> dict[str, object]:
        """What to give the chat template so that the model thinks as ``reasoning`` says.

        A level that the template does not know becomes the nearest one that it knows; without any it only turns
        thinking on. A model that thinks by itself, without a mark in its prompt or a switch, cannot be told not to;
        one that knows levels then thinks at the lowest.

        Raises:
            ApiError: UNSUPPORTED_VALUE: not to think, of a model that always does.
        """
        effort = reasoning.effort
        if effort == ReasoningEffort.REASONING_EFFORT_UNSPECIFIED:
            return {}
        if effort == ReasoningEffort.REASONING_EFFORT_NONE:
            if self.always_thinks:
                raise ApiError(
                    ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE,
                    "Unsupported value: 'reasoning.effort' cannot be 'none', as this model always reasons.",
                    "reasoning.effort",
                )
            if self.switch is None and self.efforts:
                return {_EFFORT: TracedStr.literal("low")}
            return {self.switch: False} if self.switch else {}
        variables: dict[str, object] = {self.switch: True} if self.switch else {}
        if self.efforts:
            level = _LEVELS[effort]
            variables[_EFFORT] = TracedStr.literal(level if level in self.efforts else "high")
        return variables


def find_style(
    source: str, markers: Mapping[str, int], render: Callable[[Mapping[str, object]], str], marks: str = AUTO
) -> ReasoningStyle:
    """The style of a model.

    Args:
        source: Its chat template.
        markers: Its vocabulary's.
        render: Renders a prompt with the given variables. Raises ApiError if the template refuses them.
        marks: ``auto``, ``none``, or the two marks with a space between them.

    Raises:
        ValueError: ``marks`` is none of these.
    """
    found, is_thinker = _find_marks(source, markers, marks)
    switch = next((name for name in _SWITCHES if _matters(name, False, True, source, render)), None)
    efforts: frozenset[str] = frozenset()
    if _matters(_EFFORT, TracedStr.literal("low"), TracedStr.literal("high"), source, render):
        efforts = frozenset({"low", "medium", "high"} | ({"xhigh"} if "xhigh" in source else set()))
    if found is None:
        return ReasoningStyle(efforts=efforts)
    always_thinks = switch is None and render({}).rstrip().endswith(found.start)
    return ReasoningStyle(found, is_thinker, always_thinks, switch, efforts)


def _find_marks(source: str, markers: Mapping[str, int], marks: str) -> tuple[ThinkingMarks | None, bool]:
    if marks == NONE:
        return None, False
    if marks != AUTO:
        match marks.split():
            case [start, end] if start != end:
                return ThinkingMarks(start, end), True
            case _:
                raise ValueError(f"{marks!r} is neither auto, none nor two different marks with a space between them")
    for known in _KNOWN_MARKS:
        if known.end in source and (known.end != _HARMONY_END or known.start in source):
            return known, True
    for known in _KNOWN_MARKS:
        if known.start in source:
            return known, True
    for known in _KNOWN_MARKS:
        if known.start in markers and known.end in markers:
            return known, False
    return None, False


def _matters(name: str, one: object, other: object, source: str, render: Callable[[Mapping[str, object]], str]) -> bool:
    """Whether the template renders the values of a variable differently."""
    if not re.search(rf"\b{name}\b", source):
        return False
    try:
        return render({name: one}) != render({name: other})
    except ApiError:  # it refuses one of them: a variable that cannot be set freely is none for us
        return False
