"""A lower bound by linear programming over the intervals that one chain of operations cuts a schedule into.

Take any schedule, and a chain of the graph. Its operations run one after another, so they cut the time into intervals:
before each, during each, and behind the last. What every other operation does in each interval is then a fraction of
its work, and whatever the schedule is: fractions add up to one; no resource does more in an interval than it can, the
chain's operation included; operations of another chain do not overlap; nothing runs before what the chain says, and
never has more of an operation been done than of one that it waits for. The least sum of intervals under these bounds
the time of all schedules, preempted and shared in any way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfplan.overlap.graph import Bound, Graph, Op

__all__ = ["interval_bound", "longest_chain"]

MOST = 6000  # fractions in a problem that is still solved in seconds
SAFE = 1e-6  # relative tolerance of the solver


def longest_chain(graph: Graph, names: Collection[str]) -> list[str]:
    """The chain of the given operations with the longest time.

    >>> ops = [Op("a", 2.0, {"sm": 1.0}), Op("b", 1.0, {"sm": 1.0}), Op("c", 2.0, {"sm": 1.0}, ("a", "b"))]
    >>> longest_chain(Graph.of(ops), {"a", "b", "c"})
    ['a', 'c']
    """
    length: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for op in graph.ops:
        if op.name in names:
            time, last = max(((length[name], name) for name in op.after if name in length), default=(0.0, None))
            length[op.name], before[op.name] = time + op.duration, last
    name: str | None = max(length, key=lambda each: length[each], default=None)
    found: list[str] = []
    while name is not None:
        found.append(name)
        name = before[name]
    return found[::-1]


@dataclass
class _Rows:
    """Constraints `terms <= most` (or `= most`) of sparse columns."""

    entries: list[tuple[int, int, float]] = field(default_factory=list)
    most: list[float] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)

    def add(self, terms: Sequence[tuple[int, float]], most: float, exact: bool = False) -> None:
        self.entries += [(len(self.most), column, value) for column, value in terms]
        self.most.append(most)
        self.exact.append(exact)


class _Program:
    """Interval 2k lies before the chain's operation k, 2k + 1 is while it runs, the last one behind all of them."""

    def __init__(self, graph: Graph, chain: Sequence[str]) -> None:
        self.graph, self.chain, self.unit = graph, [graph[name] for name in chain], graph.critical_path
        self.intervals = 2 * len(chain) + 1
        inside = set(chain)
        self.others = [op for op in graph.ops if op.name not in inside]
        before = graph.ancestors
        self.first = {op.name: max((2 * k + 2 for k, name in enumerate(chain) if name in before[op.name]), default=0)
                      for op in self.others}
        self.last = {op.name: min((2 * k for k, name in enumerate(chain) if op.name in before[name]),
                                  default=self.intervals - 1) for op in self.others}
        places = ((op.name, i) for op in self.others for i in range(self.first[op.name], self.last[op.name] + 1))
        self.column = {place: self.intervals + n for n, place in enumerate(places)}
        self.rows = _Rows()

    def _done(self, name: str, until: int) -> list[tuple[int, float]]:
        """Terms for how much of an operation is done at the end of an interval."""
        return [(self.column[name, i], 1.0) for i in range(self.first[name], min(until, self.last[name]) + 1)]

    def _inside(self, ops: Sequence[Op], i: int, shares: Sequence[float], used: float = 0.0) -> None:
        """What the operations do in an interval takes no longer than it does, less what is used of it."""
        terms = [(self.column[op.name, i], share * op.duration / self.unit)
                 for op, share in zip(ops, shares, strict=True) if (op.name, i) in self.column and share > 0]
        if terms:
            self.rows.add([*terms, (i, -1.0)], -used)

    def _chains(self) -> list[list[Op]]:
        """Every other operation in one of a few chains, the longest first."""
        left, found = {op.name for op in self.others}, []
        while left:
            names = longest_chain(self.graph, left)
            found.append([self.graph[name] for name in names])
            left -= set(names)
        return found

    def fill(self) -> None:
        """Write all constraints."""
        for op in self.others:
            self.rows.add(self._done(op.name, self.intervals), 1.0, True)
        chains, resources = self._chains(), dict.fromkeys(key for op in self.graph.ops for key in op.shares)
        for i in range(self.intervals):
            for chain in chains:
                self._inside(chain, i, [1.0] * len(chain))
            running = self.chain[i // 2] if i % 2 else None
            for name in resources:
                used = running.shares.get(name, 0.0) * running.duration / self.unit if running else 0.0
                self._inside(self.others, i, [op.shares.get(name, 0.0) for op in self.others], used)
        for op in self.others:
            for name in set(op.after) & set(self.first):
                for i in range(self.first[op.name], min(self.last[op.name], self.last[name])):
                    less = [(column, -1.0) for column, _ in self._done(name, i)]
                    self.rows.add([*self._done(op.name, i), *less], 0.0)

    def solve(self, time_limit: float) -> float | None:
        """The least sum of intervals [s], None if it was not found in the time."""
        import numpy as np
        from scipy.optimize import linprog
        from scipy.sparse import coo_array

        count = self.intervals + len(self.column)
        row, column, value = zip(*self.rows.entries, strict=True)
        matrix = coo_array((value, (row, column)), shape=(len(self.rows.most), count)).tocsr()
        most, exact = np.array(self.rows.most), np.array(self.rows.exact)
        cost, sides = np.zeros(count), np.tile([0.0, 1.0], (count, 1))
        cost[: self.intervals], sides[: self.intervals, 1] = 1.0, np.inf
        sides[1 : self.intervals : 2, 0] = [op.duration / self.unit for op in self.chain]
        answer: Any = linprog(cost, matrix[~exact], most[~exact], matrix[exact], most[exact], sides, "highs-ipm",
                              options={"time_limit": max(time_limit, 0.1)})
        return float(answer.fun) * self.unit * (1 - SAFE) if answer.status == 0 else None


def interval_bound(graph: Graph, names: Collection[str], time_limit: float) -> Bound | None:
    """The bound by the longest chain of some operations of one rank, None if the problem is too large or slow."""
    chain = longest_chain(graph, names)
    if len(chain) == len(graph.ops) or len({op.rank for op in graph.ops}) > 1:
        return None
    program = _Program(graph, chain)
    if len(program.column) > MOST:
        return None
    program.fill()
    time = program.solve(time_limit)
    return None if time is None else Bound(time, "what the longest chain leaves to the other operations")
