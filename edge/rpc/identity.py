"""Who calls by gRPC, and for whom."""

import re
from typing import Any, Final

import grpc

from antiphon.errors import ApiError
from antiphon.responses.v1.error_pb2 import ErrorReason
from edge.auth import OWNER_NAME, Authenticator
from edge.settings import EdgeSettings

OWNER: Final = "x-antiphon-owner"
"""Metadata: for whom a trusted caller asks."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Callers:
    """Tells owners by what a call shows: an API key, else a client certificate.

    Args:
        authenticator: Knows API keys.
        settings: Who is trusted, and whether callers have certificates.
    """

    def __init__(self, authenticator: Authenticator, settings: EdgeSettings) -> None:
        self._authenticator = authenticator
        self._has_certificates = bool(settings.grpc_tls_ca)
        self._trusted = frozenset(name.strip() for name in settings.trusted_callers.split(",") if name.strip())

    def owner(self, context: _Context) -> str:
        """Whose call it is.

        Raises:
            ApiError: INVALID_API_KEY; PERMISSION_DENIED: it is on behalf of another owner, and the caller is not
                trusted to say so.
        """
        metadata = context.invocation_metadata() or ()
        caller = self._caller(context, [str(value) for name, value in metadata if name == "authorization"])
        owners = [str(value) for name, value in metadata if name == OWNER]
        if not owners:
            return caller
        if caller not in self._trusted:
            message = f"This caller may not act for other owners: see EDGE_TRUSTED_CALLERS. Leave '{OWNER}' out."
            raise ApiError(ErrorReason.ERROR_REASON_PERMISSION_DENIED, message)
        if len(owners) != 1 or not re.fullmatch(OWNER_NAME, owners[0]):
            message = f"Invalid metadata '{OWNER}': it must be one owner, of up to 128 letters, digits and ._@-"
            raise ApiError(ErrorReason.ERROR_REASON_INVALID_VALUE, message)
        return owners[0]

    def _caller(self, context: _Context, authorization: list[str]) -> str:
        if self._has_certificates and not authorization:
            names: list[bytes] = list(context.peer_identities() or ())  # of the certificate that the handshake verified
            if names:
                return names[0].decode(errors="replace")
        return self._authenticator.owner(authorization)
