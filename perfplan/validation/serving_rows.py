"""Measurements of serving in: the schemas of `serving_measured.csv` and `serving_latency_measured.csv`, as `Run`s.

A latency row gives two runs, one for TTFT and one for TPOT. What a field leaves open stays open: the rules that fill it
are in `formats_of` and `layout_of`, and `Run.assumed` says which of them were used.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from perfplan.catalog.specs import Model, Moe
from perfplan.errors import CatalogError, MissingField, Unsupported
from perfplan.serving.layout import ServingLayout

__all__ = ["METRICS", "Run", "cache_of", "formats_of", "layout_of", "read_runs"]

METRICS = {
    "ttft_ms": "ttft", "tpot_ms": "tpot", "itl_ms": "tpot", "output_tokens_per_s_total": "rate",
    "output_tokens_per_s_per_gpu": "rate", "output_tokens_per_s_per_node": "rate",
    "input_tokens_per_s_per_node": "rate",
    "output_tokens_per_s_per_user": "tpot", "batch_latency_s": "latency", "decode_tokens_per_s": "decode",
    "prefill_tokens_per_s": "prefill", "samples_per_s": "rate",
}  # metric of a row -> what its slice is called
_NEEDED = ("group", "model_id", "hardware_id", "engine")


@dataclass(frozen=True)
class Run:
    """One measured figure: fields as in the CSV, None or "" = not said there; value in the unit of `metric`."""

    id: str
    group: str
    model: str
    hardware: str
    engine: str
    release: str
    weights: str
    kv: str
    inputs: str
    accelerators: int | None
    tp: int | None
    pp: int
    ep: int | None
    dp: int
    attention_dp: int
    moe_tp: int | None
    isl: int | None
    osl: int | None
    batch: int | None
    batch_kind: str
    qps: float | None
    metric: str
    value: float
    quality: str
    suspect: bool
    note: str

    @property
    def native(self) -> bool:
        """Whether the row leaves the format of its weights to the checkpoint."""
        return not self.weights

    @property
    def slice(self) -> str:
        """Name of the slice that the row is scored in."""
        return f"{METRICS[self.metric]}/{self.group}{'/native' if self.native else ''}"


def _number(row: Mapping[str, str], name: str, where: str) -> float | None:
    text = (row.get(name) or "").strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise CatalogError(f"{where}: {name} is {text!r}, which is no number") from None
    if not 0 <= number < inf and not (name == "qps" and number == inf):
        raise CatalogError(f"{where}: {name} is {text}, but must be finite and not negative")
    return number


def _whole(row: Mapping[str, str], name: str, where: str) -> int | None:
    number = _number(row, name, where)
    return None if number is None else round(number)


def _run(row: Mapping[str, str], metric: str, value: float, where: str, index: int) -> Run:
    def text(name: str) -> str:
        return (row.get(name) or "").strip()

    kind = text("batch_kind") or "concurrency"
    quality = text("quality") or "A"
    return Run(
        text("id") or f"row {index}", text("group"), text("model_id"), text("hardware_id"), text("engine"),
        text("engine_version"), text("weight_dtype"), text("kv_dtype"), text("act_dtype"),
        _whole(row, "n_accel", where), _whole(row, "tp", where), max(_whole(row, "pp", where) or 1, 1),
        _whole(row, "moe_ep" if "moe_ep" in row else "ep", where), max(_whole(row, "dp", where) or 1, 1),
        max(_whole(row, "attention_dp", where) or 1, 1), _whole(row, "moe_tp", where), _whole(row, "isl", where),
        _whole(row, "osl", where), _whole(row, "batch", where), kind, _number(row, "qps", where), metric, value,
        quality, text("suspect") not in ("", "0"), text("note"))


def _figures(row: Mapping[str, str], where: str) -> Iterator[tuple[str, float]]:
    """(metric, value) of a row: one in the long schema, up to two in that of latencies."""
    if "metric" in row:
        metric = (row["metric"] or "").strip()
        if metric not in METRICS:
            raise CatalogError(f"{where}: metric {metric!r} is unknown; known are {', '.join(METRICS)}")
        value = _number(row, "value", where)
        if value is not None:
            yield metric, value
        return
    for metric in ("ttft_ms", "tpot_ms"):
        value = _number(row, metric, where)
        if value is not None:
            yield metric, value


def read_runs(path: Path) -> list[Run]:
    """All runs of a file in either schema."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            names = table.fieldnames or []
            if missing := [name for name in _NEEDED if name not in names]:
                raise MissingField(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
            if "metric" not in names and not {"ttft_ms", "tpot_ms"} & set(names):
                raise MissingField(f"{path} has neither a column metric nor ttft_ms and tpot_ms")
            return [_run(row, metric, value, f"{path} line {index}", index)
                    for index, row in enumerate(table, start=2)
                    for metric, value in _figures(row, f"{path} line {index}")]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise CatalogError(f"{path} cannot be read: {reason.lower()}") from None


_NARROW = re.compile(r"(nvfp4|mxfp4|fp8|awq|gptq|int4)", re.I)
_BLOCKED = ("fp8-block",)


def formats_of(run: Run, model: Model) -> str:
    """Number format of the weights: the row's, in blocks where the checkpoint has them; else the checkpoint's own."""
    checkpoint = re.search(r"checkpoint: ([^;]*)", run.note)
    named = _NARROW.search(checkpoint[1]) if checkpoint else None
    if not run.weights:
        if named:
            return "fp8-block" if named[1].lower() == "fp8" else named[1].lower()
        return model.dtype
    if run.weights == "fp8" and (model.dtype in _BLOCKED or (named is not None and named[1].lower() == "fp8")):
        return "fp8-block"
    if run.weights == "int4" and run.inputs in ("int8", "int4"):
        return "int4-int8"
    if run.weights == "int8" and run.inputs in ("fp16", "bf16"):
        return "int8-weight"
    return run.weights


def cache_of(run: Run, weights: str) -> str:
    """Number format of a cache that the row leaves open: ModelOpt's checkpoints for TensorRT-LLM carry fp8 caches."""
    return "fp8" if run.engine == "trtllm" and weights in ("fp8", "nvfp4") else "bf16"


def layout_of(run: Run, model: Model) -> ServingLayout:
    """The layout of a run; widths that it leaves open are 1. Attention runs data parallel where the count says so."""
    if run.tp is None:
        raise Unsupported("tp not stated")
    routed = any(isinstance(kind.ffn, Moe) for kind in model.kinds)
    adp, ep = run.attention_dp, max(run.ep or 1, 1)
    if routed and adp == 1 and run.accelerators and run.accelerators > run.tp * run.pp * run.dp:
        adp = run.accelerators // (run.tp * run.pp * run.dp)
    if not routed:
        adp = ep = 1
    return ServingLayout(run.tp, run.pp, ep, adp, 1, run.dp)
