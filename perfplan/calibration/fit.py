"""Fit positive constants of a cost model to measured times by least squares on the logarithm of the error.

A residual is log(measured / predicted): +0.1 means that the measurement took about 10 % longer than predicted. The
soft-L1 loss counts residuals beyond `scale` linearly instead of squared, so that a few odd rows do not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Columns", "Fit", "Model", "fit_log", "left_out_residuals", "mape", "quantiles"]

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
Model = Callable[[Columns, Mapping[str, float]], Array]


def mape(residuals: Array) -> float:
    """Mean absolute error of the prediction relative to the measurement [1], from log residuals.

    >>> round(mape(np.log(np.array([1 / 1.1, 1 / 0.9]))), 3)
    0.1
    """
    return float(np.mean(np.abs(np.exp(-residuals) - 1)))


def quantiles(residuals: Array) -> tuple[float, float, float]:
    """10th, 50th and 90th percentile of log residuals [1]."""
    low, middle, high = np.quantile(residuals, (0.1, 0.5, 0.9))
    return float(low), float(middle), float(high)


@dataclass(frozen=True)
class Fit:
    """Fitted constants (in the units the model takes) and log residuals of the rows used, in row order [1]."""

    constants: Mapping[str, float]
    residuals: Array
    cost: float

    @property
    def n(self) -> int:
        """Rows used."""
        return len(self.residuals)

    @property
    def mape(self) -> float:
        """Mean absolute error on the rows used, relative to the measurement [1]."""
        return mape(self.residuals)

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """10th, 50th and 90th percentile of the log residuals [1]."""
        return quantiles(self.residuals)


def fit_log(model: Model, columns: Columns, measured: Array, start: Mapping[str, tuple[float, float, float]], *,
            fixed: Mapping[str, float] | None = None, weights: Array | None = None, scale: float = 0.1,
            prior: Mapping[str, tuple[float, float]] | None = None) -> Fit:
    """Constants for which `model(columns, constants)` is closest to `measured` (same unit, all positive).

    start: constant -> (lower bound, first guess, upper bound), all positive, in the model's units. fixed: constants
    that are known. weights: weight of each row [1]. scale: log residual from which the loss grows linearly [1].
    prior: constant -> (usual value, how much one unit of ln away from it counts, in log residuals of one row): what
    holds a constant that few shapes say little of.

    >>> line = lambda c, k: k["a"] + c["x"] / k["b"]
    >>> x = np.array([1.0, 10.0, 100.0, 1000.0])
    >>> found = fit_log(line, {"x": x}, 3 + x / 2, {"a": (0.01, 1, 100), "b": (0.01, 1, 100)})
    >>> round(found.constants["a"], 3), round(found.constants["b"], 3)
    (3.0, 2.0)
    """
    from scipy.optimize import least_squares

    names = list(start)
    bounds = np.log(np.array([start[name] for name in names], dtype=float))
    root = np.ones(len(measured)) if weights is None else np.sqrt(weights / np.mean(weights))

    def constants(x: Array) -> dict[str, float]:
        return dict(zip(names, np.exp(x).tolist(), strict=True)) | dict(fixed or {})

    def residuals(x: Array) -> Array:
        return np.asarray(np.log(measured / model(columns, constants(x))), dtype=float)

    usual = [(names.index(name), np.log(value), weight) for name, (value, weight) in (prior or {}).items()
             if name in names]

    def weighted(x: Array) -> Array:
        away = [weight * (x[at] - middle) for at, middle, weight in usual]
        return np.concatenate([root * residuals(x), np.array(away, dtype=float)])

    best = least_squares(weighted, bounds[:, 1], bounds=(bounds[:, 0], bounds[:, 2]),
                         loss="soft_l1", f_scale=scale, x_scale=1.0)
    return Fit(constants(best.x), residuals(best.x), float(best.cost))


def _folds(groups: Sequence[object], folds: int) -> Array:
    """Fold number of each row; rows of one group share a fold, groups are dealt out in sorted order."""
    order = {group: i for i, group in enumerate(sorted(set(groups), key=str))}
    return np.array([order[group] % folds for group in groups], dtype=float)


def left_out_residuals(model: Model, columns: Columns, measured: Array, groups: Sequence[object],
                       fit: Callable[[Columns, Array], Fit], folds: int = 5) -> Array:
    """Log residuals of every row, predicted with constants fitted without the row's group [1].

    fit: the whole fitting procedure, called with the columns and times of the rows that are kept; groups: label of each
    row (for instance its matrix shape); folds: how many parts the groups are dealt into. Raises ValueError when
    there are fewer than two groups, because then nothing can be left out.
    """
    if len(set(groups)) < 2:
        raise ValueError("left-out error needs at least two groups of rows")
    fold = _folds(groups, folds)
    result = np.full(len(measured), np.nan)
    for part in np.unique(fold):
        out = fold == part
        found = fit({name: column[~out] for name, column in columns.items()}, measured[~out])
        predicted = model({name: column[out] for name, column in columns.items()}, found.constants)
        result[out] = np.log(measured[out] / predicted)
    return result
