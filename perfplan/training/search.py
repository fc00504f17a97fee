"""The search: every layout of the declared space, divisibility first, then memory, then time for what is left.

What layers cost depends on few axes (tp, sp, cp, ep, etp, micro-batch, recomputation): it is priced once for each of
their combinations and looked up for every split into stages. A block of layouts is an array of optimizer widths x
degrees x recomputations, and each quantity has only the axes that it depends on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any

import numpy as np

from perfplan.training.estimate import layer_sequence, pieces
from perfplan.training.job import Job
from perfplan.training.layers import Away, Cost
from perfplan.training.layout import CP_KINDS, Layout
from perfplan.training.network import Network
from perfplan.training.rules import DEGREE_RULES, SHARDING_RULES, limits, redundant
from perfplan.training.shape import Shape
from perfplan.training.space import Axes, keys, largest_dp
from perfplan.training.stages import Stage, stages
from perfplan.training.step import Pieces, fullest, step_time

__all__ = ["SCORES", "Found", "Priced", "search"]

SCORES: dict[str, Callable[[Any, Any], Any]] = {
    "time": lambda time, world: time,
    "days": lambda time, world: time,
    "cost": lambda time, world: time * world,
    "min-gpus": lambda time, world: world * 1e9 + time,  # accelerators first: no step takes 1e9 s
}
"""Objective -> what is minimised, from step time [s] and accelerators used."""

NEAR = 2.0  # layouts slower than the best by this factor are tied with it by no band
CHUNK = 1 << 16  # layouts priced at a time: their columns stay in cache

Columns = Mapping[str, Any]


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


# ---------------------------------------------------------------- what layers cost
def _table(job: Job, net: Network, axes: Axes, found: Columns, away: Away) -> Pieces:
    """Costs of every piece as columns: one row per combination of degrees, one place in it per recomputation."""
    parts: list[list[tuple[Cost, ...]]] = []
    order: list[Any] = []
    for code, kind in enumerate(CP_KINDS):
        mine = np.flatnonzero(found["cp_kind"] == code)
        if len(mine):
            c = {name: column[mine].astype(float) for name, column in found.items()}
            shape = Shape(job.seq_len, c["mbs"], c["tp"], c["sp"], c["cp"], c["ep"], c["etp"])
            beside = [pieces(job, net, shape, kind, recompute, away) for recompute in axes.recompute]
            parts.append(list(zip(*map(_listed, beside), strict=True)))
            order.append(mine)
    sizes, back = [len(mine) for mine in order], np.argsort(np.concatenate(order))
    costs, kinds = [_joined(piece, sizes, back) for piece in zip(*parts, strict=True)], len(beside[0].kinds)
    return Pieces(costs[:kinds], *costs[kinds:])


def _listed(table: Pieces) -> list[Cost]:
    """The costs of all pieces in the order in which `Pieces` has them."""
    return [*table.kinds, table.first, table.last, *([] if table.ahead is None else [table.ahead])]


def _joined(costs: Sequence[Sequence[Cost]], sizes: Sequence[int], back: Any) -> Cost:
    def column(name: str) -> Any:
        parts = [
            np.stack([np.broadcast_to(np.asarray(getattr(cost, name), float), n) for cost in beside], axis=1)
            for beside, n in zip(costs, sizes, strict=True)
        ]
        return _shrunk(np.concatenate(parts)[back])

    return Cost(**{f.name: column(f.name) for f in fields(Cost)})


def _shrunk(column: Any) -> Any:
    """A column without the axes along which it does not change."""
    if (column == column[0, 0]).all():
        return float(column[0, 0])
    return column[:, :1] if (column == column[:, :1]).all() else column


class _Rows:
    """Some rows of a cost, each column taken when it is first asked for."""

    def __init__(self, cost: Cost, rows: Any) -> None:
        self._cost, self._rows = cost, rows

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cost, name)
        taken = value[self._rows] if isinstance(value, np.ndarray) else value
        setattr(self, name, taken)
        return taken


def _gather(table: Pieces, rows: Any) -> Pieces:
    some: list[Any] = [_Rows(cost, rows) for cost in _listed(table)]
    return Pieces(some[: len(table.kinds)], *some[len(table.kinds) :])


# ---------------------------------------------------------------- lawful layouts
@dataclass(frozen=True)
class _Block:
    """Layouts with the same stages and the same sharding in each micro-batch: an array of optimizer widths x degrees x
    recomputations. rows: of the columns of degrees; layout: degrees as columns, optimizer widths along a further axis;
    split: the stages; good: which of the array are still in the running."""

    rows: Any
    layout: Layout
    split: Sequence[Stage]
    good: Any

    def where(self, good: Any) -> _Block:
        """The block with the degrees that have anything `good`."""
        keep = np.flatnonzero(good.any(axis=(0, 2)))
        if len(keep) == len(self.rows):
            return replace(self, good=good)
        return _Block(self.rows[keep], _narrow(self.layout, keep), self.split, good[:, keep])


_DEGREES = ("tp", "sp", "cp", "cp_kind", "ep", "etp", "dp", "mbs")


def _narrow(layout: Layout, keep: Any) -> Layout:
    """A layout with some rows of its degrees."""
    return replace(layout, **{name: getattr(layout, name)[keep] for name in _DEGREES})


def _splits(
    job: Job, axes: Axes, found: Columns, rejected: Counter[str], tick: Callable[[int], None]
) -> Iterator[tuple[Any, Layout, Sequence[Stage]]]:
    """(rows, their degrees, stages) that no rule about degrees forbids, for every pp and vpp."""
    sequence, limit = layer_sequence(job), limits(job)
    each = len(axes.recompute) * len(axes.offload) * len(axes.splits)
    for pp in axes.pp:
        dp = largest_dp(job, found["tp"] * found["cp"] * pp, found["mbs"])
        room = np.flatnonzero(dp > 0)
        whole = Layout(pp=pp, dp=dp[room], **{name: column[room] for name, column in found.items()})
        for vpp in axes.vpp:
            split = stages(*sequence, pp, vpp, tail=job.mtp_depth) if pp * vpp <= len(sequence[0]) + 2 else None
            if split is None or (vpp > 1 and pp == 1):
                rejected["stages"] += len(dp) * each
                continue
            tick(pp)
            rejected["accelerators and batch"] += (len(dp) - len(room)) * each
            rows, layout = room, replace(whole, vpp=vpp)
            for rule in DEGREE_RULES:
                bad = np.broadcast_to(rule.broken(job, limit, layout), rows.shape)
                if bad.any():
                    rejected[rule.name] += int(bad.sum()) * each
                    keep = np.flatnonzero(~bad)
                    rows, layout = rows[keep], _narrow(layout, keep)
            if len(rows):
                yield rows, layout, split


def _blocks(
    job: Job, axes: Axes, rows: Any, layout: Layout, split: Sequence[Stage], rejected: Counter[str]
) -> Iterator[_Block]:
    """The shardings that no rule forbids beside these degrees and this offload."""
    degrees = {name: getattr(layout, name).astype(float)[:, np.newaxis] for name in _DEGREES}
    for shared, states in groupby(axes.splits, key=lambda state: (state[0][:2], *state[1:])):
        (weights, gradients), hpz, qwz, qgz = shared
        layout = replace(layout, shard_weights=weights, shard_gradients=gradients, hpz=hpz, qwz=qwz, qgz=qgz)
        widths = [state[0][2] for state in states]
        lawful = np.array([_lawful(job, axes, replace(layout, shard_optimizer=width), rejected) for width in widths])
        whole = replace(layout, shard_optimizer=np.array(widths, float)[:, np.newaxis, np.newaxis], **degrees)
        good = np.broadcast_to(lawful[:, :, np.newaxis], (*lawful.shape, len(axes.recompute)))
        for start in range(0, len(rows), step := max(CHUNK // good[:, 0].size, 1)):
            some = slice(start, start + step)
            if good[:, some].any():
                yield _Block(rows[some], _narrow(whole, some), split, good[:, some]).where(good[:, some])


def _lawful(job: Job, axes: Axes, layout: Layout, rejected: Counter[str]) -> Any:
    """Which degrees of a layout break no rule about sharding."""
    good, limit = np.ones(len(layout.tp), bool), limits(job)
    for rule in (*SHARDING_RULES, redundant(axes.sharding)):
        bad = good & rule.broken(job, limit, layout)
        if bad.any():
            rejected[rule.name] += int(bad.sum()) * len(axes.recompute)
            good = good & ~bad
    return good


# ---------------------------------------------------------------- the search
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
    result = Found(axes.size)
    found = keys(job, axes, result.rejected)
    if not len(found["tp"]):
        return result
    net = Network(job.cluster, job.gpus)
    tables = {away: _table(job, net, axes, found, away) for away in axes.offload}
    for rows, layout, split in _splits(job, axes, found, result.rejected, tick):
        for away, table in tables.items():
            for block in _blocks(job, axes, rows, replace(layout, offload=away), split, result.rejected):
                fitting, sizes = _fitting(job, axes, table, block, result)
                if len(fitting.rows):
                    costs = _gather(table, fitting.rows)
                    times = sum(step_time(job, net, fitting.layout, costs, split).values())
                    times = np.broadcast_to(times, fitting.good.shape)
                    result.fastest = min(result.fastest, float(times[fitting.good].min()))
                    timely = replace(fitting, good=_kept(fitting.good, times <= longest, "deadline", result))
                    _note_best(result, timely, axes, times, sizes, top, SCORES[objective])
    return result


def _fitting(job: Job, axes: Axes, table: Pieces, block: _Block, result: Found) -> tuple[_Block, Any]:
    """What of a block fits into the memory, and the memory of its fullest ranks [B]."""
    sizes = fullest(job, block.layout, _gather(table, block.rows), block.split)
    sizes = np.broadcast_to(sizes, block.good.shape)
    least = int(np.where(block.good, sizes, np.inf).argmin())
    if result.least_memory is None or sizes.flat[least] < result.least_memory.memory:
        result.least_memory = Priced(_scalar(block, axes, least), math.nan, float(sizes.flat[least]))
    fit = _kept(block.good, sizes <= job.cluster.accelerator.memory, "memory", result)
    return block.where(fit), sizes[:, fit.any(axis=(0, 2))]


def _kept(good: Any, also: Any, reason: str, result: Found) -> Any:
    """What of `good` is also that; the rest is rejected."""
    kept = good & also
    result.rejected[reason] += int(np.count_nonzero(good) - np.count_nonzero(kept))
    return kept


def _scalar(block: _Block, axes: Axes, index: int) -> Layout:
    """One layout of a block."""
    width, row, setting = map(int, np.unravel_index(index, block.good.shape))
    degrees = {name: int(getattr(block.layout, name)[row, 0]) for name in _DEGREES}
    kind, optimizer = CP_KINDS[degrees.pop("cp_kind")], int(block.layout.shard_optimizer[width, 0, 0])
    return replace(block.layout, **degrees, cp_kind=kind, shard_optimizer=optimizer, recompute=axes.recompute[setting])


def _note_best(result: Found, block: _Block, axes: Axes, times: Any, sizes: Any, top: int, score: Any) -> None:
    mine = np.flatnonzero(block.good)
    if not len(mine):
        return
    result.feasible += len(mine)
    world = np.broadcast_to(block.layout.world, times.shape)
    times, sizes, world = (column.reshape(-1)[mine] for column in (times, sizes, world))
    scores = score(times, world)
    bound = result.best[-1].score if len(result.best) >= top else math.inf
    able = np.flatnonzero(scores <= bound)

    def priced(rows: Any) -> list[Priced]:
        layouts = [_scalar(block, axes, int(index)) for index in mine[rows]]
        return list(map(Priced, layouts, times[rows].tolist(), sizes[rows].tolist(), scores[rows].tolist()))

    result.best += priced(able[np.argsort(scores[able], kind="stable")[:top]])
    result.best = sorted(result.best, key=lambda p: (p.score, p.memory, str(p.layout)))[:top]
    result.near.append(scores[scores <= NEAR * result.best[0].score])
    edge = _edge(result.front, times, sizes)
    if len(edge):
        result.front = _pareto(result.front + priced(edge))


def _edge(front: Sequence[Priced], times: Any, sizes: Any) -> Any:
    """Which points are on the front of time and memory, among themselves and beside a front that is known."""
    known = np.array([[-math.inf, math.inf], *((point.step_time, point.memory) for point in front)])
    time, memory = known[np.searchsorted(known[:, 0], times, side="right") - 1].T  # of the slowest that is no slower
    able = np.flatnonzero((sizes < memory) | ((sizes == memory) & (times == time)))
    order = able[np.argsort(times[able], kind="stable")]
    lowest = np.minimum.accumulate(sizes[order])
    return order[np.concatenate([[True], lowest[1:] < lowest[:-1]])] if len(order) else order


def _pareto(points: list[Priced]) -> list[Priced]:
    front: list[Priced] = []
    for point in sorted(points, key=lambda p: (p.step_time, p.memory, str(p.layout))):
        if not front or point.memory < front[-1].memory:
            front.append(point)
    return front
