"""Improving one layer while its neighbours stand still: transportation for traffic, swaps where the balance counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from perfplan.placement.bounds import load_bound
from perfplan.placement.routing import Array, Whole
from perfplan.placement.score import Problem, rho, summed

__all__ = ["Layer", "improve_layer", "linear_costs", "swapped_balance", "sweep", "transport"]

_BEYOND = 1e3  # cost of each unit of balance beyond the limit
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Layer:
    """Balance of one layer. weights: loads over the mean load of a GPU; tail: cost of a unit of balance; limit: balance
    that is allowed."""

    weights: Array
    gpus: int
    tail: float
    limit: float

    def cost(self, balance: Array) -> Array:
        """What a balance costs."""
        over = np.maximum(balance - self.limit, 0.0) if np.isfinite(self.limit) else 0.0
        return np.asarray(self.tail * balance + _BEYOND * over, dtype=float)

    def swap(self, linear: Array, placed: Whole) -> Whole:
        """Swap pairs of experts, the best pair each time, until none lowers linear costs [expert, GPU] and balance."""
        placed, everyone = placed.copy(), np.arange(len(placed))
        loads = np.bincount(placed, self.weights, self.gpus).astype(float)
        for _ in range(20 * len(placed)):
            moved = linear[:, placed] - linear[everyone, placed][:, None]
            change = moved + moved.T + self.cost(swapped_balance(self, placed, loads)) - self.cost(loads.max())
            change[placed[:, None] == placed[None, :]] = 0.0
            pairs = _apart(change, placed)
            if not pairs:
                break
            for chosen in (pairs, pairs[:1]):  # all of them at once if that is worth the sum of them, else the best
                tried = placed.copy()
                for one, other in chosen:
                    tried[[one, other]] = placed[[other, one]]
                after = np.bincount(tried, self.weights, self.gpus).astype(float)
                if self._gain(linear, placed, tried, loads, after) > _LEAST:
                    break
            placed, loads = tried, after
        return placed

    def _gain(self, linear: Array, placed: Whole, tried: Whole, loads: Array, after: Array) -> float:
        """What a changed layer saves."""
        everyone = np.arange(len(placed))
        moved = linear[everyone, placed].sum() - linear[everyone, tried].sum()
        return float(moved + self.cost(loads.max()) - self.cost(after.max()))


def swapped_balance(layer: Layer, placed: Whole, loads: Array) -> Array:
    """Largest load of a GPU after each swap [expert, expert]."""
    gained = layer.weights[None, :] - layer.weights[:, None]  # what the GPU of the row's expert gains
    after = loads[placed][:, None] + gained
    return np.maximum(np.maximum(after, after.T), _largest_of_others(loads)[placed[:, None], placed[None, :]])


def _apart(change: Array, placed: Whole) -> list[tuple[int, int]]:
    """Swaps that lower the cost, best first, no two of them on one GPU; a few of the many that there may be."""
    partner = change.argmin(axis=1)
    least = change[np.arange(len(change)), partner]
    taken: set[int] = set()
    found = []
    for one in np.argsort(least, kind="stable"):
        other = partner[one]
        gpus = {int(placed[one]), int(placed[other])}
        if least[one] > -_LEAST:
            break
        if not gpus & taken:
            taken |= gpus
            found.append((int(one), int(other)))
    return found


def _largest_of_others(loads: Array) -> Array:
    """Largest load [GPU, GPU] beside two GPUs."""
    order = np.argsort(-loads)[:3]
    gpu = np.arange(len(loads))
    result = np.full((len(loads), len(loads)), -np.inf)
    for candidate in order[::-1]:
        free = (gpu[:, None] != candidate) & (gpu[None, :] != candidate)
        result[free] = loads[candidate]
    return result


def linear_costs(problem: Problem, placed: Whole, layer: int) -> Array:
    """Cost of each expert of a layer on each GPU, its neighbours standing still."""
    cost = np.zeros((problem.routing.experts, problem.gpus))
    if layer > 0:
        cost += summed(problem.moves[layer - 1], placed[layer - 1], problem.gpus).T @ problem.hops
    if layer + 1 < len(placed):
        cost += summed(problem.moves[layer].T, placed[layer + 1], problem.gpus).T @ problem.hops
    return cost


def _room(problem: Problem, placed: Whole, layer: int) -> float:
    """Balance that a layer may have: its ceiling, or what the other layers leave of the mean."""
    if not np.isfinite(problem.limit):
        return problem.ceiling
    balance = rho(problem.weights, placed, problem.gpus)
    left = problem.limit * len(placed) - balance.sum() + balance[layer]
    return min(problem.ceiling, max(float(left), load_bound(problem.weights[layer], problem.gpus)))


def transport(cost: Array, size: int) -> Whole:
    """The cheapest GPU of each expert from costs [expert, GPU], `size` experts on each."""
    from scipy.optimize import linear_sum_assignment

    _, column = linear_sum_assignment(np.repeat(cost, size, axis=1))
    return np.asarray(column // size, dtype=np.int64)


def improve_layer(problem: Problem, placed: Whole, layer: int) -> bool:
    """Replace one layer of the placement by a better one if there is one near by; tells whether it did."""
    linear, row = linear_costs(problem, placed, layer), placed[layer]
    everyone = np.arange(len(row))
    own = Layer(problem.weights[layer], problem.gpus, problem.load / len(placed), _room(problem, placed, layer))

    def cost(candidate: Whole) -> float:
        balance = np.bincount(candidate, own.weights, own.gpus).max()
        return float(linear[everyone, candidate].sum() + own.cost(balance))

    if problem.capacity:
        better = _with_room(problem, placed, layer, own, linear)
    elif problem.load == 0 and not problem.limited:
        better = transport(linear, problem.size)
    else:
        better = own.swap(linear, row)
    if cost(better) >= cost(row) - _LEAST:
        return False
    placed[layer] = better
    return True


def _with_room(problem: Problem, placed: Whole, layer: int, own: Layer, linear: Array) -> Whole:
    """The layer improved by swaps, where places that are free on a GPU, a layer's even share at most, swap too."""
    free = np.minimum(problem.capacity - problem.held(placed), problem.size)
    room = np.repeat(np.arange(problem.gpus), np.maximum(free, 0))
    roomy = replace(own, weights=np.append(own.weights, np.zeros(len(room))))
    costs = np.vstack([linear, np.zeros((len(room), problem.gpus))])
    return roomy.swap(costs, np.append(placed[layer], room))[: len(linear)]


def sweep(problem: Problem, placed: Whole, layers: set[int], end: float = np.inf) -> None:
    """Improve the layers named, and neighbours of those that change, until all stand still or it is `end`."""
    waiting = set(layers)
    while waiting:
        for layer in sorted(waiting):
            waiting.discard(layer)
            if time.monotonic() > end:
                return
            if improve_layer(problem, placed, layer):
                waiting |= {n for n in (layer - 1, layer + 1) if 0 <= n < len(placed)}
