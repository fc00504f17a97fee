"""Lower bounds: what no placement can be better than.

Which experts of two neighbouring layers share a GPU is a 0-1 matrix S. It has k ones in each row and column (k experts
on a GPU), and its part beyond the mean, S - 1/G, is k times an isometry of rank G - 1. The first fact bounds the
transitions that stay by a transportation problem, the second by the sum of the G - 1 largest singular values of the
transitions, k times (Donath and Hoffman 1973 bound graph partitions so). Writing the transitions as a sum of two
tables, one bounded either way, is a bound for every split; the best split is found by subgradients.
"""

from __future__ import annotations

import time
from math import comb
from typing import NamedTuple

import numpy as np

from perfplan.placement.chain_bound import kept_by_spectra
from perfplan.placement.path_bound import SUBSETS, kept_by_paths
from perfplan.placement.routing import Array, Whole
from perfplan.placement.score import Problem

__all__ = ["LowerBound", "load_bound", "lower_bound", "stay_bound"]

_WORK = 5e10  # multiplications that all layers' subgradient steps may take, about: a few seconds
_STEPS = 600
_TIED = 3e10  # likewise for steps that tie the pairs of layers to each other; below the least they do not pay
_LEAST_TIED, _MOST_TIED = 200, 1500


class LowerBound(NamedTuple):
    """A value that no placement is below, and what proves it."""

    value: float
    by: str


def _transport(moves: Array, size: int) -> tuple[Array, Array]:
    """Prices of rows and columns that are optimal for the transportation problem: its linear programme's duals."""
    from scipy import sparse
    from scipy.optimize import linprog

    experts = len(moves)
    eye, one = sparse.eye(experts), np.ones((1, experts))
    sums = sparse.vstack([sparse.kron(eye, one), sparse.kron(one, eye)]).tocsr()
    found = linprog(-moves.ravel(), A_eq=sums, b_eq=np.full(2 * experts, size), bounds=(0, 1), method="highs")
    prices = -np.asarray(found.eqlin.marginals, dtype=float)
    return prices[:experts], prices[experts:]


def _quick(moves: Array, size: int) -> tuple[Array, Array]:
    """Prices that need no solver: of each row, its (k+1)-th largest entry."""
    return np.partition(moves, -size - 1, axis=1)[:, -size - 1], np.zeros(len(moves))


def stay_bound(moves: Array, groups: int, reached: float, steps: int, end: float = np.inf) -> float:
    """Upper bound on the transitions that stay inside one of `groups` equal groups of experts.

    reached: what some placement keeps inside, the target of the steps. steps: of the subgradient method; with 0 the
    transportation problem alone; end: time at which they stop.
    """
    experts, size = len(moves), len(moves) // groups
    if groups == 1 or experts == size:
        return float(moves.sum())
    rows, columns = _transport(moves, size) if experts <= 128 else _quick(moves, size)
    split, best, scale, stalled = np.zeros_like(moves), float(moves.sum()), 1.0, 0
    for _ in range(steps + 1):
        slack = moves - split - rows[:, None] - columns[None, :]
        singular, isometry = _beyond_mean(split, groups)
        value = size * (rows.sum() + columns.sum() + singular) + np.maximum(slack, 0).sum() + split.sum() / groups
        stalled = 0 if value < best - 1e-9 else stalled + 1
        best = min(best, float(value))
        if time.monotonic() > end:
            break
        if stalled > 20:
            scale, stalled = 0.7 * scale, 0
        ones = (slack > 0).astype(float)
        turn, by_row, by_column = (
            1 / groups + size * isometry - ones,
            size - ones.sum(axis=1),
            size - ones.sum(axis=0),
        )
        norm = (turn**2).sum() + (by_row**2).sum() + (by_column**2).sum()
        step = scale * max(value - reached, 0.0) / norm if norm else 0.0
        split, rows, columns = split - step * turn, rows - step * by_row, columns - step * by_column
    return best


def _beyond_mean(table: Array, groups: int) -> tuple[float, Array]:
    """(sum of the groups - 1 largest singular values of a table without its row and column means, the isometry between
    their vectors), from the eigenvalues of the table times itself."""
    from scipy.linalg import eigh

    inner = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    if not inner.any():
        return 0.0, np.zeros_like(table)
    last = len(table) - 1
    squares, right = eigh(inner.T @ inner, subset_by_index=[last - groups + 2, last], check_finite=False)
    values = np.sqrt(np.maximum(squares, 0.0))
    return float(values.sum()), (inner @ right / np.maximum(values, 1e-9 * values.max())) @ right.T


def load_bound(weights: Array, gpus: int) -> float:
    """Least balance of a layer, from loads over the mean load of a GPU: the mean, or what must share a GPU.

    Of the G m + 1 heaviest experts some GPU holds m + 1: the lightest of them at least, and k - m - 1 light ones.

    >>> load_bound(np.array([2.0, 1.0, 0.5, 0.5]) / 2, 2)
    1.25
    """
    down = np.sort(weights)[::-1]
    size = len(down) // gpus
    found = [1.0]
    for m in range(size):
        top = down[gpus * m - m : gpus * m + 1] if m else down[:1]
        found.append(float(top.sum() + down[len(down) - (size - m - 1) :].sum()))
    return max(found)


def lower_bound(
    problem: Problem, steps: int | None = None, placed: Whole | None = None, end: float = np.inf
) -> LowerBound:
    """Least objective that a placement can have, and what proves it.

    steps: of each layer's bound apart; unless given, paths where these are few, else as many as a few seconds allow;
    placed: a placement to aim at; end: time (`time.monotonic`) at which the steps stop.
    """
    if problem.capacity:  # all experts may share a GPU: what binds is the mean and the heaviest expert
        tail = problem.load * float(np.maximum(problem.weights.max(axis=1), 1.0).mean())
        return LowerBound(tail, "the mean load and the largest expert")
    moves = problem.moves
    tail = problem.load * float(np.mean([load_bound(w, problem.gpus) for w in problem.weights]))
    if not moves.any():
        return LowerBound(tail, "what must share a GPU")
    levels = [(problem.gpus, 1.0)]
    if not problem.flat:
        levels.append((problem.gpus // problem.per_node, problem.far - 1))
    cost, by = 0.0, "transportation and singular values"
    for done, (groups, weight) in enumerate(levels):
        now = time.monotonic()
        until = now + max(end - now, 0.0) / (len(levels) - done)
        aim = None if placed is None else placed * groups // problem.gpus
        stays, name = _stays(problem, groups, aim, steps, until)
        by = name if done == 0 else by
        cost += weight * (float(moves.sum()) - stays)
    return LowerBound(max(0.0, cost) + tail, by)


def _stays(problem: Problem, groups: int, aim: Whole | None, steps: int | None, end: float) -> tuple[float, str]:
    """(transitions that stay in groups at most, what proves it): by paths where they are few, else pair by pair, and
    with the pairs tied to each other where that pays."""
    moves, experts = problem.moves, problem.routing.experts
    if aim is not None and steps is None and comb(experts, experts // groups) <= SUBSETS:
        ceiling = problem.ceiling if groups == problem.gpus else np.inf
        return kept_by_paths(moves, aim, groups, problem.weights, ceiling, end), "paths through subsets of experts"
    tied = int(_TIED / (len(moves) * (2 * experts) ** 3)) if steps is None else 0
    if steps is None:
        steps = min(_STEPS, int(_WORK / (len(moves) * 5 * experts**3)))
        steps = steps if steps >= 10 else 0  # fewer would not pay
    reached = np.zeros(len(moves)) if aim is None else _kept(moves, aim)
    total = 0.0
    for layer, table in enumerate(moves):
        now = time.monotonic()
        limit = now + max(end - now, 0.0) / (len(moves) - layer)
        total += stay_bound(table, groups, float(reached[layer]), steps, limit)
    by = "transportation and singular values"
    if tied >= _LEAST_TIED and len(moves) > 1:
        tighter = kept_by_spectra(moves, groups, float(reached.sum()), min(tied, _MOST_TIED), end)
        if tighter < total:
            return tighter, "spectra of neighbouring layers"
    return total, by


def _kept(moves: Array, groups: Whole) -> Array:
    """What groups of experts [layer, expert] keep after each layer."""
    pairs = zip(moves, groups, groups[1:], strict=False)
    return np.array([(table * (here[:, None] == there[None, :])).sum() for table, here, there in pairs])
