"""Hermes, Qwen 2.5 and 3, SmolLM 3 and many others.

::

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Graz"}}
    </tool_call>
"""

from inference.parsing.syntax import CallSyntax
from inference.tools.marked import MarkedFormat

HERMES = MarkedFormat(
    "hermes",
    CallSyntax(
        call_start='<tool_call>\n{"name": "',
        name_end='", "arguments": ',
        call_end="}\n</tool_call>",
        separator="\n",
        mark="<tool_call>",
        tokens=("</tool_call>",),
    ),
    lures=("<tool_", "</tool_"),
)
