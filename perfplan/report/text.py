"""Plain-text tables: at most 100 columns wide, words wrapped, numbers never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from perfplan.report.columns import Column, Row, text

__all__ = ["WIDTH", "paragraph", "table"]

WIDTH = 100  # characters of a line
GAP = "  "


def paragraph(words: str, indent: str = "") -> str:
    """Running text, wrapped to the width of a report."""
    return textwrap.fill(" ".join(words.split()), WIDTH, initial_indent=indent, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)


def _longest_word(cell: str) -> int:
    return max((len(word) for word in cell.split()), default=0)


def _widths(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[int]:
    """Width of each column: its longest cell; then words (of numbers, only the heading) wrap until a line fits."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    floors = [max(len(row[i]) for row in cells[1:]) if column.numeric and cells[1:] else
              max(_longest_word(row[i]) for row in cells) for i, column in enumerate(columns)]
    floors = [max(floor, _longest_word(cells[0][i])) for i, floor in enumerate(floors)]
    while sum(widths) + len(GAP) * (len(widths) - 1) > WIDTH:
        spare = [width - floor for width, floor in zip(widths, floors, strict=True)]
        if max(spare) <= 0:
            break
        widths[max(range(len(widths)), key=lambda i: (spare[i] > 0, widths[i]))] -= 1
    return widths


def _lines(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> Iterable[str]:
    wrapped = [[cell] if len(cell) <= width else
               textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)
               for cell, width in zip(row, widths, strict=True)]
    for parts in zip_longest(*wrapped, fillvalue=""):
        cells = (part.rjust(width) if column.numeric else part.ljust(width)
                 for part, column, width in zip(parts, columns, widths, strict=True))
        yield GAP.join(cells).rstrip()


def table(rows: Iterable[Row], columns: Sequence[Column]) -> str:
    """Rows as an aligned text table with a heading; a value that is missing is a dash."""
    cells = [[column.heading for column in columns]]
    cells += [[text(row.get(column.key), column) for column in columns] for row in rows]
    widths = _widths(cells, columns)
    return "\n".join(line for row in cells for line in _lines(row, columns, widths))
