"""Which format of calls a model's own chat template speaks."""

from antiphon.errors import ApiError
from inference.dialect import ChatMessage, Dialect, ToolCall, ToolStyle, to_template
from inference.template import ChatTemplate
from inference.tools.format import ToolFormat
from inference.tools.hermes import HermesFormat
from inference.traced import TracedStr

_FORMATS: tuple[ToolFormat, ...] = (HermesFormat(),)
_TOOL = "trialtool"
_CALLED = "trialcall"


def native_format(template: ChatTemplate, dialect: Dialect) -> ToolFormat | None:
    """The format in which ``template`` renders calls, if it also tells the model of its tools.

    None: it knows no tools, or it writes calls in a format that we do not know.
    """
    if dialect.tools is ToolStyle.TEXT:
        return None
    conversation = [
        ChatMessage("user", "a"),
        ChatMessage("assistant", tool_calls=(ToolCall("a", _CALLED, '{"key": "value"}'),)),
        ChatMessage("tool", "b", call_id="a", name=_CALLED),
    ]
    function = {"name": _TOOL, "description": "c", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": TracedStr.literal("function"), "function": function}]
    try:
        rendered = template.render(to_template(dialect.adapt(conversation)), tools)
    except ApiError:
        return None
    if _TOOL not in rendered:
        return None
    return next((known for known in _FORMATS if known.is_spoken_in(rendered, _CALLED)), None)
