"""What `perfplan schedule` prints and writes, put together from tables and drawings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from perfplan.errors import OutOfRange, offer
from perfplan.overlap.scheduled import ScheduledLayer, ScheduledPipeline
from perfplan.overlap.timeline import Timeline
from perfplan.overlap.trace import chrome_trace, lined_up, read_trace
from perfplan.report.exchange import exchange_document, exchange_text
from perfplan.report.files import write_all
from perfplan.report.gantt import gantt, svg
from perfplan.report.schedule import (
    against_text,
    difference_text,
    layer_document,
    layer_text,
    partition_text,
    pipeline_document,
    pipeline_text,
)

__all__ = [
    "layer_view",
    "pair",
    "pipeline_files",
    "pipeline_view",
    "write_timelines",
]


def pipeline_view(found: ScheduledPipeline, drawn: bool, diff: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(text, document) of pipeline schedules compared."""
    split = "the even chunks of the slot rule" if found.partition is None else "the stages chosen below"
    parts = [pipeline_text(found.pipeline, found.rows, None, split)]
    if found.partition is not None:
        parts.append(partition_text(found.partition, found.even))
    if found.exchange is not None:
        parts.append(exchange_text(found.exchange))
    if drawn and found.timelines:
        parts.append(gantt(found.timelines[0]))
    if diff:
        parts.append(difference_text(*pair(found.timelines, diff)))
    document = pipeline_document(found.pipeline, found.rows, found.partition)
    return "\n\n".join(parts), {**document, "data_parallel": exchange_document(found.exchange)}


def layer_view(found: ScheduledLayer, drawn: bool, diff: Sequence[str], against: str, windows: float) -> tuple[
    str, dict[str, Any]
]:
    """(text, document) of techniques on a window. against: a profiler's trace that holds `windows` such windows."""
    parts, document = [layer_text(found)], layer_document(found)
    if drawn:
        parts.append(gantt(found.timelines[0]))
    if diff:
        parts.append(difference_text(*pair(found.timelines, diff)))
    if against:
        measured, plan = read_trace(against), found.timelines[0]
        rows = lined_up(plan, measured, windows)
        parts.append(against_text(plan, measured, rows, windows))
        document["against"] = [{f"{k}_s" if k != "kind" else k: v for k, v in row.items()} for row in rows]
    return "\n\n".join(parts), document


def pair(timelines: Sequence[Timeline], names: Sequence[str]) -> tuple[Timeline, Timeline]:
    """The two timelines that `--diff` names."""
    known = {timeline.title: timeline for timeline in timelines}
    if len(names) != 2:
        raise OutOfRange(f"--diff takes two of {', '.join(known)}, such as --diff '{' '.join([*known][:2])}'")
    for name in names:
        if name not in known:
            raise OutOfRange(f"--diff {name!r} is none of the timelines{offer(name, known)}")
    return known[names[0]], known[names[1]]


def pipeline_files(found: ScheduledPipeline, trace: str | None, drawing: str | None) -> None:
    """Write trace and drawing of the schedules that ran."""
    write_timelines(found.timelines, trace, drawing)


def write_timelines(timelines: Sequence[Timeline], trace: str | None, drawing: str | None) -> None:
    """Write the timelines as a trace and the first of them as a drawing, both or neither."""
    files = {}
    if trace is not None:
        files[trace] = json.dumps(chrome_trace(timelines)) + "\n"
    if drawing is not None:
        files[drawing] = svg(timelines[0])
    if not files:
        return
    if not timelines:
        raise OutOfRange("no schedule ran, so there is no timeline to write; choose others with --compare")
    write_all(files)
    for path in files:
        print(f"wrote {path}", file=sys.stderr)
