"""The partition over ranks that hold several chunks each, as a MILP: cuts, settings per layer, memory per rank."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perfplan.errors import Infeasible
from perfplan.optimize.certificate import Certificate, of_solution
from perfplan.optimize.milp import Solution, solve
from perfplan.overlap.partition import Partition, RankCosts, even, held
from perfplan.overlap.stages import even_chunks
from perfplan.training.estimate import layer_sequence
from perfplan.units import show

if TYPE_CHECKING:
    import pulp

__all__ = ["balance_chunks"]

WINDOW = 3  # chunks that a layer may lie away from its place under the even slot rule


class _Cuts:
    """Which layer lies in which chunk; where all layers are of one kind, only how many each chunk holds."""

    def __init__(self, problem: pulp.LpProblem, costs: RankCosts) -> None:
        import pulp

        at = costs.pipeline.layout
        self.sequence, self.kinds = layer_sequence(costs.pipeline.job)
        self.pp, self.chunks = at.pp, at.pp * at.vpp
        self.one = len(set(self.sequence)) == 1
        start = even_chunks(costs.pipeline.job, self.chunks)
        if self.one:
            self.sizes = [problem.add_variable(f"n_{c}", 0 if c in (0, self.chunks - 1) else 1, None, pulp.LpInteger)
                          for c in range(self.chunks)]
            problem += pulp.lpSum(self.sizes) == len(self.sequence)
            return
        place = [chunk for chunk, size in enumerate(start) for _ in range(size)]
        self.at: list[dict[int, Any]] = []
        for layer, middle in enumerate(place):
            near = range(max(middle - WINDOW, 0), min(middle + WINDOW, self.chunks - 1) + 1)
            row = {c: problem.add_variable(f"z_{layer}_{c}", cat=pulp.LpBinary) for c in near}
            problem += pulp.lpSum(row.values()) == 1
            if self.at:
                self._ordered(problem, row)
            self.at.append(row)
        most = 2 * -(-len(self.sequence) // self.chunks) + 1
        for c in range(self.chunks):
            problem += pulp.lpSum(row[c] for row in self.at if c in row) <= most
        for c in range(1, self.chunks - 1):
            problem += pulp.lpSum(row[c] for row in self.at if c in row) >= 1

    def _ordered(self, problem: pulp.LpProblem, row: dict[int, Any]) -> None:
        """A layer lies in no earlier chunk than the layer before it."""
        import pulp

        before = self.at[-1]
        for limit in sorted({*before, *row})[:-1]:
            problem += pulp.lpSum(z for c, z in before.items() if c <= limit) >= pulp.lpSum(
                z for c, z in row.items() if c <= limit
            )

    def on(self, rank: int, kind: int) -> Any:
        """Layers of a kind on a rank, as an expression."""
        import pulp

        mine = range(rank, self.chunks, self.pp)
        if self.one:
            return pulp.lpSum(self.sizes[c] for c in mine) if kind == self.sequence[0] else 0
        return pulp.lpSum(row[c] for layer, row in enumerate(self.at) if self.sequence[layer] == kind
                          for c in mine if c in row)

    def read(self, answer: Solution) -> tuple[int, ...]:
        """Layers of each chunk."""
        if self.one:
            return self._spread([int(answer.values[size.name]) for size in self.sizes])
        return tuple(sum(int(answer.values[row[c].name]) for row in self.at if c in row) for c in range(self.chunks))

    def _spread(self, sizes: list[int]) -> tuple[int, ...]:
        """The layers of each rank dealt out evenly to its chunks, those with embedding or head getting fewer."""
        for rank in range(self.pp):
            mine = sorted(range(rank, self.chunks, self.pp), key=lambda c: c in (0, self.chunks - 1))
            small, more = divmod(sum(sizes[c] for c in mine), len(mine))
            for place, c in enumerate(mine):
                sizes[c] = small + (place < more)
        return tuple(sizes)


def _rank(problem: pulp.LpProblem, costs: RankCosts, cuts: _Cuts, rank: int, busiest: Any) -> None:
    """Settings of the layers of a rank, its time and its memory."""
    import pulp

    first, last = rank == 0, rank == costs.pipeline.layout.pp - 1
    layer, most = costs.per_layer(rank), len(cuts.sequence)
    size: Any = costs.bare(rank, first, last)
    time: Any = first * costs.end_times[0] + last * costs.end_times[1]
    buffer = problem.add_variable(f"buffer_{rank}", 0)
    for kind in range(cuts.kinds):
        if kind not in cuts.sequence:
            continue
        chosen = []
        for s in range(len(costs.settings)):
            n = problem.add_variable(f"x_{rank}_{kind}_{s}", 0, most, pulp.LpInteger)
            used = problem.add_variable(f"u_{rank}_{kind}_{s}", cat=pulp.LpBinary)
            problem += n <= most * used
            problem += buffer >= costs.buffers[kind][s] / costs.limit * used
            size = size + layer[kind][s] * n
            time = time + costs.times[kind][s] * n
            chosen.append(n)
        problem += pulp.lpSum(chosen) == cuts.on(rank, kind)
    problem += size / costs.limit + buffer <= 1
    problem += busiest >= time


def balance_chunks(costs: RankCosts, time_limit: float) -> Partition:
    """The partition over chunks with the least time of the busiest rank; never worse than the even slot rule."""
    import pulp

    problem = pulp.LpProblem("partition", pulp.LpMinimize)
    busiest = problem.add_variable("busiest", 0)
    problem += busiest
    cuts = _Cuts(problem, costs)
    for rank in range(costs.pipeline.layout.pp):
        _rank(problem, costs, cuts, rank, busiest)
    answer = solve(problem, time_limit, gap=1e-3, threads=2)
    if answer.status == "infeasible":
        raise Infeasible(f"no partition over {cuts.chunks} chunks fits {show(costs.limit, 'B')} per rank, whatever is"
                         " recomputed or offloaded; give more stages, tp or memory")
    try:
        plain = even(costs)
    except Infeasible:
        plain = None
    found = _found(costs, cuts, answer) if answer.found else None
    best = min((p for p in (found, plain) if p is not None), key=lambda p: p.busiest, default=None)
    if best is None:
        raise Infeasible(f"no partition was found in {time_limit:g} s; give more time")
    method = "MILP over the cuts" if best is found else "the even slot rule"
    certificate = Certificate(best.busiest, min(answer.bound, best.busiest), method,
                              of_solution(answer, method).bounded_by, "s")
    return replace(best, certificate=certificate)


def _found(costs: RankCosts, cuts: _Cuts, answer: Solution) -> Partition | None:
    sizes = cuts.read(answer)
    pp = costs.pipeline.layout.pp
    choices = [costs.best(r, r == 0, r == pp - 1, counts) for r, counts in enumerate(held(costs, sizes))]
    whole = [choice for choice in choices if choice is not None]
    if len(whole) < pp:
        return None
    unknown = Certificate(max(c.time for c in whole), 0.0, "MILP over the cuts", unit="s")
    return Partition(costs.pipeline, sizes, tuple(whole), costs.settings, unknown)
