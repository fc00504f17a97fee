"""Training estimates and plans as text, as rows of a table and as one JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perfplan.overlap.physics import Gap, gap
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.training.estimate import Estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout
from perfplan.units import show

__all__ = [
    "estimate_columns",
    "estimate_document",
    "estimate_row",
    "estimate_text",
    "gap_sentence",
    "job_document",
    "job_line",
    "parts_table",
    "short",
]

HEADLINE = (
    Column("layout"),
    Column("gpus", "GPUs"),
    Column("step_time", "step", "s"),
    Column("band_low", "band from", "s"),
    Column("band_high", "to", "s"),
    Column("tokens_per_s_per_gpu", "tokens/s /GPU", "1"),
    Column("mfu", "MFU", "%"),
    Column("memory", unit="B"),
    Column("headroom", unit="B"),
)


def short(layout: Layout) -> str:
    """A layout without what is the default; it reads back as the same layout.

    >>> short(Layout.parse("tp8 sp1 pp8 dp16 zero1"))
    'tp8 sp1 pp8 dp16 zero1'
    """
    words = {"tp1", "sp0", "cp1", "pp1", "vpp1", "ep1", "etp1", "mbs1", "rc=none"}
    return " ".join(word for word in str(layout).split() if word not in words)


def _field(part: str, what: str) -> str:
    return f"{part.replace(' ', '_')}_{what}"


def estimate_columns(estimate: Estimate) -> list[Column]:
    """Columns of a table of layouts for machines: headline figures, then step time and memory by part."""
    times = [Column(_field(part, "time"), unit="s") for part in estimate.breakdown]
    sizes = [Column(_field(part, "memory"), unit="B") for part in estimate.memory]
    return [*HEADLINE, Column("binding"), *times, *sizes]


def estimate_row(estimate: Estimate) -> Row:
    """One line of a table of layouts."""
    return {
        "layout": str(estimate.layout),
        "gpus": int(estimate.layout.world),
        "step_time": float(estimate.step_time),
        "band_low": estimate.band[0],
        "band_high": estimate.band[1],
        "tokens_per_s_per_gpu": estimate.tokens_per_s_per_gpu,
        "mfu": estimate.mfu,
        "memory": estimate.memory_total,
        "headroom": estimate.headroom,
        "binding": estimate.binding,
        **{_field(part, "time"): time for part, time in estimate.breakdown.items()},
        **{_field(part, "memory"): size for part, size in estimate.memory.items()},
    }


def job_line(job: Job) -> str:
    """What is trained on what, in one sentence."""
    ahead = f", with {job.mtp_depth} multi-token prediction" if job.mtp_depth else ""
    return (
        f"{job.model.id} on {job.cluster.id}, {job.gpus} x {job.cluster.accelerator.id}, global batch "
        f"{job.global_batch} x {job.seq_len} tokens, {job.recipe.id}, {job.framework.id}{ahead}"
    )


def parts_table(parts: Mapping[str, float], unit: str, what: str, whole: str) -> str:
    """Named parts with their share of the whole, which stands in the last line; parts that are 0 are left out."""
    size = sum(parts.values())
    rows = [{"part": name, "value": part, "share": part / size} for name, part in parts.items() if part]
    columns = [Column("part", what), Column("value", " ", unit), Column("share", " ", "%")]
    return table([*rows, {"part": whole, "value": size, "share": 1.0}], columns)


def _headline(estimate: Estimate) -> str:
    low, high = estimate.band
    fit = "fits" if estimate.fits else "does NOT fit"
    rows = [
        ("step time", f"{show(estimate.step_time, 's')}, band {show(low, 's')} to {show(high, 's')}"),
        ("throughput", f"{show(estimate.tokens_per_s_per_gpu, '1')} tokens/s per accelerator"),
        ("MFU", f"{100 * estimate.mfu:.1f}% (model FLOPs with causal attention, no recompute)"),
        (
            "memory",
            f"{show(estimate.memory_total, 'B')} of {show(estimate.job.cluster.accelerator.memory, 'B')} on "
            f"the fullest rank: {fit}, headroom {show(estimate.headroom, 'B')}",
        ),
        ("binds", estimate.binding),
    ]
    if unused := estimate.job.gpus - estimate.layout.world:
        rows.append(("left over", f"{unused} of {estimate.job.gpus} accelerators"))
    return "\n".join(f"{name:<11} {words}" for name, words in rows)


def _caveats(caveats: Sequence[str]) -> list[str]:
    return [paragraph(f"caveat: {caveat}") for caveat in caveats]


def gap_sentence(found: Gap, title: str = "gap to physics") -> str:
    """The step split into physics, layout and schedule, in one sentence."""
    words = ", ".join(f"{name} {show(time, 's')} ({100 * time / found.step:.1f}%)"
                      for name, time in found.parts.items())
    return paragraph(f"{title}: {words}; no layout and no schedule of the declared model takes less than"
                     f" {show(found.bound.time, 's')} ({found.bound.reason})")


def estimate_text(estimate: Estimate) -> str:
    """One layout for people: headline, step time by part, memory by part, caveats."""
    blocks = [
        paragraph(job_line(estimate.job)) + f"\n{estimate.layout}",
        _headline(estimate),
        parts_table(estimate.breakdown, "s", "time", "step time"),
        parts_table(estimate.memory, "B", "memory of the fullest rank", "reserved in all"),
        gap_sentence(gap(estimate)),
    ]
    return "\n\n".join(blocks + _caveats(estimate.caveats))


def job_document(job: Job) -> dict[str, Any]:
    """The job under machine names."""
    return {
        "model": job.model.id,
        "cluster": job.cluster.id,
        "accelerator": job.cluster.accelerator.id,
        "gpus": job.gpus,
        "global_batch": job.global_batch,
        "seq_len": job.seq_len,
        "precision": job.recipe.id,
        "framework": job.framework.id,
        "routing_skew": job.routing_skew,
        "mtp": job.mtp_depth,
    }


def estimate_document(estimate: Estimate) -> dict[str, Any]:
    """One layout under machine names, SI floats."""
    row = estimate_row(estimate)
    return {column.field: row[column.key] for column in HEADLINE} | {
        "memory_allocated_bytes": estimate.memory_allocated,
        "fits": estimate.fits,
        "binding": estimate.binding,
        "breakdown_s": estimate.breakdown,
        "gap_s": gap(estimate).parts,
        "memory_parts_bytes": estimate.memory,
        "caveats": estimate.caveats,
    }
