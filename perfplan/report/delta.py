"""Delta errors as a table per axis and source, and every pair, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.validation.delta import AXES, CHANGE, DeltaScore, delta_scores, pairs
from perfplan.validation.score import Outcome

__all__ = ["PAIR_COLUMNS", "SCORE_COLUMNS", "delta_document", "delta_text", "pair_rows"]

SCORE_COLUMNS = (
    Column("axis", "changed"),
    Column("source"),
    Column("pairs"),
    Column("median", "median error", "%"),
    Column("p90", "90 %", "%"),
    Column("null_median", "null median", "%"),
    Column("null_mean", "null mean", "%"),
    Column("changed", f"pairs over {CHANGE:.0%}"),
    Column("right_signs", "right signs", "%"),
    Column("null_right_signs", "null signs", "%"),
)
PAIR_COLUMNS = tuple(
    Column(name)
    for name in ("axis", "source", "first", "second", "change", "measured", "predicted", "null", "error", "null_error")
)
_NOTE = (
    "A pair is two rows of one source and release that differ in one thing only; the layout is free. Error: |d ln"
    " predicted - d ln measured| of tokens per second and accelerator; null: a constant MFU from other models, which"
    " sees no change in a count. `all` is the mean of the sources."
)


def delta_text(outcomes: Sequence[Outcome]) -> str:
    """The table for people."""
    scores = delta_scores(pairs(outcomes))
    if not scores:
        return "no two rows differ in exactly one of accelerator count, precision, accelerator and model"
    rows = [{item.name: getattr(score, item.name) for item in fields(DeltaScore)} for score in scores]
    return f"{table(rows, SCORE_COLUMNS)}\n\n{paragraph(_NOTE)}"


def pair_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Every pair, by axis and the largest error first."""
    worst = sorted(pairs(outcomes), key=lambda pair: (AXES.index(pair.axis), -pair.error, pair.first, pair.second))
    return [asdict(pair) | {"error": pair.error, "null_error": pair.null_error} for pair in worst]


def delta_document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The scores under machine names."""
    return {"delta": delta_scores(pairs(outcomes))}
