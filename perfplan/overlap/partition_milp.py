"""The partition over ranks that hold several chunks each, as a MILP: cuts, settings per layer, memory per rank."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
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


class _Cuts:
    """How many layers of each run of equal layers every chunk holds; a run begins where the one before has ended."""

    def __init__(self, problem: pulp.LpProblem, costs: RankCosts) -> None:
        import pulp

        at = costs.pipeline.layout
        self.sequence, self.kinds = layer_sequence(costs.pipeline.job)
        self.pp, self.chunks = at.pp, at.pp * at.vpp
        self.runs = [(kind, len(list(group))) for kind, group in groupby(self.sequence)]
        even_chunks(costs.pipeline.job, self.chunks)  # an error where there are too few layers
        self.held = [
            [problem.add_variable(f"n_{c}_{j}", 0, length, pulp.LpInteger) for j, (_, length) in enumerate(self.runs)]
            for c in range(self.chunks)
        ]
        for j, (_, length) in enumerate(self.runs):
            problem += pulp.lpSum(row[j] for row in self.held) == length
        for row in self.held[1:-1]:
            problem += pulp.lpSum(row) >= 1
        for j in range(1, len(self.runs)):
            self._after(problem, j)

    def _after(self, problem: pulp.LpProblem, j: int) -> None:
        """Run j enters a chunk only once the run before it has ended there or earlier."""
        import pulp

        length = self.runs[j - 1][1]
        for c, row in enumerate(self.held):
            ended = problem.add_variable(f"ended_{c}_{j}", cat=pulp.LpBinary)
            problem += pulp.lpSum(self.held[b][j - 1] for b in range(c + 1)) >= length * ended
            problem += row[j] <= self.runs[j][1] * ended

    def on(self, rank: int, kind: int) -> Any:
        """Layers of a kind on a rank, as an expression."""
        import pulp

        mine = range(rank, self.chunks, self.pp)
        return pulp.lpSum(self.held[c][j] for c in mine for j, (other, _) in enumerate(self.runs) if other == kind)

    def read(self, answer: Solution) -> tuple[int, ...]:
        """Layers of each chunk; where all are of one kind, those of a rank dealt out evenly."""
        sizes = [sum(int(answer.values[n.name]) for n in row) for row in self.held]
        return self._spread(sizes) if len(self.runs) == 1 else tuple(sizes)

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
    buffer = problem.add_variable(f"buffer_{rank}", costs.last_buffer / costs.limit if last else 0)
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


def _problem(costs: RankCosts, slowest: float | None = None) -> tuple[pulp.LpProblem, _Cuts]:
    """Least time of the busiest rank; or, with that `slowest` allowed, least size of the largest chunk."""
    import pulp

    problem = pulp.LpProblem("partition", pulp.LpMinimize)
    busiest = problem.add_variable("busiest", 0, slowest)
    largest = problem.add_variable("largest", 0)
    problem += busiest if slowest is None else largest
    cuts = _Cuts(problem, costs)
    for rank in range(costs.pipeline.layout.pp):
        _rank(problem, costs, cuts, rank, busiest)
    for row in cuts.held if slowest is not None else []:
        problem += largest >= pulp.lpSum(row)
    return problem, cuts


def _even(costs: RankCosts) -> Partition | None:
    try:
        return even(costs)
    except Infeasible:
        return None


def balance_chunks(costs: RankCosts, time_limit: float) -> Partition:
    """The partition over chunks with the least time of the busiest rank, its chunks as equal as that allows; never
    worse than the even slot rule."""
    problem, cuts = _problem(costs)
    answer = solve(problem, time_limit, gap=1e-3)
    if answer.status == "infeasible":
        raise Infeasible(f"no partition over {cuts.chunks} chunks fits {show(costs.limit, 'B')} per rank, whatever is"
                         " recomputed or offloaded; give more stages, tp or memory")
    found = [_found(costs, cuts, answer)] if answer.found else []
    if answer.found:
        again, same = _problem(costs, answer.objective * (1 + 1e-6))
        smoother = solve(again, min(time_limit, 5.0), gap=0.02)
        found = [*([_found(costs, same, smoother)] if smoother.found else []), *found]
    candidates = [partition for partition in (_even(costs), *found) if partition is not None]
    if not candidates:
        raise Infeasible(f"no partition was found in {time_limit:g} s; give more time")
    least = min(partition.busiest for partition in candidates)
    best = next(partition for partition in candidates if partition.busiest <= least * (1 + 1e-5))
    certificate = Certificate(best.busiest, min(answer.bound, best.busiest), "MILP over the cuts",
                              of_solution(answer, "").bounded_by, "s")
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
