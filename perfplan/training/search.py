"""The search: every layout of the declared space, divisibility first, then memory, then time for what is left."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import numpy as np

from perfplan.training.estimate import layer_sequence, pieces
from perfplan.training.job import Job
from perfplan.training.layers import Cost
from perfplan.training.layout import Layout
from perfplan.training.network import Network
from perfplan.training.ops import Shape, unmodelled
from perfplan.training.rules import ROW_RULES, Rule, limits, redundant
from perfplan.training.space import VARIANT, Axes, Keys, keys, largest_dp, splits
from perfplan.training.stages import stages
from perfplan.training.step import Pieces, memory, step_time

__all__ = ["SCORES", "Found", "Priced", "search"]

SCORES: dict[str, Callable[[Any, Any], Any]] = {
    "time": lambda time, world: time,
    "days": lambda time, world: time,
    "cost": lambda time, world: time * world,
    "min-gpus": lambda time, world: world * 1e9 + time,  # accelerators first: no step takes 1e9 s
}
"""Objective -> what is minimised, from step time [s] and accelerators used."""

NEAR = 2.0  # layouts slower than the best by this factor are tied with it by no band
CHUNK = 1 << 16  # rows priced at a time: the columns of a chunk stay in cache


@dataclass(frozen=True)
class Priced:
    """One feasible layout as the search saw it: step time [s], memory of the fullest rank [B], what was minimised."""

    layout: Layout
    step_time: float
    memory: float
    score: float = math.nan


@dataclass
class Found:
    """What the search saw. rejected: reason -> layouts; the counts and `feasible` add up to `size`. fastest: least step
    time of a layout that fits, deadline or not [s]; near: scores of layouts up to `NEAR` times the least."""

    size: int
    rejected: Counter[str] = field(default_factory=Counter)
    feasible: int = 0
    best: list[Priced] = field(default_factory=list)
    front: list[Priced] = field(default_factory=list)
    least_memory: Priced | None = None
    fastest: float = math.inf
    near: list[Any] = field(default_factory=list)

    def within(self, score: float) -> int:
        """How many layouts that fit score at most `score`, which must lie below `NEAR` times the least."""
        return sum(int(np.count_nonzero(scores <= score)) for scores in self.near)


def _table(job: Job, net: Network, found: Keys) -> Pieces:
    """Costs of every piece for every key, as columns."""
    parts: list[Pieces] = []
    order: list[Any] = []
    for code, variant in enumerate(found.variants):
        mine = np.flatnonzero(found.code == code)
        if len(mine):
            c = {name: column[mine].astype(float) for name, column in found.columns.items()}
            shape = Shape(job.seq_len, c["mbs"], c["tp"], c["sp"], c["cp"], c["ep"], c["etp"])
            parts.append(pieces(job, net, shape, *variant))
            order.append(mine)
    back = np.argsort(np.concatenate(order))
    sizes = [len(mine) for mine in order]
    kinds = [_joined([p.kinds[i] for p in parts], sizes, back) for i in range(len(parts[0].kinds))]
    names = ("first", "last") if parts[0].ahead is None else ("first", "last", "ahead")
    return Pieces(kinds, *(_joined([getattr(p, name) for p in parts], sizes, back) for name in names))


def _joined(costs: list[Cost], sizes: list[int], back: Any) -> Cost:
    def column(name: str) -> Any:
        return np.concatenate(
            [np.broadcast_to(np.asarray(getattr(c, name), float), n) for c, n in zip(costs, sizes, strict=True)]
        )[back]

    return Cost(**{f.name: column(f.name) for f in fields(Cost)})


def _take(cost: Cost, rows: Any) -> Cost:
    return Cost(*(getattr(cost, f.name)[rows] for f in fields(Cost)))


def _gather(table: Pieces, rows: Any) -> Pieces:
    ends = [_take(cost, rows) for cost in (table.first, table.last, table.ahead) if cost is not None]
    return Pieces([_take(cost, rows) for cost in table.kinds], *ends)


@dataclass(frozen=True)
class _Block:
    """Layouts that share pp, vpp, offload and the sharding; the rest are columns."""

    rows: Any
    layout: Layout


def _blocks(
    job: Job, axes: Axes, found: Keys, rejected: Counter[str], tick: Callable[[int], None]
) -> Iterator[tuple[_Block, Any]]:
    sequence, rules = layer_sequence(job), (*ROW_RULES, redundant(axes.sharding))
    offloads = np.array([axes.offload.index(variant[-1]) for variant in found.variants])
    divisors = [d for d in range(1, min(job.gpus, job.global_batch) + 1) if job.global_batch % d == 0]
    for pp, vpp in splits(axes):
        split = stages(*sequence, pp, vpp, tail=job.mtp_depth) if pp * vpp <= len(sequence[0]) + 2 else None
        if split is None or (vpp > 1 and pp == 1):
            rejected["stages"] += len(found) * len(axes.splits)
            continue
        tick(pp)
        dp = largest_dp(job, found.columns["tp"] * found.columns["cp"] * pp, found.columns["mbs"], divisors)
        room = np.flatnonzero(dp > 0)
        rejected["accelerators and batch"] += (len(found) - len(room)) * len(axes.splits)
        for away, state in product(axes.offload, axes.splits):
            mine = room[offloads[found.code[room]] == axes.offload.index(away)] if len(axes.offload) > 1 else room
            for start in range(0, len(mine), CHUNK):
                rows = mine[start : start + CHUNK]
                layout = replace(_columns(found, rows, (pp, vpp), dp, state), offload=away)
                block = _lawful(job, rules, _Block(rows, layout), rejected)
                if len(block.rows):
                    yield block, split


def _columns(found: Keys, rows: Any, split: tuple[int, int], dp: Any, state: tuple[Any, ...]) -> Layout:
    widths, hpz, qwz, qgz = state
    degrees = {name: column[rows] for name, column in found.columns.items() if name != "cp_code"}
    return Layout(
        **degrees,
        cp_kind=found.columns["cp_code"][rows],
        pp=split[0],
        vpp=split[1],
        dp=dp[rows],
        shard_weights=widths[0],
        shard_gradients=widths[1],
        shard_optimizer=widths[2],
        hpz=hpz,
        qwz=qwz,
        qgz=qgz,
    )


def _lawful(job: Job, rules: Sequence[Rule], block: _Block, rejected: Counter[str]) -> _Block:
    """The part of a block that breaks no rule."""
    limit = limits(job)
    for rule in rules:
        bad = np.broadcast_to(rule.broken(job, limit, block.layout), block.rows.shape)
        if bad.any():
            rejected[rule.name] += int(bad.sum())
            keep = np.flatnonzero(~bad)
            block = _Block(block.rows[keep], _narrow(block.layout, keep))
    return block


def _narrow(layout: Layout, keep: Any) -> Layout:
    return Layout(
        **{
            f.name: value[keep] if isinstance(value := getattr(layout, f.name), np.ndarray) else value
            for f in fields(Layout)
        }
    )


def _floats(layout: Layout) -> Layout:
    return Layout(
        **{
            f.name: value.astype(float) if isinstance(value := getattr(layout, f.name), np.ndarray) else value
            for f in fields(Layout)
        }
    )


def _scalar(layout: Layout, found: Keys, code: int, index: int) -> Layout:
    degrees = {
        f.name: int(value[index]) if isinstance(value := getattr(layout, f.name), np.ndarray) else value
        for f in fields(Layout)
    }
    return Layout(**(degrees | dict(zip(VARIANT, found.variants[code], strict=True))))


def search(
    job: Job,
    axes: Axes,
    top: int = 10,
    tick: Callable[[int], None] = lambda _: None,
    objective: str = "time",
    longest: float = math.inf,
) -> Found:
    """Search the whole space: the `top` best layouts that fit, the front of time and memory, counted rejections.

    objective: a name of `SCORES`; longest: slowest step allowed [s].
    """
    unmodelled(job)
    result = Found(axes.size)
    found = keys(job, axes, result.rejected)
    if not len(found):
        return result
    net = Network(job.cluster, job.gpus)
    table = _table(job, net, found)
    for block, split in _blocks(job, axes, found, result.rejected, tick):
        costs = _gather(table, block.rows)
        sizes = np.broadcast_to(sum(memory(job, _floats(block.layout), costs, split).values()), block.rows.shape)
        _note_least(result, block, found, sizes)
        fitting, sizes = _kept(block, sizes, sizes <= job.cluster.accelerator.memory, "memory", result)
        if len(fitting.rows):
            costs = _gather(table, fitting.rows)
            times = sum(step_time(job, net, _floats(fitting.layout), costs, split).values())
            result.fastest = min(result.fastest, float(times.min()))
            soon = times <= longest
            timely, sizes = _kept(fitting, sizes, soon, "deadline", result)
            _note_best(result, timely, found, times[soon], sizes, top, SCORES[objective])
    result.front = _pareto(result.front)
    return result


def _kept(block: _Block, sizes: Any, good: Any, reason: str, result: Found) -> tuple[_Block, Any]:
    keep = np.flatnonzero(good)
    result.rejected[reason] += len(sizes) - len(keep)
    return _Block(block.rows[keep], _narrow(block.layout, keep)), sizes[keep]


def _note_least(result: Found, block: _Block, found: Keys, sizes: Any) -> None:
    index = int(np.argmin(sizes))
    if result.least_memory is None or sizes[index] < result.least_memory.memory:
        layout = _scalar(block.layout, found, int(found.code[block.rows[index]]), index)
        result.least_memory = Priced(layout, math.nan, float(sizes[index]))


def _note_best(result: Found, block: _Block, found: Keys, times: Any, sizes: Any, top: int, score: Any) -> None:
    if not len(times):
        return
    result.feasible += len(times)
    scores = score(times, np.broadcast_to(block.layout.world, times.shape))
    order = np.argsort(times, kind="stable")
    lowest = np.minimum.accumulate(sizes[order])
    edge = order[np.concatenate([[True], lowest[1:] < lowest[:-1]])]
    bound = result.best[-1].score if len(result.best) >= top else math.inf

    def priced(i: int) -> Priced:
        layout = _scalar(block.layout, found, int(found.code[block.rows[i]]), int(i))
        return Priced(layout, float(times[i]), float(sizes[i]), float(scores[i]))

    result.best += [priced(i) for i in np.argsort(scores, kind="stable")[:top] if scores[i] <= bound]
    result.best = sorted(result.best, key=lambda p: (p.score, p.memory, str(p.layout)))[:top]
    result.near.append(scores[scores <= NEAR * result.best[0].score])
    result.front += [priced(i) for i in edge]
    if len(result.front) > 4096:
        result.front = _pareto(result.front)


def _pareto(points: list[Priced]) -> list[Priced]:
    front: list[Priced] = []
    for point in sorted(points, key=lambda p: (p.step_time, p.memory, str(p.layout))):
        if not front or point.memory < front[-1].memory:
            front.append(point)
    return front
