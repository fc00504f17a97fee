"""What of a layout the cost of one layer depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Shape"]


@dataclass(frozen=True)
class Shape:
    """The layout axes that the cost of one layer depends on; numbers or columns."""

    seq: int
    mbs: Any
    tp: Any
    sp: Any
    cp: Any
    ep: Any
    etp: Any

    @property
    def tokens(self) -> Any:
        """Tokens of a micro-batch inside tensor-parallel regions of a rank."""
        return self.mbs * self.seq / self.cp

    @property
    def rows(self) -> Any:
        """Tokens that a rank holds outside tensor-parallel regions."""
        return self.tokens / (1 + (self.tp - 1) * self.sp)
