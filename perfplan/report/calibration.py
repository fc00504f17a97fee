"""What a calibration found, as tables: constants with their errors, and the rows it refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

from perfplan.calibration.found import Calibration
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table

__all__ = ["FIT_COLUMNS", "calibration_text", "document", "fit_rows"]

FIT_COLUMNS = (
    Column("kind"),
    Column("dtype"),
    Column("software"),
    Column("rows"),
    Column("mape", "error in-fit", "%"),
    Column("left_out", "error left out", "%"),
    Column("low", "10 %", "%"),
    Column("middle", "50 %", "%"),
    Column("high", "90 %", "%"),
    Column("constants"),
    Column("written"),
)
_SHOWN = 12  # refused rows named one by one in the text
_TIMES = ("overhead", "ramp", "launch", "hop")


def _constant(name: str, value: float) -> str:
    if name in ("step", "each"):
        return f"{name}={value * 1e9:.4g}ns"
    return f"{name}={value * 1e6:.4g}us" if name in _TIMES else f"{name}={value:.4g}"


def fit_rows(found: Calibration) -> list[Row]:
    """One row per fit; `low`, `middle`, `high` are the residual quantiles as log(measured / predicted)."""
    names = ("low", "middle", "high")
    return [
        {
            "kind": one.kind,
            "dtype": one.dtype,
            "software": one.software,
            "rows": one.rows,
            "mape": one.mape,
            "left_out": one.left_out,
            "constants": " ".join(_constant(name, value) for name, value in sorted(one.constants.items())),
            "written": one.written,
        }
        | dict(zip(names, one.quantiles, strict=True))
        for one in found.fitted
    ]


def calibration_text(found: Calibration, entry: str, saved: str | None) -> str:
    """Constants, refused rows and, unless it was saved, the catalog entry."""
    parts = [table(fit_rows(found), FIT_COLUMNS)]
    if found.rejected:
        shown = [paragraph(f"{bad.row}: {bad.reason}", "  ") for bad in found.rejected[:_SHOWN]]
        rest = Counter(bad.reason.split(":")[0] for bad in found.rejected[_SHOWN:])
        shown += [f"  and {count} more: {reason}" for reason, count in rest.most_common()]
        parts.append("\n".join([f"rows refused: {len(found.rejected)}", *shown]))
    parts.append(f"catalog entry written to {saved}" if saved else f"catalog entry\n\n{entry}")
    return "\n\n".join(parts)


def document(found: Calibration, entry: str, date: str) -> dict[str, Any]:
    """Everything as one object for JSON."""
    return {
        "date": date,
        "fitted": list(found.fitted),
        "rejected": list(found.rejected),
        "level": found.levels,
        "entry": entry,
    }
