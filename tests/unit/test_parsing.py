from hypothesis import given
from hypothesis import strategies as st

from antiphon.inference.v1.inference_pb2 import PartKind
from inference.parsing.base import PartEnded, PartStarted, TextDelta
from inference.parsing.plain import PlainParser


@given(texts=st.lists(st.text()))
def test_plain_text_is_one_part_opened_by_the_first_character(texts: list[str]) -> None:
    parser = PlainParser()
    events = [event for text in texts for event in parser.feed(text)] + parser.finish()
    deltas = [text for text in texts if text]
    part = [PartStarted(PartKind.PART_KIND_TEXT), *map(TextDelta, deltas), PartEnded()]
    assert events == (part if deltas else [])
