"""Fit the constants of collectives inside one fast domain to measured sweeps over message size and rank count.

Plain form, for n ranks and a message of S bytes per rank (convention of nccl-tests):
    t = launch + hop*(n - 1) + steps(n) * S / (efficiency[n] * bandwidth)
with steps = 2(n-1)/n for all-reduce and (n-1)/n for all-gather, reduce-scatter and all-to-all, and bandwidth one
direction of an accelerator's links. Two-piece form: the faster of a latency-lean protocol, whose bandwidth is a
fraction `lean` of the other's, and of a bandwidth protocol that costs `setup` more:
    t = launch + hop*(n - 1) + min(x / lean, setup + x),  x = steps(n) * S / (efficiency[n] * bandwidth)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perfplan.calibration.fit import Array, Columns, Fit, fit_log, left_out_residuals, mape

__all__ = ["asymptote", "collective_model", "efficiencies", "fit_collective", "steps"]

_FACTOR = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0, "p2p": 0.0}
START = {"launch": (1e-8, 5e-6, 1e-3), "hop": (1e-9, 1e-6, 1e-4)}
TWO_PIECE = {"lean": (0.05, 0.5, 1.0), "setup": (1e-7, 2e-5, 1e-2)}


def steps(op: str, ranks: Array) -> Array:
    """Bytes that cross the busiest link per byte of message [1] (bus bandwidth / algorithm bandwidth)."""
    if op == "p2p":
        return np.ones_like(ranks)
    return _FACTOR[op] * (ranks - 1) / ranks


def collective_model(op: str, bandwidth: float) -> Any:
    """Model for `fit_log`: times [s] from columns ranks and bytes; two-piece if there is a constant `lean`."""

    def model(columns: Columns, c: Mapping[str, float]) -> Array:
        ranks = columns["ranks"]
        reached = np.array([c[f"efficiency_{int(n)}"] for n in ranks]) * bandwidth
        transfer = steps(op, ranks) * columns["bytes"] / reached
        if "lean" in c:
            transfer = np.minimum(transfer / c["lean"], c["setup"] + transfer)
        return np.asarray(c["launch"] + c["hop"] * (ranks - 1) + transfer, dtype=float)

    return model


def fit_collective(op: str, ranks: Array, sizes: Array, seconds: Array, bandwidth: float, *, two_piece: bool = False,
                   emphasis: float = 1.0, large: float = 1e6, **fixed: float) -> tuple[Fit, float]:
    """Constants of one operation, and the mean error on left-out message sizes (5 folds).

    ranks [1], sizes [B], seconds [s]: one entry per row; bandwidth: one direction of the links [B/s]; emphasis: weight
    of rows of at least `large` bytes against the smaller ones [1]; fixed: constants that are known.
    """
    model = collective_model(op, bandwidth)
    start = dict(START) | (TWO_PIECE if two_piece else {})
    start |= {f"efficiency_{int(n)}": (0.01, 0.6, 2.0) for n in np.unique(ranks)}
    start = {name: value for name, value in start.items() if name not in fixed}

    def once(columns: Columns, times: Array) -> Fit:
        weights = np.where(columns["bytes"] >= large, emphasis, 1.0)
        return fit_log(model, columns, times, start, fixed=fixed, weights=weights)

    columns = {"ranks": ranks, "bytes": sizes}
    held = left_out_residuals(model, columns, seconds, [f"{size:020.0f}" for size in sizes], once)
    return once(columns, seconds), mape(held)


def efficiencies(constants: Mapping[str, float], digits: int = 4) -> dict[int, float]:
    """Ranks -> fraction of the link bandwidth reached [1], ascending."""
    found = {int(name.removeprefix("efficiency_")): round(value, digits)
             for name, value in constants.items() if name.startswith("efficiency_")}
    return dict(sorted(found.items()))


def asymptote(op: str, ranks: Sequence[float], sizes: Sequence[float], seconds: Sequence[float],
              count: int = 3) -> float:
    """Bus bandwidth of the `count` largest messages [B/s], their median: what very large messages reach."""
    order = np.argsort(np.asarray(sizes, dtype=float))[-count:]
    n, size, time = (np.asarray(values, dtype=float)[order] for values in (ranks, sizes, seconds))
    return float(np.median(steps(op, n) * size / time))
