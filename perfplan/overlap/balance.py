"""The best partition of the layers over pipeline ranks: exact with one chunk per rank, by MILP with several."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perfplan.errors import Infeasible
from perfplan.optimize.certificate import Certificate
from perfplan.overlap.partition import Choice, Partition, RankCosts, Setting, even, kind_counts, settings
from perfplan.overlap.partition_milp import balance_chunks
from perfplan.overlap.stages import Pipeline
from perfplan.training.estimate import layer_sequence
from perfplan.units import show

__all__ = ["balance"]


def balance(pipeline: Pipeline, chosen: Sequence[Setting] = (), time_limit: float = 60.0) -> Partition:
    """The partition and settings with the least time of the busiest rank, each rank within its memory."""
    costs = RankCosts(pipeline, chosen or settings(pipeline))
    return balance_chunks(costs, time_limit) if pipeline.layout.vpp > 1 else _exact(costs)


def _exact(costs: RankCosts) -> Partition:
    """Dynamic program: least busiest rank for the first r ranks holding the first n layers."""
    pipeline = costs.pipeline
    sequence, kinds = layer_sequence(pipeline.job)
    layers, pp = len(sequence), pipeline.layout.pp
    cache: dict[tuple[int, tuple[int, ...]], Choice | None] = {}

    def stage(rank: int, start: int, end: int) -> Choice | None:
        counts = kind_counts(sequence, kinds, start, end - start)
        if (rank, counts) not in cache:
            cache[rank, counts] = costs.best(rank, rank == 0, rank == pp - 1, counts)
        return cache[rank, counts]

    limit, rest = _limit(costs), _rest(costs, sequence)
    least = [[math.inf] * (layers + 1) for _ in range(pp + 1)]
    cut = [[0] * (layers + 1) for _ in range(pp + 1)]
    least[0][0] = 0.0
    for rank in range(pp):
        for start in range(layers + 1):
            if math.isinf(least[rank][start]):
                continue
            for end in range(start, layers + 1) if rank < pp - 1 else [layers]:
                if rank < pp - 1 and rest[end] > (pp - 1 - rank) * limit * (1 + 1e-9):
                    continue  # the other ranks could not take what is left
                if rest[start] - rest[end] > limit * (1 + 1e-9):
                    break
                choice = stage(rank, start, end)
                if choice is None or choice.time > limit * (1 + 1e-12):
                    break  # more layers are slower and larger still
                time = max(least[rank][start], choice.time)
                if time < least[rank + 1][end]:
                    least[rank + 1][end], cut[rank + 1][end] = time, start
    if math.isinf(least[pp][layers]):
        raise Infeasible(f"no partition of {layers} layers over {pp} stages fits {show(costs.limit, 'B')} per rank, "
                         "whatever is recomputed or offloaded; give more stages, tp or memory")
    cuts = [layers]
    for rank in range(pp, 0, -1):
        cuts.append(cut[rank][cuts[-1]])
    cuts.reverse()
    sizes = tuple(b - a for a, b in zip(cuts, cuts[1:], strict=False))
    choices = tuple(c for r in range(pp) if (c := stage(r, cuts[r], cuts[r + 1])) is not None)
    time = least[pp][layers]
    return Partition(pipeline, sizes, choices, costs.settings,
                     Certificate(time, time, "dynamic programming over the cuts", unit="s"))


def _rest(costs: RankCosts, sequence: Sequence[int]) -> list[float]:
    """Least time of the layers from each one on, the head behind them [s]."""
    rest = [costs.end_times[1]]
    for kind in reversed(sequence):
        rest.append(rest[-1] + min(costs.times[kind]))
    rest.reverse()
    return rest


def _limit(costs: RankCosts) -> float:
    """Time that an optimal stage need not exceed: the even slot rule's busiest, if that fits [s]."""
    try:
        return even(costs).busiest
    except Infeasible:
        return math.inf
