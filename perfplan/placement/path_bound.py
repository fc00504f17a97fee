"""A bound from paths: what the experts of one GPU can keep, layer by layer, at prices for taking each of them.

A placement is G paths, each a subset of k experts in every layer, which take every expert once. Give up that they take
each once, but charge a price for every expert: then all G are the best path, found by dynamic programming over the
subsets, and prices plus G times its value is an upper bound of the transitions that stay, for any prices (the
Lagrangian of Dantzig and Wolfe's columns). Prices start from what a placement keeps and follow subgradients.
"""

from __future__ import annotations

import time
from itertools import combinations
from math import comb

import numpy as np

from perfplan.placement.routing import Array, Whole

__all__ = ["SUBSETS", "kept_by_paths", "start_prices"]

SUBSETS = 2100  # of k experts, up to which paths are tried
_WORK = 8e9  # pairs of subsets that are compared, over layers and steps: some seconds
_STEPS = 1000
_PATIENCE = 15  # steps without a better bound until they get shorter
_ROUNDING = 1e-7  # of single precision, for each layer of a path


def subsets(experts: int, size: int) -> Array:
    """All subsets of `size` experts as 0 and 1 [subset, expert]; none where they are too many."""
    if comb(experts, size) > SUBSETS:
        return np.zeros((0, experts))
    chosen = np.array(list(combinations(range(experts), size)))
    hot = np.zeros((len(chosen), experts))
    hot[np.arange(len(chosen))[:, None], chosen] = 1.0
    return hot


def start_prices(moves: Array, groups: Whole) -> Array:
    """Prices [layer, expert] at which the groups [layer, expert] of a placement pay exactly what they keep."""
    prices = np.zeros(groups.shape)
    for layer, table in enumerate(moves):
        kept = table * (groups[layer][:, None] == groups[layer + 1][None, :])
        prices[layer] += kept.sum(axis=1) / 2
        prices[layer + 1] += kept.sum(axis=0) / 2
    return prices


def kept_by_paths(
    moves: Array, groups: Whole, count: int, weights: Array, ceiling: float = np.inf, end: float = np.inf
) -> float:
    """Upper bound on the transitions that stay inside `count` equal groups of experts, over all layers; inf if unknown.

    moves: [layer, expert, expert]; groups: of some placement [layer, expert], which the steps aim at; weights: loads
    [layer, expert], of which a group holds `ceiling` at most; end: time (`time.monotonic`) at which the steps stop.
    """
    layers, experts = groups.shape
    hot = subsets(experts, experts // count)
    if not len(hot) or layers < 2:
        return np.inf
    barred = np.where(hot @ weights.T > ceiling * (1 + 1e-9), -np.inf, 0.0) if np.isfinite(ceiling) else None
    prices = start_prices(moves, groups)
    reached, best, found = float(prices.sum()), np.inf, prices
    scale, stalled = 1.0, 0
    for _ in range(min(_STEPS, max(30, int(_WORK / (layers * len(hot) ** 2))))):
        value, path = _best_path(moves, prices, hot, barred)
        bound = float(prices.sum()) + count * value
        stalled = 0 if bound < best - 1e-7 else stalled + 1
        if bound < best:
            best, found = bound, prices
        if time.monotonic() > end or best <= reached * (1 + 1e-6):
            break
        if stalled > _PATIENCE:
            scale, stalled, prices, bound = 0.7 * scale, 0, found, best
        slope = 1 - count * hot[path]
        prices = prices - scale * (bound - reached) / (slope**2).sum() * slope
    return float(best + count * layers * _ROUNDING)


def _best_path(moves: Array, prices: Array, hot: Array, barred: Array | None) -> tuple[float, list[int]]:
    """(value of the best path at the prices, its subset in each layer)."""
    near = hot.astype(np.float32)
    costs = -(hot @ prices.T) if barred is None else barred - hot @ prices.T
    value, back = costs[:, 0], []
    for layer, table in enumerate(moves):
        ahead = np.hstack([near @ table.astype(np.float32), value[:, None].astype(np.float32)])
        gain = np.hstack([near, np.ones((len(near), 1), dtype=np.float32)]) @ ahead.T  # [subset there, subset here]
        back.append(gain.argmax(axis=1))
        value = gain[np.arange(len(gain)), back[-1]].astype(float) + costs[:, layer + 1]
    path = [int(value.argmax())]
    for origin in reversed(back):
        path.append(int(origin[path[-1]]))
    return float(value.max()), path[::-1]
