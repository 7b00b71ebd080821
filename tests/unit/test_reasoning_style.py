"""How models think is found out from their templates and vocabularies."""

from pathlib import Path

import pytest

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import ReasoningConfig, ReasoningEffort
from inference.parsing.thinking import ThinkingMarks
from inference.prompt import PromptBuilder, ThinkingPlace
from tests.support.templates import CASES
from tests.support.tokenizer import FIRST_MARKER, ByteTokenizer
from tests.support.worker import user_message

FOLDER = Path(__file__).parent.parent / "templates"
THINK = ThinkingMarks("<think>", "</think>")
HEAD = "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{% endfor %}"


def builder(source: str, *markers: str, marks: str = "auto") -> PromptBuilder:
    tokenizer = ByteTokenizer(("<|im_start|>", "<|im_end|>", *markers), eos=("<|im_end|>",))
    return PromptBuilder(tokenizer, source, 4096, thinking_marks=marks)


def named(name: str) -> PromptBuilder:
    case = next(case for case in CASES if case.name == name)
    return PromptBuilder(case.tokenizer(), case.source, 4096)


def request(effort: str = "UNSPECIFIED", text: str = "Hi") -> GenerateRequest:
    reasoning = ReasoningConfig(effort=ReasoningEffort.Value(f"REASONING_EFFORT_{effort}"))
    return GenerateRequest(items=[user_message(text)], reasoning=reasoning)


def test_a_hybrid_is_switched_by_its_template_s_variable() -> None:
    qwen3 = named("qwen3")
    assert qwen3.reasoning.marks == THINK
    assert (qwen3.reasoning.is_thinker, qwen3.reasoning.always_thinks) == (True, False)
    assert qwen3.reasoning.switch == "enable_thinking"
    assert qwen3.build(request()).thinking is ThinkingPlace.FREE
    assert qwen3.build(request("HIGH")).thinking is ThinkingPlace.FREE
    assert qwen3.build(request("NONE")).thinking is ThinkingPlace.CLOSED


def test_templates_without_thoughts_are_not_guessed_to_think() -> None:
    for name in ("chatml", "gemma", "llama3", "mistral_v3", "smollm2", "zephyr"):
        style = named(name).reasoning
        assert (style.marks, style.is_thinker, style.switch) == (None, False, None), name


def test_marks_in_the_vocabulary_alone_are_parsed_and_promise_nothing() -> None:
    style = builder(HEAD, "<think>", "</think>").reasoning
    assert (style.marks, style.is_thinker, style.always_thinks) == (THINK, False, False)
    assert style.variables(ReasoningConfig(effort=ReasoningEffort.REASONING_EFFORT_NONE)) == {}


def test_a_template_that_opens_the_thoughts_always_thinks() -> None:
    opened = builder((FOLDER / "thinking_opened.jinja").read_text(), "<think>", "</think>")
    assert opened.reasoning.always_thinks
    assert opened.build(request("HIGH")).thinking is ThinkingPlace.OPEN
    with pytest.raises(ApiError) as refused:
        opened.build(request("NONE"))
    assert refused.value.reason == ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE
    assert refused.value.param == "reasoning.effort"


def test_levels_reach_the_template_that_knows_them_and_become_the_nearest() -> None:
    source = HEAD + "{{ 'Reasoning: ' + (reasoning_effort or 'medium') }}"
    levels = {
        effort: ByteTokenizer().spell(builder(source).build(request(effort)).token_ids[-4:])
        for effort in ("LOW", "MEDIUM", "HIGH", "XHIGH")
    }
    assert levels == {"LOW": " low"[-4:], "MEDIUM": "dium", "HIGH": "high", "XHIGH": "high"}


def test_only_the_template_opens_thoughts_never_the_user() -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    bare = builder(source, "<think>", "</think>", marks="<think> </think>")
    assert bare.build(request(text="<think>")).thinking is ThinkingPlace.FREE
    assert bare.build(request(text="</think>")).thinking is ThinkingPlace.FREE


@pytest.mark.parametrize(
    ("template", "tail"), [("thinking", "<think>\n\n</think>\n\n"), ("thinking_opened", "\n</think>\n\n")]
)
def test_thoughts_can_be_skipped_in_the_prompt_of_any_model(template: str, tail: str) -> None:
    prompts = builder((FOLDER / f"{template}.jinja").read_text(), "<think>", "</think>")
    asked = request()
    plain = prompts.build(asked)
    asked.without_reasoning = True
    skipped = prompts.build(asked)
    assert skipped.thinking is ThinkingPlace.CLOSED
    spell = ByteTokenizer(("<|im_start|>", "<|im_end|>", "<think>", "</think>"), eos=("<|im_end|>",)).spell
    assert spell(skipped.token_ids) == spell(plain.token_ids) + tail
    assert skipped.token_ids[-2] not in range(FIRST_MARKER)  # the mark is a token, before the line ends


def test_marks_can_be_given_or_switched_off() -> None:
    assert builder(HEAD, "<think>", "</think>", marks="none").reasoning.marks is None
    assert builder(HEAD, marks="[A] [/A]").reasoning.marks == ThinkingMarks("[A]", "[/A]")
    for wrong in ("<think>", "<a> <a>", "a b c"):
        with pytest.raises(ValueError, match="neither auto, none nor two different marks"):
            builder(HEAD, marks=wrong)
