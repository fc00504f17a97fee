"""Scores of single kernels and collectives as text: the errors and the data sheet's, no ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from perfplan.report.columns import Column
from perfplan.report.text import paragraph, table
from perfplan.validation.left_out import LeftOut
from perfplan.validation.serving import ServingValidation
from perfplan.validation.training import Validation

__all__ = ["LEFT_OUT_COLUMNS", "left_out_rows", "measured_text", "serving_text"]

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
LEFT_OUT_COLUMNS = (
    Column("name"),
    Column("left_out", "left out"),
    Column("rows"),
    Column("mape", "MAPE", "%"),
    Column("median", "median", "%"),
    Column("null", "null MAPE", "%"),
)


def left_out_rows(found: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Rows for `LEFT_OUT_COLUMNS`."""
    return [asdict(one) for one in found]


def measured_text(validation: Validation) -> str:
    """Scores of every slice and overall, and why rows were not scored; null is the median error of the data sheet."""
    scores = (*validation.slices, validation.overall)
    text = table([{item.name: getattr(score, item.name) for item in fields(score)} for score in scores], _SHOWN)
    reasons = validation.overall.unsupported.items()
    lines = [paragraph(f"{count:6d}  {reason}") for reason, count in reasons]
    return "\n".join([text, "", "rows not scored, by reason", *lines]) if lines else text


_CHOICES = (
    Column("name", "choice by the prediction"),
    Column("groups", "groups"),
    Column("mean_regret", "mean regret", "%"),
    Column("max_regret", "worst", "%"),
    Column("broken", "ceilings broken", "%"),
    Column("refused", "refused"),
)


def serving_text(validation: ServingValidation) -> str:
    """Scores of serving runs, and what choices by the prediction would have cost."""
    text = measured_text(validation)
    if not validation.choices:
        return text
    return f"{text}\n\n{table([asdict(one) for one in validation.choices], _CHOICES)}"
