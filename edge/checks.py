"""Checks of one value at a time, with OpenAI's words for what is wrong."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

if TYPE_CHECKING:  # generic in its stub alone
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

UINT32_MAX: Final = 2**32 - 1
MAX_NAME: Final = 64
MAX_TEXT: Final = 10_485_760

INTEGER_RANGES: Mapping[str, tuple[int, int]] = {
    "max_output_tokens": (16, UINT32_MAX),
    "max_tool_calls": (1, UINT32_MAX),
    "top_logprobs": (0, 20),
}
"""Lowest and highest value, both allowed."""

_NAME = re.compile(r"[a-zA-Z0-9_-]+")

EnumT = TypeVar("EnumT", bound=int)


def check_integer(value: int, place: str, low: int, high: int) -> None:
    """Check that ``value`` is in ``low`` to ``high``, both allowed."""
    if value < low:
        raise ApiError(
            ErrorReason.ERROR_REASON_INTEGER_BELOW_MIN_VALUE,
            f"Invalid '{place}': integer below minimum value. Expected a value >= {low}, "
            f"but got {_shown(value)} instead.",
            place,
        )
    if value > high:
        raise ApiError(
            ErrorReason.ERROR_REASON_INTEGER_ABOVE_MAX_VALUE,
            f"Invalid '{place}': integer above maximum value. Expected a value <= {high}, "
            f"but got {_shown(value)} instead.",
            place,
        )


def check_decimal(value: float, place: str, low: float, high: float) -> None:
    """Check that ``value`` is in ``low`` to ``high``, both allowed; NaN, which gRPC can carry, is not."""
    if value > high:
        raise ApiError(
            ErrorReason.ERROR_REASON_DECIMAL_ABOVE_MAX_VALUE,
            f"Invalid '{place}': decimal above maximum value. Expected a value <= {high}, but got {value} instead.",
            place,
        )
    if not value >= low:  # NaN is caught here
        raise ApiError(
            ErrorReason.ERROR_REASON_DECIMAL_BELOW_MIN_VALUE,
            f"Invalid '{place}': decimal below minimum value. Expected a value >= {low}, but got {value} instead.",
            place,
        )


def check_length(value: str, place: str, high: int, *, low: int = 0) -> None:
    """Check that ``value`` has ``low`` (0 or 1) to ``high`` characters."""
    if len(value) > high:
        raise ApiError(
            ErrorReason.ERROR_REASON_STRING_ABOVE_MAX_LENGTH,
            f"Invalid '{place}': string too long. Expected a string with maximum length {high}, but got a string with "
            f"length {len(value)} instead.",
            place,
        )
    if len(value) < low:
        raise ApiError(
            ErrorReason.ERROR_REASON_STRING_BELOW_MIN_LENGTH,
            f"Invalid '{place}': empty string. Expected a string with minimum length {low}, but got an empty string "
            "instead.",
            place,
        )


def check_name(name: str, place: str) -> None:
    """Check the name of a function or of a format."""
    check_length(name, place, MAX_NAME, low=1)
    if not _NAME.fullmatch(name):
        raise invalid(
            f"Invalid '{place}': string does not match pattern. Expected a string that matches the pattern "
            f"'^[a-zA-Z0-9_-]+$'.",
            place,
        )


def check_enum(enum: "_EnumTypeWrapper[EnumT]", value: EnumT, place: str, *, required: bool = False) -> None:
    """Protobuf's enumerations are open: a message can carry any number."""
    if value not in enum.DESCRIPTOR.values_by_number:
        raise invalid(f"Invalid value: {value} is no {enum.DESCRIPTOR.name}.", place)
    if required and not value:
        raise missing(place)


def _shown(value: int) -> str:
    """JSON integers may have thousands of digits."""
    return str(value) if abs(value) <= 10**24 else "a number of more than 24 digits"


def invalid(message: str, place: str) -> ApiError:
    """A value of the right type that is not allowed."""
    return ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message, place)


def missing(place: str) -> ApiError:
    """A required field that is absent or null."""
    return ApiError(
        ErrorReason.ERROR_REASON_MISSING_REQUIRED_PARAMETER, f"Missing required parameter: '{place}'.", place
    )
