"""What a dispatch sends: a token goes once to each GPU, and over the network once to each node, that hold its experts.

Experts that are picked together belong together: placing them on one GPU, or one node, saves copies. Which ones are is
read off a trace, layer by layer; layers do not matter to each other here. Group-limited routing shows in the trace, as
its tokens reach few groups of experts.
"""

from __future__ import annotations

import time

import numpy as np

from perfplan.placement.baselines import balanced_packing
from perfplan.placement.descent import Layer, swapped_balance
from perfplan.placement.routing import Array, Whole
from perfplan.placement.score import Problem, summed

__all__ = ["gathered", "pick_sets", "reached", "reached_sets", "together"]


def reached(trace: Whole, placed: Whole, groups: int) -> Array:
    """Share of tokens that reach each group [layer, group]; trace: [token, layer, pick]; placed: [layer, expert]."""
    found = np.empty((len(placed), groups))
    for layer, row in enumerate(placed):
        found[layer] = reached_sets(trace[:, layer], np.ones(len(trace)), row[None, :], groups)[0]
    return found


def pick_sets(picks: Whole) -> tuple[Whole, Array]:
    """(sets of experts [set, pick] that tokens pick, how many tokens do) from picks [token, pick]."""
    sets, counts = np.unique(np.sort(picks, axis=1), axis=0, return_counts=True)
    return sets, counts.astype(float)


def reached_sets(sets: Whole, counts: Array, placed: Whole, groups: int) -> Array:
    """Share of tokens that reach each group [placement, group], for placements [placement, expert] of one layer."""
    found = np.empty((len(placed), groups))
    everyone = np.arange(len(sets))[:, None]
    for index, row in enumerate(placed):
        hit = np.zeros((len(sets), groups), dtype=bool)
        hit[everyone, row[sets]] = True
        found[index] = counts @ hit
    return np.asarray(found / counts.sum(), dtype=float)


def together(picks: Whole, experts: int) -> Array:
    """Share of tokens that pick both of two experts [expert, expert], from picks [token, pick]; none with itself."""
    codes = (picks[:, :, None] * experts + picks[:, None, :]).ravel()
    table = np.bincount(codes, minlength=experts * experts).reshape(experts, experts) / len(picks)
    np.fill_diagonal(table, 0.0)
    return np.asarray(table, dtype=float)


def gathered(problem: Problem, price: float, end: float = np.inf) -> Whole:
    """Experts that are picked together on one GPU, else on one node; price: of a unit of balance, in pairs parted.

    Each layer from its packing by swaps, the best each time, until none is left or it is `end` (`time.monotonic`).
    """
    trace = problem.routing.trace
    assert trace is not None
    rows = []
    for layer, weights in enumerate(problem.weights):
        row = balanced_packing(weights, problem.gpus)[0]
        pairs = together(trace[:, layer], problem.routing.experts)
        rows.append(_gather(pairs, problem.hops, Layer(weights, problem.gpus, price, problem.ceiling), row, end))
    return np.stack(rows)


def _gather(pairs: Array, hops: Array, layer: Layer, placed: Whole, end: float) -> Whole:
    placed, everyone = placed.copy(), np.arange(len(placed))
    for _ in range(4 * len(placed)):
        if time.monotonic() > end:
            break
        linear = summed(pairs, placed, layer.gpus).T @ hops
        moved = linear[:, placed] - linear[everyone, placed][:, None]
        change = moved + moved.T + 2 * pairs * hops[placed[:, None], placed[None, :]]
        loads = np.bincount(placed, layer.weights, layer.gpus).astype(float)
        change += layer.cost(swapped_balance(layer, placed, loads)) - layer.cost(loads.max())
        change[placed[:, None] == placed[None, :]] = 0.0
        one, other = np.unravel_index(change.argmin(), change.shape)
        if change[one, other] > -1e-12:
            break
        placed[[one, other]] = placed[[other, one]]
    return placed
