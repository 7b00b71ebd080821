"""Tools for models whose chat template has no place for them: told in a system message.

Those that were not trained to call are also shown how by example.
"""

import itertools
import json
from collections.abc import Mapping, Sequence

from inference.dialect import ChatMessage, ToolCall
from inference.tools.format import ToolFormat
from inference.traced import TracedStr

_SECTION = """You are a helpful assistant.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""What Hermes and Qwen models are trained on, so that others have read of it."""

_EXAMPLES = (
    ChatMessage("user", "Good evening!"),
    ChatMessage("assistant", "Good evening! How can I help you?"),
    ChatMessage("user", "What time is it in Rome?"),
    ChatMessage("assistant", tool_calls=(ToolCall("example", "get_time", '{"city": "Rome"}'),)),
)
"""One message that needs no tool and one that does. Small models learn the form of a call from it, and, as the
function is not among their tools, to think of a name that fits the question: what ``choice`` reads off them. Examples
of questions that are answered in words make the smallest ones answer all questions so."""


_TRAINED_SECTION = """# Tools

You may call one or more functions to assist with the user query. The functions, as JSON Schemas:
{tools}

To call one, write:
"""


def told_tools(
    messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]], tool_format: ToolFormat
) -> list[ChatMessage]:
    """``messages`` with what a model that knows how to call, in ``tool_format``, has to know of ``tools``.

    How a call is written counts as the template's own words: its marks are the control tokens that the model writes.
    """
    call = TracedStr.literal(tool_format.call_text("<function-name>", "<args-json-object>"))
    before, between = _TRAINED_SECTION.split("{tools}")
    return [ChatMessage("system", TracedStr.concat((before, _listed(tools), between, call))), *messages]


def with_tools(messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]]) -> list[ChatMessage]:
    """``messages`` with what the model has to know of ``tools``, which are as templates take them.

    Rules that come first stay before the examples: right before the user's first message they would draw a small
    model's attention from its tools.
    """
    before, after = _SECTION.format(tools="\0").split("\0")
    section = ChatMessage("system", TracedStr.concat((before, _listed(tools), after)))
    rules = list(itertools.takewhile(lambda message: message.role == "system", messages))
    return [section, *rules, *_EXAMPLES, *messages[len(rules) :]]


def _listed(tools: Sequence[Mapping[str, object]]) -> str:
    return TracedStr("\n").join([json.dumps(tool, ensure_ascii=False) for tool in tools])
