"""Placements that are proven optimal: a chain of assignments, or a shortest path through the set partitions of a layer.

One expert per GPU and equal hops: only which expert of the next layer joins which expert matters, so each step is an
assignment problem of its own. Else, where a layer can be split among the GPUs in few ways (8 experts over 4: 105), a
placement is a path through these ways, layer by layer; GPUs that are alike are swapped freely on every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from math import factorial

import numpy as np

from perfplan.errors import Infeasible
from perfplan.placement.routing import Array, Whole
from perfplan.placement.score import Problem, rho

__all__ = ["STATES", "assignment_chain", "partition_path", "splits", "states"]

STATES = 10_000  # ways to split one layer, up to which the shortest path is taken
_WORK = 3e10  # additions of the shortest path, likewise
_CELLS = 4_000_000  # of one block of a transition table


def assignment_chain(problem: Problem) -> Whole:
    """Optimal traffic for one expert per GPU and layer on a flat network; balance is the same for every placement."""
    from scipy.optimize import linear_sum_assignment

    placed = [np.arange(problem.gpus)]
    for moves in problem.moves:
        here, there = linear_sum_assignment(moves, maximize=True)
        row = np.empty(problem.gpus, dtype=np.int64)
        row[there] = placed[-1][here]
        placed.append(row)
    return np.stack(placed)


def _alike(problem: Problem) -> int:
    """How many permutations of the GPUs change no cost."""
    if problem.flat:
        return factorial(problem.gpus)
    nodes = problem.gpus // problem.per_node
    return int(factorial(problem.per_node) ** nodes * factorial(nodes))


def states(problem: Problem, chained: bool = True) -> int:
    """Ways to split the experts of one layer over the GPUs that differ in cost; more than STATES if too much work.

    chained: whether the splits of neighbouring layers are compared with each other.
    """
    if problem.capacity:
        return STATES + 1
    ways = int(factorial(problem.routing.experts) // factorial(problem.size) ** problem.gpus // _alike(problem))
    if ways > STATES or chained and ways**2 * _alike(problem) * problem.gpus * problem.routing.layers > _WORK:
        return STATES + 1
    return ways


def _groupings(items: tuple[int, ...], size: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Ways to split items into groups of `size`, the first of the items left leading each group."""
    if not items:
        yield ()
        return
    for others in combinations(items[1:], size - 1):
        left = tuple(item for item in items[1:] if item not in others)
        yield from ((items[0:1] + others, *rest) for rest in _groupings(left, size))


def _symmetries(problem: Problem) -> list[tuple[int, ...]]:
    """Permutations of the GPUs that change no cost."""
    everyone = tuple(range(problem.gpus))
    if problem.flat:
        return list(permutations(everyone))
    inside = list(permutations(range(problem.per_node)))
    nodes = problem.gpus // problem.per_node
    found = []
    for order in permutations(range(nodes)):
        partial: list[tuple[int, ...]] = [()]
        for node in order:
            partial = [(*head, *(node * problem.per_node + i for i in row)) for head in partial for row in inside]
        found += partial
    return found


def splits(problem: Problem) -> Whole:
    """One placement of a layer for each of the states [state, expert]."""
    experts, everyone, rows = problem.routing.experts, tuple(range(problem.gpus)), []
    for groups in _groupings(tuple(range(experts)), problem.size):
        for pairing in _groupings(everyone, problem.gpus if problem.flat else problem.per_node):
            row = np.empty(experts, dtype=np.int64)
            for gpu, group in enumerate(group for node in pairing for group in node):
                row[list(groups[group])] = gpu
            rows.append(row)
    return np.stack(rows)


def _allowed(problem: Problem, splits: Whole) -> list[tuple[Whole, Array]]:
    """For each layer, the states within the limit of balance and what they cost."""
    found = []
    for layer, weights in enumerate(problem.weights):
        balance = rho(np.broadcast_to(weights, splits.shape), splits, problem.gpus)
        kept = np.flatnonzero(balance <= problem.ceiling * (1 + 1e-12))
        if not len(kept):
            raise Infeasible(
                f"no placement balances layer {layer} within {problem.ceiling:g}: its loads allow "
                f"{balance.min():.4g} at best"
            )
        found.append((kept, problem.load * balance[kept] / problem.routing.layers))
    return found


def _step(
    problem: Problem, moves: Array, here: Array, there: Array, alike: list[tuple[int, ...]]
) -> Iterator[tuple[int, Array, Whole]]:
    """Blocks of (first row, least cost [state here, state there], symmetry that gives it); states as one-hot arrays
    [state, GPU, expert]."""
    worst = problem.hops.max()
    saved = worst - problem.hops
    terms = [(a, b) for a in range(problem.gpus) for b in range(problem.gpus) if saved[a, b]]
    rows = max(1, _CELLS // (len(there) * problem.gpus**2))
    base = worst * moves.sum()
    for first in range(0, len(here), rows):
        block = here[first : first + rows] @ moves
        stay = np.einsum("pae,qbe->abpq", block, there, optimize=True)
        best = np.full(stay.shape[2:], -np.inf)
        which = np.zeros(stay.shape[2:], dtype=np.int64)
        for index, order in enumerate(alike):
            gain = sum(saved[a, b] * stay[a, order[b]] for a, b in terms)
            better = gain > best
            best, which = np.where(better, gain, best), np.where(better, index, which)
        yield first, base - best, which


def partition_path(problem: Problem) -> Whole:
    """The optimal placement for the objective of the problem, as the cheapest path through the states of its layers.

    The ceiling of every layer's balance is kept; the limit of their mean is not.
    """
    every, alike = splits(problem), _symmetries(problem)
    hot = (every[:, None, :] == np.arange(problem.gpus)[None, :, None]).astype(float)
    allowed = _allowed(problem, every)
    cost, back = allowed[0][1], []
    for moves, (before, _), (after, tail) in zip(problem.moves, allowed, allowed[1:], strict=False):
        best = np.full(len(after), np.inf)
        origin, order = np.zeros(len(after), dtype=np.int64), np.zeros(len(after), dtype=np.int64)
        for first, table, which in _step(problem, moves, hot[before], hot[after], alike):
            total = cost[first : first + len(table), None] + table
            row = total.argmin(axis=0)
            least = total[row, np.arange(len(after))]
            better = least < best
            best = np.where(better, least, best)
            origin = np.where(better, row + first, origin)
            order = np.where(better, which[row, np.arange(len(after))], order)
        back.append((origin, order))
        cost = best + tail
    return _read_back(problem, every, allowed, back, alike, int(cost.argmin()))


def _read_back(
    problem: Problem,
    splits: Whole,
    allowed: list[tuple[Whole, Array]],
    back: list[tuple[Whole, Whole]],
    alike: list[tuple[int, ...]],
    last: int,
) -> Whole:
    """The placement along the path that ends in state `last` of the last layer."""
    path, orders = [last], []
    for origin, order in reversed(back):
        orders.append(alike[order[path[-1]]])
        path.append(int(origin[path[-1]]))
    rows = [splits[kept[state]] for (kept, _), state in zip(allowed, reversed(path), strict=True)]
    names = np.arange(problem.gpus)  # GPU in the frame of the layer's state -> GPU
    placed = [rows[0]]
    for row, order in zip(rows[1:], reversed(orders), strict=True):
        renamed = np.empty_like(names)
        renamed[list(order)] = names
        names = renamed
        placed.append(names[row])
    return np.stack(placed)
