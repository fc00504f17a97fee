"""Are the error bands honest? Coverage alone can be had with wide bands; here it stands beside width and score.

A band of nominal coverage 1 - ALPHA around ln t is scored, per measurement y, by its width plus 2 / ALPHA times what y
lies outside [1] (Gneiting and Raftery 2007, equation 43): the smaller the better, a band is paid for by its width and
for what it misses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from perfplan.calibration.bands import HIGH, LOW, Band, Bands, bands_from, fit_bands

__all__ = ["ALPHA", "BandScore", "Residual", "interval_score", "left_out_bands"]

ALPHA = 1 - (HIGH - LOW)  # share of measurements that may lie outside


@dataclass(frozen=True)
class Residual:
    """ln(measured / predicted) of one step [1] and ln predicted [ln s], of which source, family, dense or MoE, method
    and job; unlike: the bands, which are those of pretraining, widen for it."""

    source: str
    family: str
    moe: bool
    method: str
    group: str
    log_predicted: float
    log_residual: float
    unlike: bool = False

    def as_row(self) -> dict[str, Any]:
        """As `fit_bands` takes it."""
        return {"source": self.source, "family": self.family, "moe": self.moe, "group": self.group,
                "log_predicted": self.log_predicted, "log_residual": self.log_residual}  # fmt: skip


@dataclass(frozen=True)
class BandScore:
    """A band on measurements that it was not fitted on: coverage, median half-width, mean interval score [1]."""

    name: str
    rows: int
    coverage: float
    half_width: float
    score: float


def interval_score(low: float, high: float, value: float) -> float:
    """Width of the interval plus the penalty of a value outside [1].

    >>> interval_score(-0.1, 0.1, 0.05), round(interval_score(-0.1, 0.1, 0.2), 6)
    (0.2, 1.2)
    """
    return high - low + 2 / ALPHA * max(low - value, value - high, 0.0)


def _scored(name: str, pairs: Sequence[tuple[Band, float]]) -> BandScore:
    return BandScore(
        name,
        len(pairs),
        fmean(float(band.low <= value <= band.high) for band, value in pairs),
        median((band.high - band.low) / 2 for band, _ in pairs),
        fmean(interval_score(band.low, band.high, value) for band, value in pairs),
    )


def left_out_bands(
    residuals: Sequence[Residual],
    widening: Mapping[str, Any],
    find: Callable[[Bands, Residual], Band],
) -> list[BandScore]:
    """Per source, bands fitted on the residuals of the others; last the mean of the sources, under `overall`.

    widening: as in a band file; find: the band that a prediction of this kind would carry.
    """
    scores = []
    for source in sorted({one.source for one in residuals}):
        rest = [one.as_row() for one in residuals if one.source != source and one.method == "pretrain"]
        table = bands_from({"widening": widening, **fit_bands(rest)})
        mine = [(find(table, one), one.log_residual) for one in residuals if one.source == source]
        scores.append(_scored(source, mine))
    overall = BandScore(
        "overall",
        sum(one.rows for one in scores),
        fmean(one.coverage for one in scores),
        fmean(one.half_width for one in scores),
        fmean(one.score for one in scores),
    )
    return [*scores, overall]
