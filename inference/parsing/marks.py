"""Finds marks in text that comes in portions."""

import re


class Marks:
    """Some texts; none begins within another."""

    def __init__(self, *marks: str) -> None:
        whole = "|".join(map(re.escape, marks)) or "(?!)"
        begun = "|".join(re.escape(mark[0]) + beginning([*map(re.escape, mark[1:-1])]) for mark in marks) or "(?!)"
        self._pattern = re.compile(rf"({whole})|(?:{begun})\Z")

    def find(self, text: str) -> tuple[int, str]:
        """Where the first mark is, and which; else where the end that may become one begins, and an empty text."""
        found = self._pattern.search(text)
        return (found.start(), found[1] or "") if found else (len(text), "")

    def without(self, text: str) -> str:
        """``text`` without the marks in it."""
        return self._pattern.sub("", text)

    def at(self, text: str, start: int) -> str | None:
        """The mark at ``start``, empty if ``text`` ends before it can be told; None if there is none."""
        found = self._pattern.match(text, start)
        return found and (found[1] or "")


def beginning(steps: list[str]) -> str:
    """The pattern of any beginning of ``steps``, which are patterns: nothing, the first, the first two, ..."""
    return "".join(f"(?:{step}" for step in steps) + ")?" * len(steps)
