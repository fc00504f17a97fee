"""What the exchange among replicas costs beside a pipeline, by how it overlaps."""

from __future__ import annotations

from typing import Any

from perfplan.overlap.replicas import Exchange
from perfplan.report.columns import Column
from perfplan.report.text import paragraph, table
from perfplan.units import show

__all__ = ["exchange_document", "exchange_text"]

COLUMNS = (Column("overlap", "replicas overlap"), Column("exposed", "exposed", "s"))


def exchange_text(found: Exchange) -> str:
    """The overlaps for people."""
    rows = [{"overlap": how.name, "exposed": time} for how, time in found.rows]
    return table(rows, COLUMNS) + "\n" + paragraph(
        f"replicas: {show(found.reduce, 's')} to reduce gradients and {show(found.gather, 's')} to gather weights on"
        f" the rank with most, beside {found.schedule}, slowing none of its passes; the steps above have"
        f" {show(found.assumed, 's')} of it (overlap dp=, tied weights included)"
    )


def exchange_document(found: Exchange | None) -> dict[str, Any] | None:
    """The same under machine names."""
    if found is None:
        return None
    return {
        "schedule": found.schedule,
        "reduce_s": found.reduce,
        "gather_s": found.gather,
        "assumed_s": found.assumed,
        "exposed_s": {how.name: time for how, time in found.rows},
    }
