"""`calibrate`: measured rows in, constants with their errors out; rows that beat physics are told, not fitted.

A row is refused if it is faster than the dense peak of its format or than the bandwidth that its bytes must cross: such
a time is a mistake of the measurement, or the data came from a cache. Constants are fitted to the logarithm of the time
with a soft-L1 loss; the error left out is that of rows whose group (matrix, head counts, message size) took no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration import decode, experts, fused
from perfplan.calibration.fit import Array, Fit, mape
from perfplan.calibration.found import US, Calibration, Chip, Fitted, Rejected, doubts, of_chip, significant, split
from perfplan.calibration.kernels import (
    BYTES,
    WEIGHT_ONLY,
    Rate,
    attention_columns,
    experts_columns,
    fit_kernel,
    gemm_columns,
)
from perfplan.calibration.routing import is_routing
from perfplan.errors import OutOfRange

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["calibrate_attention", "calibrate_experts", "calibrate_gemm", "calibrate_streams"]

_LASTING = r"sustained over .*ratio (\d+\.?\d*)"  # note of the measuring script on its long run
_LAYERS = 8  # fewest rows of whole expert layers
_COUNTS = {"gemm": 4, "attention": 4}  # fewest rows: constants and one more


def _beats(seconds: Array, columns: Mapping[str, Array], rate: Rate) -> list[str]:
    """Per row: "" or which limit of the chip it beats."""
    rates = columns["flops"] / seconds, (columns["traffic"] + columns.get("serial", 0.0)) / seconds

    def why(compute: float, memory: float) -> str:
        if not (np.isfinite(compute) and compute > 0):
            return "its shape is incomplete"
        if compute > rate.peak:
            return f"it beats the dense peak: {compute / 1e12:.4g} of {rate.peak / 1e12:.4g} TFLOP/s"
        if memory > rate.bandwidth:
            return f"it beats the memory bandwidth: {memory / 1e9:.4g} of {rate.bandwidth / 1e9:.4g} GB/s"
        return ""

    return [why(*pair) for pair in zip(*rates, strict=True)]


@dataclass(frozen=True)
class _Task:
    """One kernel kind to fit: its rows, their columns, and how they are grouped for the error left out."""

    kind: str
    kernel: str
    columns: Callable[[Any, str], dict[str, Array]]
    group: tuple[str, ...]
    half: bool = False


def _fixed(task: _Task, chip: Chip, dtype: str) -> dict[str, float]:
    """The memory fraction of attention cannot be seen in prefill rows: the one known stays."""
    known = chip.kernels.get(task.kind, {}).get(dtype)
    return {"memory": known.memory} if task.half and task.kind.startswith("attention") and known else {}


def _fit(task: _Task, rows: pd.DataFrame, dtype: str, software: str, chip: Chip
         ) -> tuple[Fitted | None, list[Rejected]]:
    peak = chip.peak.get(WEIGHT_ONLY.get(dtype, dtype))
    if peak is None or dtype not in BYTES:
        reason = f"{chip.id} states no dense peak in {dtype or 'the format it does not name'}"
        return None, [Rejected(str(row), reason) for row in rows["row"]]
    rate = Rate(peak, chip.memory_bandwidth)
    good, bad = split(rows, _beats(rows["latency_us"].to_numpy() * US, task.columns(rows, dtype), rate))
    if len(good) < _COUNTS["attention" if task.half else "gemm"] + task.half:
        return None, bad + [Rejected(str(row), f"too few {task.kind} rows in {dtype} of {software or 'one software'}")
                            for row in good["row"]]
    labels = [str(key) for key in good[list(task.group)].itertuples(index=False, name=None)]
    found, held = fit_kernel(task.columns(good, dtype), good["latency_us"].to_numpy() * US, rate, labels,
                             half=task.half, **_fixed(task, chip, dtype))
    return _fitted(task.kind, dtype, software, found, held), bad


def _fitted(kind: str, dtype: str, software: str, found: Fit, held: float | None) -> Fitted:
    constants = {name: significant(value) for name, value in found.constants.items()}
    return Fitted(kind, dtype, software, len(found.residuals), constants, found.mape, held, found.quantiles)


def _best(fitted: Sequence[Fitted]) -> tuple[Fitted, ...]:
    """Of several softwares that measured one kind and format, the catalog takes the one with most rows, then error."""
    def first(one: Fitted) -> Fitted:
        rivals = [f for f in fitted if (f.kind, f.dtype) == (one.kind, one.dtype)]
        return min(rivals, key=lambda f: (-f.rows, f.mape, f.software))

    return tuple(replace(one, written=one is first(one)) for one in fitted)


def _cache(rows: pd.DataFrame) -> Any:
    """":" and the format of the cache where attention computes in another, else nothing."""
    if "kv_dtype" not in rows:
        return rows["dtype"].map(lambda _: "")
    other = (rows["kv_dtype"] != "") & (rows["kv_dtype"] != rows["dtype"])
    return (":" + rows["kv_dtype"]).where(other, "")


def _kernels(tasks: Sequence[_Task], table: pd.DataFrame, chip: Chip, resolve: Callable[[str], str], what: str
             ) -> Calibration:
    table = of_chip(table, resolve, chip.id)
    table = table[table["kernel"].isin([task.kernel for task in tasks])]
    good, rejected = split(table, doubts(table))
    fitted: list[Fitted] = []
    for task in tasks:
        rows = good[good["kernel"] == task.kernel]
        for (dtype, cache, software), part in rows.groupby(["dtype", _cache(rows), "software"], sort=True):
            found, bad = _fit(task, part, str(dtype), str(software), chip)
            rejected += bad
            fitted += [replace(found, dtype=f"{dtype}{cache}")] if found else []
    if not fitted:
        reason = f"; {rejected[0].row}: {rejected[0].reason}" if rejected else ""
        raise OutOfRange(f"no {what} of {chip.id} can be fitted: {len(table)} such rows, {len(rejected)} refused"
                         f"{reason}")
    engines = all(task.kind.startswith("attention") for task in tasks)
    return Calibration(_named(fitted) if engines else _best(fitted), tuple(rejected))


def calibrate_gemm(table: pd.DataFrame, chip: Chip, resolve: Callable[[str], str] = str, *,
                   quantised: bool = False) -> Calibration:
    """Constants of plain and grouped GEMM rows of one accelerator, per number format and software.

    table: as `read_kernels` gives it; resolve: hardware id of a row -> id of the catalog; quantised: the times of
    formats below 16 bits include quantising the 16-bit activations, which is a kernel of its own. Raises OutOfRange
    when nothing can be fitted.
    """

    def columns(rows: pd.DataFrame, dtype: str) -> dict[str, Array]:
        found = gemm_columns(rows.assign(groups=rows["groups"].fillna(1)), dtype)
        if quantised and BYTES[dtype] < 2 and dtype != "int4":
            found["serial"] = found["length"] * rows["k"].to_numpy() * (2.0 + BYTES[dtype])
        return found

    def looped(rows: pd.DataFrame, dtype: str) -> dict[str, Array]:
        return columns(rows, dtype) | {"depth": rows["k"].to_numpy()}

    tasks = (_Task("gemm", "gemm", looped, ("n", "k")),
             _Task("grouped_gemm", "grouped_gemm", columns, ("n", "k", "groups"), half=True))
    long = table["note"].str.contains(_LASTING.replace("(", "(?:")) & (table["kernel"] == "gemm")
    return replace(_kernels(tasks, table[~long], chip, resolve, "GEMM"),
                   sustained=_sustained(of_chip(table[long], resolve, chip.id)))


def _sustained(rows: pd.DataFrame) -> dict[str, float]:
    """Per format the burst time over the lasting time of one product, as the measuring script notes it."""
    ratios = rows["note"].str.extract(_LASTING)[0].astype(float)
    return {str(dtype): min(float(significant(one.median())), 1.0) for dtype, one in ratios.groupby(rows["dtype"])}


def calibrate_attention(table: pd.DataFrame, chip: Chip, resolve: Callable[[str], str] = str) -> Calibration:
    """Constants of attention rows, forward and backward, per number format and software.

    Rows that time forward and backward together (3.5 times the forward FLOPs) give both kinds the same constants,
    unless the file has rows of the one kind alone. Raises OutOfRange when nothing can be fitted.
    """
    together = table[table["kernel"] == "attention_fwd_bwd"]
    alone = set(table["kernel"])

    def task(kind: str, kernel: str, factor: float) -> _Task:
        return _Task(kind, kernel, lambda rows, dtype: attention_columns(rows, dtype, factor),
                     ("heads", "kv_heads", "head_dim"), half=True)

    tasks = [task("attention", "attention_fwd", 1.0), task("attention_backward", "attention_bwd", 2.5)]
    if len(together):
        tasks += [task(one.kind, "attention_fwd_bwd", 3.5) for one in tasks if one.kernel not in alone]
    pairs = _pairs(of_chip(together, resolve, chip.id), chip)
    decoded = _decode(table, chip, resolve)
    if decoded and not alone - {"attention_decode"}:
        return decoded
    found = _kernels(tasks, table, chip, resolve, "attention")
    found = replace(found, fitted=found.fitted + pairs)
    return Calibration(found.fitted + decoded.fitted, found.rejected + decoded.rejected) if decoded else found


def _pairs(rows: pd.DataFrame, chip: Chip) -> tuple[Fitted, ...]:
    """Forward and backward timed together, per format and software, for rows of just that kind."""
    good, _ = split(rows, doubts(rows))
    fitted = []
    for (dtype, software), part in good.groupby(["dtype", "software"], sort=True):
        peak, key = chip.peak.get(str(dtype)), str(software)
        if peak is None or dtype not in BYTES or len(part) < _LAYERS or not key:
            continue
        columns = fused.pair_columns(part, str(dtype), key)
        labels = [str(one) for one in part[["head_dim", "causal"]].itertuples(index=False, name=None)]
        found, held = fused.fit_pair(Rate(peak, chip.memory_bandwidth), columns, part["latency_us"].to_numpy() * US,
                                     labels, key not in fused.UNFUSED)
        fitted.append(_fitted("attention_fwd_bwd", f"{dtype}@{key}", key, found, held))
    return tuple(fitted)


def _decode(table: pd.DataFrame, chip: Chip, resolve: Callable[[str], str]) -> Calibration | None:
    """Constants of decode attention per format of the cache and engine; None if the file has no such rows."""
    table = of_chip(table[table["kernel"] == "attention_decode"], resolve, chip.id)
    if not len(table):
        return None
    peak = chip.peak.get("bf16") or chip.peak.get("fp16")
    if not peak or not chip.units:
        raise OutOfRange(f"{chip.id} states no {'units' if peak else '16-bit peak'}, which decode attention needs")
    device = decode.Device(peak, chip.memory_bandwidth, chip.units, chip.l2 or 0.0)
    good, rejected = split(table, doubts(table))
    fitted: list[Fitted] = []
    cache = good["kv_dtype"].where(good["kv_dtype"] != "", good["dtype"])
    for (kv_dtype, software), rows in good.groupby([cache, good["software"]], sort=True):
        found, bad = _decoded(rows, str(kv_dtype), str(software), device)
        rejected += bad
        fitted += [found] if found else []
    return Calibration(_named(fitted), tuple(rejected))


def _decoded(rows: pd.DataFrame, kv_dtype: str, software: str, device: decode.Device
             ) -> tuple[Fitted | None, list[Rejected]]:
    if kv_dtype not in decode.CACHE:
        return None, [Rejected(str(row), f"caches in {kv_dtype} are not fitted") for row in rows["row"]]
    reasons = _beats(rows["latency_us"].to_numpy() * US, decode.decode_columns(rows, kv_dtype),
                     Rate(device.peak, device.bandwidth))
    good, bad = split(rows, reasons)
    if len(good) < _COUNTS["attention"]:
        return None, bad + [Rejected(str(row), f"too few attention_decode rows with a {kv_dtype} cache")
                            for row in good["row"]]
    labels = [str(key) for key in good[["heads", "kv_heads", "head_dim"]].itertuples(index=False, name=None)]
    found, held = decode.fit_decode(device, decode.decode_columns(good, kv_dtype), good["latency_us"].to_numpy() * US,
                                    labels)
    return _fitted("attention_decode", kv_dtype, software, found, held), bad


def _named(fitted: Sequence[Fitted]) -> tuple[Fitted, ...]:
    """The engine with most rows stands for all, a further one has a key of its own."""
    chosen = _best(fitted)
    return tuple(one if one.written else replace(one, dtype=f"{one.dtype}@{one.software}", written=bool(one.software))
                 for one in chosen)


def calibrate_experts(table: pd.DataFrame, chip: Chip, resolve: Callable[[str], str] = str) -> Calibration:
    """Constants of whole expert layers, balanced and skewed, and of the grouped GEMMs in them, per format and engine.

    table: as `read_experts` gives it. The grouped GEMMs come from balanced rows, with the kernels around the products
    (permutation, activation, casts) counted apart, at the memory bandwidth. Raises OutOfRange when nothing can be
    fitted.
    """
    balanced = (table["distribution"] == "balanced").to_numpy()
    rows = table.assign(kernel=np.where(balanced, "experts", "skewed"), software=table["engine"], suspect=0.0,
                        quality="A")
    shape = ("hidden_size", "moe_ffn_hidden_size", "experts")
    mine = of_chip(rows, resolve, chip.id)
    layers = _layers(mine, chip)
    if layers.fitted and not (mine["kernel"] == "experts").any():
        return layers
    task = _Task("grouped_gemm", "experts", experts_columns, shape, half=True)
    found = _kernels((task,), rows, chip, resolve, "expert layer")
    return Calibration(found.fitted + layers.fitted, found.rejected + layers.rejected)


def _layers(rows: pd.DataFrame, chip: Chip) -> Calibration:
    """Whole layers of inference engines, per format and engine; the error left out is of matrices left out."""
    known = rows["distribution"].map(is_routing).to_numpy()
    refused = [Rejected(str(row), "its distribution of tokens is not known") for row in rows[~known]["row"]]
    fitted = []
    for (dtype, software), part in rows[known].groupby(["dtype", "software"], sort=True):
        peak = chip.peak.get(str(dtype))
        if peak is None or dtype not in BYTES or len(part) < _LAYERS:
            continue
        rate, seconds = Rate(peak, chip.memory_bandwidth), part["latency_us"].to_numpy() * US
        columns = experts.expert_columns(part, str(dtype))
        labels = [str(key) for key in part[list(experts.MATRICES)].itertuples(index=False, name=None)]
        held = mape(experts.left_out_layers(rate, columns, seconds, labels)) if len(set(labels)) > 1 else None
        fitted.append(_fitted("experts", str(dtype), str(software), experts.fit_experts(rate, columns, seconds), held))
    return Calibration(_named(fitted), tuple(refused))


# ---------------------------------------------------------------------------------------------------- streams
def _stream_columns(rows: pd.DataFrame) -> tuple[dict[str, Array], Array]:
    """Traffic [B] and times [s]; a row that states a rate only counts as what moves in one second."""
    timed = (rows["latency_us"] > 0) & (rows["bytes"] > 0)
    traffic = np.where(timed, rows["bytes"], rows["gb_per_s"] * 1e9)
    seconds = np.where(timed, rows["latency_us"] * US, 1.0)
    return {"flops": np.zeros(len(rows)), "traffic": traffic, "length": np.ones(len(rows))}, seconds


def _stream_doubts(rows: pd.DataFrame, bandwidth: float) -> list[str]:
    columns, seconds = _stream_columns(rows)

    def why(software: str, note: str, suspect: float, quality: str, rate: float) -> str:
        if suspect == 1 or quality not in ("", "A"):
            return "it is marked suspect" if suspect == 1 else f"its quality is {quality}, not A"
        if "stream launch" in software:
            return "it was launched by the host, one by one: that time belongs to the framework"
        if "occupancy_pct=" in note:
            return "it was measured at partial occupancy on purpose"
        if not rate > 0:
            return "it has neither a time with bytes nor a rate"
        over = f"it beats the memory bandwidth: {rate / 1e9:.4g} of {bandwidth / 1e9:.4g} GB/s"
        return over if rate > bandwidth else ""

    cells = (rows["software"], rows["note"], rows["suspect"], rows["quality"], columns["traffic"] / seconds)
    return [why(*row) for row in zip(*cells, strict=True)]


def calibrate_streams(table: pd.DataFrame, chip: Chip, resolve: Callable[[str], str] = str) -> Calibration:
    """Fraction of the memory bandwidth that memory-bound kernels reach, and what one of them costs from a graph.

    From stream_scale and stream_triad rows, and small_kernel rows launched by a graph; without those the constant per
    kernel stays as it is. Raises OutOfRange when nothing can be fitted.
    """
    table = of_chip(table, resolve, chip.id)
    table = table[table["kernel"].isin(["stream_scale", "stream_triad", "small_kernel"])]
    good, rejected = split(table, _stream_doubts(table, chip.memory_bandwidth))
    known, small = chip.kernels.get("stream", {}).get("any"), bool((good["kernel"] == "small_kernel").any())
    if not (good["kernel"] != "small_kernel").any() or not (small or known):
        raise OutOfRange(f"no streams of {chip.id} can be fitted: {len(table)} rows, {len(rejected)} refused;"
                         " stream_scale or stream_triad rows are needed, for a new chip small_kernel rows of a graph")
    columns, seconds = _stream_columns(good)
    fixed = {"compute": 1.0} | ({} if small or not known else {"overhead": known.overhead})
    labels = [f"{kernel} {size}" for kernel, size in zip(good["kernel"], columns["traffic"], strict=True)]
    found, held = fit_kernel(columns, seconds, Rate(1.0, chip.memory_bandwidth), labels, **fixed)
    software = ", ".join(sorted({str(name) for name in good["software"] if name}))
    return Calibration((_fitted("stream", "any", software, found, held),), tuple(rejected))
