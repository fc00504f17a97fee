"""Scores of predictions and published figures predicted again, as tables and as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.units import show
from perfplan.validation.feasibility import feasibility
from perfplan.validation.reproduce import Check
from perfplan.validation.score import Outcome, Score
from perfplan.validation.training import Validation

__all__ = ["CHECK_COLUMNS", "OUTCOME_COLUMNS", "check_rows", "checks_text", "outcome_rows", "validation_document",
           "validation_text"]

_SHOWN = (
    Column("name", "slice"),
    Column("rows"),
    Column("scored"),
    Column("mape", "MAPE", "%"),
    Column("median_ape", "median error", "%"),
    Column("null_median_ape", "null median", "%"),
    Column("bias", "bias", "%"),
    Column("band_coverage", "in band", "%"),
    Column("groups"),
    Column("kendall_tau", "Kendall tau", "1"),
    Column("mean_regret", "mean regret", "%"),
)
OUTCOME_COLUMNS = tuple(
    Column(name)
    for name in (
        "id",
        "source",
        "slice",
        "group",
        "layout_text",
        "metric",
        "measured",
        "predicted",
        "ratio",
        "time",
        "band_low",
        "band_high",
        "memory_ratio",
        "fits",
        "oom",
        "unsupported",
        "assumptions",
    )
)
CHECK_COLUMNS = (
    Column("system"),
    Column("name", "figure"),
    Column("predicted"),
    Column("published"),
    Column("error", unit="%"),
    Column("tolerance"),
    Column("kind"),
    Column("passed", "met"),
)


def _score_row(score: Score) -> Row:
    return {item.name: getattr(score, item.name) for item in fields(score)}


def _reasons(score: Score) -> str:
    reasons = sorted(score.unsupported.items(), key=lambda pair: (-pair[1], pair[0]))
    return "\n".join(paragraph(f"{count:6d}  {reason}", "") for reason, count in reasons)


def validation_text(validation: Validation) -> str:
    """Scores of every slice and overall, and why rows were not scored."""
    rows = [_score_row(score) for score in (*validation.slices, validation.overall)]
    fits = "\n".join(paragraph(one) for one in feasibility(validation.outcomes).sentences())
    text = f"{table(rows, _SHOWN)}\n\n{fits}"
    if validation.overall.unsupported:
        text += f"\n\nrows not scored, by reason\n{_reasons(validation.overall)}"
    return text


def validation_document(validation: Validation) -> dict[str, Any]:
    """The scores and both rates of feasibility under machine names."""
    return validation.as_dict() | {"feasibility": feasibility(validation.outcomes)}


def outcome_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Every measured row beside its prediction, for CSV; what was assumed stands in the last column."""

    def row(outcome: Outcome) -> Mapping[str, Any]:
        low, high = outcome.band or (None, None)
        return {item.name: getattr(outcome, item.name) for item in fields(outcome)} | {
            "band_low": low,
            "band_high": high,
            "assumptions": "; ".join(outcome.assumptions),
        }

    return [row(outcome) for outcome in outcomes]


def check_rows(checks: Sequence[Check]) -> list[Row]:
    """Published figures beside their predictions, values in SI."""
    return [
        {item.name: getattr(check, item.name) for item in fields(check)} | {"error": check.error} for check in checks
    ]


def checks_text(checks: Sequence[Check]) -> str:
    """Published figures beside their predictions, for people, and how many passed."""
    rows = [
        dict(row) | {"predicted": show(check.predicted, check.unit), "published": show(check.published, check.unit)}
        for row, check in zip(check_rows(checks), checks, strict=True)
    ]
    passed = sum(check.passed for check in checks)
    return f"{table(rows, CHECK_COLUMNS)}\n\n{passed} of {len(checks)} figures reproduced within their tolerance"
