"""Traces in the Trace Event Format, read and written; drawings."""

import json
from xml.etree import ElementTree

import pytest

from perfplan.errors import CatalogError
from perfplan.overlap.orders import order
from perfplan.overlap.pipeline import Passes, run
from perfplan.overlap.timeline import Span, Timeline
from perfplan.overlap.trace import chrome_trace, classify, lined_up, read_trace
from perfplan.report.gantt import gantt, svg


def timeline():
    return run(order("1f1b", 4, 6), Passes([1e-3] * 4, [1e-3] * 4, [1e-3] * 4)).timeline()


def test_the_trace_is_in_the_documented_format():
    """Trace Event Format: complete events (X) with name, cat, pid, tid, ts, dur; metadata (M) names both ids."""
    document = json.loads(json.dumps(chrome_trace([timeline(), timeline()])))
    events = document["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    processes = {event["pid"] for event in events if event["name"] == "process_name"}
    assert {event["ph"] for event in events} == {"X", "M"} and processes == set(range(8))
    assert len(complete) == 2 * 4 * 12 and document["displayTimeUnit"] in ("ms", "ns")
    for event in complete:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int) and isinstance(event["name"], str)
        assert event["ts"] >= 0 and event["dur"] > 0 and (event["pid"], event["tid"]) in named
    threads = {}
    for event in sorted(complete, key=lambda event: event["ts"]):  # complete events of a thread nest or follow
        end = threads.get((event["pid"], event["tid"]), 0.0)
        assert event["ts"] >= end - 1e-6
        threads[event["pid"], event["tid"]] = event["ts"] + event["dur"]
    assert max(event["ts"] + event["dur"] for event in complete) == pytest.approx(timeline().time * 1e6)


def test_kernels_by_name():
    names = {
        "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "reduce-scatter",
        "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>": "attention",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": "gemm",
        "Memcpy HtoD (Pinned -> Device)": "copy",
        "void at::native::vectorized_elementwise_kernel<4>": "elementwise",
        "rms_norm_kernel": "norm",
    }
    assert {name: classify(name) for name in names} == names


def test_a_profilers_trace_is_lined_up_with_the_plan(tmp_path):
    def event(name, ts, dur, cat="kernel"):
        return {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": 7, "ts": ts, "dur": dur}

    path = tmp_path / "trace.json"
    events = [event("nvjet_tst", 1000, 400), event("ncclDevKernel_AllReduce", 1400, 100), event("flash_fwd", 1600, 200),
              event("aten::mm", 1000, 900, "cpu_op")]
    path.write_text(json.dumps({"traceEvents": events}))
    measured = read_trace(str(path))
    assert measured.time == pytest.approx(800e-6)
    plan = Timeline("plan", (Span("g", 0, 300e-6, kind="gemm"), Span("r", 300e-6, 400e-6, kind="all-reduce")))
    rows = {row["kind"]: row for row in lined_up(plan, measured)}
    assert rows["gemm"]["difference"] == pytest.approx(100e-6)
    assert rows["attention"]["planned"] == 0 and rows["gaps"]["measured"] == pytest.approx(100e-6)
    assert rows["whole timeline"]["difference"] == pytest.approx(400e-6)


def test_a_trace_that_is_none_is_told(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(CatalogError, match="cannot be read"):
        read_trace(str(path))
    empty = '{"traceEvents": []}'
    for text, says in (("{", "is no JSON"), ("{}", "no list traceEvents"), (empty, "no device kernels")):
        path.write_text(text)
        with pytest.raises(CatalogError, match=says):
            read_trace(str(path))
    path.write_text('[{"ph": "X", "cat": "kernel", "name": "k", "ts": 1}]')
    with pytest.raises(CatalogError, match="no start"):
        read_trace(str(path))


def test_the_drawing_fits_the_window():
    drawn = gantt(timeline(), width=80)
    lines = [line for line in drawn.splitlines() if line.startswith("rank")]
    assert len(lines) == 4 and all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("rank 0") and "F" in lines[0] and "D" in lines[0] and lines[3].count(".") > 10
    wide = run(order("gpipe", 40, 2), Passes([1.0] * 40, [1.0] * 40, [0.0] * 40)).timeline()
    assert "... and 16 more lanes" in gantt(wide)


def test_the_svg_is_well_formed_and_has_every_operation():
    root = ElementTree.fromstring(svg(timeline()))
    assert sum(element.tag.endswith("rect") for element in root) == 4 * 12 + 2
