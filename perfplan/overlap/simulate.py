"""Event simulation of a graph: operations in flight share their resources, and slow each other in proportion.

Interference is linear: where the shares of what runs on a rank add up to D > 1 of a resource, everything that uses
the resource runs D times slower; kinds that keep their shares (collectives with SMs set aside) run as if alone, and the
others divide what they leave. No operation runs faster than alone, and no resource does more than it can, so
`graph.lower_bound` holds for every timeline that comes out of here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from perfplan.errors import SpecError
from perfplan.overlap.graph import Graph, Op
from perfplan.overlap.timeline import Span, Timeline

__all__ = ["Engine", "list_schedule", "simulate"]

Lanes = Mapping[str, Sequence[str]]
"""Lane -> names of its operations; those of a lane run in this order, one at a time (a CUDA stream)."""
Pick = Callable[[list[int], list[int]], list[int]]
"""(operations that may start, operations that run) -> those to start now, by their place in the graph."""


def _lane(op: Op) -> str:
    """What an operation is drawn on: the resource of which it takes the largest share, links first."""
    return max(op.shares, key=lambda name: (op.shares[name] if name not in ("sm", "hbm") else op.shares[name] - 0.6))


class Engine:
    """Runs one graph again and again. kept: kinds that keep their shares whatever runs beside them."""

    def __init__(self, graph: Graph, kept: Collection[str] = ()) -> None:
        self.graph, self.kept = graph, kept
        self.waiting = [len(set(op.after)) for op in graph.ops]
        self.following = [[graph.index[name] for name in names] for names in graph.successors.values()]
        self._rates: dict[tuple[int, ...], list[float]] = {}
        self._fits: dict[tuple[float, int, tuple[int, ...]], bool] = {}

    def rates(self, running: Sequence[int]) -> list[float]:
        """Speed of each running operation, 1 alone."""
        key = tuple(running)
        if key not in self._rates:
            ops = [self.graph.ops[i] for i in running]
            free: dict[tuple[int, str], float] = defaultdict(lambda: 1.0)
            first = [op for op in ops if op.kind in self.kept]
            speed = {op.name: rate for tier in (first, [op for op in ops if op not in first])
                     for op, rate in zip(tier, _divided(tier, free), strict=True)}
            self._rates[key] = [speed[op.name] for op in ops]
        return self._rates[key]

    def fits(self, running: Sequence[int], i: int, room: float) -> bool:
        """Whether an operation may start beside those that run, no resource being asked for more than `room`."""
        key = (room, i, tuple(running))
        if key not in self._fits:
            self._fits[key] = _fits([self.graph.ops[j] for j in running], self.graph.ops[i], room)
        return self._fits[key]

    def run(self, pick: Pick) -> tuple[list[float], list[float]]:
        """(starts, ends) of the operations in the graph's order [s]."""
        ops, waiting, now = self.graph.ops, self.waiting.copy(), 0.0
        starts, ends, left = [0.0] * len(ops), [0.0] * len(ops), [op.duration for op in ops]
        opens = {i: op.lag for i, op in enumerate(ops) if not op.after}
        running: list[int] = []
        while opens or running:
            for i in pick([i for i, time in opens.items() if time <= now], running):
                del opens[i]
                starts[i] = now
                running.append(i)
            later = [time - now for time in opens.values() if time > now]
            if not running and not later:
                blocked = ", ".join(sorted(ops[i].name for i in opens)[:4])
                raise SpecError(f"the order of the lanes contradicts the dependencies of {blocked}; change the order")
            rates = self.rates(running)
            step = min(*later, *(left[i] / rate if rate else math.inf for i, rate in zip(running, rates, strict=True)),
                       math.inf)
            now += step
            for i, rate in zip(running, rates, strict=True):
                left[i] -= step * rate
            for i in [i for i in running if left[i] <= 1e-12 * max(now, 1e-30)]:
                running.remove(i)
                ends[i] = now
                for j in self.following[i]:
                    waiting[j] -= 1
                    if waiting[j] == 0:
                        opens[j] = now + ops[j].lag
        return starts, ends

    def listed(self, urgent: Sequence[float], room: float) -> Pick:
        """Start whatever fits, most urgent first; ties by place in the graph."""

        def pick(ready: list[int], running: list[int]) -> list[int]:
            chosen: list[int] = []
            for i in sorted(ready, key=lambda i: (-urgent[i], i)):
                if self.fits([*running, *chosen], i, room):
                    chosen.append(i)
            return chosen

        return pick

    def timeline(self, pick: Pick, title: str = "") -> Timeline:
        """The schedule as spans."""
        starts, ends = self.run(pick)
        spans = [Span(op.name, start, end, op.rank, _lane(op), op.kind, op.shares, op.micro)
                 for op, start, end in zip(self.graph.ops, starts, ends, strict=True)]
        return Timeline(title, tuple(sorted(spans, key=lambda span: (span.start, span.name))))


def _divided(ops: Sequence[Op], free: dict[tuple[int, str], float]) -> list[float]:
    """Speeds of operations that divide in proportion what is free of the resources, which they use up."""
    demand: dict[tuple[int, str], float] = defaultdict(float)
    for op in ops:
        for name, share in op.shares.items():
            demand[op.rank, name] += share
    speed = {key: min(max(free[key], 0.0) / asked, 1.0) if asked else 1.0 for key, asked in demand.items()}
    rates = [min(speed[op.rank, name] for name, share in op.shares.items() if share > 0) for op in ops]
    for op, rate in zip(ops, rates, strict=True):
        for name, share in op.shares.items():
            free[op.rank, name] -= rate * share
    return rates


def _fits(running: Sequence[Op], op: Op, room: float) -> bool:
    for resource, share in op.shares.items():
        taken = sum(each.shares.get(resource, 0.0) for each in running if each.rank == op.rank)
        if share > 0 and taken and taken + share > room + 1e-9:
            return False
    return True


def simulate(graph: Graph, lanes: Lanes, title: str = "", kept: Collection[str] = ()) -> Timeline:
    """Run the graph with the operations of each lane in their order; those in no lane start as soon as they may.

    kept: kinds that keep their shares whatever runs beside them.
    """
    queues = {lane: [graph.index[name] for name in reversed(names)] for lane, names in lanes.items()}
    at = {i: lane for lane, queue in queues.items() for i in queue}

    def pick(ready: list[int], running: list[int]) -> list[int]:
        busy = {at[i] for i in running if i in at}
        chosen = []
        for i in ready:
            lane = at.get(i)
            if lane is not None:
                if lane in busy or queues[lane][-1] != i:
                    continue
                busy.add(lane)
                queues[lane].pop()
            chosen.append(i)
        return chosen

    return Engine(graph, kept).timeline(pick, title)


def list_schedule(
    graph: Graph, priority: Mapping[str, float] | None = None, room: float = 1.0, title: str = "",
    kept: Collection[str] = (),
) -> Timeline:
    """Start whatever may start and fits, most urgent first (the longest way to the end unless given).

    room: how much of a resource the running operations may ask for together [1]; above 1 they slow each other; kept:
    kinds that keep their shares whatever runs beside them.
    """
    urgent = [priority[op.name] if priority else graph.tails[op.name] + op.duration for op in graph.ops]
    engine = Engine(graph, kept)
    return engine.timeline(engine.listed(urgent, room), title)
