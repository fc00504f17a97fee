"""Fit the constants of decode attention, per accelerator, format of the cache and engine, to measured kernels.

The form is `perfplan.formulas.attention.decode_time`. A kernel that does not split a long cache over the units is told
by its times: its `spread` is then fitted too. What single-query products reach of the peak is taken from published
bandwidths by heads per key-value head, because sweeps seldom have more than two such ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration.fit import Array, Columns, Fit, fit_log, left_out_residuals, mape
from perfplan.formulas.attention import attention_flops, decode_time, decode_traffic

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CACHE", "PRODUCTS", "Device", "decode_columns", "decode_model", "fit_decode", "left_out_decode"]

CACHE = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0}  # bytes per cached element
QUERY = 2.0  # bytes per element of queries and outputs
# fraction of the 16-bit peak: with it the share of the bandwidth falls with the heads per key-value head as published
# for long caches (H100 0.83, 0.79, 0.73, 0.65 and B200 0.77, 0.74, 0.66, 0.63 at 1-4, 5-8, 12-16 and 32)
PRODUCTS = 0.35
_START = {"memory": (0.05, 0.85, 0.95), "overhead": (1e-7, 1e-5, 1e-3), "start": (0.1, 2.0, 100.0),
          "ramp": (1e-8, 5e-6, 1e-4)}
_UNSPLIT = {"spread": (0.1, 3.0, 100.0)}
_FEW = 8  # rows below which filling is not told apart from the constant
_CACHED = 0.3  # weight of rows that the second-level cache serves: a step finds its keys and values in memory
_SEEN = 1e-7  # s
_BETTER = 0.5  # cost below which the kernel that does not split is believed


@dataclass(frozen=True)
class Device:
    """What the form needs of a chip: 16-bit peak [FLOP/s], bandwidth [B/s], units [1], second-level cache [B]."""

    peak: float
    bandwidth: float
    units: float
    l2: float = 0.0


def _array(series: Any) -> Array:
    return np.asarray(series, dtype=float)


def decode_columns(rows: pd.DataFrame, kv_dtype: str) -> dict[str, Array]:
    """FLOPs [FLOP], traffic [B] and sequences times key-value heads [1] of decode rows."""
    batch, context, heads, width = (_array(rows[name]) for name in ("batch", "seq_len_kv", "heads", "head_dim"))
    kv_heads = _array(rows["kv_heads"].fillna(rows["heads"]))
    traffic = decode_traffic(batch, context, heads, kv_heads, width, width, CACHE[kv_dtype], QUERY)
    return {"flops": attention_flops(batch * context, heads, width, width), "traffic": traffic,
            "work": batch * kv_heads}


def decode_model(device: Device) -> Any:
    """The form as a model for `fit_log`."""

    def model(columns: Columns, c: Mapping[str, float]) -> Array:
        return np.asarray(decode_time(
            columns["traffic"], columns["flops"], columns["work"], c["memory"], device.bandwidth, device.units,
            c.get("spread") or device.units, c.get("start", 1.0), c.get("ramp", 0.0), c["compute"], device.peak,
            c["overhead"]), dtype=float)

    return model


def _once(device: Device, columns: Columns, seconds: Array) -> Fit:
    """The better of a kernel that splits and, if much better, one that does not."""
    fixed: dict[str, float] = {"compute": PRODUCTS} | ({"start": 1.0, "ramp": 0.0} if len(seconds) < _FEW else {})
    weights = np.where(columns["traffic"] <= device.l2, _CACHED, 1.0)

    def best(start: Mapping[str, tuple[float, float, float]], more: Mapping[str, float]) -> Fit:
        free = {name: bounds for name, bounds in start.items() if name not in fixed}
        return fit_log(decode_model(device), columns, seconds, free, fixed={**fixed, **more}, weights=weights)

    split, whole = best(_START, {"spread": 0.0}), best({**_START, **_UNSPLIT}, {})
    return whole if whole.cost < _BETTER * split.cost else split


def _told(found: Fit) -> Fit:
    """The constants that say something: a ramp too short to be seen, or a spread over all units, is left out."""
    idle = {"start", "ramp"} if found.constants["ramp"] < _SEEN else set()
    idle |= set() if found.constants["spread"] else {"spread"}
    return replace(found, constants={name: value for name, value in found.constants.items() if name not in idle})


def fit_decode(device: Device, columns: Columns, seconds: Array, groups: Sequence[object]) -> tuple[Fit, float | None]:
    """Constants, and the mean error on left-out groups of rows (None if there is one group only).

    columns: as `decode_columns` gives them; seconds: measured [s]; groups: head counts of each row.
    """
    found = _told(_once(device, columns, seconds))
    if len(set(groups)) < 2:
        return found, None
    return found, mape(left_out_decode(device, columns, seconds, groups))


def left_out_decode(device: Device, columns: Columns, seconds: Array, groups: Sequence[object]) -> Array:
    """Log residuals of every row, predicted without the rows of its group [1]."""
    return left_out_residuals(decode_model(device), columns, seconds, groups, lambda c, t: _once(device, c, t))
