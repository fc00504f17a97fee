"""A diagnosis of a measured throughput as text, rows and a JSON document."""

from __future__ import annotations

from typing import Any

from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.serving.diagnose import Diagnosis
from perfplan.units import show

__all__ = ["CAUSE_COLUMNS", "diagnosis_document", "diagnosis_rows", "diagnosis_text"]

CAUSE_COLUMNS = (
    Column("cause"),
    Column("tokens_per_s", "would give tok/s", "1"),
    Column("words", "what to look at"),
)


def diagnosis_rows(one: Diagnosis) -> list[Row]:
    """One row per possible cause, the likely one first."""
    return [{"cause": c.name, "tokens_per_s": c.tokens_per_s, "words": c.words} for c in one.causes]


def _verdict(one: Diagnosis) -> str:
    if one.measured > one.bound:
        return (
            "above the bound: no software does that on this hardware; check what was counted, the chip and the layout"
        )
    if one.as_expected:
        return f"as expected within what the estimate errs by; {one.steady.binding} binds"
    side = "below" if one.ratio < 1 else "above"
    likely = next((c.name for c in one.causes if c.tokens_per_s is not None), "none known")
    return f"{side} the estimate by more than it errs; likely cause: {likely}"


def diagnosis_text(one: Diagnosis) -> str:
    """The verdict first, then the numbers, then the causes."""
    job = one.job
    load = f"{one.concurrency} requests in flight" if one.concurrency else "as many requests as the cache holds"
    head = (
        f"{job.model.id} in {job.weights.id} on {one.layout.world} x {job.cluster.accelerator.id}, {one.layout},"
        f" {job.engine.name}; {one.isl} in, {one.osl} out, {load}"
    )
    flying = "more than the cache holds" if one.in_flight is None else show(one.in_flight, "1")
    held = show(one.room * one.layout.adp * one.layout.dp, "1")
    lines = [
        ("measured", f"{show(one.measured, '1')} tok/s, {100 * one.ratio:.0f} % of the estimate"),
        (
            "estimate",
            f"{show(one.estimate, '1')} tok/s; TTFT {show(float(one.steady.ttft), 's')}, TPOT"
            f" {show(float(one.steady.tpot), 's')}",
        ),
        ("bound", f"{show(one.bound, '1')} tok/s, by {one.bound_words}"),
        ("in flight", f"{flying} by Little's law at the measured rate; the cache holds {held}"),
    ]
    width = max(len(name) for name, _ in lines)
    body = "\n".join(f"{name:<{width}}  {text}" for name, text in lines)
    notes = [paragraph(f"caveat: {caveat}") for caveat in job.caveats]
    return "\n".join(
        [
            paragraph(head),
            "",
            paragraph(_verdict(one)),
            "",
            body,
            *(["", table(rows, CAUSE_COLUMNS)] if (rows := diagnosis_rows(one)) else []),
            *([""] if notes else []),
            *notes,
        ]
    )


def diagnosis_document(one: Diagnosis) -> dict[str, Any]:
    """The diagnosis under machine names."""
    return {
        "model": one.job.model.id,
        "cluster": one.job.cluster.id,
        "layout": str(one.layout),
        "isl": one.isl,
        "osl": one.osl,
        "concurrency": one.concurrency,
        "measured_tokens_per_s": one.measured,
        "estimate_tokens_per_s": one.estimate,
        "bound_tokens_per_s": one.bound,
        "in_flight": one.in_flight,
        "cache_holds": one.room * one.layout.adp * one.layout.dp,
        "verdict": _verdict(one),
        "causes": [dict(row) for row in diagnosis_rows(one)],
        "caveats": list(one.job.caveats),
    }
