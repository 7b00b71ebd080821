"""Patterns against Python's `re`, where both flavours agree."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.grammar.automaton import TooComplexError
from inference.grammar.pattern import PatternError, compiled_pattern

ALPHABET = 'ab0 -\\"é\t'

ATOMS = ("a", "b", "0", " ", "-", "é", r"\\", ".", r"\d", r"\w", r"\s", r"\D", r"\W", "[ab]", "[^a]", r"[a\d-]")
atoms = st.sampled_from(ATOMS)
quantifiers = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{2,}", "*?"])


def groups(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    parts = st.tuples(
        st.one_of(atoms, inner.map(lambda text: f"({text})"), inner.map(lambda text: f"(?:{text})")), quantifiers
    )
    sequences = st.lists(parts.map("".join), min_size=1, max_size=3).map("".join)
    return st.lists(sequences, min_size=1, max_size=2).map("|".join)


bodies = st.recursive(atoms, groups, max_leaves=6)
patterns = st.tuples(st.sampled_from(["", "^"]), bodies, st.sampled_from(["", "$"])).map("".join)


@given(pattern=patterns, text=st.text(ALPHABET, max_size=6))
def test_a_pattern_is_found_where_re_finds_it(pattern: str, text: str) -> None:
    assert compiled_pattern(pattern).accepts(text) == (re.search(pattern, text, re.ASCII) is not None)


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        (r"^\u0041\x42\u{43}$", ["ABC"], ["abc"]),
        (r"^[\b\0\v]$", ["\b", "\0", "\v"], ["b", "0"]),
        (r"^a{,2}$", ["a{,2}"], ["aa"]),
        (r"^(?<year>\d{4})-(?P<month>\d\d)$", ["2024-01"], ["2024"]),
        (r"^(?=.*\d)(?!.*x)[a-z\d]+$", ["a1"], ["a", "1x"]),
        (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", ["1.5", "-0.1"], ["", "-", "."]),
        (r"^.$", ["é", "🙂"], ["\n", "\u2028"]),
        (r"^\S$", ["a", "é"], [" ", "\u3000", "\x1c"]),
        ("a|^b$", ["xa", "b"], ["bb"]),
        ("", ["", "x"], []),
    ],
)
def test_the_flavour_is_that_of_ecma(pattern: str, found: list[str], not_found: list[str]) -> None:
    automaton = compiled_pattern(pattern)
    assert [text for text in found if not automaton.accepts(text)] == []
    assert [text for text in not_found if automaton.accepts(text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "[a", "a**", "*a", "a{2,1}", r"(a)\1", r"\bword", "a(?=b)", "(?i)a", r"\p{L}", "[]", "[b-a]",
        r"[\d-z]", r"\ud83d", "^*", "a\\", "x{1001}", r"\k<a>", "(?<=a)b", "(" * 60 + ")" * 60,
    ],
)  # fmt: skip
def test_what_is_not_regular_or_not_valid_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled_pattern(pattern)


@pytest.mark.parametrize("pattern", ["a.{30}$", "(a{1000}){1000}", "((((a{9}){9}){9}){9}){9}"])
def test_a_pattern_that_would_take_too_long_is_given_up(pattern: str) -> None:
    with pytest.raises(TooComplexError):
        compiled_pattern(pattern)
