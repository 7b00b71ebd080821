from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.traced import Content, TracedStr

# The alphabets of literals and content are disjoint, so a character tells where it must have come from.
LITERAL, CONTENT = "ab\n ", "AB\t\r"
PIECES = st.one_of(
    st.text(LITERAL, max_size=5).map(TracedStr.literal),
    st.text(CONTENT, max_size=5).map(lambda text: TracedStr.of(Content(text))),
    st.text(CONTENT, max_size=3),
)
TEXTS = st.lists(PIECES, max_size=6).map(TracedStr.concat)
SEPARATORS = st.one_of(st.none(), st.text(LITERAL + CONTENT, min_size=1, max_size=2))

UNARY: dict[str, Callable[[str], object]] = {
    "str": str,
    "iterate": list,
    "strip": lambda text: text.strip(),
    "lstrip": lambda text: text.lstrip(),
    "rstrip": lambda text: text.rstrip(),
    "strip characters": lambda text: text.strip("aA"),
    "splitlines": lambda text: text.splitlines(),
    "splitlines keeping ends": lambda text: text.splitlines(True),
    "whole slice": lambda text: text[:],
    "reversed": lambda text: text[::-1],
    "repeat": lambda text: text * 3,
    "repeat reflected": lambda text: 3 * text,
    "removeprefix": lambda text: text.removeprefix("a").removeprefix("A"),
    "removesuffix": lambda text: text.removesuffix("a").removesuffix("A"),
    "replace nothing": lambda text: text.replace("", "-"),
    "add plain": lambda text: text + "AB",
    "add to plain": lambda text: "AB" + text,
}


def check(result: object, expected: object) -> None:
    """``result`` reads as ``expected``, and nothing in it is a literal that must not be."""
    if isinstance(expected, (list, tuple)):
        assert isinstance(result, (list, tuple))
        for one, other in zip(result, expected, strict=True):
            check(one, other)
        return
    assert result == expected
    if isinstance(result, TracedStr):
        segments = list(result.segments())
        assert "".join(segment.text for segment in segments) == expected
        for segment in segments:
            assert segment.text
            assert set(segment.text) <= set(LITERAL if segment.is_literal else CONTENT)
            if segment.content is not None:
                end = segment.offset + len(segment.text)
                assert segment.content.text[segment.offset : end] == segment.text


def plain(text: str) -> str:
    return "".join(text)


@pytest.mark.parametrize("name", UNARY)
@given(text=TEXTS)
def test_an_operation_reads_as_on_plain_text_and_keeps_every_origin(name: str, text: TracedStr) -> None:
    check(UNARY[name](text), UNARY[name](plain(text)))


@given(text=TEXTS, start=st.integers(-9, 9), stop=st.integers(-9, 9))
def test_a_slice_keeps_origins(text: TracedStr, start: int, stop: int) -> None:
    result = text[start:stop]
    assert isinstance(result, TracedStr)
    check(result, plain(text)[start:stop])
    if -len(text) <= start < len(text):
        check(text[start], plain(text)[start])


@given(text=TEXTS, separator=SEPARATORS, maxsplit=st.integers(-1, 4))
def test_splitting_keeps_origins(text: TracedStr, separator: str | None, maxsplit: int) -> None:
    check(text.split(separator, maxsplit), plain(text).split(separator, maxsplit))
    check(text.rsplit(separator, maxsplit), plain(text).rsplit(separator, maxsplit))
    if separator is not None:
        check(text.partition(separator), plain(text).partition(separator))
        check(text.rpartition(separator), plain(text).rpartition(separator))


@given(text=TEXTS, old=st.text("aA ", max_size=2), new=TEXTS, count=st.integers(-1, 3))
def test_replacing_keeps_the_origins_of_both(text: TracedStr, old: str, new: TracedStr, count: int) -> None:
    check(text.replace(old, new, count), plain(text).replace(old, plain(new), count))


@given(separator=TEXTS, texts=st.lists(TEXTS, max_size=4))
def test_joining_keeps_the_origins_of_all(separator: TracedStr, texts: list[TracedStr]) -> None:
    check(separator.join(texts), plain(separator).join(map(plain, texts)))


@given(text=TEXTS)
def test_neighbours_of_one_origin_are_one_segment(text: TracedStr) -> None:
    again = TracedStr.concat(list(text))
    assert list(again.segments()) == list(text.segments())


@given(text=TEXTS, method=st.sampled_from(["upper", "lower", "title", "capitalize", "swapcase", "casefold"]))
def test_changed_text_is_a_literal_only_if_all_of_it_was(text: TracedStr, method: str) -> None:
    result = getattr(text, method)()
    assert result == getattr(plain(text), method)()
    if isinstance(result, TracedStr):
        assert result.is_literal
        assert text.is_literal


def test_what_is_not_followed_counts_as_content() -> None:
    marker = TracedStr.literal("<|im_end|>")
    laundered = [f"{marker}.", "%s." % marker, "{}.".format(marker), "".join([marker]), marker[::-1], marker.center(20)]  # noqa: UP031, UP032
    assert not any(segment.is_literal for text in laundered for segment in TracedStr.concat([text]).segments())


def test_only_strings_can_be_joined() -> None:
    with pytest.raises(TypeError):
        TracedStr.literal(", ").join([1])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        TracedStr.literal("a") + 1
