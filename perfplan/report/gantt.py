"""Timelines drawn: with characters in a terminal, and as an SVG."""

from __future__ import annotations

import shutil
import sys
from html import escape

from perfplan.overlap.timeline import Span, Timeline
from perfplan.report.text import WIDTH, paragraph
from perfplan.units import show

__all__ = ["gantt", "svg"]

ROWS = 24  # lanes drawn in a terminal
SYMBOLS = {
    "forward": "F",
    "input gradient": "B",
    "weight gradient": "W",
    "backward": "D",
    "forward and backward": "X",
    "gemm": "g",
    "grouped_gemm": "e",
    "attention": "a",
    "norm": "n",
    "elementwise": "-",
    "all-reduce": "r",
    "all-gather": "h",
    "reduce-scatter": "s",
    "all-to-all": "x",
    "send": ">",
    "copy": "c",
    "optimizer": "o",
}
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac")


def _symbol(span: Span) -> str:
    return SYMBOLS.get(span.kind, (span.kind or span.name or "?")[0])


def _line(spans: list[Span], total: float, columns: int) -> str:
    """The lane as characters: in each column the operation with the most time, a dot where there is none."""
    weight: list[dict[str, float]] = [{} for _ in range(columns)]
    step = total / columns
    for span in spans:
        for column in range(int(span.start / step), min(int(span.end / step) + 1, columns)):
            inside = min(span.end, (column + 1) * step) - max(span.start, column * step)
            if inside > 0:
                symbol = _symbol(span)
                weight[column][symbol] = weight[column].get(symbol, 0.0) + inside
    idle = {".": step / 2}
    return "".join(
        max(sorted((cell if sum(cell.values()) > step / 2 else {**cell, **idle}).items()), key=lambda x: x[1])[0]
        for cell in weight
    )


def _window() -> tuple[int, int]:
    """(columns, lanes) of the terminal; the usual ones where the text goes elsewhere."""
    if not sys.stdout.isatty():
        return WIDTH, ROWS
    columns, lines = shutil.get_terminal_size((WIDTH, ROWS))
    return columns, max(lines - 4, ROWS)


def gantt(timeline: Timeline, width: int | None = None, rows: int | None = None) -> str:
    """The timeline in the columns and rows of a window, the terminal's unless given, with what the letters mean."""
    columns, most = _window()
    width, rows = width or columns, rows or most
    lanes = timeline.lanes
    several, named = len(timeline.ranks) > 1, len({lane for _, lane in lanes}) > 1
    labels = [" ".join(([f"rank {rank}"] if several else []) + ([lane] if named else [])) for rank, lane in lanes]
    space = max((len(label) for label in labels), default=0) + 2
    shown = list(zip(lanes, labels, strict=True))[:rows]
    lines = [
        f"{label:<{space}}" + _line(
            [s for s in timeline.spans if (s.rank, s.lane) == lane], timeline.time, max(width - space, 10)
        )
        for lane, label in shown
    ]
    if len(lanes) > rows:
        lines.append(f"... and {len(lanes) - rows} more lanes")
    kinds = dict.fromkeys(span.kind or span.name for span in timeline.spans)
    legend = ", ".join(f"{SYMBOLS.get(kind, kind[0])} {kind.replace('_', ' ')}" for kind in kinds)
    head = f"{timeline.title}, {show(timeline.time, 's')} from left to right; {legend}, . idle"
    return "\n".join([paragraph(head), *lines])


def svg(timeline: Timeline, width: int = 1000, row: int = 22) -> str:
    """The timeline as an SVG, one row per lane, coloured by class of operation."""
    lanes = {lane: i for i, lane in enumerate(timeline.lanes)}
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys(span.kind or span.name for span in timeline.spans))}
    left, top, scale = 130, 30, (width - 140) / (timeline.time or 1.0)
    height = top + row * len(lanes) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        ' font-size="11">',
        f'<text x="{left}" y="18">{escape(timeline.title)}: {show(timeline.time, "s")}</text>',
    ]
    for (rank, lane), i in lanes.items():
        parts.append(f'<text x="4" y="{top + row * i + 15}">rank {rank} {escape(lane)}</text>')
    for span in timeline.spans:
        x, y = left + span.start * scale, top + row * lanes[span.rank, span.lane] + 2
        fill = COLOURS[kinds[span.kind or span.name] % len(COLOURS)]
        title = f"{span.name} ({span.kind}): {show(span.duration, 's')}"
        parts.append(
            f'<rect x="{x:.2f}" y="{y}" width="{max(span.duration * scale, 0.3):.2f}" height="{row - 4}" fill="{fill}">'
            f"<title>{escape(title)}</title></rect>"
        )
    for kind, i in kinds.items():
        x, y = left + 150 * (i % 5), height - 34 + 16 * (i // 5 % 2)
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>'
                     f'<text x="{x + 14}" y="{y + 9}">{escape(kind)}</text>')
    return "\n".join([*parts, "</svg>", ""])
