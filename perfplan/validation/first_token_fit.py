"""Constants of an engine's TTFT in closed loops, fitted release around engine around what engines share.

The TTFT of a closed loop is linear in these constants, so the runs are priced once. Queues that nobody reports make
outliers, so relative errors count by the logarithm of their square (Cauchy loss). A release is drawn towards its
engine, an engine towards `CONSTANTS`; these and the spreads, in logarithms, have the least error on models left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from perfplan.catalog.specs import Engine
from perfplan.errors import PerfplanError
from perfplan.validation.serving import Pricer, listed
from perfplan.validation.serving_rows import METRICS, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CONSTANTS", "fit_first_tokens"]

CONSTANTS = {
    # constant: (shared by engines, least, most, spread of engines, spread of releases)
    "first": (0.035, 1e-3, 0.5, 0.15, 0.15),
    "ahead": (1.4, 0.05, 9.0, 1.0, 0.3),
    "stream": (1.2e-3, 1e-5, 7e-3, 0.3, 0.4),
    "burst": (0.13, 0.01, 1.0, 0.03, 0.3),
}
PARTS = ("server", "ahead", "streams", "burst")  # of Steady.waits, proportional to the constants
SCALE = 0.25  # relative error from which a row counts less
MOST = 30  # rows of one model and release that count in full towards their engine


def _columns(runs: Sequence[Run], pricer: Pricer) -> tuple[NDArray[np.float64], NDArray[np.float64], list[Run]]:
    """(seconds per unit of each constant, seconds that depend on none, runs) of the runs that can be priced."""
    units, rest, kept = [], [], []
    for run in runs:
        try:
            steady, _ = pricer.steady(run)
        except PerfplanError:
            continue
        if steady.waits and np.isfinite(steady.ttft):
            units.append([float(steady.waits[name]) for name in PARTS])
            rest.append(float(steady.ttft) - sum(units[-1]))
            kept.append(run)
    start = np.array([one[0] for one in CONSTANTS.values()])
    return np.array(units).reshape(-1, len(PARTS)) / start, np.array(rest), kept


def _fit(units: NDArray[np.float64], rest: NDArray[np.float64], measured: NDArray[np.float64],
         counts: NDArray[np.float64], centre: NDArray[np.float64], spread: NDArray[np.float64]
         ) -> NDArray[np.float64]:
    """Logarithms of the constants."""
    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parts = units * np.exp(x)
        whole = parts.sum(axis=1) + rest
        residual, pull = (whole / measured - 1) / SCALE, (x - centre) / spread
        slope = counts * 2 * residual / (1 + residual**2) / SCALE / measured
        return float(counts @ np.log1p(residual**2) + pull @ pull), slope @ parts + 2 * pull / spread

    limits = [(np.log(low), np.log(high)) for _, low, high, *_ in CONSTANTS.values()]
    wave = np.where(np.array(list(CONSTANTS)) == "burst", 0.0, centre)  # a loop in step is another valley
    found = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits) for start in (centre, wave)]
    best: NDArray[np.float64] = min(found, key=lambda one: float(one.fun)).x
    return best


def _plain(engine: Engine) -> Engine:
    first, ahead, stream, burst = (one[0] for one in CONSTANTS.values())
    return replace(engine, first=first, ahead=ahead, stream=stream, burst=burst)


def fit_first_tokens(runs: Sequence[Run], release: str | None, pricer: Pricer) -> dict[str, float]:
    """The constants of a release of an engine, or of the engine in general (None), by the TTFT of runs of this engine
    of any release. pricer: prices them with the engine's other constants."""
    base = Pricer(pricer.catalog, lambda engine: _plain(pricer.change(engine)))
    units, rest, kept = _columns([r for r in runs if METRICS[r.metric] == "ttft" and not listed(r)], base)
    return _constants(units, rest, kept, release)


def _constants(units: NDArray[np.float64], rest: NDArray[np.float64], kept: Sequence[Run],
               release: str | None) -> dict[str, float]:
    centre = np.log([one[0] for one in CONSTANTS.values()])
    if kept:
        measured = 1e-3 * np.array([run.value for run in kept])
        crowd = Counter((run.release, run.model) for run in kept)
        counts = np.array([min(1.0, MOST / crowd[run.release, run.model]) for run in kept])
        centre = _fit(units, rest, measured, counts, centre, np.array([one[3] for one in CONSTANTS.values()]))
        mine = np.array([run.release == release for run in kept])
        if mine.any():
            centre = _fit(units[mine], rest[mine], measured[mine], np.ones(int(mine.sum())), centre,
                          np.array([one[4] for one in CONSTANTS.values()]))
    return {name: float(np.exp(x)) for name, x in zip(CONSTANTS, centre, strict=True)}
