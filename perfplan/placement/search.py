"""Placements for many experts: many starts, descent layer by layer, small kicks, the best layers recombined."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from perfplan.placement.baselines import eplb_pack, greedy_chain, named, two_stage
from perfplan.placement.descent import Layer, sweep
from perfplan.placement.routing import Array, Whole
from perfplan.placement.score import Problem

__all__ = ["Found", "search"]

_POOL = 12
_SEED = 5
_MANY = 128  # experts from which on the best start alone is improved


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ends with. rounds: kicks made, of `planned`; fewer mean that the time limit stopped it."""

    placed: Whole
    rounds: int
    planned: int


def _align(problem: Problem, placed: Whole) -> Whole:
    """The same groups with GPUs renamed from each layer on, so that most tokens stay; balance does not change."""
    return named(problem, placed)


def _starts(problem: Problem, draws: np.random.Generator) -> Iterable[Whole]:
    if not problem.moves.any():
        yield from (problem.contiguous(), two_stage(problem))
        return
    yield from (two_stage(problem), greedy_chain(problem), eplb_pack(problem))
    if problem.capacity:
        yield from (_stages(problem), _packed_within(problem))
    if problem.routing.experts >= _MANY:
        return
    yield problem.contiguous()
    for _ in range(4):
        yield greedy_chain(problem, draws.permutation(problem.contiguous()[0]))


def _stages(problem: Problem) -> Whole:
    """Neighbouring layers on one GPU, as far as it holds them."""
    layers, experts = problem.routing.layers, problem.routing.experts
    return (np.arange(layers * experts) * problem.gpus // (layers * experts)).reshape(layers, experts)


def _packed_within(problem: Problem) -> Whole:
    """Heaviest first, each expert to the GPU with the least load of its layer that has room left."""
    placed = np.zeros_like(problem.contiguous())
    loads, held = np.zeros((len(placed), problem.gpus)), np.zeros(problem.gpus)
    for item in np.argsort(-problem.weights, axis=None, kind="stable"):
        layer, expert = divmod(int(item), placed.shape[1])
        gpu = int(np.where(held < problem.capacity, loads[layer], np.inf).argmin())
        placed[layer, expert] = gpu
        loads[layer, gpu] += problem.weights[layer, expert]
        held[gpu] += 1
    return placed


def _trade(problem: Problem, placed: Whole, draws: np.random.Generator) -> tuple[Whole, set[int]]:
    """A copy in which two experts of two layers, on two GPUs, have changed places: GPUs hold as many as before."""
    traded = placed.copy()
    one, other = (int(draws.integers(placed.size)) for _ in range(2))
    flat = traded.reshape(-1)
    flat[[one, other]] = flat[[other, one]]
    layers = {one // placed.shape[1], other // placed.shape[1]}
    return traded, {n for layer in layers for n in (layer - 1, layer, layer + 1) if 0 <= n < len(placed)}


def _feasible(problem: Problem, placed: Whole) -> Whole:
    """The placement itself if its balance is within the limits, else one that is packed for balance."""
    if np.isfinite(problem.objective(placed)):
        return placed
    packed, free = two_stage(problem), np.zeros((problem.routing.experts, problem.gpus))
    for layer, weights in enumerate(problem.weights):
        own = Layer(weights, problem.gpus, 0.0, problem.ceiling)
        placed[layer] = own.swap(free, placed[layer]) if np.isfinite(problem.ceiling) else placed[layer]
    return placed if np.isfinite(problem.objective(placed)) else packed


def _kick(problem: Problem, placed: Whole, draws: np.random.Generator) -> tuple[Whole, set[int]]:
    """A copy with some experts of one to three neighbouring layers swapped at random."""
    kicked = placed.copy()
    first, width = int(draws.integers(len(placed))), int(draws.integers(1, 4))
    layers = range(first, min(first + width, len(placed)))
    count = int(draws.integers(2, max(3, problem.routing.experts // 8) + 1))
    for layer in layers:
        chosen = draws.choice(problem.routing.experts, size=min(2 * count, problem.routing.experts), replace=False)
        kicked[layer, chosen] = kicked[layer, np.roll(chosen, 1)]
    return kicked, {layer for layer in range(first - 1, first + width + 1) if 0 <= layer < len(placed)}


def _recombine(problem: Problem, pool: list[Whole], price: float) -> Whole:
    """The best mix of the pool's layers: the cheapest path through them, GPUs renamed on every step (flat networks).

    price: of a unit of mean balance.
    """
    from scipy.optimize import linear_sum_assignment

    rows = [np.unique(np.stack([placed[layer] for placed in pool]), axis=0) for layer in range(len(pool[0]))]
    one = np.eye(problem.gpus)
    tails = [
        np.array(
            [
                Layer(problem.weights[i], problem.gpus, price / problem.routing.layers, problem.ceiling).cost(
                    np.bincount(row, problem.weights[i], problem.gpus).max()
                )
                for row in options
            ]
        )
        for i, options in enumerate(rows)
    ]
    cost: Array = tails[0]
    back: list[Whole] = []
    for layer, moves in enumerate(problem.moves):
        table = np.empty((len(rows[layer]), len(rows[layer + 1])))
        for a, here in enumerate(rows[layer]):
            seen = one[here].T @ moves
            for b, there in enumerate(rows[layer + 1]):
                stay = seen @ one[there]
                table[a, b] = moves.sum() - stay[linear_sum_assignment(stay, maximize=True)].sum()
        total = cost[:, None] + table
        back.append(total.argmin(axis=0))
        cost = total.min(axis=0) + tails[layer + 1]
    path = [int(cost.argmin())]
    for origin in reversed(back):
        path.append(int(origin[path[-1]]))
    return _align(problem, np.stack([options[i] for options, i in zip(rows, reversed(path), strict=True)]))


def search(problem: Problem, rounds: int, time_limit: float, extra: Iterable[Whole] = ()) -> Found:
    """The best placement that some starts, `rounds` kicks and two recombinations find within `time_limit` seconds.

    extra: placements to start from too. The result is never worse than EPLB's, two-stage's, the greedy one or `extra`.
    """
    end, draws = time.monotonic() + time_limit, np.random.default_rng(_SEED)
    pool: list[tuple[float, Whole]] = []
    for start in (*extra, *_starts(problem, draws)):
        placed = _feasible(problem, start.copy())
        pool.append((problem.objective(placed), placed))
    pool.sort(key=lambda one: one[0])
    for _, start in pool[:1] if problem.routing.experts >= _MANY else pool.copy():
        placed = start.copy()
        sweep(problem, placed, set(range(len(placed))), end)
        pool.append((problem.objective(placed), placed))
    pool.sort(key=lambda one: one[0])
    done = 0
    for phase in range(2):
        done += _kicks(problem, pool, rounds // 2, end, draws)
        if problem.flat and problem.moves.any() and not np.isfinite(problem.limit) and time.monotonic() < end:
            mixed = _recombine(problem, [placed for _, placed in pool[:_POOL]], problem.load)
            if phase == 0:
                sweep(problem, mixed, set(range(len(mixed))), end)
            pool.append((problem.objective(mixed), mixed))
            pool.sort(key=lambda one: one[0])
    return Found(pool[0][1], done, rounds // 2 * 2)


def _kicks(
    problem: Problem, pool: list[tuple[float, Whole]], rounds: int, end: float, draws: np.random.Generator
) -> int:
    """Kick the best placements in turn, keeping what is better; changes the pool, tells how many kicks there were."""
    leaders = pool[:3]
    for turn in range(rounds):
        if time.monotonic() > end:
            return turn
        which = turn % len(leaders) if turn < rounds // 2 else 0
        cost, placed = leaders[which]
        kick = _trade if problem.capacity and turn % 2 else _kick
        kicked, layers = kick(problem, placed, draws)
        sweep(problem, kicked, layers, end)
        if (new := problem.objective(kicked)) < cost:
            leaders[which] = (new, kicked)
        if turn == rounds // 2:
            leaders.sort(key=lambda one: one[0])
    pool[: len(leaders)] = sorted(leaders, key=lambda one: one[0])
    return rounds
