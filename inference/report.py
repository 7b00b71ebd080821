"""What the log says about one request when it ends: sizes and times, never prompt or output."""

import logging
import time

from antiphon.inference.v1.inference_pb2 import GenerateRequest
from antiphon.responses.v1 import response_pb2
from antiphon.trace import valid_traceparent
from inference.output import Output

log = logging.getLogger(__name__)


class Report:
    """One request, from its arrival on."""

    def __init__(self, request: GenerateRequest) -> None:
        self.outcome = "finished"
        self.output: Output | None = None
        self._request_id = request.request_id
        self._traceparent = valid_traceparent(request.traceparent)
        self._arrived = time.monotonic()
        self._started: float | None = None
        self._first_step: float | None = None

    def started(self) -> None:
        self._started = time.monotonic()

    def stepped(self) -> None:
        if self._first_step is None:
            self._first_step = time.monotonic()

    def write(self) -> None:
        """Log the one line."""
        ended = time.monotonic()
        usage = response_pb2.Usage() if self.output is None else self.output.usage
        log.info(
            "generation ended",
            extra={
                "request_id": self._request_id,
                "traceparent": self._traceparent,
                "outcome": self.outcome,
                "input_tokens": usage.input_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": usage.output_tokens,
                "queued_ms": _milliseconds(self._arrived, self._started or ended),
                "prefill_ms": _milliseconds(self._started or ended, self._first_step or ended),
                "decode_ms": _milliseconds(self._first_step or ended, ended),
            },
        )


def _milliseconds(start: float, end: float) -> int:
    return round((end - start) * 1000)
