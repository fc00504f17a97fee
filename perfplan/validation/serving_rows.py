"""Measurements of serving in: the schemas of `serving_measured.csv` and `serving_latency_measured.csv`, as `Run`s.

A latency row gives two runs, one for TTFT and one for TPOT. What a field leaves open stays open: the rules that fill it
are in `formats_of`, `lengths_of` and `layout_of`, and `Run.assumed` says which of them were used.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Model
from perfplan.catalog.spelling import release_named
from perfplan.errors import CatalogError, MissingField, Unsupported
from perfplan.serving.formats import format_name
from perfplan.serving.layout import ServingLayout
from perfplan.validation.assumptions import assumed

__all__ = ["METRICS", "Run", "cache_of", "formats_of", "layout_of", "lengths_of", "read_runs"]

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
    """One measured figure: fields as in the CSV, None or "" = not said there; value in the unit of `metric`;
    spread: attention runs data parallel over the whole group, however wide that is."""

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
    spread: bool = False

    @property
    def native(self) -> bool:
        """Whether the row leaves the format of its weights to the checkpoint."""
        return not self.weights

    @property
    def assumed(self) -> tuple[str, ...]:
        """What the row leaves open and a rule fills in, apart from the format of its weights."""
        open_ = {"tp": self.tp, "isl": self.isl, "osl": self.osl}
        needless = {"prefill": {"osl"}, "decode": {"isl"}}.get(METRICS[self.metric], set())
        return tuple(f"{name} not stated" for name, value in open_.items() if value is None and name not in needless)

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
    """A whole number; a degree may be written with its name before it, as in `TP8`."""
    if found := re.fullmatch(r"[A-Za-z_]+\s*=?\s*(\d+)", (row.get(name) or "").strip()):
        return int(found[1])
    number = _number(row, name, where)
    return None if number is None else round(number)


def _run(row: Mapping[str, str], metric: str, value: float, where: str, index: int) -> Run:
    def text(name: str) -> str:
        return (row.get(name) or "").strip()

    kind = text("batch_kind") or "concurrency"
    quality = text("quality") or "A"
    flag = _whole(row, "attention_dp", where) or 0  # a width among latencies, elsewhere whether it is so
    spread = "moe_ep" not in row and flag == 1
    return Run(
        text("id") or f"row {index}", text("group"), text("model_id"), text("hardware_id"), text("engine"),
        release_named(text("engine_version")), format_name(text("weight_dtype")), format_name(text("kv_dtype")),
        format_name(text("act_dtype")),
        _whole(row, "n_accel", where), _whole(row, "tp", where), max(_whole(row, "pp", where) or 1, 1),
        _whole(row, "moe_ep" if "moe_ep" in row else "ep", where), max(_whole(row, "dp", where) or 1, 1),
        max(flag, 1), _whole(row, "moe_tp", where), _whole(row, "isl", where),
        _whole(row, "osl", where), _whole(row, "batch", where), kind, _number(row, "qps", where), metric, value,
        quality, text("suspect") not in ("", "0"), text("note"), spread)


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
_BITS = re.compile(r"(\d+(?:\.\d+)?) bits per weight", re.I)
_BLOCKED = ("fp8-block",)
_PUBLISHED = re.compile("deepseek|glm-|kimi|mimo|minimax|qwen3|step-")
"""Models whose publishers' own checkpoints in fp8 are scaled in blocks (recalled); TensorRT-LLM's are ModelOpt's."""
_LAYERED = ("llama_cpp", "exllamav2")  # engines that split a model over devices by layers
WORKLOADS = {"sharegpt": "sharegpt"}  # name of a data set in a note -> workload of the catalog


def _checkpoint(run: Run) -> str:
    """Number format that the name of the row's checkpoint, or what its note says of the weights, tells; else ""."""
    if bits := _BITS.search(run.note):
        return f"{float(bits[1]):g}bpw"
    named = re.search(r"(?:checkpoint|weights): ([^;]*)", run.note)
    found = _NARROW.search(named[1]) if named else None
    return found[1].lower() if found else ""


def formats_of(run: Run, model: Model) -> str:
    """Number format of the weights: the row's, in blocks where the checkpoint has them; else the checkpoint's own."""
    named = _checkpoint(run)
    if run.engine == "llama_cpp" and (run.weights or model.dtype) == "mxfp4":
        return "mxfp4-q8_0"
    if not run.weights:
        return ("fp8-block" if named == "fp8" else named) or model.dtype
    published = _PUBLISHED.match(model.id) and "checkpoint" not in run.note and run.engine != "trtllm"
    if run.weights == "fp8" and (model.dtype in _BLOCKED or named == "fp8" or published):
        return "fp8-block"
    if run.weights == "int4" and run.inputs in ("int8", "int4"):
        return "int4-int8"
    if run.weights == "int8" and run.inputs in ("fp16", "bf16"):
        return "int8-weight"
    return run.weights


def cache_of(run: Run, weights: str) -> str:
    """Number format of a cache that the row leaves open: ModelOpt's checkpoints for TensorRT-LLM carry fp8 caches."""
    return "fp8" if run.engine == "trtllm" and weights in ("fp8", "nvfp4") else "bf16"


def lengths_of(run: Run, catalog: Catalog) -> tuple[int, int]:
    """(input, output) tokens: the row's, else the means of the data set that its note names, else as assumed.

    The time to a first token hardly knows the output, a decode step of one sequence hardly its context.
    """
    isl, osl = run.isl, run.osl
    if (isl is None or osl is None) and (name := next((n for n in WORKLOADS if n in run.note.lower()), "")):
        workload = catalog.workload(WORKLOADS[name])
        isl, osl = isl or round(workload.isl.mean), osl or round(workload.osl.mean)
    kind = METRICS[run.metric]
    if osl is None and (kind == "ttft" or run.metric == "decode_tokens_per_s"):
        osl = assumed("output_tokens")
    if isl is None and kind == "decode":
        isl = 0
    if isl is None or (osl is None and kind != "prefill"):
        raise Unsupported("isl or osl not stated")
    return isl, osl or 1


def _widths(run: Run) -> tuple[int, int]:
    """(tp, pp) of a run: those stated; all its accelerators where it does not say how they are used."""
    if run.tp is not None:
        return max(run.tp, 1), run.pp
    if run.accelerators is None:
        raise Unsupported("neither tp nor the number of accelerators is stated")
    if run.engine in _LAYERED:
        return 1, run.accelerators
    return max(run.accelerators // (run.pp * run.dp * run.attention_dp), 1), run.pp


def layout_of(run: Run, model: Model) -> ServingLayout:
    """The layout of a run; widths that it leaves open are 1. What the count says beyond the widths is data parallel:
    attention where experts are shared, replicas where they are not."""
    tp, pp = _widths(run)
    routed = model.routed
    beyond = max((run.accelerators or 1) // (tp * pp * run.dp), 1)
    if not routed:
        return ServingLayout(tp, pp, dp=run.dp * beyond)
    ep = max(run.ep or 1, 1)
    if run.spread:
        return ServingLayout(1, pp, ep, tp * beyond, 1, run.dp)
    return ServingLayout(tp, pp, ep, run.attention_dp if run.attention_dp > 1 else beyond, 1, run.dp)
