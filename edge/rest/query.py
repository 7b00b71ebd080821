"""Query parameters: strings, as URLs have nothing else, to values."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from antiphon.responses.v1.response_pb2 import Include
from edge.checks import UINT32_MAX, check_integer
from edge.codec.enums import INCLUDE
from edge.codec.params import FRUITLESS_INCLUDES
from edge.rest.schema import invalid_type


class Query(Protocol):
    """What is used of a multidict."""

    def getall(self, key: str, default: list[str], /) -> list[str]: ...


class RetrieveQuery(NamedTuple):
    """The query of GET /v1/responses/{id}."""

    include: list[Include.ValueType]
    stream: bool
    starting_after: int | None
    """Of the events, those after this sequence number."""
    include_obfuscation: bool


def parse_retrieve(query: Query) -> RetrieveQuery:
    """The query of GET /v1/responses/{id}.

    Raises:
        ApiError: a value is malformed; `param` is the parameter.
    """
    values = query.getall("include", []) + query.getall("include[]", [])
    starting_after = _last(query, "starting_after")
    return RetrieveQuery(
        include=[
            INCLUDE.decode(value, f"include[{index}]")
            for index, value in enumerate(values)
            if value not in FRUITLESS_INCLUDES
        ],
        stream=_boolean(query, "stream", default=False),
        starting_after=None if starting_after is None else _integer(starting_after, "starting_after", 0, UINT32_MAX),
        include_obfuscation=_boolean(query, "include_obfuscation", default=True),
    )


def _last(query: Query, name: str) -> str | None:
    values = query.getall(name, [])
    return values[-1] if values else None


def _boolean(query: Query, name: str, *, default: bool) -> bool:
    value = _last(query, name)
    if value is None:
        return default
    try:
        return _BOOLEANS[value.lower()]
    except KeyError:
        raise invalid_type(name, "a boolean", value) from None


_BOOLEANS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


def _integer(value: str, name: str, low: int, high: int) -> int:
    if not (value.isascii() and value.removeprefix("-").isdigit() and len(value) <= _MAX_DIGITS):
        raise invalid_type(name, "an integer", value)
    number = int(value)
    check_integer(number, name, low, high)
    return number


_MAX_DIGITS = 20
