"""The objective of time: the placement with the quickest step.

With dispatch and combine in every layer a step is a sum over layers, so each takes its quickest placement by itself:
of all, where there are few ways to split its experts over the GPUs, else of those that balance rows, balance experts
touched, or bring together what is picked together. ExFlow's coherent exchange ties layers to each other: there whole
placements are compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from perfplan.optimize.certificate import Certificate
from perfplan.placement.baselines import eplb_pack
from perfplan.placement.bounds import stay_bound
from perfplan.placement.dispatch import gathered, pick_sets, reached_sets
from perfplan.placement.exact import STATES, splits, states
from perfplan.placement.place import Placed, place
from perfplan.placement.routing import Array, Whole, from_loads
from perfplan.placement.score import Problem
from perfplan.placement.step import EXCHANGES, Step

__all__ = ["quickest"]

_BOUND = 0.2  # of the time limit for the bound of coherent exchange
_STEPS = 60  # of the bound of each layer
_CELLS = 2e9  # sets of picks times splits times GPUs, up to which all splits are priced
_PRICES = (0.3, 1.0, 3.0)  # of balance, in pairs that are parted


def quickest(
    step: Step,
    problem: Problem,
    exchange: str = EXCHANGES[0],
    method: str = "auto",
    rounds: int | None = None,
    time_limit: float = 60.0,
) -> Placed:
    """The placement with the quickest step found in `time_limit` seconds, and the time below which none comes."""

    def seconds(placed: Whole) -> float:
        return step.time(problem.routing, placed, exchange, problem.per_node).step

    if exchange != EXCHANGES[0]:
        found = list(_candidates(step, problem, method, rounds, (1 - _BOUND) * time_limit, True))
        found = [one for one in found if np.isfinite(problem.objective(one))]
        best = min(found, key=seconds)
        words = f"the quickest step of {len(found)} placements for rows, experts touched and traffic"
        bound = -np.inf if problem.capacity else step.least(problem.routing, _crossing(problem, _BOUND * time_limit))
        by = "packing each layer at its bound, transportation and singular values"
        return Placed(best, problem.score(best), Certificate(seconds(best), bound, words, by, unit="s"))
    if method in ("auto", "exact") and _few(step, problem):
        best, count = _enumerated(step, problem)
        words = f"trying all {count} splits of each layer"
        return Placed(best, problem.score(best), Certificate(seconds(best), seconds(best), words, unit="s"))
    found = list(_candidates(step, problem, method, rounds, time_limit, False))
    found = [one for one in found if np.isfinite(problem.objective(one))]
    whole = np.isfinite(problem.limit) or problem.capacity
    best = min(found, key=seconds) if whole else _mixed(step, problem, found)
    words = f"the quickest of {len(found)} placements" + " for each layer" * (not whole)
    bound = -np.inf if problem.capacity else step.least(problem.routing)
    by = "packing each layer at its bound"
    return Placed(best, problem.score(best), Certificate(seconds(best), bound, words, by, "s"))


def _crossing(problem: Problem, seconds: float) -> Array:
    """Share of tokens that leave their GPU after each layer, at least."""
    tables = problem.routing.transitions
    assert tables is not None
    found, end = [], time.monotonic() + seconds
    for layer, table in enumerate(tables):
        now = time.monotonic()
        until = now + max(end - now, 0.0) / (len(tables) - layer)
        found.append(1 - stay_bound(table / table.sum(), problem.gpus, 0.0, _STEPS, until))
    return np.asarray(np.maximum(found, 0.0), dtype=float)


def _candidates(
    step: Step, problem: Problem, method: str, rounds: int | None, time_limit: float, coherent: bool
) -> Iterator[Whole]:
    """Placements that may be quick: for balance of rows and of experts touched, for traffic where layers are tied, for
    copies where these count."""
    yield problem.contiguous()
    yield eplb_pack(problem)
    problems, end = [replace(problem, traffic=0.0, load=1.0)], time.monotonic() + time_limit
    touched = step.met(problem.routing.shares)
    if touched.min() < 0.999:
        even = from_loads(touched / touched.sum(axis=1, keepdims=True), problem.routing.source)
        problems.append(replace(problem, routing=even, traffic=0.0, load=1.0))
    if coherent:
        problems += [replace(problem, traffic=1.0, load=weight) for weight in (0.0, 0.25, 1.0, 4.0)]
    prices = _PRICES if step.counts(problem.routing) else ()
    for done, one in enumerate(problems):
        left = (end - time.monotonic()) / (len(problems) + len(prices) - done)
        yield place(one, method, rounds, max(left, 0.01 * time_limit), bounded=False).placed
    for done, price in enumerate(prices):
        now = time.monotonic()
        yield gathered(problem, price, now + (end - now) / (len(prices) - done))


def _mixed(step: Step, problem: Problem, found: list[Whole]) -> Whole:
    """Of each layer the quickest placement."""
    routing = problem.routing
    loads = routing.shares
    times = []
    for placed in found:
        tail = problem.score(placed).layers
        each = step.layer_times(loads, placed, *step.copies(routing, placed, tail)).sum(axis=0)
        times.append(each)
    chosen = np.argmin(times, axis=0)
    return np.stack([found[which][layer] for layer, which in enumerate(chosen)])


def _few(step: Step, problem: Problem) -> bool:
    """Whether all splits of all layers can be priced."""
    count = states(problem, chained=False)
    if count > STATES or problem.limited:
        return False
    trace = problem.routing.trace
    sets = len(trace) if trace is not None and step.counts(problem.routing) else 1
    return count * sets * step.gpus * problem.routing.layers <= _CELLS


def _enumerated(step: Step, problem: Problem) -> tuple[Whole, int]:
    """(the quickest split of each layer, how many there are)."""
    routing, every = problem.routing, splits(problem)
    loads = routing.shares
    rows = []
    for layer in range(routing.layers):
        near, far = _copies(step, problem, layer, every)
        times = step.layer_times(np.tile(loads[layer], (len(every), 1)), every, near, far).sum(axis=0)
        rows.append(every[int(times.argmin())])
    return np.stack(rows), len(every)


def _copies(step: Step, problem: Problem, layer: int, every: Whole) -> tuple[Array | None, Array | None]:
    """(near, far) copies of one layer for all its splits; None where they are not counted."""
    trace = problem.routing.trace
    if trace is None or not step.counts(problem.routing):
        return None, None
    sets, counts = pick_sets(trace[:, layer])
    near = reached_sets(sets, counts, every, step.gpus).max(axis=1) * step.gpus
    if step.nodes == 1:
        return near, np.ones_like(near)
    far = reached_sets(sets, counts, every * step.nodes // step.gpus, step.nodes).max(axis=1) * step.nodes
    return near, far
