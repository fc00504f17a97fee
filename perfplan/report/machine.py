"""Machine-readable reports: CSV and JSON with SI floats, units in the names, the same bytes for the same input."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from perfplan.report.columns import Column, Row

__all__ = ["plain", "records", "to_csv", "to_json"]


def plain(value: Any) -> Any:
    """Specs, mappings, sequences and NumPy values as what JSON knows; NaN and infinity are null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def records(rows: Iterable[Row], columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Rows as plain records under the machine names of the columns."""
    return [{column.field: plain(row.get(column.key)) for column in columns} for row in rows]


def to_json(value: Any) -> str:
    """Any report value as JSON text, keys in their own order, ending in a newline."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(rows: Iterable[Row], columns: Sequence[Column]) -> str:
    """Rows as CSV text under the machine names of the columns; unknown is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [column.field for column in columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(rows, columns))
    return buffer.getvalue()
