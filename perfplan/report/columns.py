"""A column of a report: one quantity, printed for people with a fitting prefix and for machines in SI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfplan.units import show

__all__ = ["Column", "Row", "text"]

Row = Mapping[str, Any]

# SI unit -> ending of a machine-readable column name; a fraction, a count and a word carry none.
ENDINGS = {
    "s": "s",
    "B": "bytes",
    "B/s": "bytes_per_s",
    "FLOP": "flop",
    "FLOP/s": "flop_per_s",
    "J": "j",
    "W": "w",
    "$": "usd",
    "$/h": "usd_per_h",
    "tokens": "tokens",
    "tokens/s": "tokens_per_s",
    "Hz": "hz",
    "%": "",
    "": "",
    "1": "",
}


@dataclass(frozen=True)
class Column:
    """One column. `key`: where a row keeps the value; `title`: heading for people; `unit`: SI unit of the value.

    `name`: the name for machines where it is not key and unit. Units beyond SI: "%" is a fraction shown as a
    percentage, "1" a plain ratio, "" a word or a count.
    """

    key: str
    title: str = ""
    unit: str = ""
    digits: int = 3
    name: str = ""

    @property
    def heading(self) -> str:
        """The heading for people."""
        return self.title or self.key.replace("_", " ")

    @property
    def field(self) -> str:
        """The name for machines, with the unit in it: step_time_s, memory_bytes."""
        ending = ENDINGS[self.unit]
        return self.name or (f"{self.key}_{ending}" if ending else self.key)

    @property
    def numeric(self) -> bool:
        """Whether the column holds a measured quantity (and is set flush right)."""
        return self.unit != ""


def text(value: Any, column: Column) -> str:
    """A value as people read it: three significant digits and its unit; unknown is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and column.unit == "1":
        return str(value)  # a count, in full
    if column.unit == "%":
        return f"{100 * value:.1f}%"
    return show(value, column.unit, column.digits) if column.unit else str(value)
