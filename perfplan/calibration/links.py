"""Fit the constants of one fast domain to sweeps of all its collectives over message size and number of ranks.

One launch, one latency per hop and one fill serve every operation; a fraction of the link bandwidth belongs to each
operation and number of ranks (nccl-tests counts the bytes S):
    t = L + x + 2 sqrt(fill L x),  L = launch + hops latency,  x = steps S / (efficiency(op, n) bandwidth)
hops: 2(n-1) all-reduce, n-1 all-gather and reduce-scatter, the library's `exchange` all-to-all. An all-reduce in the
switches has x = S / (reduction bandwidth) and the latency of the ring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfplan.calibration.fit import Array, Columns, Fit, fit_log
from perfplan.formulas.collectives import fill_time

__all__ = ["OPERATIONS", "Domain", "columns_of", "efficiencies", "fit_level", "left_out_ranks", "left_out_sizes",
           "steps"]

OPERATIONS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "all_gather",
              "all_to_all": "all_to_all"}  # operation -> whose constants it has
_CODES = {name: float(code) for code, name in enumerate(dict.fromkeys(OPERATIONS.values()))}
_FACTOR = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0, "p2p": 0.0}
_START = {"launch": (1e-8, 5e-6, 1e-3), "latency": (1e-9, 1e-6, 1e-4), "fill": (1e-4, 0.4, 30.0)}


def steps(op: str, ranks: Array) -> Array:
    """Bytes that cross the busiest link per byte of message [1] (bus bandwidth / algorithm bandwidth)."""
    if op == "p2p":
        return np.ones_like(ranks)
    return np.asarray(_FACTOR[op] * (ranks - 1) / ranks, dtype=float)


@dataclass(frozen=True)
class Domain:
    """What is known of a fast domain before the fit.

    bandwidth: links of one accelerator, one direction [B/s]; exchange: hops that an all-to-all waits for [1];
    switched: fewest ranks whose all-reduce the switches do, 0 = never [1].
    """

    bandwidth: float
    exchange: float = 1.0
    switched: int = 0

    def times(self, columns: Columns, constants: Mapping[str, float]) -> Array:
        """Model for `fit_log`: times [s] from columns op, ranks and bytes; NaN where an operation has no constants."""
        ranks = columns["ranks"]
        hops, moved = np.zeros_like(ranks), np.full_like(ranks, np.nan)
        for name, code in _CODES.items():
            at = columns["op"] == code
            hops[at] = self.exchange if name == "all_to_all" else _FACTOR[name] * (ranks[at] - 1)
            if points := efficiencies(constants, name, 0):
                reached = np.interp(np.log2(ranks[at]), np.log2(list(points)), list(points.values()))
                moved[at] = steps(name, ranks[at]) * columns["bytes"][at] / reached
        if "reduction" in constants:
            at = self._reduced(columns)
            moved[at] = columns["bytes"][at] / constants["reduction"]
        latency = constants["launch"] + hops * constants["latency"]
        transfer = moved / self.bandwidth
        return np.asarray(latency + transfer + fill_time(transfer, constants["fill"] * latency), dtype=float)

    def _reduced(self, columns: Columns) -> NDArray[np.bool_]:
        return np.array((columns["op"] == _CODES["all_reduce"]) & (columns["ranks"] >= (self.switched or np.inf)))

    def start(self, columns: Columns, seconds: Array) -> dict[str, tuple[float, float, float]]:
        """Bounds and first guesses: fractions start at what the fastest row of an operation and rank count reached."""
        found = dict(_START)
        reduced = self._reduced(columns)
        rate = columns["bytes"] / seconds / self.bandwidth
        for name, code in _CODES.items():
            for count in np.unique(columns["ranks"][(columns["op"] == code) & ~reduced]):
                at = (columns["op"] == code) & (columns["ranks"] == count)
                best = float(np.max(rate[at])) * float(steps(name, count))
                found[f"{name}_{int(count)}"] = (best / 20, best * 1.05, best * 20)
        if reduced.any():
            best = float(np.max(rate[reduced]))
            found["reduction"] = (best / 20, best * 1.05, best * 20)
        return found


def columns_of(ops: Iterable[str], ranks: Array, sizes: Array) -> dict[str, Array]:
    """Columns of the model from names of operations, ranks [1] and sizes [B], one entry per row."""
    return {"op": np.array([_CODES[OPERATIONS[op]] for op in ops]), "ranks": ranks, "bytes": sizes}


def fit_level(domain: Domain, columns: Columns, seconds: Array) -> Fit:
    """Constants launch, latency [s], fill [1], `<operation>_<ranks>` and reduction [1] of all rows together."""
    return fit_log(domain.times, columns, seconds, domain.start(columns, seconds))


def _left_out(domain: Domain, columns: Columns, seconds: Array, fold: Array) -> Array:
    result = np.full(len(seconds), np.nan)
    for part in np.unique(fold):
        out = fold == part
        if out.all():
            continue
        found = fit_level(domain, {name: cells[~out] for name, cells in columns.items()}, seconds[~out])
        predicted = domain.times({name: cells[out] for name, cells in columns.items()}, found.constants)
        result[out] = np.log(seconds[out] / predicted)
    return result


def left_out_sizes(domain: Domain, columns: Columns, seconds: Array) -> Array:
    """Log residuals of every row with every third message size left out, three times; NaN where nothing is left [1]."""
    place = np.searchsorted(np.unique(columns["bytes"]), columns["bytes"])
    return _left_out(domain, columns, seconds, place.astype(float) % 3)


def left_out_ranks(domain: Domain, columns: Columns, seconds: Array) -> Array:
    """Log residuals of every row with its number of ranks left out: fractions from the neighbours in log2 n [1]."""
    return _left_out(domain, columns, seconds, columns["ranks"])


def efficiencies(constants: Mapping[str, float], operation: str, digits: int = 4) -> dict[int, float]:
    """Ranks -> fraction of the link bandwidth reached by an operation [1], ascending."""
    found = {int(name.rpartition("_")[2]): value for name, value in constants.items()
             if name.rpartition("_")[0] == operation and name.rpartition("_")[2].isdigit()}
    return {count: round(found[count], digits) if digits else found[count] for count in sorted(found)}
