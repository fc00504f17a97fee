"""Constants of whole steps from measured step times: a robust fit in logarithms, each constant with bounds and a prior.

This module knows nothing of training: rows are numbers, a `price` function turns constants into step times. The prior
says what a constant is likely to be before any row is seen: about its start, and about the mean of its relatives. It
weighs as much as one row whose error is `NOISE`, so that rows decide where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

__all__ = ["NOISE", "Free", "Knob", "fit_steps"]

Array = NDArray[np.float64]
Price = Callable[[Array, Array], Array]  # constants, numbers of the rows wanted -> ln of their step times [s]

NOISE = 0.1  # ln error of a row that counts as usual; beyond it the loss grows linearly (definition of the loss)
_SCAN = (1.0, 0.25, 0.5, 1.5, 2.0)  # multiples at which a constant with a kink is tried
_STEP = 0.02  # ln step of the differences that make the Jacobian


@dataclass(frozen=True)
class Free:
    """A constant that may move. of: accelerator, family or framework; start, least, most: SI; doubt, spread: standard
    deviation of its ln about the start, and about the mean of its relatives [1]; only: owners or families concerned;
    scan: whether it acts beyond a kink only (a host that is late or not), so that slopes alone may not find it."""

    of: str
    name: str
    start: float
    least: float
    most: float
    doubt: float
    spread: float = 0.0
    only: tuple[str, ...] = ()
    scan: bool = False


@dataclass(frozen=True)
class Knob:
    """One number to fit: a free constant of one owner; relatives: knobs of one name that lean on each other share it;
    rows: numbers of the rows that it touches."""

    free: Free
    owner: str
    relatives: str
    rows: Array


def _prior(knobs: Sequence[Knob]) -> tuple[Array, Array]:
    """Matrix and right side of the prior: matrix @ x - side are residuals in units of one standard deviation."""
    n = len(knobs)
    lines, side = [], []
    for i, knob in enumerate(knobs):
        line = np.zeros(n)
        line[i] = 1 / knob.free.doubt
        lines.append(line)
        side.append(np.log(knob.free.start) / knob.free.doubt)
        kin = [j for j, k in enumerate(knobs) if (k.free.name, k.relatives) == (knob.free.name, knob.relatives)]
        if knob.free.spread and len(kin) > 1:
            line = np.zeros(n)
            line[i] = 1 / knob.free.spread
            line[kin] -= 1 / knob.free.spread / len(kin)
            lines.append(line)
            side.append(0.0)
    return np.array(lines).reshape(-1, n), np.array(side)


def fit_steps(price: Price, measured: Array, weights: Array, knobs: Sequence[Knob], rounds: int = 8) -> Array:
    """Values of the knobs that fit `measured` step times [s]: log error, soft L1, weights [1] per row.

    rounds: most evaluations of all rows; the Jacobian prices only the rows that a knob touches.
    """
    every, target, roots = np.arange(len(measured), dtype=float), np.log(measured), np.sqrt(weights)
    matrix, side = _prior(knobs)

    def residuals(x: Array) -> Array:
        return np.concatenate([roots * (price(np.exp(x), every) - target), NOISE * (matrix @ x - side)])

    def jacobian(x: Array) -> Array:
        now, slopes = price(np.exp(x), every), np.zeros((len(measured), len(knobs)))
        for i, knob in enumerate(knobs):
            rows, moved = knob.rows.astype(int), x.copy()
            moved[i] += _STEP if x[i] + _STEP < np.log(knob.free.most) else -_STEP
            slopes[rows, i] = roots[rows] * (price(np.exp(moved), knob.rows) - now[rows]) / (moved[i] - x[i])
        return np.concatenate([slopes, NOISE * matrix])

    least, most = (np.log([getattr(k.free, end) for k in knobs]) for end in ("least", "most"))

    def descended(start: Array, most_rounds: int) -> Array:
        found = least_squares(residuals, np.clip(start, least + 1e-6, most - 1e-6), jac=jacobian, bounds=(least, most),
                              loss="soft_l1", f_scale=NOISE, max_nfev=most_rounds, ftol=1e-4, xtol=1e-4)  # fmt: skip
        return np.asarray(found.x)

    start = np.log([k.free.start for k in knobs])
    if not any(knob.free.scan for knob in knobs):
        return np.asarray(np.exp(descended(start, rounds)))
    near = descended(start, max(rounds // 2, 1))
    for i, knob in enumerate(knobs):
        if knob.free.scan:
            near = _scanned(near, i, residuals, (least[i], most[i]))
    return np.asarray(np.exp(descended(near, rounds)))


def _scanned(x: Array, i: int, residuals: Callable[[Array], Array], bounds: tuple[float, float]) -> Array:
    """`x` with the i-th logarithm at the best of several multiples of it, by the loss of the fit."""

    def loss(moved: Array) -> float:
        return float(np.sum(np.sqrt(1 + (residuals(moved) / NOISE) ** 2)))

    tried = []
    for factor in _SCAN:
        moved = x.copy()
        moved[i] = np.clip(x[i] + np.log(factor), bounds[0] + 1e-6, bounds[1] - 1e-6)
        tried.append(moved)
    return min(tried, key=loss)
