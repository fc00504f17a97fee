"""Errors left out of the kernel constants: matrices, head counts or expert shapes predicted from the others.

The rows are those of quality A that are not suspect; the constants are fitted anew for each part left out, by the same
procedures as `perfplan calibrate`, so that the shipped ones take no part. The null is the data sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration import decode, experts
from perfplan.calibration.fit import Array, left_out_residuals
from perfplan.calibration.kernels import (
    BYTES,
    WEIGHT_ONLY,
    Rate,
    attention_columns,
    fit_kernel,
    gemm_columns,
    kernel_model,
)
from perfplan.calibration.readers import read_experts, read_kernels
from perfplan.calibration.routing import is_routing
from perfplan.catalog import Catalog
from perfplan.validation.kernels import ENGINES, EXPERT_FILES, shipped
from perfplan.validation.left_out import LeftOut, row_of

if TYPE_CHECKING:
    import pandas as pd

    from perfplan.catalog.specs import Accelerator

__all__ = ["left_out_experts", "left_out_kernels"]

FILES = ("ops_gemm.csv", "ops_context_attention.csv", "ops_generation_attention.csv")
US = 1e-6  # s
_MEMORY = 0.8  # fraction of the bandwidth that prefill attention is given: compute binds it
_HEADS = ["heads", "kv_heads", "head_dim"]
_FEWEST = 8  # rows of a group that is fitted

Left = tuple[Array, Array]  # predicted and data-sheet over measured time


@dataclass(frozen=True)
class _Study:
    """What is left out of one kind of kernel: its name, the kernels of a file, what tells rows of one fit apart, the
    shape left out, and how a group of rows is predicted."""

    name: str
    part: str
    kernel: str
    keys: tuple[str, ...]
    shape: Sequence[str]
    predict: Callable[[Accelerator, pd.DataFrame, list[str]], Left]


def _rate(chip: Accelerator, dtype: str) -> Rate | None:
    peak = chip.peak.get(WEIGHT_ONLY.get(dtype, dtype))
    return Rate(peak, chip.memory_bandwidth) if peak and dtype in BYTES else None


def _sheet(rate: Rate, columns: Mapping[str, Array], seconds: Array) -> Array:
    return np.asarray(np.maximum(columns["flops"] / rate.peak, columns["traffic"] / rate.bandwidth) / seconds)


def _fitted(rate: Rate, columns: dict[str, Array], seconds: Array, labels: list[str], **kind: Any) -> Left:
    held = left_out_residuals(kernel_model(rate), columns, seconds, labels,
                              lambda c, t: fit_kernel(c, t, rate, **kind)[0], folds=len(set(labels)))
    return np.exp(-held), _sheet(rate, columns, seconds)


def _gemm(chip: Accelerator, rows: pd.DataFrame, labels: list[str]) -> Left:
    dtype = str(rows["dtype"].iloc[0])
    rate = Rate(chip.peak[WEIGHT_ONLY.get(dtype, dtype)], chip.memory_bandwidth)
    columns = gemm_columns(rows.assign(groups=1.0), dtype) | {"depth": rows["k"].to_numpy()}
    if rows["software"].iloc[0] in ENGINES and BYTES[dtype] < 2 and dtype not in WEIGHT_ONLY:
        columns["serial"] = columns["length"] * rows["k"].to_numpy() * (2.0 + BYTES[dtype])
    return _fitted(rate, columns, rows["latency_us"].to_numpy() * US, labels)


def _prefill(chip: Accelerator, rows: pd.DataFrame, labels: list[str]) -> Left:
    dtype = str(rows["dtype"].iloc[0])
    columns = attention_columns(rows, dtype)
    return _fitted(Rate(chip.peak[dtype], chip.memory_bandwidth), columns, rows["latency_us"].to_numpy() * US, labels,
                   half=True, memory=_MEMORY)


def _decode(chip: Accelerator, rows: pd.DataFrame, labels: list[str]) -> Left:
    cache, seconds = str(rows["kv_dtype"].iloc[0] or rows["dtype"].iloc[0]), rows["latency_us"].to_numpy() * US
    device = decode.Device(chip.peak["bf16"], chip.memory_bandwidth, chip.units or 1, chip.l2 or 0.0)
    columns = decode.decode_columns(rows, cache)
    held = decode.left_out_decode(device, columns, seconds, labels)
    return np.exp(-held), _sheet(Rate(device.peak, device.bandwidth), columns, seconds)


_STUDIES = (
    _Study("gemm", "one (n, k)", "gemm", ("dtype", "software"), ["n", "k"], _gemm),
    _Study("attention prefill", "head counts", "attention_fwd", ("dtype", "kv_dtype", "software"), _HEADS, _prefill),
    _Study("attention decode", "head counts", "attention_decode", ("dtype", "kv_dtype", "software"), _HEADS, _decode),
)


def _good(table: pd.DataFrame) -> pd.DataFrame:
    kept = (table["suspect"] != 1) & table["quality"].isin(["", "A"]) & (table["latency_us"] > 0)
    return table[kept & (table["hardware_id"] != "")]


def _predicted(study: _Study, table: pd.DataFrame, catalog: Catalog) -> Iterator[pd.DataFrame]:
    """Rows with `ratio` and `sheet`, per chip and group that can be fitted."""
    rows = table[table["kernel"] == study.kernel].assign(chip=lambda t: t["hardware_id"].map(catalog.hardware))
    for (name, *_), part in rows.groupby(["chip", *study.keys], sort=False):
        chip = catalog.accelerator(str(name))
        labels = [str(key) for key in part[list(study.shape)].itertuples(index=False, name=None)]
        if len(part) < _FEWEST or len(set(labels)) < 2 or _rate(chip, str(part["dtype"].iloc[0])) is None:
            continue
        ratio, sheet = study.predict(chip, part, labels)
        yield part.assign(ratio=ratio, sheet=sheet, cached=_cached(chip, part))


def _cached(chip: Accelerator, rows: pd.DataFrame) -> Array:
    """Which decode rows the second-level cache serves."""
    if rows["kernel"].iloc[0] != "attention_decode":
        return np.zeros(len(rows), dtype=bool)
    cache = str(rows["kv_dtype"].iloc[0] or rows["dtype"].iloc[0])
    return np.asarray(decode.decode_columns(rows, cache)["traffic"] <= (chip.l2 or 0.0), dtype=bool)


def _rows(study: _Study, scored: pd.DataFrame) -> Iterator[LeftOut]:
    """All chips first, then per chip and format; rows that the cache serves apart."""
    for inside, part in scored.groupby("cached", sort=True):
        name = study.name + "/in cache" * bool(inside)
        yield row_of(name, study.part, part["ratio"].to_numpy(), part["sheet"].to_numpy())
        for (chip, dtype), rows in part.groupby(["chip", "dtype"], sort=False):
            yield row_of(f"{name}/{chip}/{dtype}", study.part, rows["ratio"].to_numpy(), rows["sheet"].to_numpy())


def left_out_kernels(measured: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> tuple[LeftOut, ...]:
    """Errors of GEMM, prefill and decode attention, over all chips and per chip and format.

    measured: files in the schema of kernels_measured.csv; the shipped operator tables if none. Raises PerfplanError
    when a file cannot be read or names an unknown accelerator.
    """
    import pandas as pd

    entries = catalog or Catalog()
    paths = [Path(path) for path in measured] or list(shipped(FILES))
    table = _good(pd.concat([read_kernels(path) for path in paths], ignore_index=True))
    found: list[LeftOut] = []
    for study in _STUDIES:
        if parts := list(_predicted(study, table, entries)):
            found += _rows(study, pd.concat(parts, ignore_index=True))
    return tuple(found)


# ---------------------------------------------------------------------------------------------------- experts
_SHAPES = {"one matrix": list(experts.MATRICES), "one model's experts": ["hidden_size", "moe_ffn_hidden_size"]}
_CASE = ["chip", "dtype", "engine", "tokens", "hidden_size", "moe_ffn_hidden_size", "experts", "experts_per_token",
         "moe_tp", "moe_ep"]


def _layers(rows: pd.DataFrame, chip: Accelerator, dtype: str) -> pd.DataFrame:
    rate = Rate(chip.peak[dtype], chip.memory_bandwidth)
    columns, seconds = experts.expert_columns(rows, dtype), rows["latency_us"].to_numpy() * US
    found = {}
    for part, shape in _SHAPES.items():
        labels = [str(key) for key in rows[shape].itertuples(index=False, name=None)]
        if len(set(labels)) > 1:
            found[part] = np.exp(-experts.left_out_layers(rate, columns, seconds, labels))
    return rows.assign(sheet=_sheet(rate, columns, seconds), **found)


def _slowdowns(scored: pd.DataFrame, part: str) -> Iterator[LeftOut]:
    """How much slower skewed routing is than balanced, of cases measured with both; the null says equally fast."""
    cells = scored[[*_CASE, "distribution", "latency_us", part]]
    even = cells["distribution"] == "balanced"
    both = cells[~even].merge(cells[even], on=_CASE, suffixes=("", "_even")).dropna()
    if len(both):
        ratio = both[part] / both[f"{part}_even"]
        measured = both["latency_us"] / both["latency_us_even"]
        yield row_of("slowdown by skew", part, ratio.to_numpy(), (1 / measured).to_numpy())


def left_out_experts(measured: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> tuple[LeftOut, ...]:
    """Errors of whole expert layers, over all chips, per routing, and per chip and format; then of the slowdown that
    skewed routing brings.

    measured: files in the schema of ops_moe.csv; the shipped one if none. Raises PerfplanError when a file cannot be
    read or names an unknown accelerator.
    """
    import pandas as pd

    entries = catalog or Catalog()
    paths = [Path(path) for path in measured] or list(shipped(EXPERT_FILES))
    table = pd.concat([read_experts(path) for path in paths], ignore_index=True)
    known = table["distribution"].map(is_routing) & (table["hardware_id"] != "")
    table = table[known & (table["latency_us"] > 0)]
    table = table.assign(chip=[entries.hardware(name) for name in table["hardware_id"]])
    parts = []
    for (name, dtype, _), rows in table.groupby(["chip", "dtype", "engine"], sort=False):
        chip = entries.accelerator(str(name))
        if len(rows) >= _FEWEST and _rate(chip, str(dtype)) is not None and str(dtype) in chip.peak:
            parts.append(_layers(rows, chip, str(dtype)))
    return tuple(_expert_rows(pd.concat(parts, ignore_index=True))) if parts else ()


def _expert_rows(scored: pd.DataFrame) -> Iterator[LeftOut]:
    for part in _SHAPES:
        if part not in scored:
            continue
        known = scored[np.isfinite(scored[part])]
        yield row_of("experts", part, known[part].to_numpy(), known["sheet"].to_numpy())
        for name, rows in known.groupby("distribution", sort=True):
            yield row_of(f"experts/{name}", part, rows[part].to_numpy(), rows["sheet"].to_numpy())
        for (chip, dtype), rows in known.groupby(["chip", "dtype"], sort=False):
            yield row_of(f"experts/{chip}/{dtype}", part, rows[part].to_numpy(), rows["sheet"].to_numpy())
        yield from _slowdowns(known, part)
