"""Replicas as mixed-integer programmes: for few experts, the best plan there is, or a bound beside the one found.

Equal split: u[e, c] = 1 if expert e has c replicas, n[e, c, g] of them on GPU g; a GPU's load is the sum of load / c
over its replicas. Unequal split: y[e, g] = 1 if expert e has a slot on GPU g, which takes f[e, g] of its load. By node:
a group of experts lives on one node, z[group, node] = 1. GPUs that are alike are numbered by their load.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perfplan.errors import Unsupported
from perfplan.optimize.milp import solve
from perfplan.placement.replicate import Plan, max_loads, shared
from perfplan.placement.routing import Array, Whole

__all__ = ["certified", "solved_layer"]

_MOST = 6000  # variables of a layer


def certified(plan: Plan, loads: Array, gpus: int, end: float) -> Plan:
    """The plan, each layer bettered by the solver or bounded, until `end` (`time.monotonic`), shared by the layers."""
    slots, shares, proven, least = plan.slots.copy(), plan.shares.copy(), plan.proven.copy(), plan.least.copy()
    for layer, row in enumerate(loads):
        left = (end - time.monotonic()) / (len(loads) - layer)
        if proven[layer] or left <= 0:
            continue
        start = slots[layer], shares[layer]
        (slots[layer], shares[layer]), least[layer], done = solved_layer(
            row, start, gpus, plan.even, left, plan.nodes, plan.groups
        )
        proven[layer] = float(done)
        least[layer] = max(least[layer], plan.least[layer])
    return replace(plan, slots=slots, shares=shares, proven=proven, least=least, by="HiGHS' dual bound")


def solved_layer(
    loads: Array,
    start: tuple[Whole, Array],
    gpus: int,
    even: bool,
    time_limit: float,
    nodes: int = 1,
    groups: int = 1,
) -> tuple[tuple[Whole, Array], float, bool]:
    """((experts by slot, shares), load below which no GPU can be the fullest, whether that is proven optimal)."""
    size, scale = len(start[0]) // gpus, float(loads.sum()) / gpus
    most = len(start[0]) - len(loads) + 1
    if len(loads) * gpus * (most if even else 2) > _MOST:
        raise Unsupported(
            f"the mixed-integer programme of a layer would have {len(loads) * gpus * (most if even else 2)} variables, "
            f"more than {_MOST}; leave out --certify"
        )
    build = _even if even else _uneven
    model, where = build(loads / scale, size, gpus, most, nodes, groups)
    answer = solve(model, time_limit, _start(where, start, loads, gpus) if nodes == 1 else None)
    bound = max(answer.bound, 1.0) * scale
    if not answer.found:
        return start, bound, False
    table = _table(where, answer.values, gpus, size)
    if even:
        shares = 1.0 / np.bincount(table, minlength=len(loads))[table]
    else:
        table, shares = shared(loads, table, gpus)
    best = min((start, (table, shares)), key=lambda one: max_loads(loads, one[0], one[1], gpus))
    reached = max_loads(loads, best[0], best[1], gpus)
    return best, min(bound, reached), answer.status == "optimal"


def _model(name: str) -> tuple[Any, Any]:
    import pulp

    model = pulp.LpProblem(name, pulp.LpMinimize)
    fullest = model.add_variable("fullest", 1)
    model += fullest
    return model, fullest


def _even(
    loads: Array, size: int, gpus: int, most: int, nodes: int, groups: int
) -> tuple[Any, Mapping[Any, Any]]:
    import pulp

    model, fullest = _model("equal_split")
    counts, experts = range(1, most + 1), range(len(loads))
    u = {(e, c): model.add_variable(f"u_{e}_{c}", cat=pulp.LpBinary) for e in experts for c in counts}
    n = {
        (e, c, g): model.add_variable(f"n_{e}_{c}_{g}", 0, min(c, size), cat=pulp.LpInteger)
        for e, c in u
        for g in range(gpus)
    }
    for e in experts:
        model += pulp.lpSum(u[e, c] for c in counts) == 1
        for c in counts:
            model += pulp.lpSum(n[e, c, g] for g in range(gpus)) == c * u[e, c]
    for g in range(gpus):
        model += pulp.lpSum(n[e, c, g] for e, c in u) == size
    weights = [pulp.lpSum(float(loads[e]) / c * n[e, c, g] for e, c in u) for g in range(gpus)]
    _ordered(model, fullest, weights, nodes)
    own = {(e, g): pulp.lpSum(n[e, c, g] for c in counts) for e in experts for g in range(gpus)}
    _at_home(model, own, len(loads), gpus, nodes, groups, size)
    return model, n


def _uneven(
    loads: Array, size: int, gpus: int, most: int, nodes: int, groups: int
) -> tuple[Any, Mapping[Any, Any]]:
    import pulp

    model, fullest = _model("unequal_split")
    pairs = [(e, g) for e in range(len(loads)) for g in range(gpus)]
    y = {(e, g): model.add_variable(f"y_{e}_{g}", cat=pulp.LpBinary) for e, g in pairs}
    f = {(e, g): model.add_variable(f"f_{e}_{g}", 0) for e, g in pairs}
    for e in range(len(loads)):
        model += pulp.lpSum(f[e, g] for g in range(gpus)) == float(loads[e])
        model += pulp.lpSum(y[e, g] for g in range(gpus)) >= 1
        for g in range(gpus):
            model += f[e, g] <= float(loads[e]) * y[e, g]
    for g in range(gpus):
        model += pulp.lpSum(y[e, g] for e in range(len(loads))) <= size
    weights = [pulp.lpSum(f[e, g] for e in range(len(loads))) for g in range(gpus)]
    _ordered(model, fullest, weights, nodes)
    _at_home(model, y, len(loads), gpus, nodes, groups, 1)
    return model, y


def _ordered(model: Any, fullest: Any, weights: list[Any], nodes: int) -> None:
    """Loads of GPUs below the fullest, and falling among the GPUs of a node, which are alike."""
    per_node = len(weights) // nodes
    for g, weight in enumerate(weights):
        model += weight <= fullest
        if (g + 1) % per_node:
            model += weight >= weights[g + 1]


def _at_home(
    model: Any, own: Mapping[tuple[int, int], Any], experts: int, gpus: int, nodes: int, groups: int, most: int
) -> None:
    """Groups of neighbouring experts live on one node each, as many on every node. own: slots of (expert, GPU)."""
    import pulp

    if nodes == 1:
        return
    home = {
        (group, node): model.add_variable(f"z_{group}_{node}", cat=pulp.LpBinary)
        for group in range(groups)
        for node in range(nodes)
    }
    for group in range(groups):
        model += pulp.lpSum(home[group, node] for node in range(nodes)) == 1
    for node in range(nodes):
        model += pulp.lpSum(home[group, node] for group in range(groups)) == groups // nodes
    for (e, g), slots in own.items():
        model += slots <= most * home[e * groups // experts, g * nodes // gpus]


def _start(where: Mapping[Any, Any], start: tuple[Whole, Array], loads: Array, gpus: int) -> dict[str, float]:
    """The whole variables at a plan, its GPUs numbered by their load."""
    order = np.argsort(-(loads[start[0]] * start[1]).reshape(gpus, -1).sum(axis=1), kind="stable")
    table = start[0].reshape(gpus, -1)[order]
    counts = np.bincount(start[0])
    names = {variable.name: 0.0 for variable in where.values()}
    for g, row in enumerate(table):
        for e in row.tolist():
            key = (e, int(counts[e]), g) if (e, int(counts[e]), g) in where else (e, g)
            names[where[key].name] = names[where[key].name] + 1 if len(key) == 3 else 1.0
    return names


def _table(where: Mapping[Any, Any], values: Mapping[str, float], gpus: int, size: int) -> Whole:
    """Experts by slot; slots that an unequal split leaves over repeat the first expert of their GPU."""
    held: list[list[int]] = [[] for _ in range(gpus)]
    for key, variable in where.items():
        held[key[-1]] += [key[0]] * round(values[variable.name])
    return np.array([(row + [row[0] if row else 0] * size)[:size] for row in held]).ravel()
