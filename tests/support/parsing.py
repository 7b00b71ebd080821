"""What an output parser makes of an output, however that arrives."""

from collections.abc import Iterable

from antiphon.inference.v1.inference_pb2 import PartKind
from inference.parsing.base import OutputParser, PartEnded, PartStarted, TextDelta

Parts = list[tuple[PartKind.ValueType, str, str]]
"""Kind, name and text of each part."""


def parts_of(parser: OutputParser, portions: Iterable[str]) -> Parts:
    """The parts that the portions add up to; checks the order of the events."""
    parts: Parts = []
    is_open = False
    for event in [*(event for portion in portions for event in parser.feed(portion)), *parser.finish()]:
        match event:
            case PartStarted():
                assert not is_open
                is_open = True
                parts.append((event.kind, event.name, ""))
            case TextDelta():
                assert is_open
                assert event.text
                parts[-1] = (*parts[-1][:2], parts[-1][2] + event.text)
            case PartEnded():
                assert is_open
                is_open = False
    assert not is_open
    return parts
