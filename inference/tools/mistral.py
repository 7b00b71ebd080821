"""Mistral: a list of calls (its tokenizers' versions 3 to 7), or name and arguments between marks (from 11 on).

::

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Graz"}}, {"name": ...}]
    [TOOL_CALLS]get_weather[ARGS]{"city": "Graz"}[TOOL_CALLS]...

The list's objects may end with ``"id": "..."``; version 11 has ``[CALL_ID]...`` before ``[ARGS]``.
"""

from inference.parsing.syntax import CallSyntax
from inference.tools.marked import MarkedFormat

_MARK = "[TOOL_CALLS]"

MISTRAL_LIST = MarkedFormat(
    "mistral",
    CallSyntax(
        section_start=f"{_MARK} [",
        call_start='{"name": "',
        name_end='", "arguments": ',
        call_end="}",
        separator=", ",
        section_end="]",
        mark=_MARK,
        next_mark=",",
    ),
)
MISTRAL_ARGS = MarkedFormat(
    "mistral_args",
    CallSyntax(call_start=_MARK, name_end="[ARGS]", mark=_MARK, id_mark="[CALL_ID]"),
)
