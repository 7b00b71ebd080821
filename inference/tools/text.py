"""Rules of texts that do not have some texts in them."""

from collections.abc import Collection, Sequence

from inference.grammar import Grammar, char_class, literal

_SURROGATES = (0xD800, 0xDFFF)
_LAST_CHARACTER = 0x10FFFF


def add_text_without(grammar: Grammar, marks: Sequence[str], *, end: str = "") -> str:
    """The rule of texts without any of ``marks``, followed by ``end``; empty ones too.

    An automaton whose states are what the text ends with of a mark.

    Args:
        end: Empty, or one of ``marks``: the only place where it comes is the end.
    """
    characters = frozenset("".join(marks))
    ends = sorted({mark[:length] for mark in marks for length in range(len(mark))})
    states = {state: grammar.reserve(f"text-{number}") for number, state in enumerate(ends)}
    for state, name in states.items():
        ways = [f"{other_than(characters)} {states['']}"]
        for character in sorted(characters):
            after = state + character
            if end and after.endswith(end):
                ways.append(literal(character))
            elif not after.endswith(tuple(marks)):
                reached = next(after[start:] for start in range(len(after) + 1) if after[start:] in states)
                ways.append(f"{literal(character)} {states[reached]}")
        if not end:
            ways.append(literal(""))
        grammar.define(name, " | ".join(ways))
    return states[""]


def other_than(characters: Collection[str]) -> str:
    """Any character but ``characters`` and surrogates, which no text has."""
    left_out = sorted([*((ord(character), ord(character)) for character in characters), _SURROGATES])
    starts = [1, *(last + 1 for _, last in left_out)]
    ends = [*(first - 1 for first, _ in left_out), _LAST_CHARACTER]
    return char_class([(low, high) for low, high in zip(starts, ends, strict=True) if low <= high])
