"""Constants of an engine's TTFT in closed loops, fitted release around engine around what engines share.

The TTFT of a closed loop is linear in these constants until the step ahead is full, so the runs are priced twice, with
little ahead and with most. Queues that nobody reports make outliers, so relative errors count by the logarithm of their
square (Cauchy loss). A release is drawn towards its engine, an engine towards `CONSTANTS`; these and the spreads, in
logarithms, have the least error on models left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

from perfplan.errors import PerfplanError
from perfplan.validation.serving import Pricer, listed
from perfplan.validation.serving_rows import METRICS, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["CONSTANTS", "fit_first_tokens"]

CONSTANTS = {
    # constant: (shared by engines, least, most, spread of engines, spread of releases)
    "first": (0.035, 1e-3, 0.5, 0.15, 0.15),
    "ahead": (1.4, 0.05, 9.0, 1.0, 0.3),
    "stream": (1.2e-3, 1e-5, 7e-3, 0.3, 0.4),
    "burst": (0.13, 0.01, 1.0, 0.03, 0.3),
}
PARTS = ("server", "ahead", "streams", "burst")  # of Steady.waits, proportional to the constants
AHEAD = CONSTANTS["ahead"][1:3]
SCALE = 0.25  # relative error from which a row counts less
MOST = 30  # rows of one model and release that count in full towards their engine


@dataclass(frozen=True, eq=False)
class _Columns:
    """Seconds of runs: per unit of each constant; at most, however large it is; that depend on none; measured."""

    units: Array
    most: Array
    rest: Array
    measured: Array

    def parts(self, constants: Array) -> tuple[Array, NDArray[np.bool_]]:
        """(seconds by constant, whether they grow with it)."""
        free: Array = self.units * constants
        return np.minimum(free, self.most), free < self.most

    def of(self, mine: NDArray[np.bool_]) -> _Columns:
        """Some of the runs."""
        return _Columns(self.units[mine], self.most[mine], self.rest[mine], self.measured[mine])


def _columns(runs: Sequence[Run], little: Pricer, much: Pricer) -> tuple[_Columns, list[Run]]:
    """The runs that can be priced, and what prices them with little and with most ahead says."""
    units, most, rest, kept = [], [], [], []
    for run in runs:
        try:
            steady, full = little.steady(run)[0], much.steady(run)[0]
        except PerfplanError:
            continue
        if steady.waits and np.isfinite(steady.ttft):
            units.append([float(steady.waits[name]) for name in PARTS])
            most.append([float(full.waits[name]) if name == "ahead" else np.inf for name in PARTS])
            rest.append(float(steady.ttft) - sum(units[-1]))
            kept.append(run)
    per, shape = np.array(list(_ends(AHEAD[0]).values())), (len(kept), len(PARTS))
    measured = 1e-3 * np.array([run.value for run in kept])
    return _Columns(np.reshape(units, shape) / per, np.reshape(most, shape), np.array(rest), measured), kept


def _fit(columns: _Columns, counts: Array, centre: Array, spread: Array) -> Array:
    """Logarithms of the constants."""
    def loss(x: Array) -> tuple[float, Array]:
        parts, growing = columns.parts(np.exp(x))
        whole = parts.sum(axis=1) + columns.rest
        residual, pull = (whole / columns.measured - 1) / SCALE, (x - centre) / spread
        slope = counts * 2 * residual / (1 + residual**2) / SCALE / columns.measured
        return float(counts @ np.log1p(residual**2) + pull @ pull), slope @ (parts * growing) + 2 * pull / spread

    limits = [(np.log(low), np.log(high)) for _, low, high, *_ in CONSTANTS.values()]
    best: Array = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=limits).x
    return best


def _ends(ahead: float) -> dict[str, Any]:
    return {name: one[0] for name, one in CONSTANTS.items()} | {"ahead": ahead}


def fit_first_tokens(runs: Sequence[Run], release: str | None, pricer: Pricer) -> dict[str, float]:
    """The constants of a release of an engine, or of the engine in general (None), by the TTFT of runs of this engine
    of any release. pricer: prices them with the engine's other constants."""
    def priced(ahead: float) -> Pricer:
        return Pricer(pricer.catalog, lambda engine: replace(pricer.change(engine), **_ends(ahead)))

    columns, kept = _columns([r for r in runs if METRICS[r.metric] == "ttft" and not listed(r)], *map(priced, AHEAD))
    shared, engines, releases = (np.array([one[at] for one in CONSTANTS.values()]) for at in (0, 3, 4))
    centre = np.log(shared)
    if kept:
        crowd = Counter((run.release, run.model) for run in kept)
        counts = np.array([min(1.0, MOST / crowd[run.release, run.model]) for run in kept])
        centre = _fit(columns, counts, centre, engines)
        mine = np.array([run.release == release for run in kept])
        if mine.any():
            centre = _fit(columns.of(mine), np.ones(int(mine.sum())), centre, releases)
    return {name: float(np.exp(x)) for name, x in zip(CONSTANTS, centre, strict=True)}
