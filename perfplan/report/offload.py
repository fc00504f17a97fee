"""`perfplan schedule offload`: ways to place and update optimizer state, as a table, in words and for machines."""

from __future__ import annotations

from typing import Any

from perfplan.overlap.offload import CHEAP, WAYS, Choice, Offload
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.report.training import job_line, short
from perfplan.training.host import caveats
from perfplan.units import show

__all__ = ["OFFLOAD_COLUMNS", "offload_document", "offload_rows", "offload_text"]

OFFLOAD_COLUMNS = (
    Column("choice", "optimizer state"),
    Column("update", "update", "s"),
    Column("step", "step", "s"),
    Column("device", "on the device", "B"),
    Column("host", "on the host", "B"),
    Column("fits", "fits"),
    Column("subgroups", "subgroups"),
)


def _subgroups(row: Choice) -> str:
    return ", ".join(f"{n} {way.name}" for n, way in zip(row.counts, WAYS, strict=True) if n)


def offload_rows(found: Offload) -> list[Row]:
    """One line per way."""
    return [
        {"choice": row.name, "update": row.time, "step": found.step(row), "device": row.device, "host": row.host,
         "fits": row.fits, "subgroups": _subgroups(row)}
        for row in found.rows
    ]


def offload_text(found: Offload) -> str:
    """Ways to place optimizer state for people; with gradients and activations that go the same way."""
    update, away = found.update, found.away
    layers, of, freed = found.activations
    gain = f", which frees {show(freed, 'B')} (off=acts:{layers})" if layers else ""
    if layers and freed <= 0:
        gain = f", but the buffers on their way take {show(-freed, 'B')} more than that frees"
    words = [
        f"the best update with the state beside everything else in memory: {found.certificate.sentence()}",
        f"gradients: {show(found.flush, 's')} to the host in step with the last backward pass,"
        f" {show(away.breakdown['offload'], 's')} exposed when they leave behind it (as above)",
        f"activations: {layers} of {of} layers can leave for the host and be back ahead of their backward pass at"
        f" {100 * CHEAP:g}% of the step or less{gain}",
    ]
    intervals = [row.interval for row in found.rows[:-1] if row.interval > 1]
    words += [f"layout token of one in {k} fetched: off=optim:{k}; of all on the CPU: off=optim" for k in intervals]
    size = show(update.size, "tokens")
    words.append(f"assumed: {update.groups} subgroups of {size} parameters, {update.state:g} B of state for each of"
                 " these; device, CPU and both directions of every link work side by side, but the CPU copies weights"
                 " itself")
    words += [f"caveat: {text}" for text in caveats(away.job, away.layout)]
    head = paragraph(job_line(away.job)) + "\n" + short(found.plain.layout)
    return "\n\n".join((head, table(offload_rows(found), OFFLOAD_COLUMNS), "\n".join(map(paragraph, words))))


def offload_document(found: Offload) -> dict[str, Any]:
    """The same under machine names."""
    layers, of, freed = found.activations
    return {
        "layout": str(found.plain.layout),
        "ways": [{c.field: row.get(c.key) for c in OFFLOAD_COLUMNS} for row in offload_rows(found)],
        "bound_s": found.certificate.bound,
        "gap": found.certificate.gap,
        "flush_s": found.flush,
        "flush_exposed_s": found.away.breakdown["offload"],
        "activation_layers": layers,
        "layers": of,
        "activation_memory_bytes": freed,
    }
