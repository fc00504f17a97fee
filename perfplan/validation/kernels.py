"""`validate kernels` and `validate moe`: single kernels priced with the constants of the catalog, beside measurements.

A row is scored in the slice of its file, chip, number format and kernel. The null predictor is the data sheet: the
slower of FLOPs over the dense peak and bytes over the memory bandwidth. Isolated kernels run at full clock, so the
sustained fraction of a chip plays no part here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration.decode import CACHE, decode_columns
from perfplan.calibration.experts import expert_columns, expert_model
from perfplan.calibration.fit import Array
from perfplan.calibration.fused import pair_columns, pair_model
from perfplan.calibration.kernels import (
    BYTES,
    WEIGHT_ONLY,
    Rate,
    attention_columns,
    gemm_columns,
    kernel_model,
)
from perfplan.calibration.readers import read_experts, read_kernels
from perfplan.calibration.routing import is_routing
from perfplan.calibration.tables import coarse
from perfplan.catalog import Catalog
from perfplan.catalog.constants import kernel_of, same_units
from perfplan.catalog.files import packaged_root
from perfplan.errors import MissingField, PerfplanError, Unsupported
from perfplan.serving.attention import decode_kernel, plain_decode
from perfplan.validation.score import Outcome, overall, score
from perfplan.validation.training import Validation

if TYPE_CHECKING:
    import pandas as pd

    from perfplan.catalog.specs import Accelerator, Kernel

__all__ = ["EXPERT_FILES", "KERNEL_FILES", "outcome", "shipped", "summary", "validate_experts", "validate_kernels"]

KERNEL_FILES = ("ops_gemm.csv", "ops_context_attention.csv", "ops_generation_attention.csv", "kernels_measured.csv")
EXPERT_FILES = ("ops_moe.csv",)
US = 1e-6  # s
ALONE = "any@alone"  # key of stream constants where those of a whole step differ
ENGINES = ("trtllm", "vllm", "sglang")  # their GEMM operators quantise the activations first
_FLASH1 = ("FlashAttention-1", "FA Triton", "xFormers")  # software of the first generation of fused kernels
_PARTIAL = re.compile(r"occupancy_pct=(\d+(?:\.\d+)?)")
_MOST_EXPERTS = 1 << 16
_BACK = 2.5  # FLOPs of a fused backward pass per FLOP forward: five products for two
_SCORES = 4 + 6  # bytes per score that an unfused softmax moves forward and backward


def shipped(names: Iterable[str]) -> tuple[Path, ...]:
    """Measurement files that ship with the catalogs."""
    return tuple(packaged_root() / "measurements" / name for name in names)


def summary(outcomes: Sequence[Outcome]) -> Validation:
    """Scores per slice, in order of appearance, and overall."""
    slices: dict[str, list[Outcome]] = {}
    for one in outcomes:
        slices.setdefault(one.slice, []).append(one)
    scores = tuple(score(name, members) for name, members in slices.items())
    return Validation(overall(outcomes), scores, tuple(outcomes))


def outcome(row: Any, where: str, metric: str, times: tuple[float, float, float] | None, reason: str = "") -> Outcome:
    """One row beside its prediction. times: measured, predicted and data-sheet value, in the metric."""
    name = str(row.row)
    one = Outcome(name, name.split("-", 1)[0] if row.id else Path(row.file).stem, where, name, (name,), metric, nan,
                  unsupported=reason, hardware=str(row.hardware_id))
    if times is None or reason:
        return one
    measured, predicted, sheet = times
    timed = metric == "latency_us"
    return replace(one, measured=measured, predicted=predicted, ratio=predicted / measured, null_ratio=sheet / measured,
                   time=predicted * US if timed else None, measured_time=measured * US if timed else None)


def _chip(catalog: Catalog, name: str) -> Accelerator:
    if not name:
        raise MissingField("the row names no accelerator")
    return catalog.accelerator(name)


def _constants(chip: Accelerator, kind: str, dtype: str, software: str = "", kv_dtype: str = "") -> Kernel:
    return kernel_of(chip, kind, dtype, kv_dtype, software)


def _rate(chip: Accelerator, dtype: str) -> Rate:
    peak = next((chip.peak[name] for name in same_units(WEIGHT_ONLY.get(dtype, dtype)) if name in chip.peak), None)
    if peak is None or dtype not in BYTES:
        raise Unsupported(f"{chip.id} states no dense peak in {dtype}")
    return Rate(peak, chip.memory_bandwidth)


def _times(kernel: Kernel, rate: Rate, columns: Mapping[str, Array]) -> Array:
    plain = {name: getattr(kernel, name) for name in ("compute", "memory", "overhead", "half", "step")}
    return np.asarray(kernel_model(rate)(columns, plain), dtype=float)


def _sheet(rate: Rate, columns: Mapping[str, Array]) -> Array:
    """Times by the data sheet alone [s]."""
    return np.maximum(columns["flops"] / rate.peak, columns["traffic"] / rate.bandwidth)


Priced = tuple[Array, Array]  # predicted and data-sheet times [s]


def _gemm(chip: Accelerator, dtype: str, software: str, rows: pd.DataFrame) -> Priced:
    kind = str(rows["kernel"].iloc[0])
    kernel, rate = _constants(chip, kind, dtype, software), _rate(chip, dtype)
    columns = gemm_columns(rows.assign(groups=rows["groups"].fillna(1)), dtype) | {"depth": rows["k"].to_numpy()}
    if software in ENGINES and BYTES[dtype] < 2 and dtype != "int4":
        columns["serial"] = columns["length"] * rows["k"].to_numpy() * (2.0 + BYTES[dtype])
    return _times(kernel, rate, columns), _sheet(rate, columns)


def _attention(chip: Accelerator, dtype: str, software: str, rows: pd.DataFrame) -> Priced:
    rate, name, cache = _rate(chip, dtype), str(rows["kernel"].iloc[0]), str(rows["kv_dtype"].iloc[0])
    if name == "attention_fwd_bwd" and (pair := _pair(chip, dtype, software)):
        columns = pair_columns(rows, dtype, software)
        plain = {item: getattr(pair, item) for item in ("compute", "memory", "overhead", "half", "narrow")}
        time = np.asarray(pair_model(rate)(columns, plain), dtype=float)
        return time, _sheet(rate, attention_columns(rows, dtype, 1 + _BACK))
    if software == "PyTorch":
        return _unfused(chip, dtype, rows)
    forward = "attention_flash1" if software in _FLASH1 else "attention"
    passes = {"attention_fwd": ((forward, 1.0),), "attention_bwd": (("attention_backward", _BACK),),
              "attention_fwd_bwd": ((forward, 1.0), ("attention_backward", _BACK))}[name]
    time, sheet = np.zeros(len(rows)), np.zeros(len(rows))
    for kind, factor in passes:
        columns = attention_columns(rows, dtype, factor)
        constants = _constants(chip, forward if software in _FLASH1 else kind, dtype, software, cache)
        time = time + _times(constants, rate, columns)
        sheet = sheet + _sheet(rate, columns)
    return time, sheet


def _pair(chip: Accelerator, dtype: str, software: str) -> Kernel | None:
    """Constants of both passes together of one software, if it has some."""
    try:
        return kernel_of(chip, "attention_fwd_bwd", dtype, software=software)
    except Unsupported:
        return None


def _unfused(chip: Accelerator, dtype: str, rows: pd.DataFrame) -> Priced:
    """Two batched products over the whole score matrix and a softmax, forward; twice that backward."""
    if set(rows["kernel"]) != {"attention_fwd_bwd"}:
        raise Unsupported("unfused attention is priced forward and backward together")
    rate, stream = _rate(chip, dtype), _constants(chip, "stream", dtype)
    whole = attention_columns(rows.assign(causal=0), dtype)
    scores = rows["batch"].to_numpy() * rows["heads"].to_numpy() * rows["seq_len_q"].to_numpy() ** 2
    one = whole | {"traffic": whole["traffic"] + 2 * BYTES[dtype] * scores}
    products = 3 * _times(_constants(chip, "unfused_attention", dtype), rate, one)
    softmax = _SCORES * scores / (stream.memory * rate.bandwidth) + 4 * stream.overhead
    return products + softmax, _sheet(rate, attention_columns(rows, dtype, 1 + _BACK))


def _decode(chip: Accelerator, dtype: str, software: str, rows: pd.DataFrame) -> Priced:
    """Decode attention reads keys and values once."""
    time, sheet = np.zeros(len(rows)), np.zeros(len(rows))
    stated = rows["kv_dtype"].where(rows["kv_dtype"] != "", dtype)
    for cache in stated.unique():
        if str(cache) not in CACHE:
            raise Unsupported(f"decode attention over a cache in {cache or 'an unnamed format'} is not priced")
        some = np.asarray(stated == cache, dtype=bool)
        part = rows[some].fillna({"kv_heads": rows["heads"]})
        shape = [part[name].to_numpy() for name in ("batch", "seq_len_kv", "heads", "kv_heads", "head_dim", "head_dim")]
        constants = decode_kernel(chip, str(cache), software)
        time[some] = plain_decode(chip, constants, *shape, kv_dtype=str(cache))
        sheet[some] = _sheet(_rate(chip, dtype), decode_columns(part, str(cache)))
    return time, sheet


def _small(chip: Accelerator, dtype: str, software: str, rows: pd.DataFrame) -> Priced:
    """Kernels launched back to back from a graph."""
    if "graph" not in software:
        raise Unsupported("a launch by the host belongs to the framework, not to the chip")
    kernel, moved = _any_stream(chip), rows["bytes"].to_numpy()
    return moved / (kernel.memory * chip.memory_bandwidth) + kernel.overhead, moved / chip.memory_bandwidth


def _any_stream(chip: Accelerator) -> Kernel:
    table = chip.kernels.get("stream", {})
    if not table:
        raise Unsupported(f"{chip.id} has no constants for stream kernels")
    return table.get(ALONE) or table.get("any") or next(iter(table.values()))


_KERNELS = {"gemm": _gemm, "grouped_gemm": _gemm, "attention_fwd": _attention, "attention_bwd": _attention,
            "attention_fwd_bwd": _attention, "attention_decode": _decode, "small_kernel": _small}


def _doubt(row: Any) -> str:
    if row.suspect == 1:
        return "marked suspect"
    if row.coarse:
        return "published to 1 us, too coarse below 20 us"
    if row.quality == "C":
        return "quality C is listed, not scored"
    if partial := _PARTIAL.search(row.note):
        return "measured at partial occupancy on purpose" * (float(partial[1]) < 100)
    return ""


def _batch(chip: Accelerator, kernel: str, dtype: str, software: str, rows: pd.DataFrame
           ) -> tuple[str, Array, Array, Array]:
    """(metric, measured, predicted, data sheet) of rows of one kernel, format and software."""
    if kernel.startswith("stream_"):
        constant, ones = _any_stream(chip), np.ones(len(rows))
        return ("gb_per_s", rows["gb_per_s"].to_numpy(), ones * constant.memory * chip.memory_bandwidth / 1e9,
                ones * chip.memory_bandwidth / 1e9)
    if kernel not in _KERNELS:
        raise Unsupported(f"{kernel or 'unnamed'} kernels are not priced")
    predicted, sheet = _KERNELS[kernel](chip, dtype, software, rows)
    return "latency_us", rows["latency_us"].to_numpy(), predicted / US, sheet / US


def _engine(software: str) -> str:
    """The engine whose operators a label names with a release or in capitals, else the label.

    >>> _engine("TRTLLM 1.3.0rc20 torch_flow"), _engine("FlashAttention-2")
    ('trtllm', 'FlashAttention-2')
    """
    name = software.split(" ", 1)[0].lower()
    return name if name in ENGINES else software


def _cached(chip: Accelerator, kernel: str, rows: pd.DataFrame) -> Array:
    """Which decode attention, and which small kernels, find what they read in the second-level cache of the chip."""
    if kernel == "small_kernel":
        return np.asarray(rows["bytes"] <= (chip.l2 or 0), dtype=bool)
    if kernel != "attention_decode":
        return np.zeros(len(rows), dtype=bool)
    width = rows["kv_dtype"].where(rows["kv_dtype"] != "", rows["dtype"]).map(BYTES)
    held = 2 * rows["batch"] * rows["seq_len_kv"] * rows["kv_heads"].fillna(rows["heads"]) * rows["head_dim"] * width
    return np.asarray(held <= (chip.l2 or 0), dtype=bool)


def _file(path: Path, catalog: Catalog) -> list[Outcome]:
    table = read_kernels(path)
    table = table.assign(coarse=coarse(table))
    found: dict[str, Outcome] = {}
    keys = ["hardware_id", "dtype", "kernel", "software", "kv_dtype"]
    for (hardware, dtype, kernel, software, _), rows in table.groupby(keys, sort=False):
        where = f"{path.stem}/{hardware or 'unnamed'}/{dtype}/{kernel}"
        try:
            chip = _chip(catalog, str(hardware))
            metric, *columns = _batch(chip, str(kernel), str(dtype), _engine(str(software)), rows)
            cached = _cached(chip, str(kernel), rows)
        except PerfplanError as error:
            found |= {str(row.row): outcome(row, where, "latency_us", None, str(error)) for row in rows.itertuples()}
            continue
        for row, inside, *cells in zip(rows.itertuples(), cached, *columns, strict=True):
            times = (cells[0], cells[1], cells[2])
            reason = _doubt(row) or ("" if all(np.isfinite(times)) and cells[0] > 0 else "its shape or time is missing")
            found[str(row.row)] = outcome(row, where + "/in cache" * bool(inside), metric, times, reason)
    return [found[str(row)] for row in table["row"]]


def validate_kernels(measured: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> Validation:
    """Score kernel constants against CSV files in the schema of kernels_measured.csv; the shipped ones if none."""
    entries = catalog or Catalog()
    paths = [Path(path) for path in measured] or shipped(KERNEL_FILES)
    return summary([one for path in paths for one in _file(path, entries)])


# ---------------------------------------------------------------------------------------------------- experts
def _units(chip: Accelerator, dtype: str) -> str:
    """The format that the products of experts run in: 16 bits for narrow weights that the chip has no units for."""
    narrow = dtype in ("int4", "mxfp4") and not any(name in chip.peak for name in same_units(dtype))
    return "bf16" if narrow else dtype


def _experts(chip: Accelerator, dtype: str, software: str, rows: pd.DataFrame) -> Priced:
    kernel, rate = _constants(chip, "experts", _units(chip, dtype), software), _rate(chip, _units(chip, dtype))
    columns = expert_columns(rows, dtype)
    plain = {name: getattr(kernel, name) for name in ("compute", "memory", "overhead", "half", "around", "each")}
    return np.asarray(expert_model(rate)(columns, plain), dtype=float), _sheet(rate, columns)


def _whole(rows: pd.DataFrame) -> Array:
    """Which rows state every extent, with experts that divide into the ranks."""
    names = ["tokens", "hidden_size", "moe_ffn_hidden_size", "experts_per_token", "experts", "moe_tp", "moe_ep"]
    stated = (rows[names] >= 1).all(axis=1) & (rows["experts"] <= _MOST_EXPERTS)
    return np.asarray(stated & (rows["experts"] % rows["moe_ep"].where(stated, 1) == 0), dtype=bool)


def _experts_file(path: Path, catalog: Catalog) -> list[Outcome]:
    table = read_experts(path)
    found: dict[str, Outcome] = {}
    keys = [table["hardware_id"], table["dtype"], table["distribution"], table["engine"], _whole(table)]
    for (hardware, dtype, distribution, engine, whole), rows in table.groupby(keys, sort=False):
        where = f"{path.stem}/{hardware or 'unnamed'}/{dtype}/{distribution}"
        try:
            if not whole:
                raise MissingField("its shape or time is missing, or its experts do not divide into the ranks")
            if not is_routing(str(distribution)):
                raise Unsupported(f"the distribution {distribution or 'not named'} is not known")
            predicted, sheet = _experts(_chip(catalog, str(hardware)), str(dtype), str(engine), rows)
        except PerfplanError as error:
            found |= {str(row.row): outcome(row, where, "latency_us", None, str(error)) for row in rows.itertuples()}
            continue
        for row, *times in zip(rows.itertuples(), rows["latency_us"], predicted / US, sheet / US, strict=True):
            known = all(np.isfinite(times)) and times[0] > 0
            found[str(row.row)] = outcome(row, where, "latency_us", (times[0], times[1], times[2]),
                                     "" if known else "its shape or time is missing")
    return [found[str(row)] for row in table["row"]]


def validate_experts(measured: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> Validation:
    """Score grouped-GEMM constants against CSV files in the schema of ops_moe.csv, the shipped one if none is named.

    The slices are file, chip, format and distribution of tokens over experts.
    """
    entries = catalog or Catalog()
    paths = [Path(path) for path in measured] or shipped(EXPERT_FILES)
    return summary([one for path in paths for one in _experts_file(path, entries)])
