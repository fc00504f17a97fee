"""Event simulation of a graph: operations in flight share their resources, and slow each other in proportion.

Interference is linear: where the shares of what runs on a rank add up to D > 1 of a resource, everything that uses
the resource runs D times slower. No operation runs faster than alone, and no resource does more than it can, so
`graph.lower_bound` holds for every timeline that comes out of here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfplan.errors import SpecError
from perfplan.overlap.graph import Graph, Op
from perfplan.overlap.timeline import Span, Timeline

__all__ = ["list_schedule", "simulate"]

Lanes = Mapping[str, Sequence[str]]
"""Lane -> names of its operations; those of a lane run in this order, one at a time (a CUDA stream)."""


@dataclass
class _Running:
    op: Op
    start: float
    left: float  # time that it would still take alone [s]


def _lane(op: Op) -> str:
    """What an operation is drawn on: the resource of which it takes the largest share, links first."""
    return max(op.shares, key=lambda name: (op.shares[name] if name not in ("sm", "hbm") else op.shares[name] - 0.6))


def _rates(running: Sequence[_Running]) -> list[float]:
    """Speed of each running operation, 1 alone."""
    demand: dict[tuple[int, str], float] = defaultdict(float)
    for each in running:
        for resource, share in each.op.shares.items():
            demand[each.op.rank, resource] += share
    return [
        1 / max(1.0, *(demand[each.op.rank, name] for name, share in each.op.shares.items() if share > 0))
        for each in running
    ]


class _State:
    """What has ended, what runs, what waits, at one moment."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.now = graph, 0.0
        self.waiting = {op.name: len(set(op.after)) for op in graph.ops}
        self.opens: dict[str, float] = {op.name: op.lag for op in graph.ops if not op.after}
        self.running: list[_Running] = []
        self.spans: list[Span] = []
        self.following = graph.successors

    def start(self, name: str) -> None:
        op = self.graph[name]
        del self.opens[name]
        self.running.append(_Running(op, self.now, op.duration))

    def advance(self) -> None:
        """Go to the next moment at which an operation ends or another may begin."""
        rates = _rates(self.running)
        steps = [each.left / rate for each, rate in zip(self.running, rates, strict=True)]
        steps += [time - self.now for time in self.opens.values() if time > self.now]
        step = min(steps)
        self.now += step
        for each, rate in zip(self.running, rates, strict=True):
            each.left -= step * rate
        floor = 1e-12 * max(self.now, 1e-30)
        for each in [each for each in self.running if each.left <= floor]:
            self._end(each)

    def _end(self, ended: _Running) -> None:
        op = ended.op
        self.running.remove(ended)
        self.spans.append(Span(op.name, ended.start, self.now, op.rank, _lane(op), op.kind, op.shares, op.micro))
        for name in self.following[op.name]:
            self.waiting[name] -= 1
            if self.waiting[name] == 0:
                self.opens[name] = self.now + self.graph[name].lag


def simulate(graph: Graph, lanes: Lanes, title: str = "") -> Timeline:
    """Run the graph with the operations of each lane in their order; those in no lane start as soon as they may."""
    state = _State(graph)
    queues = {lane: list(reversed(names)) for lane, names in lanes.items()}
    at = {name: lane for lane, names in lanes.items() for name in names}
    busy: dict[str, str] = {}
    while len(state.spans) < len(graph.ops):
        active = {each.op.name for each in state.running}
        busy = {lane: name for lane, name in busy.items() if name in active}
        startable = [name for name, time in state.opens.items() if time <= state.now]
        for name in startable:
            lane = at.get(name)
            if lane is None:
                state.start(name)
            elif lane not in busy and queues[lane][-1] == name:
                queues[lane].pop()
                busy[lane] = name
                state.start(name)
        if not state.running and not any(time > state.now for time in state.opens.values()):
            blocked = ", ".join(sorted(state.opens)[:4])
            raise SpecError(f"the order of the lanes contradicts the dependencies of {blocked}; change the order")
        state.advance()
    return Timeline(title, tuple(sorted(state.spans, key=lambda span: (span.start, span.name))))


def _fits(running: Sequence[_Running], op: Op, room: float) -> bool:
    """Whether the operation may start beside those that run, no resource being asked for more than `room`."""
    for resource, share in op.shares.items():
        taken = sum(each.op.shares.get(resource, 0.0) for each in running if each.op.rank == op.rank)
        if share > 0 and taken and taken + share > room + 1e-9:
            return False
    return True


def list_schedule(
    graph: Graph, priority: Mapping[str, float] | None = None, room: float = 1.0, title: str = ""
) -> Timeline:
    """Start whatever may start and fits, most urgent first (the longest way to the end unless given).

    room: how much of a resource the running operations may ask for together [1]; above 1 they slow each other.
    """
    urgent = priority or {op.name: graph.tails[op.name] + op.duration for op in graph.ops}
    state = _State(graph)
    while len(state.spans) < len(graph.ops):
        ready = sorted((n for n, time in state.opens.items() if time <= state.now), key=lambda n: (-urgent[n], n))
        for name in ready:
            if _fits(state.running, graph[name], room):
                state.start(name)
        state.advance()
    return Timeline(title, tuple(sorted(state.spans, key=lambda span: (span.start, span.name))))
