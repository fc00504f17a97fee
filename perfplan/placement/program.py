"""Placement as a mixed-integer programme: for small instances, polishing and bounds.

x[l, i, g]: expert i of layer l lives on GPU g. s[l, i, j, g]: it does, and expert j of the next layer too. As every GPU
holds k experts of a layer, sum_j s = k x[l, i, g] and sum_i s = k x[l+1, j, g]: these cardinality cuts make the linear
relaxation as strong as the transportation bound, where s <= x alone is worth nothing. GPUs are alike on a flat network,
so expert e of the first layer lives on a GPU up to e.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfplan.errors import SolverError, Unsupported
from perfplan.optimize.milp import Solution, solve
from perfplan.placement.routing import Whole
from perfplan.placement.score import Problem

__all__ = ["milp"]

_MOST = 60_000  # variables


def milp(problem: Problem, time_limit: float, start: Whole) -> tuple[Whole, Solution]:
    """The best placement that HiGHS finds from `start`, and what it says of it."""
    if not problem.flat:
        raise Unsupported("the mixed-integer programme is written for one level of links; use --method search")
    layers, experts, gpus = problem.routing.layers, problem.routing.experts, problem.gpus
    if (layers - 1) * experts**2 * gpus > _MOST:
        raise Unsupported(
            f"the mixed-integer programme would have {(layers - 1) * experts**2 * gpus} variables, more than "
            f"{_MOST}; use --method search"
        )
    model, x = _model(problem)
    answer = solve(model, time_limit, _values(problem, model, start))
    if not answer.found:
        raise SolverError(f"the solver found no placement in {time_limit:g} s although it was given one")
    chosen = np.array(
        [[[answer.values[x[i, j, g].name] for g in range(gpus)] for j in range(experts)] for i in range(layers)]
    )
    return np.asarray(chosen.argmax(axis=2), dtype=np.int64), answer


def _model(problem: Problem) -> tuple[Any, dict[tuple[int, int, int], Any]]:
    import pulp

    model = pulp.LpProblem("placement", pulp.LpMinimize)
    layers, experts, gpus, size = problem.routing.layers, problem.routing.experts, problem.gpus, problem.size
    x = {
        (i, j, g): model.add_variable(f"x_{i}_{j}_{g}", cat=pulp.LpBinary)
        for i in range(layers)
        for j in range(experts)
        for g in range(gpus)
    }
    tail = {i: model.add_variable(f"tail_{i}", 1) for i in range(layers)}
    stay = {
        (i, a, b, g): model.add_variable(f"s_{i}_{a}_{b}_{g}", 0, 1)
        for i in range(layers - 1)
        for a in range(experts)
        for b in range(experts)
        for g in range(gpus)
    }
    moves = problem.moves
    model += (
        float(moves.sum())
        - pulp.lpSum(moves[i, a, b] * s for (i, a, b, _), s in stay.items())
        + pulp.lpSum(problem.load / layers * tail[i] for i in range(layers))
    )
    for i in range(layers):
        for j in range(experts):
            model += pulp.lpSum(x[i, j, g] for g in range(gpus)) == 1
        for g in range(gpus):
            if not problem.capacity:
                model += pulp.lpSum(x[i, j, g] for j in range(experts)) == size
            if problem.load or problem.limited:
                model += pulp.lpSum(problem.weights[i, j] * x[i, j, g] for j in range(experts)) <= tail[i]
        if np.isfinite(problem.ceiling):
            model += tail[i] <= problem.ceiling
    if np.isfinite(problem.limit):
        model += pulp.lpSum(tail.values()) <= problem.limit * layers
    for g in range(gpus if problem.capacity else 0):
        model += pulp.lpSum(x[i, j, g] for i in range(layers) for j in range(experts)) <= problem.capacity
    for i in range(layers - 1):
        _cuts(model, x, stay, i, experts, gpus, 0 if problem.capacity else size)
    for expert in range(gpus):
        for g in range(expert + 1, gpus):
            model += x[0, expert, g] == 0
    return model, x


def _cuts(
    model: Any, x: Mapping[Any, Any], stay: Mapping[Any, Any], layer: int, experts: int, gpus: int, size: int
) -> None:
    """Tie the stays after one layer to the placements on both sides, with the cardinality cuts for GPUs of `size`."""
    import pulp

    for g in range(gpus):
        for a in range(experts):
            if size:
                model += pulp.lpSum(stay[layer, a, b, g] for b in range(experts)) == size * x[layer, a, g]
                model += pulp.lpSum(stay[layer, b, a, g] for b in range(experts)) == size * x[layer + 1, a, g]
            for b in range(experts):
                model += stay[layer, a, b, g] <= x[layer, a, g]
                model += stay[layer, a, b, g] <= x[layer + 1, b, g]


def _values(problem: Problem, model: Any, placed: Whole) -> dict[str, float]:
    """The variables at a placement, GPUs renamed in the order in which the first layer meets them."""
    seen: list[int] = list(dict.fromkeys(placed[0].tolist()))
    seen += [g for g in range(problem.gpus) if g not in seen]
    names = np.argsort(np.array(seen))
    row = names[placed]
    layers, experts = row.shape
    values = {
        f"x_{i}_{j}_{g}": float(row[i, j] == g)
        for i in range(layers)
        for j in range(experts)
        for g in range(problem.gpus)
    }
    values |= {
        f"s_{i}_{a}_{b}_{g}": float(row[i, a] == g == row[i + 1, b])
        for i in range(layers - 1)
        for a in range(experts)
        for b in range(experts)
        for g in range(problem.gpus)
    }
    balance = [np.bincount(row[i], problem.weights[i], problem.gpus).max() for i in range(layers)]
    values |= {f"tail_{i}": max(1.0, float(most)) for i, most in enumerate(balance)}
    known = {variable.name for variable in model.variables()}
    return {name: value for name, value in values.items() if name in known}
