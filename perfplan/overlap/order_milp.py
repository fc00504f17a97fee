"""Better orders of one graph by MILP: start times, and whether an operation runs alone or shares its resources.

Each operation takes one of a few speeds; two that may be in flight together must ask for no more of a resource than
there is. The order that comes out is simulated again with sharing in proportion, so that its time is comparable.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from perfplan.errors import SolverError
from perfplan.optimize.milp import solve
from perfplan.overlap.graph import Graph, Op
from perfplan.overlap.simulate import simulate
from perfplan.overlap.timeline import Timeline

__all__ = ["improved"]

NODES = 50  # of the branch-and-bound tree; ten times as many found no shorter order of four graphs


def _demand(a: Op, b: Op) -> float:
    """How much of one resource two operations ask for together, at most [1]."""
    return max((a.shares[name] + b.shares[name] for name in a.shares if b.shares.get(name)), default=0.0)


def _pairs(graph: Graph) -> list[tuple[Op, Op, float]]:
    """Pairs that no dependency orders and that cannot both run at full speed."""
    before = graph.ancestors
    return [(a, b, demand) for a, b in combinations(graph.ops, 2)
            if a.name not in before[b.name] and b.name not in before[a.name] and (demand := _demand(a, b)) > 1 + 1e-9]


class _Model:
    """Variables of the problem; times are in units of the critical path."""

    def __init__(self, graph: Graph) -> None:
        import pulp

        self.graph, self.unit = graph, graph.critical_path or 1.0
        self.pairs = _pairs(graph)
        self.problem = pulp.LpProblem("order", pulp.LpMinimize)
        self.total = sum(op.duration for op in graph.ops) / self.unit
        self.end = self.problem.add_variable("end", 0, self.total)
        self.problem += self.end
        slowest: dict[str, float] = {}
        for a, b, demand in self.pairs:
            for op in (a, b):
                slowest[op.name] = max(slowest.get(op.name, 1.0), demand if demand < 1.9 else 1.0)
        self.at: dict[str, Any] = {}
        self.length: dict[str, Any] = {}
        self.slow: dict[str, Any] = {}
        for i, op in enumerate(graph.ops):
            self._operation(i, op, slowest.get(op.name, 1.0))
        self.before: dict[tuple[str, str], Any] = {}
        for n, (a, b, demand) in enumerate(self.pairs):
            self._pair(n, a, b, demand, slowest)

    def _operation(self, i: int, op: Op, slowest: float) -> None:
        import pulp

        self.at[op.name] = self.problem.add_variable(f"at_{i}", self.graph.heads[op.name] / self.unit, self.total)
        self.slow[op.name] = self.problem.add_variable(f"slow_{i}", cat=pulp.LpBinary) if slowest > 1 else 0
        self.length[op.name] = op.duration / self.unit * (1 + (slowest - 1) * self.slow[op.name])
        for name in op.after:
            self.problem += self.at[op.name] >= self.at[name] + self.length[name] + op.lag / self.unit
        self.problem += self.end >= self.at[op.name] + self.length[op.name] + self.graph.tails[op.name] / self.unit

    def _pair(self, n: int, a: Op, b: Op, demand: float, slowest: dict[str, float]) -> None:
        """One before the other, or both at their slow speed if that leaves enough for both."""
        import pulp

        first = self.problem.add_variable(f"first_{n}", cat=pulp.LpBinary)
        second = self.problem.add_variable(f"second_{n}", cat=pulp.LpBinary)
        self.before[a.name, b.name], self.before[b.name, a.name] = first, second
        self.problem += first + second <= 1
        self.problem += self.at[b.name] >= self.at[a.name] + self.length[a.name] - self.total * (1 - first)
        self.problem += self.at[a.name] >= self.at[b.name] + self.length[b.name] - self.total * (1 - second)
        together = all(slowest.get(op.name, 1.0) >= demand * (1 - 1e-9) for op in (a, b))
        if not together:
            self.problem += first + second == 1
        else:
            for op in (a, b):
                self.problem += self.slow[op.name] + first + second >= 1


def improved(graph: Graph, time_limit: float) -> Timeline | None:
    """The timeline of the MILP's order, or None if it found none in `NODES` nodes and the time [s]."""
    model = _Model(graph)
    try:
        answer = solve(model.problem, max(time_limit, 0.5), gap=0.002, nodes=NODES)
    except SolverError:
        return None
    if not answer.found:
        return None
    edges: dict[str, list[str]] = {}
    for (one, other), variable in model.before.items():
        if answer.values[variable.name] > 0.5:
            edges.setdefault(other, []).append(one)
    ordered = [Op(op.name, op.duration, op.shares, (*op.after, *edges.get(op.name, ())), op.lag, op.rank, op.kind,
                  op.micro) for op in graph.ops]
    return simulate(Graph.of(ordered), {}, "best")
