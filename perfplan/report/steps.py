"""What measured steps say of an accelerator and its training software, as tables and catalog entries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from perfplan.errors import ExportError
from perfplan.report.columns import Column, Row
from perfplan.report.files import write_all
from perfplan.report.text import paragraph, table
from perfplan.units import show
from perfplan.validation.step_calibration import StepCalibration

__all__ = ["MOVED_COLUMNS", "moved_rows", "step_document", "step_text", "write_entries"]

MOVED_COLUMNS = (Column("owner"), Column("name", "constant"), Column("before"), Column("value"))
_REFUSED = 12  # rows named one by one in the text


def moved_rows(found: StepCalibration) -> list[Row]:
    """The constants that the rows decided, SI."""
    return [asdict(one) for one in found.moved]


def _shown(found: StepCalibration) -> list[Row]:
    def said(value: float | None, is_time: bool) -> str:
        if value is None:
            return "-"
        return show(value, "s") if is_time else f"{value:.4g}"

    return [
        asdict(one) | {"before": said(one.before, one.is_time), "value": said(one.value, one.is_time)}
        for one in found.moved
    ]


def step_text(found: StepCalibration, saved: str | None) -> str:
    """Constants, errors, refused rows and, unless they were saved, the catalog entries."""
    held = "one model, none left out" if found.left_out is None else f"{found.left_out:.1%} with models left out"
    low, middle, high = found.quantiles
    parts = [
        table(_shown(found), MOVED_COLUMNS) if found.moved else "no constant moved: the rows agree with the catalog",
        paragraph(
            f"{found.rows} rows; mean absolute error {found.before:.1%} before, {found.mape:.1%} in-fit, {held}; log"
            f" residuals at 10/50/90 %: {low:+.3f}/{middle:+.3f}/{high:+.3f}"
        ),
    ]
    if found.rejected:
        lines = [paragraph(f"{bad.row}: {bad.reason}", "  ") for bad in found.rejected[:_REFUSED]]
        more = [f"  and {len(found.rejected) - _REFUSED} more"] * (len(found.rejected) > _REFUSED)
        parts.append("\n".join([f"rows refused: {len(found.rejected)}", *lines, *more]))
    if saved:
        parts.append(f"entries written below {saved}; use them with --catalog {saved}")
    else:
        parts += [f"{path}\n\n{text}" for path, text in found.entries.items()]
    return "\n\n".join(parts)


def step_document(found: StepCalibration, date: str) -> dict[str, Any]:
    """Everything as one object for JSON."""
    return {"date": date} | asdict(found)


def write_entries(found: StepCalibration, folder: str) -> None:
    """Write the entries into a catalog folder, all of them or none."""
    try:
        for path in found.entries:
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{folder} cannot be made a folder: {(error.strerror or str(error)).lower()}") from None
    write_all({str(Path(folder) / path): text for path, text in found.entries.items()})
