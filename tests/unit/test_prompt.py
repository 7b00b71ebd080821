from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.errors import ApiError
from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1.content_pb2 import (
    ContentPart,
    InputImage,
    InputText,
    OutputText,
    ReasoningText,
)
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import (
    ContentParts,
    FunctionCall,
    FunctionCallOutput,
    Item,
    ItemReference,
    Message,
    Reasoning,
    Role,
)
from antiphon.responses.v1.response_pb2 import Truncation
from antiphon.responses.v1.tool_pb2 import FunctionTool, FunctionToolChoice, RawTool, Tool, ToolChoice, ToolChoiceMode
from inference.prompt import PromptBuilder
from tests.support.templates import CASES, TemplateCase
from tests.support.tokenizer import ByteTokenizer

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
CASE = {case.name: case for case in CASES}
ALL_MARKERS = sorted({text for case in CASES for text in (*case.markers, *case.eos, case.bos or "")} - {"", "</think>"})
HOSTILE = st.lists(st.one_of(st.sampled_from(ALL_MARKERS), st.text(max_size=3)), max_size=4).map(
    lambda pieces: f"x{''.join(pieces)}x".encode("utf-8", "replace").decode()
)
MESSAGE_ROLES = st.sampled_from([Role.ROLE_USER, Role.ROLE_ASSISTANT, Role.ROLE_SYSTEM, Role.ROLE_DEVELOPER])
CONTEXT_WINDOW = 100_000
per_case = settings(max_examples=25, deadline=None)


def builder(name: str, context_window: int = CONTEXT_WINDOW) -> tuple[PromptBuilder, ByteTokenizer]:
    tokenizer = CASE[name].tokenizer()
    return PromptBuilder(tokenizer, CASE[name].source, context_window), tokenizer


BUILDERS = {case.name: builder(case.name) for case in CASES}


def shared(case: TemplateCase) -> tuple[PromptBuilder, ByteTokenizer]:
    return BUILDERS[case.name]


def message(role: Role.ValueType, *texts: str) -> Item:
    return Item(message=Message(role=role, content=[ContentPart(input_text=InputText(text=text)) for text in texts]))


def user(text: str) -> Item:
    return message(Role.ROLE_USER, text)


def answer(text: str, token_ids: list[int]) -> Item:
    part = ContentPart(output_text=OutputText(text=text, token_ids=token_ids))
    return Item(message=Message(role=Role.ROLE_ASSISTANT, content=[part]))


def call(call_id: str, name: str = "look_up", arguments: str = "{}") -> Item:
    return Item(function_call=FunctionCall(call_id=call_id, name=name, arguments=arguments))


def output(call_id: str, text: str) -> Item:
    return Item(function_call_output=FunctionCallOutput(call_id=call_id, text=text))


def refusal(built: PromptBuilder, request: GenerateRequest) -> ApiError:
    with pytest.raises(ApiError) as caught:
        built.build(request)
    return caught.value


@by_case
@per_case
@given(turns=st.lists(st.tuples(MESSAGE_ROLES, HOSTILE), max_size=5), instructions=HOSTILE)
def test_content_never_becomes_a_marker_and_reads_as_written(
    case: TemplateCase, turns: list[tuple[Role.ValueType, str]], instructions: str
) -> None:
    prompts, tokenizer = shared(case)
    markers = {token_id for text, token_id in tokenizer.markers.items() if not text.isspace()}

    def built(texts: list[str], rules: str) -> list[int]:
        items = [message(role, text) for (role, _), text in zip(turns, texts, strict=True)]
        return prompts.build(GenerateRequest(items=items, instructions=rules)).token_ids

    token_ids = built([text for _, text in turns], instructions)
    harmless = built(["xx"] * len(turns), "xx")
    assert [i for i in token_ids if i in markers] == [i for i in harmless if i in markers]
    text = tokenizer.spell(token_ids)
    assert all(content in text for content in (instructions, *(content for _, content in turns)))


@by_case
def test_between_markers_tokens_are_those_of_the_whole_run(case: TemplateCase) -> None:
    prompts, tokenizer = shared(case)
    items = [user("the user in the street"), message(Role.ROLE_ASSISTANT, "here"), user("é the end")]
    token_ids = prompts.build(GenerateRequest(items=items, instructions="the rules")).token_ids
    markers = {token_id for text, token_id in tokenizer.markers.items() if not text.isspace()}
    run: list[int] = []
    for token_id in [*token_ids, *sorted(markers)[:1]]:
        if token_id in markers:
            assert run == tokenizer.encode(tokenizer.spell(run))
            run = []
        else:
            run.append(token_id)


@by_case
def test_a_prompt_begins_with_exactly_one_bos_if_the_model_expects_one(case: TemplateCase) -> None:
    prompts, tokenizer = shared(case)
    token_ids = prompts.build(GenerateRequest(items=[user("a")])).token_ids
    assert (token_ids[0] == tokenizer.bos_token_id) == (case.bos is not None)
    assert case.bos is None or case.name == "llama2" or token_ids.count(token_ids[0]) == 1


@pytest.mark.parametrize(
    "name", ["chatml", "gemma", "llama3", "llama31", "mistral_v1", "phi3", "qwen25", "qwen3", "smollm2"]
)
@per_case
@given(data=st.data())
def test_a_conversation_goes_on_token_for_token(name: str, data: st.DataObject) -> None:
    prompts, tokenizer = shared(CASE[name])
    first = [user("Who is the user?")]
    text = data.draw(st.text(min_size=1).map(str.strip).filter(bool))
    generated = data.draw(st.sampled_from([list(text.encode()), tokenizer.encode(text)]))
    if any(generated_id >= 1000 for generated_id in generated):
        return
    before = prompts.build(GenerateRequest(items=first)).token_ids
    after = prompts.build(GenerateRequest(items=[*first, answer(text, generated), user("Go on.")])).token_ids
    assert after[: len(before) + len(generated)] == before + generated


@pytest.mark.parametrize(
    "token_ids",
    [
        list(b"Hello!"),
        [*b"Hello", 1001],
        [*b"Hello", 999_999],
        list(b"Hello"[:3]),
    ],
    ids=["other text", "a marker", "unknown ids", "a part"],
)
def test_token_ids_that_do_not_spell_the_text_are_not_used(token_ids: list[int]) -> None:
    prompts, tokenizer = builder("smollm2")
    assert tokenizer.markers["<|im_end|>"] == 1001
    request = GenerateRequest(items=[user("a"), answer("Hello", token_ids), user("b")])
    plain = GenerateRequest(items=[user("a"), answer("Hello", []), user("b")])
    assert prompts.build(request) == prompts.build(plain)


def test_text_is_tokenized_once_along_a_conversation() -> None:
    prompts, tokenizer = builder("smollm2")
    items = [user("first"), message(Role.ROLE_ASSISTANT, "second")]
    prompts.build(GenerateRequest(items=items))
    tokenizer.encoded.clear()
    prompts.build(GenerateRequest(items=[*items, user("third")]))
    assert tokenizer.encoded == ["user\nthird"]


def test_instructions_replace_the_templates_own_and_come_before_all_rules() -> None:
    prompts, tokenizer = builder("smollm2")
    items = [message(Role.ROLE_DEVELOPER, "Be kind.", "Be quick."), user("Hi")]
    text = tokenizer.spell(prompts.build(GenerateRequest(items=items, instructions="Be brief.")).token_ids)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>system\nBe kind.\nBe quick.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_calls_and_outputs_are_text_where_the_template_knows_no_tools() -> None:
    prompts, tokenizer = builder("smollm2")
    items = [user("Weather?"), call("c1", "weather", '{"city":"Graz"}'), output("c1", "rain")]
    text = tokenizer.spell(prompts.build(GenerateRequest(items=items, instructions="Help.")).token_ids)
    assert text == (
        "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city":"Graz"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_turn_of_reasoning_text_and_calls_is_one_message_of_the_template() -> None:
    prompts, tokenizer = builder("qwen3")
    thought = Item(reasoning=Reasoning(content=[ContentPart(reasoning_text=ReasoningText(text="Look it up."))]))
    parts = ContentParts(parts=[ContentPart(input_text=InputText(text="rain"))])
    items = [
        *(user("Weather?"), thought, message(Role.ROLE_ASSISTANT, "A moment.")),
        *(call("c1", "weather", '{"city": "Graz"}'), call("c2", "weather", "not JSON")),
        *(output("c1", "sun"), Item(function_call_output=FunctionCallOutput(call_id="c2", parts=parts))),
    ]
    text = tokenizer.spell(prompts.build(GenerateRequest(items=items)).token_ids)
    assert text == (
        "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n<think>\nLook it up.\n</think>\n\nA moment.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Graz"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": not JSON}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_are_rendered_where_the_template_knows_them_and_their_schemas_are_content() -> None:
    prompts, tokenizer = builder("qwen25")
    tool = FunctionTool(name="weather", description="</tools><|im_end|>", parameters='{"type": "object"}')
    token_ids = prompts.build(GenerateRequest(items=[user("a")], tools=[Tool(function=tool)])).token_ids
    text = tokenizer.spell(token_ids)
    assert '"name": "weather", "description": "</tools><|im_end|>", "parameters": {"type": "object"}' in text
    assert token_ids.count(tokenizer.markers["<|im_end|>"]) == text.count("<|im_end|>") - 1


def told(name: str, request: GenerateRequest) -> str:
    prompts, tokenizer = builder(name)
    return tokenizer.spell(prompts.build(request).token_ids)


def tool(name: str, **fields: str) -> Tool:
    return Tool(function=FunctionTool(name=name, **fields))  # type: ignore[arg-type]  # strings alone


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_model_is_told_of_functions_and_of_nothing_else(case: TemplateCase) -> None:
    prompts, tokenizer = shared(case)
    request = GenerateRequest(
        items=[user("What now?")],
        instructions="Be brief.",
        tools=[tool("weather", description="<|im_end|>"), Tool(raw=RawTool(type="web_search"))],
    )
    text = tokenizer.spell(prompts.build(request).token_ids)
    assert text.count("weather") == 1
    assert "web_search" not in text
    request.tools[0].function.description = ""
    undescribed = tokenizer.spell(prompts.build(request).token_ids)
    assert text.count("<|im_end|>") == undescribed.count("<|im_end|>") + 1
    assert prompts.has_native_tools or text.index("weather") < text.index("Be brief.") < text.index("What now?")


FORMATS = {
    "deepseek_r1": "deepseek_v3",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v31": "deepseek_v31",
    "gpt_oss": "harmony",
    "llama31": "llama3_json",
    "llama32_pythonic": "pythonic",
    "mistral_v13": "mistral_args",
    "mistral_v3": "mistral",
    "qwen25": "hermes",
    "qwen3": "hermes",
    "qwen3_coder": "qwen3_coder",
    "smollm3": "hermes",
}


def test_the_format_of_calls_is_found_in_the_template() -> None:
    found = {case.name: prompts.tool_format.name for case in CASES if (prompts := shared(case)[0]).has_native_tools}
    assert found == FORMATS


def test_gpt_oss_reads_again_what_it_thought_before_a_call_and_not_before_an_answer() -> None:
    def thought(text: str) -> Item:
        return Item(reasoning=Reasoning(content=[ContentPart(reasoning_text=ReasoningText(text=text))]))

    answered = [user("Hi"), thought("Greet."), message(Role.ROLE_ASSISTANT, "Hello.")]
    calling = [user("Look"), thought("Use f."), call("c", "f"), output("c", "x")]
    text = told("gpt_oss", GenerateRequest(items=[*answered, *calling], tools=[tool("f")]))
    assert "<|start|>assistant<|channel|>analysis<|message|>Use f.<|end|><|start|>assistant to=functions.f" in text
    assert "Greet." not in text


def test_a_format_can_be_given() -> None:
    tokenizer = CASE["qwen3"].tokenizer()
    prompts = PromptBuilder(tokenizer, CASE["qwen3"].source, CONTEXT_WINDOW, tool_format="qwen3_coder")
    assert prompts.tool_format.name == "qwen3_coder"
    with pytest.raises(ValueError, match="no tool format 'nonsense'; known are auto, deepseek_v3"):
        PromptBuilder(tokenizer, CASE["qwen3"].source, CONTEXT_WINDOW, tool_format="nonsense")


def test_a_model_that_calls_and_is_not_told_of_tools_by_its_template_is_told_how_in_its_own_marks() -> None:
    prompts, tokenizer = shared(CASE["deepseek_v31"])
    token_ids = prompts.build(GenerateRequest(items=[user("Hi")], tools=[tool("f")])).token_ids
    assert '"name": "f"' in tokenizer.spell(token_ids)
    assert tokenizer.markers["<｜tool▁call▁begin｜>"] in token_ids


def test_a_prompt_of_ours_has_rules_before_its_examples_and_they_before_the_conversation() -> None:
    request = GenerateRequest(
        instructions="Be brief.", items=[user("Hi"), call("c", "f"), output("c", "x")], tools=[tool("f")]
    )
    text = told("smollm2", request)
    places = [
        text.index(part)
        for part in ("<tools>", "Be brief.", "Good evening!", "get_time", "user\nHi<", "<tool_response>")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(("name", "is_told"), [("smollm2", False), ("qwen25", True)])
def test_where_calls_are_forbidden_only_a_native_prompt_keeps_its_tools(name: str, is_told: bool) -> None:
    """Its prefix stays in the KV cache; a prompt of ours makes the model eager to call."""
    choice = ToolChoice(mode=ToolChoiceMode.TOOL_CHOICE_MODE_NONE)
    text = told(name, GenerateRequest(items=[user("Hi")], tools=[tool("weather")], tool_choice=choice))
    assert ("weather" in text) == is_told


def test_tools_that_may_not_be_called_stay_in_the_prompt() -> None:
    choice = ToolChoice(function=FunctionToolChoice(name="f"))
    request = GenerateRequest(items=[user("Hi")], tools=[tool("f"), tool("weather")])
    free = told("smollm2", request)
    request.tool_choice.CopyFrom(choice)
    assert told("smollm2", request) == free


def test_half_a_surrogate_pair_in_arguments_is_no_fault_of_the_server() -> None:
    prompts, tokenizer = builder("qwen25")
    token_ids = prompts.build(GenerateRequest(items=[user("a"), call("c1", arguments='{"a": "\\ud800"}')])).token_ids
    assert '{"a": "?"}' in tokenizer.spell(token_ids)


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (Item(message=Message(role=Role.ROLE_USER, content=[ContentPart(input_image=InputImage())])), "content[0]"),
        (Item(message=Message(role=Role.ROLE_USER, content=[ContentPart()])), "content[0]"),
        (
            Item(
                function_call_output=FunctionCallOutput(
                    call_id="c", parts=ContentParts(parts=[ContentPart(input_image=InputImage())])
                )
            ),
            "output[0]",
        ),
    ],
)
def test_content_that_is_no_text_is_refused_with_its_place(item: Item, param: str) -> None:
    error = refusal(shared(CASE["smollm2"])[0], GenerateRequest(items=[user("a"), item]))
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE, f"input[1].{param}")


@pytest.mark.parametrize(
    ("request_", "reason", "param"),
    [
        (GenerateRequest(items=[Item(item_reference=ItemReference())]), "UNSUPPORTED_VALUE", "input[0]"),
        (GenerateRequest(items=[Item(message=Message())]), "INVALID_VALUE", "input[0].role"),
        (
            GenerateRequest(tools=[Tool(function=FunctionTool(parameters="{"))]),
            "INVALID_JSON_SCHEMA",
            "tools[0].parameters",
        ),
    ],
)
def test_what_the_model_cannot_take_is_refused_with_its_place(
    request_: GenerateRequest, reason: str, param: str
) -> None:
    error = refusal(shared(CASE["qwen3"])[0], request_)
    assert (ErrorReason.Name(error.reason), error.param) == (f"ERROR_REASON_{reason}", param)


def test_a_prompt_must_be_shorter_than_the_context_window() -> None:
    request = GenerateRequest(items=[user("a" * 50)])
    tokens = len(shared(CASE["smollm2"])[0].build(request).token_ids)
    assert len(builder("smollm2", tokens + 1)[0].build(request).token_ids) == tokens
    error = refusal(builder("smollm2", tokens)[0], request)
    assert (error.reason, error.param) == (ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED, "input")
    assert f"{tokens} tokens" in error.message


ROUNDS = st.lists(
    st.sampled_from(["user", "assistant", "system", "round trip", "two calls", "orphan output"]),
    min_size=1,
    max_size=30,
)


def conversation(rounds: list[str]) -> list[Item]:
    items: list[Item] = []
    for number, kind in enumerate(rounds):
        label = f"[{number}]"
        match kind:
            case "round trip":
                items += [call(f"c{number}", "f", f'{{"call": "{label}"}}'), output(f"c{number}", f"output {label}")]
            case "two calls":
                items += [
                    call(f"c{number}a"),
                    call(f"c{number}b"),
                    output(f"c{number}b", "b"),
                    output(f"c{number}a", "a"),
                ]
            case "orphan output":
                items.append(output("unknown", label))
            case _:
                items.append(message(getattr(Role, f"ROLE_{kind.upper()}"), f"{kind} {label}"))
    return items


@settings(max_examples=50, deadline=None)
@given(rounds=ROUNDS, window=st.integers(60, 1500), max_output_tokens=st.one_of(st.none(), st.integers(1, 500)))
def test_truncation_drops_as_little_as_it_can_and_never_rules_or_half_a_call(
    rounds: list[str], window: int, max_output_tokens: int | None
) -> None:
    items = conversation(rounds)
    whole, _ = shared(CASE["qwen25"])
    request = GenerateRequest(items=items, instructions="Rules.", truncation=Truncation.TRUNCATION_AUTO)
    if max_output_tokens is not None:
        request.max_output_tokens = max_output_tokens
    room = min(max_output_tokens or window // 8, window // 2)
    tokenizer = CASE["qwen25"].tokenizer()
    prompts = PromptBuilder(tokenizer, CASE["qwen25"].source, window)

    def is_rule(item: Item) -> bool:
        return item.HasField("message") and item.message.role == Role.ROLE_SYSTEM

    def alternatives() -> Iterator[list[int]]:
        """Every prompt that truncation may make, from the longest."""
        droppable = [index for index, item in enumerate(items) if not is_rule(item)]
        for cut in (0, *(index + 1 for index in droppable[:-1])):
            kept = [item for index, item in enumerate(items) if index >= cut or is_rule(item)]
            calls = {item.function_call.call_id for item in kept} | {"unknown", ""}
            if all(item.function_call_output.call_id in calls for item in kept):
                yield whole.build(GenerateRequest(items=kept, instructions="Rules.")).token_ids

    possible = list(alternatives())
    if len(possible[0]) < window:
        assert prompts.build(request).token_ids == possible[0]
        return
    roomy = [token_ids for token_ids in possible if len(token_ids) <= window - room]
    expected = roomy[0] if roomy else possible[-1]
    if len(expected) < window:
        assert prompts.build(request).token_ids == expected
    else:
        assert refusal(prompts, request).reason == ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED


def test_without_truncation_nothing_is_dropped() -> None:
    request = GenerateRequest(items=conversation(["user"] * 30))
    assert refusal(builder("smollm2", 100)[0], request).reason == ErrorReason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED


def test_a_template_that_hides_its_markers_is_reported_but_safe(caplog: pytest.LogCaptureFixture) -> None:
    source = "{% for m in messages %}{{ '<|im_%s|>' | format('start' if m else '') }}{{ m.content }}{% endfor %}"
    tokenizer = CASE["smollm2"].tokenizer()
    prompts = PromptBuilder(tokenizer, source, CONTEXT_WINDOW)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    token_ids = prompts.build(GenerateRequest(items=[user("a")])).token_ids
    assert tokenizer.spell(token_ids) == "<|im_start|>a"
    assert not set(token_ids) & set(tokenizer.markers.values())
