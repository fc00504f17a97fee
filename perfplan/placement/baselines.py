"""Placements that others make: EPLB's packing, MoETuner's two stages, a greedy chain; each starts the search."""

from __future__ import annotations

import numpy as np

from perfplan.placement.descent import Layer, transport
from perfplan.placement.routing import Array, Whole
from perfplan.placement.score import Problem

__all__ = ["balanced_packing", "eplb_pack", "greedy_chain", "named", "two_stage"]


def balanced_packing(weights: Array, packs: int) -> tuple[Whole, Whole]:
    """EPLB's packing of one layer: heaviest first into the lightest pack that is not full, equal counts.

    Gives (pack of each item, its place in the pack).

    >>> [list(map(int, found)) for found in balanced_packing(np.array([5.0, 4.0, 3.0, 2.0]), 2)]
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    size = len(weights) // packs
    if size == 1:
        return np.arange(packs), np.zeros(packs, dtype=np.int64)
    load, count = [0.0] * packs, [0] * packs
    pack, place = np.zeros(len(weights), dtype=np.int64), np.zeros(len(weights), dtype=np.int64)
    for item in np.argsort(-weights, kind="stable"):
        chosen = min((i for i in range(packs) if count[i] < size), key=load.__getitem__)
        pack[item], place[item] = chosen, count[chosen]
        load[chosen] += float(weights[item])
        count[chosen] += 1
    return pack, place


def eplb_pack(problem: Problem) -> Whole:
    """Each layer packed by its loads, without replicas."""
    return np.stack([balanced_packing(weights, problem.gpus)[0] for weights in problem.weights])


def named(problem: Problem, clusters: Whole) -> Whole:
    """Clusters of each layer given to GPUs such that most tokens stay: an assignment problem after each layer."""
    from scipy.optimize import linear_sum_assignment

    one = np.eye(problem.gpus)
    placed = [clusters[0]]
    for moves, row in zip(problem.moves, clusters[1:], strict=False):
        cost = one[row].T @ moves.T @ problem.hops[placed[-1]]
        cluster, gpu = linear_sum_assignment(cost)
        names = np.empty(problem.gpus, dtype=np.int64)
        names[cluster] = gpu
        placed.append(names[row])
    return np.stack(placed)


def two_stage(problem: Problem) -> Whole:
    """MoETuner: clusters of near-equal load first, then the clusters to GPUs by traffic.

    Its first programme is taken here as packing improved by swaps, its second as the sum of transfers instead of the
    largest of them, which a chain of assignments solves exactly on a flat network.
    """
    packed = eplb_pack(problem)
    free = np.zeros((problem.routing.experts, problem.gpus))
    clusters = np.stack(
        [
            Layer(weights, problem.gpus, 1.0, np.inf).swap(free, row)
            for weights, row in zip(problem.weights, packed, strict=True)
        ]
    )
    return named(problem, clusters)


def greedy_chain(problem: Problem, first: Whole | None = None) -> Whole:
    """Layer by layer, the placement with the least traffic from the layer before."""
    placed = [problem.contiguous()[0] if first is None else first]
    for moves in problem.moves:
        placed.append(transport(moves.T @ problem.hops[placed[-1]], problem.size))
    return np.stack(placed)
