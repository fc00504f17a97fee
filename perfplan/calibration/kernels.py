"""Fit kernel constants per accelerator, kind and dtype to tables of measured kernels.

The form is that of `perfplan.formulas.compute.kernel_time`; for attention the compute fraction is multiplied by
s/(s + half), s the query length. Tables are read with pandas in the column names of the measurement files: m, n, k,
groups, batch, seq_len_q, seq_len_kv, heads, kv_heads, head_dim, causal, dtype, kv_dtype, latency_us, quality, suspect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration.fit import Array, Columns, Fit, fit_log, left_out_residuals, mape
from perfplan.formulas.compute import gemm_bytes, gemm_flops, kernel_time, loop_overhead, saturation

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BYTES", "WEIGHT_ONLY", "Rate", "attention_columns", "clean", "experts_columns", "fit_kernel",
           "gemm_columns", "kernel_model"]

# bytes per element of the operands, scale factors included (OCP MX and NVFP4: one scale byte per block; fp8-block:
# one fp32 scale per 128 activations)
BYTES = {"fp32": 4.0, "tf32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "fp8-block": 1.0 + 4 / 128, "int8": 1.0,
         "int4": 0.5, "nvfp4": 0.5 + 1 / 16, "mxfp8": 1 + 1 / 32, "mxfp4": 0.5 + 1 / 32}
WEIGHT_ONLY = {"int4": "fp16"}  # weights alone are narrow, the products run in the other format
OUTPUT = {"fp32": 4.0, "tf32": 4.0}  # bytes per element written; every other dtype writes 16-bit outputs
START = {"compute": (0.02, 0.6, 1.0), "memory": (0.05, 0.75, 1.0), "overhead": (1e-8, 5e-6, 1e-3)}
HALF = {"half": (1.0, 300.0, 1e5)}
# with a loop along the inner dimension; no measured stream of these chips reads faster than 0.95 of the data sheet
STEP = {"memory": (0.05, 0.75, 0.95), "step": (1e-12, 4.5e-10, 1e-7)}
# a sweep has few inner dimensions: usual value of the latency per element (joint fits of A100, H100, H200 and B200 lie
# between 0.3 and 0.6 ns in every format but nvfp4), and how firmly it holds
PRIOR = {"step": (4.5e-10, 0.2)}
CLEARLY = 0.5  # share of the cost below which the times are said to know nothing of a loop


@dataclass(frozen=True)
class Rate:
    """What the fractions refer to: dense peak of the dtype [FLOP/s] and memory bandwidth [B/s]."""

    peak: float
    bandwidth: float


def clean(table: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """Rows of quality A that are not suspect and have a time, and whose columns have the given values."""
    kept = table[table["latency_us"].notna()]
    for column, good in (("quality", "A"), ("suspect", 0)):
        if column in kept:
            kept = kept[kept[column] == good]
    for column, value in equal.items():
        kept = kept[kept[column].isin(value) if isinstance(value, (list, tuple)) else kept[column] == value]
    return kept


def _array(series: Any) -> Array:
    return np.asarray(series, dtype=float)


def gemm_columns(table: pd.DataFrame, dtype: str) -> dict[str, Array]:
    """FLOPs [FLOP], memory traffic [B] and rows per group of (grouped) GEMM rows."""
    m, n, k = (_array(table[name]) for name in "mnk")
    groups = _array(table["groups"].fillna(1)) if "groups" in table else np.ones(len(table))
    left = 2.0 if dtype == "int4" else BYTES[dtype]  # int4 rows keep 16-bit activations
    traffic = gemm_bytes(groups * m, n, k, groups, left, BYTES[dtype], OUTPUT.get(dtype, 2.0))
    return {"flops": groups * gemm_flops(m, n, k), "traffic": traffic, "length": m}


def experts_columns(table: pd.DataFrame, dtype: str) -> dict[str, Array]:
    """FLOPs [FLOP], traffic [B], tokens per expert and serial traffic [B] of one rank's experts, balanced routing.

    Three matrices (gate, up, down) of every expert that receives a token; gate and up are one kernel. `serial` is what
    the kernels around them move: rows permuted and cast on the way in, the gated activation, rows combined on the way
    out. Leave it out to count those kernels in the constants of the GEMM.
    """
    hidden, width, experts = (_array(table[name]) for name in ("hidden_size", "moe_ffn_hidden_size", "experts"))
    ep, tp = _array(table["moe_ep"]), _array(table["moe_tp"])
    routed = _array(table["tokens"]) * _array(table["experts_per_token"])
    share, mine = width / tp, routed / ep
    touched = np.minimum(experts, routed) / ep
    size = BYTES[dtype]
    traffic = 3 * hidden * share * touched * size + mine * (size * (hidden + share) + 2 * (2 * share + hidden))
    serial = mine * (hidden * (2 + size) + share * (4 + size) + 2 * hidden) + 2 * _array(table["tokens"]) / ep * hidden
    return {"flops": 6 * mine * hidden * share, "traffic": traffic, "length": mine / touched, "serial": serial}


def attention_columns(table: pd.DataFrame, dtype: str, factor: float = 1.0) -> dict[str, Array]:
    """FLOPs [FLOP] (causal halved), traffic [B] and query length of attention rows.

    factor: 1 forward, 2.5 backward, 3.5 both; backward traffic is counted with the same factor.
    """
    batch, heads, width = (_array(table[name]) for name in ("batch", "heads", "head_dim"))
    kv_heads = _array(table["kv_heads"].fillna(table["heads"]))
    q, kv = _array(table["seq_len_q"]), _array(table["seq_len_kv"])
    flops = 4 * q * kv * width * heads * batch * np.where(_array(table["causal"]) == 1, 0.5, 1.0)
    traffic = batch * width * (heads * q * (BYTES[dtype] + 2) + 2 * kv_heads * kv * BYTES[dtype])
    return {"flops": factor * flops, "traffic": factor * traffic, "length": q}


def kernel_model(rate: Rate) -> Any:
    """The kernel form as a model for `fit_log`: times [s] from columns flops [FLOP], traffic [B] and length.

    A column `serial` [B], if there is one, is traffic of a kernel that runs before (quantisation of an operand), a
    column `depth` the inner dimension that the loop of a matrix product walks along.
    """

    def model(columns: Columns, c: Mapping[str, float]) -> Array:
        compute = c["compute"] * saturation(columns["length"], c.get("half", 0.0))
        overhead = loop_overhead(columns.get("depth", 0.0), c.get("step", 0.0), c["overhead"])
        time = kernel_time(columns["flops"], columns["traffic"], compute, rate.peak, c["memory"], rate.bandwidth,
                           overhead)
        return np.asarray(time + columns.get("serial", 0.0) / (c["memory"] * rate.bandwidth), dtype=float)

    return model


def _guesses(start: Mapping[str, tuple[float, float, float]]) -> list[dict[str, tuple[float, float, float]]]:
    """Several first guesses: max() makes the fit non-convex, one start may end on the wrong side of the roofline."""
    result = []
    for compute in (0.5, 1.0):
        for half in (0.1, 1.0, 5.0) if "half" in start else (1.0,):
            factor = {"compute": compute, "half": half}
            result.append({name: (low, first * factor.get(name, 1.0), high)
                           for name, (low, first, high) in start.items()})
    return result


def fit_kernel(columns: Columns, seconds: Array, rate: Rate, groups: list[Any] | None = None, *, half: bool = False,
               compute_limit: float = 1.0, **fixed: float) -> tuple[Fit, float | None]:
    """Constants of one kernel kind and dtype, and the mean error on left-out groups of rows (None without groups).

    columns: flops [FLOP], traffic [B], length (in the unit of `half`), optionally serial [B], depth [1], weight [1];
    seconds: measured times [s]; groups: label per row, for instance its (n, k); half: also fit the half length;
    compute_limit: largest compute fraction allowed [1]; fixed: constants that are given.
    """
    model = kernel_model(rate)
    limited = START | {"compute": (START["compute"][0], 0.9 * compute_limit, compute_limit)}
    limited |= HALF if half else {}

    def best(form: Mapping[str, tuple[float, float, float]], some: Columns, times: Array) -> Fit:
        free = {name: value for name, value in form.items() if name not in fixed}
        tries = [fit_log(model, some, times, guess, fixed=fixed, weights=some.get("weight"), prior=PRIOR)
                 for guess in _guesses(free)]
        return min(tries, key=lambda fit: fit.cost)

    def once(some: Columns, times: Array) -> Fit:
        plain = best(limited, some, times)
        looped = best(limited | STEP, some, times) if "depth" in columns else plain
        return plain if plain.cost < CLEARLY * looped.cost else looped

    found = once(columns, seconds)
    if groups is None or len(set(groups)) < 2:
        return found, None
    return found, mape(left_out_residuals(model, columns, seconds, groups, once))
