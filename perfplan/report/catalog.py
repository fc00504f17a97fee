"""The catalog for people: what it lists, one entry with its values and sources, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from perfplan.catalog.specs import Accelerator, Kernel, Library
from perfplan.catalog.workloads import Workload
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.units import show

__all__ = ["COLUMNS", "ENTRY_COLUMNS", "FAULT_COLUMNS", "entry_rows", "entry_text"]

_ID = Column("id")
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "accelerator": (
        _ID,
        Column("vendor"),
        Column("family"),
        Column("memory", unit="B"),
        Column("memory_bandwidth", "bandwidth", "B/s"),
        Column("peak", "bf16 or best", "FLOP/s"),
        Column("dtypes"),
        Column("cluster", "default cluster"),
    ),
    "cluster": (
        _ID,
        Column("accelerator"),
        Column("fast_domain", "fast domain"),
        Column("inner", "inner", "B/s"),
        Column("outer", "outer", "B/s"),
        Column("library"),
    ),
    "model": (
        _ID,
        Column("name"),
        Column("layers"),
        Column("hidden"),
        Column("vocab"),
        Column("published_params", "parameters", "tokens", name="published_params"),
    ),
    "workload": (
        _ID,
        Column("name"),
        Column("input", "mean input", "1"),
        Column("output", "mean output", "1"),
        Column("arrivals", "arrival CV", "1"),
        Column("rate", "rate", "1/s"),
    ),
}
PLAIN_COLUMNS = (_ID, Column("source"))
ENTRY_COLUMNS = (Column("field"), Column("value"), Column("source"))
FAULT_COLUMNS = (Column("kind"), Column("id"), Column("message"))

_UNITS = {
    "memory": "B",
    "l2": "B",
    "context": "B",
    "memory_bandwidth": "B/s",
    "bandwidth": "B/s",
    "peer": "B/s",
    "host_bandwidth": "B/s",
    "tdp": "W",
    "overhead_power": "W",
    "price_per_hour": "$/h",
    "latency": "s",
    "launch": "s",
    "overhead": "s",
    "host_gap": "s",
    "step_gap": "s",
    "group_launch": "s",
    "moe_launch": "s",
}


def _unit(path: str) -> str:
    last = path.rsplit(".", 1)[-1]
    if path.startswith("peak."):
        return "OP/s" if last.startswith("int") else "FLOP/s"
    return _UNITS.get(last, "")


def _text(path: str, value: Any) -> str:
    unit = _unit(path)
    if unit and isinstance(value, (int, float)):
        return show(float(value), unit)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(_text(path, item) for item in value)
    return "unknown" if value is None else str(value)


def _kernel(kernel: Kernel) -> str:
    half = f", half at {kernel.half:g}" if kernel.half else ""
    if kernel.narrow:
        half += f", {kernel.narrow:.3g} of it with heads of 64"
    if kernel.around:
        half += f", {kernel.around:.3g} of bandwidth around, {show(kernel.each, 's')} per expert"
    if kernel.step:
        half += f", {show(kernel.step, 's')} per element of the inner dimension"
    if kernel.ramp:
        half += f", ramp {show(kernel.ramp, 's')} at {kernel.start:.3g} of bandwidth"
    if kernel.spread:
        half += f", {kernel.spread:.3g} units per head"
    borrowed = f" (borrowed from {kernel.borrowed})" if kernel.borrowed else ""
    return (
        f"{kernel.compute:.3g} of peak, {kernel.memory:.3g} of bandwidth, {show(kernel.overhead, 's')}{half}{borrowed}"
    )


def _walk(entry: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every leaf of nested specs, mappings and lists of specs."""
    dot = f"{path}." if path else ""
    if path and isinstance(entry, (Accelerator, Library)):
        yield path, entry.id  # a cluster names these; each is an entry of its own
    elif isinstance(entry, Kernel):
        yield path, _kernel(entry)
        yield f"sources.{path}", entry.source
    elif is_dataclass(entry):
        for each in fields(entry):
            yield from _walk(getattr(entry, each.name), dot + each.name)
    elif isinstance(entry, Mapping):
        for key, value in entry.items():
            yield from _walk(value, dot + str(key))
    elif isinstance(entry, (tuple, list)) and any(is_dataclass(item) or isinstance(item, Mapping) for item in entry):
        for index, item in enumerate(entry):
            yield from _walk(item, dot + str(index))
    else:
        yield path, entry


def entry_rows(entry: Any) -> list[Row]:
    """One row per value of an entry: its field, the value with unit, and its source where the entry gives one."""
    leaves = list(_walk(entry.summary() if isinstance(entry, Workload) else entry))
    sources = {path.removeprefix("sources."): str(value) for path, value in leaves if path.startswith("sources.")}
    known = {
        **sources,
        **{path.removesuffix("source"): str(value) for path, value in leaves if path.rsplit(".", 1)[-1] == "source"},
    }
    return [
        {"field": path, "value": _text(path, value), "source": _source(path, known)}
        for path, value in leaves
        if value not in ("", (), None) and not path.startswith("sources.") and path.rsplit(".", 1)[-1] != "source"
    ]


def _source(path: str, known: Mapping[str, str]) -> str:
    head = path.rsplit(".", 1)[0] + "." if "." in path else ""
    return known.get(path, known.get(head, "") if head else "")


def entry_text(rows: list[Row]) -> str:
    """The rows as a table in which a source that several rows share is numbered and told below."""
    numbers = {
        source: index + 1 for index, source in enumerate(dict.fromkeys(r["source"] for r in rows if r["source"]))
    }
    short = [{**row, "source": f"[{numbers[row['source']]}]" if row["source"] else ""} for row in rows]
    notes = "\n".join(paragraph(f"[{number}] {source}") for source, number in numbers.items())
    return f"{table(short, ENTRY_COLUMNS)}\n\n{notes}"
