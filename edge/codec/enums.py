"""Enumerations: the strings of the JSON form <-> protobuf values."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2, item_pb2, response_pb2, tool_pb2
from antiphon.responses.v1.error_pb2 import ErrorReason

if TYPE_CHECKING:  # generic in its stub alone
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

EnumT = TypeVar("EnumT", bound=int)


class Names(Generic[EnumT]):
    """One enumeration's strings. The zero value, "not given", has none."""

    def __init__(self, values: Mapping[str, EnumT], unset: EnumT) -> None:
        self._values = dict(values)
        self._names = {value: name for name, value in values.items()}
        self._unset = unset

    def decode(self, name: str | None, place: str) -> EnumT:
        """The value called ``name``; the zero value for None.

        Raises:
            ApiError: INVALID_VALUE at ``place``.
        """
        if name is None:
            return self._unset
        value = self._values.get(name)
        if value is None:
            raise invalid_choice(name, self._values, place)
        return value

    def encode(self, value: EnumT) -> str:
        """The name of ``value``, which must not be zero: params as `with_defaults` leaves them, or a checked field."""
        return self._names[value]


def invalid_choice(value: str, choices: Iterable[str], place: str) -> ApiError:
    """The error for a ``value`` that is none of ``choices``, in OpenAI's words."""
    *others, last = [f"'{choice}'" for choice in choices]
    supported = f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}" if others else last
    shown = value if len(value) <= 64 else value[:64] + "..."
    return ApiError(
        ErrorReason.ERROR_REASON_INVALID_VALUE, f"Invalid value: '{shown}'. Supported values are: {supported}.", place
    )


def _names(enum: "_EnumTypeWrapper[EnumT]", prefix: str) -> Names[EnumT]:
    """Names as the proto has them: ``TRUNCATION_AUTO`` is "auto"."""
    values = {name.removeprefix(prefix).lower(): value for name, value in enum.items()}
    return Names(values, unset=values.pop("unspecified"))


ITEM_STATUS = _names(item_pb2.ItemStatus, "ITEM_STATUS_")
ROLE = _names(item_pb2.Role, "ROLE_")
PHASE = _names(item_pb2.MessagePhase, "MESSAGE_PHASE_")
IMAGE_DETAIL = _names(content_pb2.ImageDetail, "IMAGE_DETAIL_")
TOOL_CHOICE_MODE = _names(tool_pb2.ToolChoiceMode, "TOOL_CHOICE_MODE_")
VERBOSITY = _names(response_pb2.Verbosity, "VERBOSITY_")
REASONING_EFFORT = _names(response_pb2.ReasoningEffort, "REASONING_EFFORT_")
REASONING_SUMMARY = _names(response_pb2.ReasoningSummary, "REASONING_SUMMARY_")
TRUNCATION = _names(response_pb2.Truncation, "TRUNCATION_")
SERVICE_TIER = _names(response_pb2.ServiceTier, "SERVICE_TIER_")
RESPONSE_STATUS = _names(response_pb2.ResponseStatus, "RESPONSE_STATUS_")
INCOMPLETE_REASON = _names(response_pb2.IncompleteReason, "INCOMPLETE_REASON_")
INCLUDE = Names(
    {
        "reasoning.encrypted_content": response_pb2.INCLUDE_REASONING_ENCRYPTED_CONTENT,
        "message.output_text.logprobs": response_pb2.INCLUDE_MESSAGE_OUTPUT_TEXT_LOGPROBS,
    },
    unset=response_pb2.INCLUDE_UNSPECIFIED,
)
