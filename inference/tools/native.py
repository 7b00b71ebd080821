"""Which format of calls a model speaks: as its own chat template shows, or as the settings say."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from antiphon.errors import ApiError
from inference.dialect import ChatMessage, Dialect, ToolCall, ToolStyle, to_template
from inference.template import ChatTemplate
from inference.tools.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from inference.tools.format import ToolFormat
from inference.tools.harmony import HARMONY
from inference.tools.hermes import HERMES
from inference.tools.llama import LLAMA_JSON
from inference.tools.mistral import MISTRAL_ARGS, MISTRAL_LIST
from inference.tools.pythonic import PYTHONIC
from inference.tools.qwen_coder import QWEN_CODER
from inference.traced import TracedStr

FORMATS: Final[tuple[ToolFormat, ...]] = (
    QWEN_CODER,  # before hermes, whose marks it has
    HERMES,
    MISTRAL_LIST,
    MISTRAL_ARGS,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    HARMONY,
    LLAMA_JSON,
    PYTHONIC,
)
AUTO: Final = "auto"
_TOOL = "trialtool"
_CALLED = "trialcall"
_OUR_CALL = "<tool_call>"
"""As ``dialect`` writes calls for templates that render none: as Hermes."""


class NativeFormat(NamedTuple):
    """What a model is trained to do with tools."""

    format: ToolFormat
    tells_tools: bool
    """Its chat template tells the model of its tools; otherwise a message has to."""


def native_format(template: ChatTemplate, dialect: Dialect, name: str = AUTO) -> NativeFormat | None:
    """How a model writes calls; None if ``template`` knows nothing of tools, or writes calls as we do not know it.

    Args:
        name: Of a format, in place of the one in which ``template`` renders calls; or ``auto``.

    Raises:
        ValueError: there is no format called ``name``.
    """
    chosen = None if name == AUTO else find_format(name)
    rendered = _rendered(template, dialect)
    found = chosen or next((known for known in FORMATS if _speaks(rendered, dialect, known)), None)
    return NativeFormat(found, tells_tools=_TOOL in rendered) if found else None


def find_format(name: str) -> ToolFormat:
    """The format called ``name``.

    Raises:
        ValueError: there is none.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    raise ValueError(f"there is no tool format {name!r}; known are auto, {', '.join(_names(FORMATS))}")


def _names(formats: Iterable[ToolFormat]) -> list[str]:
    return sorted(known.name for known in formats)


def _rendered(template: ChatTemplate, dialect: Dialect) -> str:
    """A conversation with a tool and a call; empty if ``template`` cannot render it."""
    conversation = [
        ChatMessage("user", "a"),
        ChatMessage("assistant", tool_calls=(ToolCall("a", _CALLED, '{"key": "value"}'),)),
        ChatMessage("tool", "b", call_id="a", name=_CALLED),
    ]
    function = {"name": _TOOL, "description": "c", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": TracedStr.literal("function"), "function": function}]
    try:
        return template.render(to_template(dialect.adapt(conversation), dialect.calls), tools)
    except ApiError:
        return ""


def _speaks(rendered: str, dialect: Dialect, known: ToolFormat) -> bool:
    """Some templates tell of tools and render no calls, such as SmolLM 3's: there what they tell counts."""
    if dialect.tools is not ToolStyle.TEXT:
        return known.is_spoken_in(rendered, _CALLED)
    told = rendered.partition(_CALLED)[0].rpartition(_OUR_CALL)[0]
    return known is HERMES and _TOOL in told and _OUR_CALL in told
