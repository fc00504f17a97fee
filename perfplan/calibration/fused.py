"""Fit training attention timed forward and backward together, per accelerator, number format and software.

The form is `perfplan.formulas.attention.pass_pair_time`. Fused kernels read and write their operands once and compute
whole blocks on the diagonal; unfused attention (PyTorch's own) computes the whole score matrix and moves it as often as
its kernels say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration.fit import Array, Columns, Fit, fit_log, left_out_residuals, mape
from perfplan.calibration.kernels import BYTES, Rate
from perfplan.formulas.attention import pass_pair_time

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNFUSED", "fit_pair", "pair_columns", "pair_model"]

UNFUSED = ("PyTorch",)
_PASSES = 3.5  # FLOPs of both passes per FLOP forward
_MOVES = 12  # times that the operands of one tensor's size are moved: 4 forward, 8 backward
_UNFUSED_MOVES = 22  # transposes, scalings and casts of the operands between the kernels of unfused attention
_SCORES, _MASK = 20.0, 7.0  # bytes per score that unfused attention moves in both passes, and what a mask adds
_START = {"compute": (0.02, 0.5, 1.0), "memory": (0.05, 0.6, 0.95), "overhead": (1e-6, 2e-5, 1e-3),
          "half": (1.0, 100.0, 2000.0), "narrow": (0.3, 0.9, 2.0)}
_WHOLE = ("half", "narrow")  # constants that unfused attention has not


def _array(series: Any) -> Array:
    return np.asarray(series, dtype=float)


def pair_columns(rows: pd.DataFrame, dtype: str, software: str) -> dict[str, Array]:
    """FLOPs [FLOP], traffic [B], length [1], head width [1] and 1 where causal blocks are computed in whole."""
    batch, heads, width, length = (_array(rows[name]) for name in ("batch", "heads", "head_dim", "seq_len_q"))
    causal = (_array(rows["causal"]) == 1).astype(float)
    scores = batch * heads * length**2
    operands, flops = batch * heads * length * width * BYTES[dtype], _PASSES * 4 * scores * width
    if software in UNFUSED:
        traffic = scores * (_SCORES + _MASK * causal) + _UNFUSED_MOVES * operands
        return {"flops": flops, "traffic": traffic, "length": length, "width": width, "causal": 0.0 * causal}
    return {"flops": flops * (1 - causal / 2), "traffic": _MOVES * operands, "length": length, "width": width,
            "causal": causal}


def pair_model(rate: Rate) -> Any:
    """The form as a model for `fit_log`."""

    def model(columns: Columns, c: Mapping[str, float]) -> Array:
        return np.asarray(pass_pair_time(
            columns["flops"], columns["causal"] * c.get("half", 0.0), columns["length"], columns["width"],
            c["compute"], c.get("narrow") or 1.0, rate.peak, columns["traffic"], c["memory"], rate.bandwidth,
            c["overhead"]), dtype=float)

    return model


def fit_pair(rate: Rate, columns: Columns, seconds: Array, groups: Sequence[object], fused: bool
             ) -> tuple[Fit, float | None]:
    """Constants, and the mean error on left-out groups of rows (None if there is one group only)."""
    start = {name: bounds for name, bounds in _START.items() if fused or name not in _WHOLE}

    def once(some: Columns, times: Array) -> Fit:
        return fit_log(pair_model(rate), some, times, start)

    found = once(columns, seconds)
    if len(set(groups)) < 2:
        return found, None
    return found, mape(left_out_residuals(pair_model(rate), columns, seconds, groups, once))
