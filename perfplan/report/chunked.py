"""A pipelined mixture-of-experts layer as text, rows and a document."""

from __future__ import annotations

from typing import Any

from perfplan.placement.chunked import ChunkedLayer
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.units import show

__all__ = ["CHUNKED_COLUMNS", "chunked_document", "chunked_rows", "chunked_text"]

CHUNKED_COLUMNS = (
    Column("pass"),
    Column("chunks", "chunks", ""),
    Column("network", "exchange", "s"),
    Column("experts", "experts", "s"),
    Column("inside", "gather", "s"),
    Column("time", "time", "s"),
    Column("events", "by events", "s"),
    Column("best"),
)


def chunked_rows(found: ChunkedLayer) -> list[Row]:
    """One row per pass and number of chunks: the bound of each resource, the largest, and the event simulation."""
    names = ("chunks", "network", "experts", "inside", "time", "events")
    return [
        {"pass": one.name, **dict(zip(names, row, strict=True)), "best": "best" if row[0] == one.best else ""}
        for one in found.passes
        for row in one.bounds
    ]


def chunked_text(found: ChunkedLayer) -> str:
    """The report for people."""
    job, gradients = found.job, found.gradients
    head = (
        f"{job.model.id} on {job.cluster.id}, {found.layout}: one of {found.layers} layers with experts, micro-batch"
        f" {found.layout.mbs} x {job.seq_len}, {job.recipe.id}"
    )
    lines = [paragraph(head), "", table(chunked_rows(found), CHUNKED_COLUMNS), ""]
    for one in found.passes:
        alone = next(row[4] for row in one.bounds)
        best = next(row[4] for row in one.bounds if row[0] == one.best)
        lines.append(
            paragraph(
                f"{one.name}: {one.best} chunks, {show(best, 's')} instead of {show(alone, 's')} with"
                f" {one.bounds[0][0]}; {one.free:.3g} by the closed form"
            )
        )
    total, exposed = found.reduce, max(gradients.time - _backward(found), 0.0)
    how = "all degrees of all layers tried" if gradients.proven else "each layer at its own best degree"
    lines.append(
        paragraph(
            f"gradients of {found.layers} layers: {show(total, 's')} to reduce, {show(exposed, 's')} of them beyond the"
            f" backward layers ({how}; linear programme)"
        )
    )
    return "\n".join(lines)


def _backward(found: ChunkedLayer) -> float:
    one = found.passes[1]
    return found.layers * next(row[4] for row in one.bounds if row[0] == one.best)


def chunked_document(found: ChunkedLayer) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "model": found.job.model.id,
        "cluster": found.job.cluster.id,
        "layout": str(found.layout),
        "layers": found.layers,
        "passes": [
            {
                "pass": one.name,
                "best_chunks": one.best,
                "closed_form_chunks": one.free,
                "a2a_s": one.layer.a2a,
                "gather_s": one.layer.gather,
                "scatter_s": one.layer.scatter,
                "experts_s": one.layer.work,
            }
            for one in found.passes
        ],
        "bounds": chunked_rows(found),
        "gradients": {
            "reduce_s": found.reduce,
            "backward_s": found.gradients.time,
            "pieces": found.gradients.pieces,
            "chunks": found.gradients.chunks,
            "proven": found.gradients.proven,
        },
    }
