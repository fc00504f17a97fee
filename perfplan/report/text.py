"""Plain-text tables: at most 100 columns wide, words wrapped, numbers never cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from perfplan.report.columns import Column, Row, text

__all__ = ["WIDTH", "paragraph", "table"]

WIDTH = 100  # characters of a line
GAP = "  "
LONG = 20  # characters, words beyond may be broken to fit a table


def paragraph(words: str, indent: str = "") -> str:
    """Running text, wrapped to the width of a report."""
    return textwrap.fill(
        " ".join(words.split()),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _longest_word(cell: str) -> int:
    return max((len(word) for word in cell.split()), default=0)


def _longest_part(heading: str) -> int:
    return max((len(part) for part in textwrap.wrap(heading, 1, break_long_words=False)), default=0)


def _narrow(widths: list[int], floors: Sequence[int]) -> list[int]:
    """Widths with the widest column that is above its floor narrowed, again and again, until a line fits or none is."""
    widths = list(widths)
    while sum(widths) + len(GAP) * (len(widths) - 1) > WIDTH:
        able = [i for i, floor in enumerate(floors) if widths[i] > floor]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


def _widths(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[int]:
    """Width of each column: its longest cell. Until a line fits, headings of numbers wrap, then words, and only if
    that is not enough are long words broken, and headings of numbers at hyphens."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    numbers = [max((len(row[i]) for row in cells[1:]), default=0) * column.numeric for i, column in enumerate(columns)]
    words = [max(numbers[i], *(_longest_word(row[i]) for row in cells)) for i in range(len(columns))]
    headings = [words[i] if column.numeric else widths[i] for i, column in enumerate(columns)]
    parts = [_longest_part(column.heading) if column.numeric else words[i] for i, column in enumerate(columns)]
    broken = [max(numbers[i], min(parts[i], LONG)) for i in range(len(columns))]
    for floors in (headings, words, broken):
        widths = _narrow(widths, floors)
    return widths


def _lines(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> Iterable[str]:
    wrapped = [
        [cell] if len(cell) <= width else textwrap.wrap(cell, width, break_on_hyphens=column.numeric)
        for cell, column, width in zip(row, columns, widths, strict=True)
    ]
    for parts in zip_longest(*wrapped, fillvalue=""):
        cells = (
            part.rjust(width) if column.numeric else part.ljust(width)
            for part, column, width in zip(parts, columns, widths, strict=True)
        )
        yield GAP.join(cells).rstrip()


def table(rows: Iterable[Row], columns: Sequence[Column]) -> str:
    """Rows as an aligned text table with a heading; a value that is missing is a dash."""
    cells = [[column.heading for column in columns]]
    cells += [[text(row.get(column.key), column) for column in columns] for row in rows]
    widths = _widths(cells, columns)
    return "\n".join(line for row in cells for line in _lines(row, columns, widths))
