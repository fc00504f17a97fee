"""What a fit to measurements finds, and which measured rows take part in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from perfplan.calibration.tables import coarse

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["US", "Calibration", "Chip", "Fitted", "Rejected", "doubts", "of_chip", "significant", "split"]

US = 1e-6  # s
WRITTEN = 4  # significant digits of a constant


class Chip(Protocol):
    """What the fits need to know of an accelerator."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def peak(self) -> Mapping[str, float]:
        """Dense peak per number format [FLOP/s]."""

    @property
    def memory_bandwidth(self) -> float:
        """Memory bandwidth [B/s]."""

    @property
    def units(self) -> int | None:
        """Its SMs, CUs or cores."""

    @property
    def l2(self) -> float | None:
        """Its second-level cache [B]."""

    @property
    def kernels(self) -> Mapping[str, Mapping[str, Any]]:
        """Kernel constants it has so far: kind -> format -> constants."""


@dataclass(frozen=True)
class Rejected:
    """A row that took no part, and why."""

    row: str
    reason: str


@dataclass(frozen=True)
class Fitted:
    """Constants of one kind (or operation), number format and software.

    constants: fractions [1], overhead, launch and latency [s], half [tokens or rows]; rows: how many were fitted; mape,
    left_out: mean absolute error in-fit and on groups left out [1] (None if there was one group only); quantiles: 10th,
    50th and 90th percentile of log(measured / predicted) [1]; written: whether the catalog entry takes it.
    """

    kind: str
    dtype: str
    software: str
    rows: int
    constants: Mapping[str, float]
    mape: float
    left_out: float | None
    quantiles: tuple[float, float, float]
    written: bool = True

    def says(self, files: str, date: str) -> str:
        """The `source` of these constants in a catalog entry."""
        held = f", {self.left_out:.1%} left out" if self.left_out is not None else ""
        low, middle, high = self.quantiles
        return (f"perfplan calibrate, {files}, {self.software or 'software not stated'}, {date}: {self.rows} rows, mean"
                f" abs. error {self.mape:.1%} in-fit{held}; log residuals at 10/50/90 %: {low:+.3f}/{middle:+.3f}"
                f"/{high:+.3f}")


@dataclass(frozen=True)
class Calibration:
    """Everything one run found out."""

    fitted: tuple[Fitted, ...]
    rejected: tuple[Rejected, ...] = ()
    levels: Mapping[str, Any] = field(default_factory=dict)  # constants of a cluster's innermost level
    sustained: Mapping[str, float] = field(default_factory=dict)  # format -> clock that lasts over that of one kernel


def significant(value: float) -> float:
    """The constant as a catalog entry has it."""
    return float(f"{value:.{WRITTEN}g}")


def of_chip(table: pd.DataFrame, resolve: Callable[[str], str], chip: str) -> pd.DataFrame:
    """Rows of the chip, those that name none included."""
    names = {name: not name or resolve(name) == chip for name in table["hardware_id"].unique()}
    return table[table["hardware_id"].map(names).astype(bool)]


def split(table: pd.DataFrame, reasons: Sequence[str]) -> tuple[pd.DataFrame, list[Rejected]]:
    """Rows without a reason to be refused, and the others."""
    bad = [Rejected(str(row), reason) for row, reason in zip(table["row"], reasons, strict=True) if reason]
    return table[np.array([not reason for reason in reasons], dtype=bool)], bad


def doubts(table: pd.DataFrame) -> list[str]:
    """Why rows are not used before anything is computed: no time, marked suspect, of low quality."""

    def why(latency: float, suspect: float, quality: str, doubt: str, short: bool) -> str:
        if doubt:
            return doubt
        if short:
            return "its time is published to 1 us, too coarse below 20 us"
        if not latency > 0:
            return "it has no time"
        if suspect == 1:
            return "it is marked suspect"
        return f"its quality is {quality}, not A" if quality not in ("", "A") else ""

    stated = table["doubt"] if "doubt" in table else [""] * len(table)
    columns = (table["latency_us"], table["suspect"], table["quality"], stated, coarse(table))
    return [why(*cells) for cells in zip(*columns, strict=True)]
