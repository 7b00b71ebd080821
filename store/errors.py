"""What a failed Redis command means, decided in one place."""

import logging
from enum import Enum, auto

from redis import exceptions

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason

RETRY_AFTER_MS = 1000
"""When a client may try again after STORE_UNAVAILABLE, in milliseconds."""

_log = logging.getLogger(__name__)

_TRANSIENT = (
    exceptions.ConnectionError,  # LOADING after a restart included
    exceptions.TimeoutError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.AskError,  # MOVED included: the slot moves while the pipeline is under way
    exceptions.RedisClusterException,  # no node of the cluster can be reached
    OSError,  # TimeoutError included
)
_REFUSED = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
)
_REFUSED_PREFIXES = ("MISCONF", "NOREPLICAS", "NOAUTH", "READONLY", "OOM")
"""Errors without a class of their own: a full disk, too few replicas; and the others where redis-py leaves them raw."""


class Fault(Enum):
    """What is to be done about a failed command."""

    TRANSIENT = auto()
    """The server or the way to it failed: whether the command ran is unknown; it may be tried again soon."""
    REFUSED = auto()
    """The server answered that it cannot serve now: full, read-only, or access denied."""
    BUG = auto()
    """Anything else: a mistake of ours."""


def fault_of(error: BaseException) -> Fault:
    """What ``error``, raised by redis-py or found among its replies, means."""
    if isinstance(error, _REFUSED) or str(error).startswith(_REFUSED_PREFIXES):
        return Fault.REFUSED
    if isinstance(error, _TRANSIENT):
        return Fault.TRANSIENT
    return Fault.BUG


def is_read_only(error: BaseException) -> bool:
    """The server is no primary, or no longer: another one may be."""
    return isinstance(error, exceptions.ReadOnlyError) or str(error).startswith("READONLY")


def store_unavailable(error: BaseException) -> ApiError:
    """What the client is told when ``error`` stands; the log says why."""
    _log.warning("store unavailable", extra={"error_type": type(error).__name__, "error": str(error)})
    if fault_of(error) is Fault.REFUSED:
        message = "The response store takes nothing new at the moment. Try again later, or send 'store': false."
    else:
        message = "The response store is unavailable; please try again."
    return ApiError(ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, message, retry_after_ms=RETRY_AFTER_MS)
