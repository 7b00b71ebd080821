"""A progress bar on a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Self, TextIO

MEGABYTE = 1_000_000
_BAR_CELLS = 30
_REDRAW_INTERVAL_S = 0.1
_LINE_EVERY_PERCENT = 25


class Progress:
    """Shows how much of a download is there.

    A terminal gets one line that is redrawn at most ten times a second; a file or a pipe gets a line for every quarter.
    """

    def __init__(self, label: str, *, total_bytes: int, stream: TextIO) -> None:
        self._label = label
        self._total_bytes = max(total_bytes, 1)
        self._stream = stream
        self._redraws = stream.isatty()
        self._started_at = time.monotonic()
        self._next_redraw_at = 0.0
        self._next_line_percent = 0
        self._drawn = False

    def __enter__(self) -> Self:
        self.update(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._next_redraw_at = 0.0
            self.update(self._total_bytes)
        if self._redraws and self._drawn:
            self._stream.write("\n")
            self._stream.flush()

    def update(self, done_bytes: int) -> None:
        """Show ``done_bytes``, counted from the beginning of the file; more than the total is shown as the total."""
        done_bytes = min(done_bytes, self._total_bytes)
        percent = 100 * done_bytes // self._total_bytes
        amount = f"{done_bytes // MEGABYTE} of {self._total_bytes // MEGABYTE} MB"
        now = time.monotonic()
        if self._redraws:
            if now < self._next_redraw_at:
                return
            self._next_redraw_at = now + _REDRAW_INTERVAL_S
            self._drawn = True
            filled = _BAR_CELLS * done_bytes // self._total_bytes
            bar = "#" * filled + "." * (_BAR_CELLS - filled)
            self._stream.write(f"\r{self._label} [{bar}] {percent:3d} %  {amount}  {now - self._started_at:.0f} s ")
        else:
            if percent < self._next_line_percent:
                return
            self._next_line_percent = (percent // _LINE_EVERY_PERCENT + 1) * _LINE_EVERY_PERCENT
            self._stream.write(f"{self._label}: {percent} % ({amount})\n")
        self._stream.flush()
