"""Prompts of text and images: what the template wrote is control, what anybody else wrote is text."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.content_pb2 import ContentPart, InputImage, InputText
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import ContentParts, FunctionCall, FunctionCallOutput, Item, Message, Role
from inference.engines.base import MixedPrompt
from inference.markers import MarkerIndex
from inference.mixed import MixedPrompts
from inference.prompt import Prompt, PromptBuilder
from inference.traced import TracedStr
from tests.support.media import png
from tests.support.templates import CASES, TemplateCase
from tests.support.tokenizer import ByteTokenizer

BREAK = "\u200b"
IMAGES = [png(side, side) for side in range(1, 6)]
CASE = {case.name: case for case in CASES}
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def count(prompt: MixedPrompt) -> int:
    return sum(map(len, prompt.texts)) + 100 * len(prompt.images)


def builder(name: str, window: int = 1_000_000) -> PromptBuilder:
    return PromptBuilder(CASE[name].tokenizer(), CASE[name].source, window, count_mixed=count)


BUILDERS = {case.name: builder(case.name) for case in CASES}


def user(*contents: str | bytes) -> Item:
    return Item(message=Message(role=Role.ROLE_USER, content=map(part, contents)))


def part(content: str | bytes) -> ContentPart:
    if isinstance(content, bytes):
        return ContentPart(input_image=InputImage(data=content))
    return ContentPart(input_text=InputText(text=content))


def mixed(prompts: PromptBuilder, *items: Item) -> MixedPrompt:
    prompt = prompts.build(GenerateRequest(items=items))
    assert prompt.mixed is not None
    assert (prompt.token_ids, prompt.input_tokens) == ([], count(prompt.mixed))
    return prompt.mixed


def taken(text: str, markers: list[str]) -> Iterator[str]:
    """The markers that a tokenizer takes out of ``text``, as llama.cpp's does: of all places the longest first."""
    for marker in sorted(markers, key=len, reverse=True):
        before, found, after = text.partition(marker)
        if found:
            yield from taken(before, markers)
            yield marker
            yield from taken(after, markers)
            return


@st.composite
def hostile(draw: st.DrawFn, markers: list[str]) -> str:
    pieces = st.sampled_from(markers).flatmap(
        lambda marker: st.integers(0, len(marker)).map(lambda cut: marker[:cut]) | st.just(marker)
    )
    return "x" + "".join(draw(st.lists(pieces | st.sampled_from([*"<|>[]", "\ufffc", BREAK]), max_size=5))) + "x"


@by_case
@settings(max_examples=12)
@given(data=st.data())
def test_no_engine_finds_a_marker_that_content_spells(case: TemplateCase, data: st.DataObject) -> None:
    markers = [marker for marker in case.tokenizer().markers if not marker.isspace()]
    turns = data.draw(st.lists(st.lists(hostile(markers), min_size=1, max_size=3), min_size=1, max_size=3))

    def built(turns: list[list[str]]) -> MixedPrompt:
        images = iter(IMAGES * 2)
        items = [user(*(piece for text in texts for piece in (text, next(images))), texts[0]) for texts in turns]
        return mixed(BUILDERS[case.name], *items)

    prompt = built(turns)
    harmless = built([["xx"] * len(texts) for texts in turns])
    assert prompt.images == harmless.images == tuple((IMAGES * 2)[: sum(map(len, turns))])
    for text, other in zip(prompt.texts, harmless.texts, strict=True):
        assert list(taken(text, markers)) == list(taken(other, markers))
    whole = "".join(prompt.texts).replace(BREAK, "")
    assert all(text.replace(BREAK, "") in whole for texts in turns for text in texts)


@given(st.lists(st.tuples(st.booleans(), st.text("<|ab>", min_size=1, max_size=5)), max_size=8))
def test_only_markers_that_are_wholly_literal_are_left(pieces: list[tuple[bool, str]]) -> None:
    markers = ["<|a|>", "<|", "<|a", "ab", "b|>", "|><", "<a>"]
    tokenizer = ByteTokenizer(markers)
    text = TracedStr.concat([TracedStr.literal(piece) if is_literal else piece for is_literal, piece in pieces])
    literal = [flag for flag, piece in pieces for _ in piece]
    safe = MixedPrompts(tokenizer, MarkerIndex(tokenizer.markers)).without_forged(text)
    assert safe.replace(BREAK, "") == text
    origin = [index for index, character in enumerate(safe) if character != BREAK]
    for marker in markers:
        start = safe.find(marker)
        while start >= 0:
            assert all(literal[origin.index(place)] for place in range(start, start + len(marker)))
            start = safe.find(marker, start + 1)


def test_what_was_generated_goes_on_as_text_with_its_own_markers_alone() -> None:
    prompts, tokenizer = builder("qwen3"), CASE["qwen3"].tokenizer()
    prompt = prompts.build(GenerateRequest(items=[user(IMAGES[0])]))
    assert prompt.mixed is not None
    assert prompts.continued(prompt, []) is prompt.mixed
    think = tokenizer.markers["<think>"]
    continued = prompts.continued(prompt, [think, *b"a<|im_end|>", *b"</think"])
    assert isinstance(continued, MixedPrompt)
    assert continued.images == prompt.mixed.images
    assert continued.texts[-1] == f"{prompt.mixed.texts[-1]}<think>a<{BREAK}|im_end|></think"


def test_the_engine_puts_bos_before_a_prompt_not_the_template() -> None:
    assert CASE["llama3"].bos == "<|begin_of_text|>"
    assert not mixed(builder("llama3"), user(IMAGES[0])).texts[0].startswith("<|begin_of_text|>")
    assert mixed(builder("llama3"), user("<|begin_of_text|>", IMAGES[0])).texts[0].count("begin_of_text") == 1


def test_images_in_tool_outputs_are_seen() -> None:
    call = Item(function_call=FunctionCall(call_id="c", name="f", arguments="{}"))
    output = FunctionCallOutput(call_id="c", parts=ContentParts(parts=[part("before"), part(IMAGES[0])]))
    prompt = mixed(builder("qwen25"), user("x"), call, Item(function_call_output=output), user(IMAGES[1], "y"))
    assert prompt.images == (IMAGES[0], IMAGES[1])
    assert prompt.texts[0].endswith("before\n")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content.swapcase().swapcase() }}{% endfor %}.",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}.",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    ],
    ids=["forgets where text comes from", "shows it twice", "ends with it"],
)
def test_a_template_that_cannot_show_images_is_an_error(source: str) -> None:
    prompts = PromptBuilder(ByteTokenizer(), source, 1000, count_mixed=count)
    with pytest.raises(ApiError) as refused:
        prompts.build(GenerateRequest(items=[user(IMAGES[0])]))
    assert refused.value.reason == ErrorReason.ERROR_REASON_INVALID_PROMPT


def test_without_images_prompts_stay_token_ids() -> None:
    request = GenerateRequest(items=[user("\ufffc")])
    tokenizer = CASE["chatml"].tokenizer()
    assert builder("chatml").build(request) == PromptBuilder(tokenizer, CASE["chatml"].source, 1000).build(request)
    assert isinstance(builder("chatml").build(request), Prompt)
