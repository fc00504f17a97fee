"""Timelines in the Trace Event Format that chrome://tracing and ui.perfetto.dev open, and traces of real runs read.

Processes are ranks, threads are resources (or the ranks' lanes); times are in microseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfplan.errors import CatalogError
from perfplan.overlap.timeline import Span, Timeline, covered

__all__ = ["CLASSES", "chrome_trace", "classify", "lined_up", "read_trace"]

CLASSES: tuple[tuple[str, str], ...] = (
    ("all-reduce", r"all_?reduce"),
    ("all-gather", r"all_?gather"),
    ("reduce-scatter", r"reduce_?scatter"),
    ("all-to-all", r"all_?to_?all|dispatch|combine|deep_?ep"),
    ("send", r"send_?recv|sendrecv|p2p"),
    ("other collective", r"^nccl|rccl|^ncclKernel"),
    ("attention", r"flash|fmha|attn|attention|paged|mla_"),
    ("gemm", r"gemm|cutlass|cublas|matmul|wgmma|nvjet|s\d+\d*gemm|xmma|_mm_"),
    ("norm", r"norm"),
    ("activation", r"silu|swiglu|gelu|relu|act_and_mul|sigmoid"),
    ("copy", r"memcpy|copy|memset|cat"),
    ("optimizer", r"adam|multi_tensor|optimizer|foreach"),
    ("elementwise", r"elementwise|vectorized|reduce_kernel|triton|softmax|rope|rotary|index|scatter|gather|permute"),
)
"""Class of an operation and what names of kernels of it match, first match first."""


def chrome_trace(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """One document for one or more timelines; those after the first have ranks of their own further down."""
    events: list[dict[str, Any]] = []
    offset = 0
    for timeline in timelines:
        lanes = {lane: i for i, lane in enumerate(timeline.lanes)}
        for rank in timeline.ranks:
            title = f"{timeline.title}: rank {rank}"
            events.append(_meta("process_name", offset + rank, 0, {"name": title}))
            events.append(_meta("process_sort_index", offset + rank, 0, {"sort_index": offset + rank}))
        events += [_meta("thread_name", offset + rank, i, {"name": lane}) for (rank, lane), i in lanes.items()]
        events += [_event(span, offset, lanes[span.rank, span.lane]) for span in timeline.spans if span.duration > 0]
        offset += max(timeline.ranks, default=0) + 1
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"producer": "perfplan"}}


def _meta(name: str, pid: int, tid: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": dict(args)}


def _event(span: Span, offset: int, tid: int) -> dict[str, Any]:
    shares = {f"share of {name}": share for name, share in span.resources.items()}
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind or "op",
        "pid": offset + span.rank,
        "tid": tid,
        "ts": span.start * 1e6,
        "dur": span.duration * 1e6,
        "args": {**shares, **({"micro-batch": span.micro} if span.micro >= 0 else {})},
    }


# ---------------------------------------------------------------- traces of real runs
def classify(name: str) -> str:
    """Class of a kernel by its name.

    >>> classify("ncclDevKernel_AllReduce_Sum_bf16_RING_LL"), classify("nvjet_hsh_128x256"), classify("void foo()")
    ('all-reduce', 'gemm', 'other')
    """
    return next((kind for kind, pattern in CLASSES if re.search(pattern, name, re.IGNORECASE)), "other")


def _kernels(events: Iterable[Any], where: str) -> list[Span]:
    spans = []
    for event in events:
        if not isinstance(event, Mapping) or event.get("ph") != "X" or event.get("cat") not in _DEVICE:
            continue
        start, length = event.get("ts"), event.get("dur")
        if not isinstance(start, int | float) or not isinstance(length, int | float) or length < 0:
            raise CatalogError(f"{where}: event {event.get('name')!r} has no start (ts) and duration (dur) in"
                               " microseconds; export it with torch.profiler's export_chrome_trace")
        name, rank = str(event.get("name", "")), event.get("pid", 0)
        spans.append(Span(name, start * 1e-6, (start + length) * 1e-6, rank if isinstance(rank, int) else 0,
                          str(event.get("tid", "")), classify(name)))
    return spans


_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def read_trace(path: str) -> Timeline:
    """The device activity of a trace that torch.profiler exported, its first kernel at time 0."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"trace {path} cannot be read: {reason}; check the path") from None
    except ValueError:
        raise CatalogError(f"trace {path} is no JSON; export it with torch.profiler's export_chrome_trace") from None
    events = data.get("traceEvents") if isinstance(data, Mapping) else data
    if not isinstance(events, list):
        raise CatalogError(f"trace {path} has no list traceEvents; it is not in the Trace Event Format")
    spans = _kernels(events, f"trace {path}")
    if not spans:
        raise CatalogError(f"trace {path} has no device kernels (category kernel); profile with the CUDA activity on")
    first = min(span.start for span in spans)
    moved = [Span(s.name, s.start - first, s.end - first, s.rank, s.lane, s.kind) for s in spans]
    return Timeline(Path(path).name, tuple(sorted(moved, key=lambda span: (span.start, span.name))))


_PLANNED = {"head": "gemm", "grouped_gemm": "gemm", "router": "gemm"}


def lined_up(plan: Timeline, measured: Timeline, scale: float = 1.0) -> list[dict[str, object]]:
    """Time by class of operation, planned and measured, per rank; `scale` plans (layers, steps) fit in the trace.

    The last row is the time in which the device does anything at all; where it exceeds the plan by more than the
    classes do, it is gaps between kernels.
    """
    planned = _sums(plan, lambda kind: _PLANNED.get(kind, kind), scale)
    found = _sums(measured, lambda kind: kind, 1.0)
    kinds = sorted({*planned, *found}, key=lambda kind: -abs(planned.get(kind, 0.0) - found.get(kind, 0.0)))
    rows = [_row(kind, planned.get(kind, 0.0), found.get(kind, 0.0)) for kind in kinds]
    busy = [
        sum(end - start for start, end in covered([(s.start, s.end) for s in t.spans if s.rank == t.ranks[0]]))
        for t in (plan, measured)
    ]
    return [
        *rows,
        _row("device busy", busy[0] * scale, busy[1]),
        _row("gaps", plan.time * scale - busy[0] * scale, measured.time - busy[1]),
        _row("whole timeline", plan.time * scale, measured.time),
    ]


def _row(kind: str, planned: float, measured: float) -> dict[str, object]:
    return {"kind": kind, "planned": planned, "measured": measured, "difference": measured - planned}


def _sums(timeline: Timeline, name: Any, scale: float) -> dict[str, float]:
    total: dict[str, float] = {}
    for span in timeline.spans:
        kind = name(span.kind)
        total[kind] = total.get(kind, 0.0) + span.duration * scale / len(timeline.ranks)
    return total
