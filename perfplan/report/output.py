"""Where a report goes: text for people unless --json or --csv asks for data on standard output; files on request."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfplan.errors import ExportError
from perfplan.report.columns import Column, Row
from perfplan.report.files import STDOUT, write_all
from perfplan.report.machine import to_csv, to_json

__all__ = ["Output"]


@dataclass(frozen=True)
class Output:
    """What the user asked for. csv: path of the table, `-` is standard output; json: JSON on standard output; save:
    path of the whole document as JSON."""

    csv: str | None = None
    json: bool = False
    save: str | None = None

    def _paths(self, beside: Iterable[str]) -> list[str]:
        own = (self.csv, self.save, STDOUT if self.json else None)
        wanted = [*beside, *(path for path in own if path is not None)]
        if len(set(wanted)) < len(wanted):
            raise ExportError(f"two of {'--write, ' * bool(beside)}--csv, --json and --save go to the same place; name"
                              " a file of its own for each")
        return wanted

    def emit(self, text: str, rows: Iterable[Row], columns: Sequence[Column], document: Any = None,
             beside: Mapping[str, str] | None = None) -> None:
        """Send a report out. text: for people; rows, columns: its main table; document: all of it, for JSON (the table
        unless given); beside: path -> content of further files."""
        more = dict(beside or {})
        paths, table = self._paths(more), list(rows)
        everything = [dict(row) for row in table] if document is None else document
        files = more if STDOUT in paths else {STDOUT: text.rstrip("\n") + "\n"} | more
        if self.csv is not None:
            files[self.csv] = to_csv(table, columns)
        for path in [self.save] * (self.save is not None) + [STDOUT] * self.json:
            files[str(path)] = to_json(everything)
        write_all(files)
        for path in paths:
            if path != STDOUT:
                print(f"wrote {path}", file=sys.stderr)
