"""Scores of single kernels and collectives as text: the errors and the data sheet's, no ranking."""

from __future__ import annotations

from dataclasses import fields

from perfplan.report.columns import Column
from perfplan.report.text import paragraph, table
from perfplan.validation.training import Validation

__all__ = ["measured_text"]

_SHOWN = (
    Column("name", "slice"),
    Column("rows"),
    Column("scored"),
    Column("mape", "MAPE", "%"),
    Column("median_ape", "median", "%"),
    Column("p90_ape", "90 %", "%"),
    Column("bias", "bias", "%"),
    Column("null_median_ape", "null", "%"),
)


def measured_text(validation: Validation) -> str:
    """Scores of every slice and overall, and why rows were not scored; null is the median error of the data sheet."""
    scores = (*validation.slices, validation.overall)
    text = table([{item.name: getattr(score, item.name) for item in fields(score)} for score in scores], _SHOWN)
    reasons = validation.overall.unsupported.items()
    lines = [paragraph(f"{count:6d}  {reason}") for reason, count in reasons]
    return "\n".join([text, "", "rows not scored, by reason", *lines]) if lines else text
