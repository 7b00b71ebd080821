"""Who calls by gRPC."""

from typing import Any

import grpc

from edge.auth import Authenticator


def owner_of(context: grpc.aio.ServicerContext[Any, Any], authenticator: Authenticator) -> str:
    """The owner whose API key is in the metadata ``authorization``, as a bearer token.

    Raises:
        ApiError: INVALID_API_KEY.
    """
    metadata = context.invocation_metadata() or ()
    return authenticator.owner([str(value) for name, value in metadata if name == "authorization"])
