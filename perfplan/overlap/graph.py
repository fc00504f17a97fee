"""A step, or a layer, as a graph of operations that share the resources of their rank, and bounds on its time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from perfplan.errors import OutOfRange, SpecError, UnknownName, offer

__all__ = ["RESOURCES", "Bound", "Graph", "Op", "lower_bound"]

RESOURCES = ("sm", "hbm", "scale-up", "scale-out", "host", "cpu")
TITLES = {"sm": "SMs", "hbm": "HBM", "scale-up": "scale-up link", "scale-out": "scale-out NIC", "host": "host link"}


@dataclass(frozen=True)
class Op:
    """One operation. duration: time alone [s]; shares: resource -> part of it in use meanwhile [1]; after: names of
    operations that must have ended; lag: time that passes after those without any resource [s]; rank: where it runs;
    kind: its class (gemm, attention, collective ...); micro: nano- or micro-batch, -1 for all."""

    name: str
    duration: float
    shares: Mapping[str, float]
    after: tuple[str, ...] = ()
    lag: float = 0.0
    rank: int = 0
    kind: str = ""
    micro: int = -1

    def __post_init__(self) -> None:
        """Reject what cannot be an operation."""
        where = f"operation {self.name!r}"
        if not (self.duration >= 0 and math.isfinite(self.duration)):
            raise OutOfRange(f"{where} lasts {self.duration:g} s; a duration is finite and not negative")
        if not (self.lag >= 0 and math.isfinite(self.lag)):
            raise OutOfRange(f"{where} waits {self.lag:g} s; a lag is finite and not negative")
        if not any(share > 0 for share in self.shares.values()):
            raise SpecError(f"{where} uses no resource; give it a share of one of {', '.join(RESOURCES)}")
        for name, share in self.shares.items():
            if name not in RESOURCES:
                raise UnknownName(f"{where} uses {name!r}, which is no resource{offer(name, RESOURCES)}")
            if not 0 <= share <= 1:
                raise OutOfRange(f"{where} uses {share:g} of {name}; a share lies between 0 and 1")


@dataclass(frozen=True)
class Graph:
    """Operations by name, in an order in which each stands after those it waits for."""

    ops: tuple[Op, ...]
    index: Mapping[str, int] = field(compare=False)

    @classmethod
    def of(cls, ops: Iterable[Op]) -> Graph:
        """The graph of some operations; names must be unique, known and free of cycles."""
        given = list(ops)
        by_name = {op.name: op for op in given}
        if len(by_name) < len(given):
            twice = next(op.name for i, op in enumerate(given) if any(op.name == o.name for o in given[:i]))
            raise SpecError(f"operation {twice!r} stands twice in the graph; give each a name of its own")
        for op in given:
            for name in op.after:
                if name not in by_name:
                    raise UnknownName(f"operation {op.name!r} waits for {name!r}, which is missing"
                                      f"{offer(name, by_name)}")
        ordered = _sorted(by_name)
        return cls(tuple(ordered), {op.name: i for i, op in enumerate(ordered)})

    def __getitem__(self, name: str) -> Op:
        """The operation of that name."""
        if name not in self.index:
            raise UnknownName(f"there is no operation {name!r}{offer(name, self.index)}")
        return self.ops[self.index[name]]

    @cached_property
    def heads(self) -> dict[str, float]:
        """Earliest start of each operation with nothing in its way [s]."""
        starts: dict[str, float] = {}
        for op in self.ops:
            ends = [starts[name] + self[name].duration for name in op.after]
            starts[op.name] = max(ends, default=0.0) + op.lag
        return starts

    @cached_property
    def tails(self) -> dict[str, float]:
        """Time from the end of each operation to the end of the graph, at least [s]."""
        rest = {op.name: 0.0 for op in self.ops}
        for op in reversed(self.ops):
            for name in op.after:
                rest[name] = max(rest[name], op.lag + op.duration + rest[op.name])
        return rest

    @property
    def critical_path(self) -> float:
        """Length of the longest chain [s]."""
        return max((self.heads[op.name] + op.duration for op in self.ops), default=0.0)

    @property
    def loads(self) -> dict[tuple[int, str], float]:
        """(rank, resource) -> time for which it is in use at the least [s]."""
        total: dict[tuple[int, str], float] = defaultdict(float)
        for op in self.ops:
            for resource, share in op.shares.items():
                total[op.rank, resource] += share * op.duration
        return dict(total)

    @cached_property
    def ancestors(self) -> dict[str, set[str]]:
        """Operation -> everything that must end before it."""
        before: dict[str, set[str]] = {}
        for op in self.ops:
            before[op.name] = set(op.after).union(*(before[name] for name in op.after))
        return before

    @property
    def successors(self) -> dict[str, list[str]]:
        """Operation -> those that wait for it."""
        following: dict[str, list[str]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for name in dict.fromkeys(op.after):
                following[name].append(op.name)
        return following


def _sorted(by_name: Mapping[str, Op]) -> list[Op]:
    """Operations in an order of their dependencies, the given order kept where it is free."""
    waiting = {name: dict.fromkeys(op.after) for name, op in by_name.items()}
    following: dict[str, list[str]] = defaultdict(list)
    for name in by_name:
        for before in waiting[name]:
            following[before].append(name)
    ready = [name for name, left in waiting.items() if not left]
    ordered: list[Op] = []
    for name in ready:  # grows while it is walked
        ordered.append(by_name[name])
        for after in following[name]:
            del waiting[after][name]
            if not waiting[after]:
                ready.append(after)
    if len(ordered) < len(by_name):
        stuck = sorted(set(by_name) - {op.name for op in ordered})[:4]
        raise SpecError(f"the operations wait for each other in a cycle, among them {', '.join(stuck)};"
                        " remove one of the dependencies")
    return ordered


@dataclass(frozen=True)
class Bound:
    """Least time that any schedule of a graph takes [s], and what says so."""

    time: float
    reason: str


def lower_bound(graph: Graph) -> Bound:
    """The larger of the critical path and of what each resource needs for any late-starting, early-ending set of
    operations: least head + load + least tail (Carlier's bound for one machine, with shares for machines).

    >>> ops = [Op("a", 2.0, {"sm": 1.0}), Op("b", 1.0, {"scale-up": 1.0}, ("a",)), Op("c", 2.0, {"sm": 1.0})]
    >>> lower_bound(Graph.of(ops)).time, lower_bound(Graph.of(ops)).reason
    (4.0, 'load of SMs')
    """
    best = Bound(graph.critical_path, "critical path")
    for rank, resource in sorted(graph.loads):
        users = [op for op in graph.ops if op.rank == rank and op.shares.get(resource, 0) > 0]
        time = _windowed(graph, users, resource)
        if time > best.time * (1 + 1e-12):
            place = f" of rank {rank}" if len({op.rank for op in graph.ops}) > 1 else ""
            best = Bound(time, f"load of {TITLES.get(resource, resource)}{place}")
    return best


def _windowed(graph: Graph, users: list[Op], resource: str) -> float:
    """Largest of (least head + load + least tail) over sets of operations with heads and tails above two limits."""
    best = 0.0
    for head in sorted({graph.heads[op.name] for op in users}):
        late = sorted((op for op in users if graph.heads[op.name] >= head), key=lambda op: -graph.tails[op.name])
        load = 0.0
        for op in late:
            load += op.duration * op.shares[resource]
            best = max(best, head + load + graph.tails[op.name])
    return best
