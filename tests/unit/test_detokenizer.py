from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.detokenizer import MAX_HELD_CHARS, Detokenizer, StopSequences
from tests.support.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer(["<think>"], eos=["<|end|>"])
BYTES = st.one_of(
    st.binary(max_size=20), st.text(max_size=8).map(str.encode), st.text(max_size=8).map(lambda t: t.encode()[:-1])
)
NARROW = st.text("ab", max_size=30)


def portions(text: str, cuts: list[int]) -> list[str]:
    """``text`` in pieces, some perhaps empty."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(data=st.lists(BYTES, max_size=6).map(b"".join), sizes=st.lists(st.integers(1, 5)))
def test_any_portions_give_the_text_of_the_whole(data: bytes, sizes: list[int]) -> None:
    detokenizer, text, position = Detokenizer(TOKENIZER), "", 0
    for size in [*sizes, len(data)]:
        text += detokenizer.feed(list(data[position : position + size]))
        position += size
    assert text + detokenizer.finish() == data.decode("utf-8", "replace")


@given(text=st.text())
def test_no_character_is_split_and_none_waits_longer_than_it_must(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    for character in text:
        *head, last = character.encode()
        assert [detokenizer.feed([byte]) for byte in head] == [""] * len(head)
        assert detokenizer.feed([last]) == character
    assert detokenizer.finish() == ""


def test_a_character_left_incomplete_becomes_one_replacement_character() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.feed(list("a€".encode()[:-1])) == ""
    assert detokenizer.finish() == "a\ufffd"


@given(texts=st.lists(st.text(max_size=4), max_size=8), data=st.data())
def test_what_was_told_is_whole_tokens_unless_they_would_wait_for_long(texts: list[str], data: st.DataObject) -> None:
    utf8 = "".join(texts).encode()
    edges = sorted(data.draw(st.lists(st.integers(0, len(utf8)), max_size=8)))
    detokenizer, told = Detokenizer(TOKENIZER), ""
    for start, end in pairwise([0, *edges, len(utf8)]):
        told += detokenizer.feed(list(utf8[start:end]))
        assert len(utf8[:end].decode(errors="ignore")) - len(told) <= MAX_HELD_CHARS
        if not detokenizer.is_inside_character:
            assert told.encode() == utf8[:end]
    assert told + detokenizer.finish() == "".join(texts)


def test_a_control_token_has_no_text_and_an_unknown_one_is_an_error() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.feed([TOKENIZER.markers["<|end|>"], ord("a")]) == "a"
    with pytest.raises(KeyError):
        detokenizer.feed([99_999])


@given(
    text=NARROW, stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=4), cuts=st.lists(st.integers(0, 30))
)
def test_the_text_ends_before_the_first_stop_sequence_at_any_portions(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    stopper = StopSequences(stops)
    released = [stopper.feed(portion) for portion in portions(text, cuts)]
    ends = [(end, -len(stop), stop) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    if ends:
        end, negative_length, stop = min(ends)
        assert "".join(released) == text[: end + negative_length]
        assert stopper.found == stop
        assert stopper.finish() == ""
    else:
        assert "".join(released) + stopper.finish() == text
        assert stopper.found is None


@given(text=NARROW, stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4))
def test_nothing_is_held_back_but_the_longest_beginning_of_a_stop_sequence(text: str, stops: list[str]) -> None:
    stopper, released = StopSequences(stops), ""
    for end, character in enumerate(text, 1):
        released += stopper.feed(character)
        if stopper.found is not None:
            return
        open_ends = [n for stop in stops for n in range(len(stop)) if text[:end].endswith(stop[:n])]
        assert text[len(released) : end] == text[end - max(open_ends) : end]


def test_after_a_stop_sequence_no_text_comes_out() -> None:
    stopper = StopSequences(["END"])
    assert [stopper.feed(text) for text in ("one E", "N", "D two", " three")] == ["one ", "", "", ""]
    assert (stopper.found, stopper.finish()) == ("END", "")
