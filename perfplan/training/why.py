"""Why a layout is not the plan: in the space or not, rejected by what, how far behind the best and in which parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from perfplan.calibration.bands import Bands
from perfplan.errors import Infeasible
from perfplan.training.estimate import Estimate, broken_rules, estimate
from perfplan.training.job import Job
from perfplan.training.layout import DEGREES, Layout
from perfplan.training.plan import band_of, banded, plan
from perfplan.training.space import Axes, declare, restrict

__all__ = ["Answer", "outside", "why"]


@dataclass(frozen=True)
class Answer:
    """What became of a layout.

    outside: axis values that the searched space does not have; broken: rules that the layout breaks; layout: its
    estimate if it can run; best: the plan's first, None if nothing fits, of which `nothing` says why; behind: step time
    over the best's, minus 1; parts: part -> seconds more than the best.
    """

    outside: tuple[str, ...]
    broken: tuple[str, ...]
    layout: Estimate | None
    best: Estimate | None
    behind: float | None
    parts: dict[str, float]
    tied: bool
    nothing: str = ""


def outside(job: Job, axes: Axes, layout: Layout) -> list[str]:
    """Axis values of the layout that the space does not hold."""
    widths = (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer)
    words = {name: f"{name}={getattr(layout, name)}" for name in DEGREES if name != "dp"}
    words |= {"cp_kind": f"cp={layout.cp_kind}", "recompute": f"rc={','.join(layout.recompute) or 'none'}"}
    words |= {"offload": f"off={','.join(name for name, _ in layout.offload)}"} if layout.offload else {}
    words |= {name: f"{name}{getattr(layout, name)}" for name in ("hpz", "qwz", "qgz") if getattr(layout, name)}
    missing = [word for name, word in words.items() if getattr(layout, name) not in getattr(axes, name)]
    if widths not in axes.sharding:
        missing.append(layout.sharding)
    room = job.gpus // (layout.tp * layout.cp * layout.pp)
    fitting = [d for d in range(1, room + 1) if job.global_batch % (d * layout.mbs) == 0]
    if fitting and layout.dp != fitting[-1]:
        missing.append(f"dp={layout.dp} (the space has the largest that fits, {fitting[-1]})")
    return missing


def why(job: Job, layout: Layout, bands: Bands, fix: str = "", forbid: str = "") -> Answer:
    """Compare a layout with the best of the searched space."""
    broken = tuple(broken_rules(job, layout))
    missing = tuple(outside(job, restrict(declare(job), fix, forbid), layout))
    mine = None if broken else banded(estimate(job, layout), bands)
    try:
        best = plan(job, bands, top=1, fix=fix, forbid=forbid).best
    except Infeasible as error:
        return Answer(missing, broken, mine, None, None, {}, False, str(error))
    if mine is None:
        return Answer(missing, broken, None, best, None, {}, False)
    parts = {part: seconds - best.breakdown[part] for part, seconds in mine.breakdown.items()}
    behind = float(mine.step_time) / float(best.step_time) - 1
    tied = abs(math.log1p(behind)) <= band_of(job, bands, paired=True).high
    return Answer(missing, (), mine, best, behind, parts, tied)
