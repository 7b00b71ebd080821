"""Finds the end of a JSON object that comes in portions."""

import re

from inference.parsing.marks import Marks

_STRUCTURE = re.compile(r'["\\{}\[\]<]')


class JsonObject:
    """Where an object ends, from ``depth`` braces inside of it: after its last brace.

    Args:
        marks: End it as well, outside of strings, where no JSON has them: it was left unfinished. They begin with ``<``
            or ``[``.
    """

    def __init__(self, marks: Marks, depth: int = 0) -> None:
        self._marks = marks
        self._depth = depth
        self._in_string = False
        self._escaped_at_end = False

    def find(self, text: str) -> tuple[int, bool]:
        """How much of ``text``, the next portion, is sure to be part of the object; whether it ends there.

        What is left is the beginning of the next portion.
        """
        position = 1 if self._escaped_at_end and text else 0
        self._escaped_at_end = self._escaped_at_end and not text
        while match := _STRUCTURE.search(text, position):
            position = match.end()
            match match[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\" if self._in_string:
                    self._escaped_at_end = position == len(text)
                    position += 1
                case _ if self._in_string:
                    pass
                case "<" | "[" if (mark := self._marks.at(text, match.start())) is not None:
                    return match.start(), bool(mark)
                case "{" | "[":
                    self._depth += 1
                case "}" | "]":
                    self._depth -= 1
                    if self._depth == 0:
                        return position, True
                case _:
                    pass
        return len(text), False
