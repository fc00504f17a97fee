"""Progress on stderr: only on a terminal and only for work that lasts over two seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

__all__ = ["Progress"]

PATIENCE = 2.0  # s before the first word
INTERVAL = 0.2  # s between two words


class Progress:
    """A counter line: `with Progress("layouts") as tick: ... tick(done, total)`."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """Count `what` on `stream` (stderr unless given)."""
        self.what, self.stream = what, stream or sys.stderr
        self.start = self.last = time.monotonic()
        self.shown = False

    def __enter__(self) -> Progress:
        """Start to wait."""
        return self

    def __call__(self, done: float, total: float) -> None:
        """Tell that `done` of `total` are finished."""
        now = time.monotonic()
        if self.stream.isatty() and now - self.start > PATIENCE and now - self.last > INTERVAL:
            self.stream.write(f"\r\033[K{done:,.0f} of {total:,.0f} {self.what}")
            self.stream.flush()
            self.last, self.shown = now, True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Clear the line."""
        if self.shown:
            self.stream.write("\r\033[K")
            self.stream.flush()
