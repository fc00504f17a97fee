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
    """A counter line: `with Progress("rows") as p: ... p(done, total)`, or `p.tick()` for each piece."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """Count `what` on `stream` (stderr unless given)."""
        self.what, self.stream = what, stream or sys.stderr
        self.start = self.last = time.monotonic()
        self.count = 0
        self.shown = False

    def __enter__(self) -> Progress:
        """Start to wait."""
        return self

    def tick(self, _: object = None) -> None:
        """Tell that one more piece, of an unknown number, is finished."""
        self.count += 1
        self._say(f"{self.count:,} {self.what}")

    def __call__(self, done: float, total: float) -> None:
        """Tell that `done` of `total` are finished."""
        self._say(f"{done:,.0f} of {total:,.0f} {self.what}")

    def _say(self, words: str) -> None:
        now = time.monotonic()
        if now - self.start > PATIENCE and now - self.last > INTERVAL and self.stream.isatty():
            self.stream.write(f"\r\033[K{words}")
            self.stream.flush()
            self.last, self.shown = now, True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the line."""
        if self.shown:
            self.stream.write("\r\033[K")
            self.stream.flush()
