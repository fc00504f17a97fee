"""Why a layout is not the plan: in the space or not, rejected by what, how far behind the best and in which parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from perfplan.calibration.bands import Bands
from perfplan.training.estimate import Estimate, broken_rules, estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout
from perfplan.training.plan import Plan, banded, plan
from perfplan.training.space import Axes

__all__ = ["Answer", "outside", "why"]


@dataclass(frozen=True)
class Answer:
    """What became of a layout.

    outside: axis values that the searched space does not have; broken: rules that the layout breaks; layout: its
    estimate if it can run; best: the plan's first; behind: step time over the best's, minus 1; parts: part -> seconds
    more than the best.
    """

    outside: tuple[str, ...]
    broken: tuple[str, ...]
    layout: Estimate | None
    best: Estimate
    behind: float | None
    parts: dict[str, float]
    tied: bool


def outside(job: Job, axes: Axes, layout: Layout) -> list[str]:
    """Axis values of the layout that the space does not hold."""
    widths = (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer)
    values = {
        name: getattr(layout, name)
        for name in ("tp", "sp", "cp", "cp_kind", "pp", "vpp", "ep", "etp", "mbs", "recompute")
    }
    missing = [f"{name}={value}" for name, value in values.items() if value not in getattr(axes, name)]
    if widths not in axes.sharding:
        missing.append(layout.sharding)
    room = job.gpus // (layout.tp * layout.cp * layout.pp)
    fitting = [d for d in range(1, room + 1) if job.global_batch % (d * layout.mbs) == 0]
    if fitting and layout.dp != fitting[-1]:
        missing.append(f"dp={layout.dp} (the space has the largest that fits, {fitting[-1]})")
    return missing


def why(job: Job, layout: Layout, bands: Bands, fix: str = "", forbid: str = "") -> Answer:
    """Compare a layout with the best of the searched space."""
    found: Plan = plan(job, bands, top=1, fix=fix, forbid=forbid)
    broken = broken_rules(job, layout)
    missing = outside(job, found.searches[-1][1], layout)
    if broken:
        return Answer(tuple(missing), tuple(broken), None, found.best, None, {}, False)
    mine = banded(estimate(replace(job, gpus=max(job.gpus, layout.world)), layout), bands)
    parts = {part: seconds - found.best.breakdown[part] for part, seconds in mine.breakdown.items()}
    behind = float(mine.step_time) / float(found.best.step_time) - 1
    half = bands_half(job, bands)
    return Answer(tuple(missing), (), mine, found.best, behind, parts, abs(behind) <= half)


def bands_half(job: Job, bands: Bands) -> float:
    """Half-width of the paired band of this job, as a fraction."""
    import math

    from perfplan.training.plan import band_of

    return math.expm1(band_of(job, bands, paired=True).high)
