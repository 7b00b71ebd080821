"""DeepSeek: V3 and R1 write the arguments as a block of code; V3.1 writes just them.

::

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Graz"}
    ```<｜tool▁call▁end｜>
    <｜tool▁call▁begin｜>...<｜tool▁calls▁end｜>

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Graz"}<｜tool▁call▁end｜>...
"""

from inference.parsing.syntax import CallSyntax
from inference.tools.marked import MarkedFormat

_SECTION, _SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_TOKENS = (_SECTION, _SECTION_END, _CALL_END, _SEPARATOR)
_LURES = ("<｜tool",)

DEEPSEEK_V3 = MarkedFormat(
    "deepseek_v3",
    CallSyntax(
        section_start=_SECTION,
        call_start=f"{_CALL}function{_SEPARATOR}",
        name_end="\n```json\n",
        call_end=f"\n```{_CALL_END}",
        separator="\n",
        section_end=_SECTION_END,
        mark=_CALL,
        tokens=_TOKENS,
    ),
    lures=_LURES,
)
DEEPSEEK_V31 = MarkedFormat(
    "deepseek_v31",
    CallSyntax(
        section_start=_SECTION,
        call_start=_CALL,
        name_end=_SEPARATOR,
        call_end=_CALL_END,
        section_end=_SECTION_END,
        mark=_CALL,
        tokens=_TOKENS,
    ),
    lures=_LURES,
)
