"""Llama 3.1 and later, with JSON: an output is either text or calls, and no mark tells which.

::

    {"name": "get_weather", "parameters": {"city": "Graz"}}

Models put ``<|python_tag|>`` before it at times, or ``"type": "function"``; several calls have ``;`` between them.
"""

from inference.parsing.syntax import CallSyntax
from inference.tools.marked import MarkedFormat

_START = '{"name": "'
_TAG = "<|python_tag|>"
_TYPED = '{"type": "function", "name": "'

LLAMA_JSON = MarkedFormat(
    "llama3_json",
    CallSyntax(
        call_start=_START,
        name_end='", "parameters": ',
        call_end="}",
        separator="; ",
        next_mark=";",
        tokens=(_TAG,),
        other_starts=(_TAG + _START, _TYPED, _TAG + _TYPED),
    ),
)
