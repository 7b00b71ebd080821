"""Query parameters: strings, as URLs have nothing else, to values."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.response_pb2 import Include
from edge.checks import UINT32_MAX, check_integer
from edge.codec.enums import INCLUDE
from edge.codec.params import FRUITLESS_INCLUDES
from edge.core import DEFAULT_LIMIT, MAX_LIMIT
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
    starting_after = _last(query, "starting_after")
    return RetrieveQuery(
        include=_parse_include(query),
        stream=_boolean(query, "stream", default=False),
        starting_after=None if starting_after is None else _integer(starting_after, "starting_after", 0, UINT32_MAX),
        include_obfuscation=_boolean(query, "include_obfuscation", default=True),
    )


class ListQuery(NamedTuple):
    """The query of GET /v1/responses/{id}/input_items."""

    after: str
    """Begin behind the item with this id; empty: at the beginning."""
    limit: int
    is_ascending: bool


def parse_list(query: Query) -> ListQuery:
    """The query of GET /v1/responses/{id}/input_items; `include` may name what is there in any case.

    Raises:
        ApiError: a value is malformed; `param` is the parameter.
    """
    _parse_include(query)
    limit, order = _last(query, "limit"), _last(query, "order")
    if order not in (None, "asc", "desc"):
        message = "Invalid value for 'order'. Supported values are: 'asc' and 'desc'."
        raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, "order")
    return ListQuery(
        after=_last(query, "after") or "",
        limit=DEFAULT_LIMIT if limit is None else _integer(limit, "limit", 1, MAX_LIMIT),
        is_ascending=order == "asc",
    )


def _parse_include(query: Query) -> list[Include.ValueType]:
    values = query.getall("include", []) + query.getall("include[]", [])
    return [
        INCLUDE.decode(value, f"include[{index}]")
        for index, value in enumerate(values)
        if value not in FRUITLESS_INCLUDES
    ]


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
