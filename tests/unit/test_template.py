import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from inference import template as template_module
from inference.dialect import (
    CallStyle,
    ChatMessage,
    Dialect,
    Role,
    SystemStyle,
    ToolCall,
    ToolStyle,
    TurnStyle,
    find_dialect,
    to_template,
)
from inference.template import ChatTemplate
from inference.traced import Content, TracedStr
from tests.support.templates import CASES, TemplateCase

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {case.name: ChatTemplate(case.source, SPECIAL_TOKENS) for case in CASES}
DIALECTS = {name: find_dialect(template) for name, template in TEMPLATES.items()}
per_case = settings(max_examples=50, deadline=None)
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

MARKERS = sorted({text for case in CASES for text in (*case.markers, *case.eos, case.bos or "")} - {"", "</think>"})
JINJA = ["{{ messages }}", "{% endfor %}", "{%- raw -%}", "{#", "%s", "{}", "{0.__class__}", "'", '"', "\\", "\n", "\r"]
HOSTILE = st.lists(st.one_of(st.sampled_from(MARKERS + JINJA), st.text(max_size=3)), max_size=5).map(
    lambda pieces: f"x{''.join(pieces)}x"
)
ROLES: st.SearchStrategy[Role] = st.sampled_from(("system", "user", "assistant"))


def rendered(case: TemplateCase, messages: list[ChatMessage]) -> TracedStr:
    dialect = DIALECTS[case.name]
    return TEMPLATES[case.name].render(to_template(dialect.adapt(messages), dialect.calls))


def skeleton(text: TracedStr) -> list[str]:
    return [segment.text for segment in text.segments() if segment.is_literal]


def expression(source: str, **variables: object) -> TracedStr:
    """``source`` rendered, with ``variables`` as a message's fields."""
    return ChatTemplate("{% set m = messages[0] %}" + source, SPECIAL_TOKENS).render([variables])


@by_case
@per_case
@given(turns=st.lists(st.tuples(ROLES, HOSTILE), max_size=7))
def test_content_changes_no_literal_and_none_is_lost(case: TemplateCase, turns: list[tuple[Role, str]]) -> None:
    contents = [Content(text) for _, text in turns]
    roles = [role for role, _ in turns]
    text = rendered(case, [ChatMessage(role, TracedStr.of(c)) for role, c in zip(roles, contents, strict=True)])
    harmless = rendered(case, [ChatMessage(role, TracedStr.of(Content("xx"))) for role in roles])
    assert skeleton(text) == skeleton(harmless)
    for content in contents:
        found = [segment.text for segment in text.segments() if segment.content is content]
        assert found == [content.text]


@by_case
@per_case
@given(answers=st.lists(HOSTILE, min_size=2, max_size=4))
def test_function_calls_and_outputs_change_no_literal_and_are_not_lost(case: TemplateCase, answers: list[str]) -> None:
    def conversation(texts: list[str]) -> list[ChatMessage]:
        calls = tuple(ToolCall(f"call_{i}", "look_up", '{"city": "Graz"}') for i in range(len(texts)))
        outputs = [ChatMessage("tool", TracedStr.of(Content(t)), call_id=f"call_{i}") for i, t in enumerate(texts)]
        return [
            ChatMessage("user", "u"),
            ChatMessage("assistant", tool_calls=calls),
            *outputs,
            ChatMessage("user", "v"),
        ]

    text = rendered(case, conversation(answers))
    assert skeleton(text) == skeleton(rendered(case, conversation(["xx"] * len(answers))))
    assert text.count("look_up") >= len(answers)
    assert text.count("Graz") == len(answers)
    if case.name not in ("gpt_oss", "llama32_pythonic"):  # they write outputs as JSON
        assert all(answer in text for answer in answers)


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("smollm2", Dialect(ToolStyle.TEXT, CallStyle.OBJECT, SystemStyle.ANYWHERE, TurnStyle.FREE)),
        ("deepseek_v3", Dialect(ToolStyle.SEQUENTIAL, CallStyle.JSON_ALONE, SystemStyle.LEADING, TurnStyle.FREE)),
        ("deepseek_v31", Dialect(ToolStyle.PARALLEL, CallStyle.JSON, SystemStyle.LEADING, TurnStyle.FREE)),
        ("mistral_v3", Dialect(ToolStyle.ALONE, CallStyle.OBJECT, SystemStyle.IN_USER, TurnStyle.ALTERNATING)),
        ("qwen3", Dialect(ToolStyle.PARALLEL, CallStyle.OBJECT, SystemStyle.ANYWHERE, TurnStyle.FREE)),
        ("deepseek_r1", Dialect(ToolStyle.PARALLEL, CallStyle.OBJECT, SystemStyle.LEADING, TurnStyle.FREE)),
        ("llama31", Dialect(ToolStyle.SEQUENTIAL, CallStyle.OBJECT, SystemStyle.ANYWHERE, TurnStyle.FREE)),
        ("llama2", Dialect(ToolStyle.TEXT, CallStyle.OBJECT, SystemStyle.LEADING, TurnStyle.ALTERNATING)),
        ("gemma", Dialect(ToolStyle.TEXT, CallStyle.OBJECT, SystemStyle.IN_USER, TurnStyle.ALTERNATING)),
    ],
)
def test_the_mildest_dialect_is_found(name: str, dialect: Dialect) -> None:
    assert DIALECTS[name] == dialect


def test_smollm2_puts_in_its_own_system_prompt_unless_there_is_one() -> None:
    smollm2 = next(case for case in CASES if case.name == "smollm2")
    assert rendered(smollm2, [ChatMessage("user", "Hi")]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert rendered(smollm2, [ChatMessage("system", "Be brief."), ChatMessage("user", "Hi")]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_gemma_gets_the_rules_in_its_first_user_message_and_turns_that_alternate() -> None:
    gemma = next(case for case in CASES if case.name == "gemma")
    messages = [ChatMessage("assistant", "Hello"), ChatMessage("user", "a"), ChatMessage("user", "b")]
    assert rendered(gemma, [*messages, ChatMessage("system", "Be brief.")]) == (
        "<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
        "<start_of_turn>user\nBe brief.\n\na\n\nb<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_that_renders_no_conversation_is_refused() -> None:
    with pytest.raises(ValueError, match="does not render"):
        find_dialect(ChatTemplate("{{ raise_exception('never') }}", {}))


@pytest.mark.parametrize(
    ("source", "literals"),
    [
        ("<a>{{ m.x }}<b>", ["<a>", "<b>"]),
        ("{{ '<a>' + m.x + '<b>' }}", ["<a>", "<b>"]),
        ("{{ '<a>' ~ m.x ~ 1 ~ '<b>' }}", ["<a>", "<b>"]),
        ("{% set t %}<a>{{ m.x }}{% endset %}{{ t }}", ["<a>"]),
        ("{% macro f(x) %}<a>{{ x }}<b>{% endmacro %}{{ f(m.x) }}", ["<a>", "<b>"]),
        ("{% macro f() %}<a>{{ caller() }}<b>{% endmacro %}{% call f() %}{{ m.x }}{% endcall %}", ["<a>", "<b>"]),
        ("{% filter trim %} <a>{{ m.x }}{% endfilter %}", ["<a>"]),
        ("{% generation %}<a>{{ m.x }}{% endgeneration %}", ["<a>"]),
        ("{% for c in ['<a>', '<b>'] %}{% if loop.last %}{% break %}{% endif %}{{ c }}{% endfor %}", ["<a>"]),
        ("{{ {'k': '<a>'}['k'] }}{{ '<b>' if 'k' in ['k', m.x] }}", ["<a><b>"]),
        ("{{ ['<a>', m.x, '<b>'] | join }}", ["<a>", "<b>"]),
        ("{{ ['<a>', m.x] | join('<b>') }}", ["<a><b>"]),
        ("{{ '<a>'.join([m.x, m.x]) }}", ["<a>"]),
        ("{{ '<a>X<b>'.replace('X', m.x) | safe | trim | string }}", ["<a>", "<b>"]),
        ("{{ ('<a>' + m.x + '<b>').split(m.x)[1] }}", ["<b>"]),
        ("{{ ('<a> ' + m.x)[:3] | upper }}", ["<A>"]),
        ("{{ bos_token }}{{ m.absent | default('<a>') }}", ["<s><a>"]),
        (
            "{% set ns = namespace(t='') %}{% for _ in [1, 2] %}{% set ns.t = ns.t + '<a>' %}{% endfor %}{{ ns.t }}",
            ["<a><a>"],
        ),
    ],
)
def test_literals_stay_literals_through_what_templates_do(source: str, literals: list[str]) -> None:
    assert skeleton(expression(source, x=TracedStr.of(Content("CONTENT")))) == literals


@pytest.mark.parametrize("name", sorted(set(FILTERS) - {"random", "pprint", "slice", "batch", "groupby"}))
@pytest.mark.parametrize("arguments", ["", "('<', 2)", "(2)", "(m.x)", "('-', m.x)"])
def test_no_filter_makes_a_literal_of_content_or_changes_what_is_read(name: str, arguments: str) -> None:
    source = "{{ (m.x ~ '<a>' ~ m.x) | NAME }}{{ '<%s>' | NAME }}{{ m.x | NAME }}{{ [m.x, '<b>'] | NAME }}"
    source = source.replace("NAME", name + arguments)
    content = "QXYZ"
    stock = ImmutableSandboxedEnvironment().from_string("{% set m = messages[0] %}" + source)
    try:
        text = expression(source, x=TracedStr.of(Content(content)))
    except ApiError:  # it takes no such value or arguments
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever jinja raises
            stock.render(messages=[{"x": content}])
        return
    assert not set("".join(skeleton(text))) & set(content)
    if (
        name not in {"tojson", "safe"}  # whose HTML is not wanted
        and " at 0x" not in text
    ):
        assert text == stock.render(messages=[{"x": content}])


@given(content=st.text())
def test_tojson_escapes_no_html_and_is_content(content: str) -> None:
    text = expression("{{ m | tojson }}", x=content)
    assert "<" not in content or "<" in text
    assert skeleton(text) == []


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{% include 'file' %}",
        "{{ 1 / 0 }}",
        "{{ messages[7].role }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_a_template_may_not_or_cannot_do_is_an_invalid_prompt(source: str) -> None:
    with pytest.raises(ApiError) as caught:
        ChatTemplate(source, {}).render([{"x": "secret"}])
    assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_PROMPT
    assert "secret" not in caught.value.message


def test_a_refusal_is_quoted_only_if_the_template_alone_wrote_it() -> None:
    with pytest.raises(ApiError, match="roles must alternate"):
        expression("{{ raise_exception('roles must ' + 'alternate') }}")
    with pytest.raises(ApiError) as caught:
        expression("{{ raise_exception('not ' + m.x) }}", x=TracedStr.of(Content("secret")))
    assert "secret" not in caught.value.message


def test_a_template_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "RENDER_TIMEOUT_S", 0.05)
    with pytest.raises(ApiError, match="too long over"):
        expression("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")


def test_a_text_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "MAX_RENDERED_CHARS", 1000)
    with pytest.raises(ApiError, match="too long a text"):
        expression("{% for a in range(1001) %}.{% endfor %}")
