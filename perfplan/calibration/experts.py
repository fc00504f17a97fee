"""Fit the constants of whole expert layers, balanced and skewed, per accelerator and number format.

The form is `perfplan.formulas.moe.experts_time`: grouped products with half a tile per expert, and the permutation,
casts, activation and combination around them. The layer of an inference engine is measured, without dispatch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration.fit import Array, Columns, Fit, fit_log, left_out_residuals
from perfplan.calibration.kernels import BYTES, Rate
from perfplan.calibration.routing import exponent_of, loads
from perfplan.formulas.moe import expert_flops, expert_moves, expert_traffic, experts_time

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MATRICES", "expert_columns", "expert_model", "fit_experts", "left_out_layers"]

MATRICES = ("hidden_size", "moe_ffn_hidden_size", "moe_tp")  # what says which matrices a row multiplies with
_START = {"compute": (0.02, 0.6, 0.95), "memory": (0.05, 0.75, 0.95), "overhead": (1e-7, 2e-5, 1e-3),
          "half": (0.1, 60.0, 1e4), "around": (0.01, 0.5, 0.95), "each": (1e-9, 1e-7, 1e-4)}
_GATED = 3  # matrices of an expert with a gate
_WIDE = 2.0  # bytes per element between kernels


def _array(series: Any) -> Array:
    return np.asarray(series, dtype=float)


def _loads(rows: pd.DataFrame) -> tuple[Array, Array]:
    """(rows computed, experts reached) of the rank that is timed."""
    tokens, top_k, experts, ep = (_array(rows[name]) for name in ("tokens", "experts_per_token", "experts", "moe_ep"))
    load, touched = tokens * top_k / ep, np.minimum(experts, tokens * top_k) / ep
    laws = [exponent_of(str(name)) for name in rows["distribution"]]
    for at in np.flatnonzero(laws):
        load[at], touched[at] = loads(int(tokens[at]), int(top_k[at]), int(experts[at]), int(ep[at]), laws[at])
    return load, touched


def expert_columns(rows: pd.DataFrame, dtype: str) -> dict[str, Array]:
    """FLOPs, FLOPs per row of padding, traffic and bytes moved around the products [B], experts on the rank.

    Balanced rows share out the tokens evenly, skewed ones load the rank timed as `routing.loads` says.
    """
    hidden, ep, tp = (_array(rows[name]) for name in ("hidden_size", "moe_ep", "moe_tp"))
    width, element = _array(rows["moe_ffn_hidden_size"]) / tp, BYTES[dtype]
    load, touched = _loads(rows)
    shape = hidden, width, _GATED
    return {"flops": expert_flops(load, *shape), "padding": expert_flops(touched, *shape),
            "traffic": expert_traffic(load, touched, *shape, element, _WIDE),
            "moved": expert_moves(load, _array(rows["tokens"]) / ep, *shape, element, _WIDE),
            "local": _array(rows["experts"]) / ep}


def expert_model(rate: Rate) -> Any:
    """The form as a model for `fit_log`."""

    def model(columns: Columns, c: Mapping[str, float]) -> Array:
        return np.asarray(experts_time(
            columns["flops"], c["half"] * columns["padding"], c["compute"], rate.peak, columns["traffic"], c["memory"],
            rate.bandwidth, columns["moved"], c["around"], columns["local"], c["each"], c["overhead"]), dtype=float)

    return model


def _once(rate: Rate, columns: Columns, seconds: Array) -> Fit:
    low, _, high = _START["half"]
    starts = [_START | {"half": (low, guess, high)} for guess in (10.0, 60.0, 300.0)]
    return min((fit_log(expert_model(rate), columns, seconds, start) for start in starts), key=lambda fit: fit.cost)


def left_out_layers(rate: Rate, columns: Columns, seconds: Array, groups: Sequence[object]) -> Array:
    """Log residuals of every row, predicted without the rows of its group [1]."""
    return left_out_residuals(expert_model(rate), columns, seconds, groups, lambda c, t: _once(rate, c, t),
                              folds=len(set(groups)))


def fit_experts(rate: Rate, columns: Columns, seconds: Array) -> Fit:
    """Constants of the layer. columns: as `expert_columns` gives them; seconds: measured [s]."""
    return _once(rate, columns, seconds)
