"""What the API has and this server does not do yet: refused by name, never ignored.

One row a feature. Whoever builds a feature deletes its row.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason

_Find: TypeAlias = Callable[[response_pb2.ResponseParams], str | None]
"""The place of a feature's first use; None if it is not used."""


class _Feature(NamedTuple):
    name: str
    """For people, as the subject of "... is not supported yet"."""
    reason: ErrorReason.ValueType
    find: _Find


def unsupported(params: response_pb2.ResponseParams) -> None:
    """Refuse ``params`` if they ask for what this server does not do yet.

    Raises:
        ApiError: UNSUPPORTED_PARAMETER or UNSUPPORTED_VALUE; `param` is the place.
    """
    for feature in _FEATURES:
        place = feature.find(params)
        if place is not None:
            what = "parameter" if feature.reason == ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER else "value"
            raise ApiError(
                feature.reason,
                f"Unsupported {what}: '{place}'. This server does not support {feature.name} yet.",
                place,
            )


def _items(kind: str) -> _Find:
    def find(params: response_pb2.ResponseParams) -> str | None:
        return next((f"input[{i}]" for i, item in enumerate(params.input) if item.WhichOneof("kind") == kind), None)

    return find


def _parts(kind: str) -> _Find:
    def find(params: response_pb2.ResponseParams) -> str | None:
        places = (
            f"input[{index}].{where}"
            for index, item in enumerate(params.input)
            for where, part in _content(item)
            if part.WhichOneof("part") == kind
        )
        return next(places, None)

    return find


def _content(item: item_pb2.Item) -> Iterator[tuple[str, content_pb2.ContentPart]]:
    lists: Sequence[tuple[str, Sequence[content_pb2.ContentPart]]] = (
        ("content", item.message.content),
        ("output", item.function_call_output.parts.parts),
        ("content", item.reasoning.content),
        ("summary", item.reasoning.summary),
    )
    for name, parts in lists:
        for index, part in enumerate(parts):
            yield f"{name}[{index}]", part


_VALUE = ErrorReason.ERROR_REASON_UNSUPPORTED_VALUE

_FEATURES: tuple[_Feature, ...] = (
    _Feature("content of this type", _VALUE, _parts("raw")),
    _Feature("items of this type", _VALUE, _items("raw")),
)  # fmt: skip
