"""What every gRPC service of this project does with an error: the one place where a call is ended with a status."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from antiphon.errors import ApiError, to_call_status
from antiphon.responses.v1.error_pb2 import ErrorReason

log = logging.getLogger(__name__)


@asynccontextmanager
async def answer_errors(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncGenerator[None, None]:
    """End the call with the ApiError raised inside; anything else is a bug and shows no details."""
    try:
        yield
    except grpc.aio.BaseError:
        raise  # the call has ended
    except ApiError as error:
        await context.abort(*to_call_status(error))
    except Exception:
        log.exception("call failed")
        internal = ApiError(ErrorReason.ERROR_REASON_INTERNAL, "The server had an error processing the request.")
        await context.abort(*to_call_status(internal))
