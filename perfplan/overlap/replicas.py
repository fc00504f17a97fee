"""Gradients reduced and weights gathered among replicas, beside the passes of a pipeline: what of it shows.

The link works beside the passes and slows none of them; a rank's chunks use it one after another. A chunk's weights are
there before its first forward, its gradients leave when its last gradient is whole; in buckets, layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perfplan.overlap.passes import Order
from perfplan.overlap.pipeline import Passes, Run, run
from perfplan.overlap.stages import Pipeline, own_schedule
from perfplan.training.step import stage_reduction

__all__ = ["OVERLAPS", "Exchange", "Overlap", "exchanged", "exposed"]


@dataclass(frozen=True)
class Overlap:
    """How exchange among replicas overlaps. chunks: each chunk by itself; buckets: by layer; ahead: the weights of the
    first chunk are gathered before the step (MegaScale)."""

    name: str
    chunks: bool = False
    buckets: bool = False
    ahead: bool = False


OVERLAPS = (
    Overlap("nothing"),
    Overlap("chunk by chunk", True),
    Overlap("chunk by chunk, first gathered ahead", True, False, True),
    Overlap("layer by layer", True, True),
    Overlap("layer by layer, first gathered ahead", True, True, True),
)


def _shown(time: float, beside: float, parts: int) -> float:
    """What shows of an exchange in `parts` buckets, all but one of which may run beside a pass [s].

    >>> _shown(4.0, 8.0, 4), _shown(4.0, 2.0, 4), _shown(4.0, 8.0, 1)
    (1.0, 2.5, 4.0)
    """
    return max(time / parts, time - (parts - 1) / parts * beside)


def _starts(order: Order, passes: Passes, gather: Sequence[float], layers: Sequence[int], how: Overlap) -> list[float]:
    """Earliest start of the first forward of each stage [s]."""
    ready = [0.0] * len(gather)
    for tasks in order.orders:
        used = dict.fromkeys(part.stage for task in tasks for part in task if part.kind == "F")
        at = 0.0
        for place, stage in enumerate(used):
            if how.ahead and place == 0:
                continue
            parts = max(layers[stage], 1) if how.buckets else 1
            ready[stage] = at + _shown(gather[stage], passes.forward[stage], parts)
            at += gather[stage]
    return ready


def _ends(ran: Run, passes: Passes, reduce: Sequence[float], layers: Sequence[int], how: Overlap) -> float:
    """When the last gradient of all ranks is reduced [s]."""
    latest = ran.time
    for tasks, ends in zip(ran.order.orders, ran.ends, strict=True):
        last = {part.stage: (end, part) for task, end in zip(tasks, ends, strict=True) for part in task
                if part.kind in "WD"}
        at = 0.0
        for stage, (end, part) in sorted(last.items(), key=lambda each: each[1][0]):
            parts = max(layers[stage], 1) if how.buckets else 1
            at = max(at + reduce[stage], end + _shown(reduce[stage], passes.time((part,)), parts))
        latest = max(latest, at)
    return latest


def exposed(
    order: Order, passes: Passes, gather: Sequence[float], reduce: Sequence[float], layers: Sequence[int], how: Overlap
) -> float:
    """Time that a step takes longer for the exchange of its replicas.

    gather, reduce: of each stage's weights and gradients [s]; layers: of each stage.
    """
    plain = run(order, passes)
    if not how.chunks:
        sums = [0.0] * len(order.orders)
        for stage, rank in enumerate(order.place):
            sums[rank] += gather[stage] + reduce[stage]
        return max(sums)
    ran = run(order, replace(passes, ready=_starts(order, passes, gather, layers, how)))
    return _ends(ran, passes, reduce, layers, how) - plain.time


@dataclass(frozen=True)
class Exchange:
    """Exchange among replicas under one schedule. gather, reduce: of the rank with most [s]; rows: (overlap, exposed
    [s]); assumed: what the step has of it [s]."""

    schedule: str
    gather: float
    reduce: float
    rows: tuple[tuple[Overlap, float], ...]
    assumed: float


def exchanged(pipeline: Pipeline) -> Exchange | None:
    """All overlaps under the layout's own schedule, None if there is nothing to exchange at the end of a step."""
    name = own_schedule(pipeline.layout)
    chunks = pipeline.chunks(pipeline.split(name))
    job, at = pipeline.job, pipeline.layout
    both = [stage_reduction(job, pipeline.net, at, pipeline.pieces, chunk) for chunk in chunks]
    reduce, gather = ([float(each[i]) for each in both] for i in (0, 1))
    ran = pipeline.run(name)
    if not any(reduce) and not any(gather):
        return None
    passes, layers = pipeline.passes(name, pipeline.split(name)), [sum(chunk.layers) for chunk in chunks]
    rows = tuple((how, exposed(ran.order, passes, gather, reduce, layers, how)) for how in OVERLAPS)
    most = [max(sum(times[rank :: at.pp]) for rank in range(at.pp)) for times in (gather, reduce)]
    return Exchange(name, most[0], most[1], rows, float(pipeline.whole.breakdown["dp"]))
