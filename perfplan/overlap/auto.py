"""`plan train --schedule auto`: other pipeline schedules and balanced stages for the layouts of a plan.

Only what the simulation finds faster, and what fits, is taken, so that no layout gets worse; what it took is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from perfplan.errors import Infeasible
from perfplan.overlap.orders import SCHEDULES
from perfplan.overlap.partition import RankCosts, balance, layout_string, settings
from perfplan.overlap.stages import Compared, Pipeline, compare, own_schedule
from perfplan.training.estimate import Estimate
from perfplan.training.layout import Layout, block

__all__ = ["Auto", "Rescheduled", "reschedule"]

BUDGET = 3.0  # s: no layout is begun after this
LONGEST = 400_000  # passes of one schedule, about a second of simulation


@dataclass(frozen=True)
class Rescheduled:
    """A layout of the plan with the schedule chosen for it. step: under that schedule [s]; before: by the plan [s];
    memory: of the fullest rank [B]; stages: chosen stages in Megatron's words, empty if even; tried: schedules run."""

    estimate: Estimate
    schedule: str
    step: float
    before: float
    memory: float
    stages: str = ""
    tried: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything is other than the plan has it."""
        return self.step < self.before

    def sentence(self) -> str:
        """What was changed."""
        own = own_schedule(self.estimate.layout)
        what = [f"{self.schedule} instead of {own}"] * (self.schedule != own)
        what += [f"stages {self.stages}"] * bool(self.stages)
        needs = "" if self.schedule in ("1f1b", "interleaved") else "; needs software that offers that schedule"
        return " and ".join(what) + needs


@dataclass(frozen=True)
class Auto:
    """The layouts of a plan with their schedules, fastest first; skipped: layouts that the time did not allow."""

    rows: tuple[Rescheduled, ...]
    skipped: int

    @property
    def best(self) -> Rescheduled:
        """The fastest."""
        return self.rows[0]


def _passes(layout: Layout, micro_batches: int) -> int:
    return int(2 * layout.pp * max(layout.vpp, 2) * micro_batches)


def _candidates(pipeline: Pipeline) -> list[tuple[Compared, str, Compared]]:
    """(schedule, stages in words, the layout's own schedule on the even stages) of everything that runs."""
    names = [name for name in SCHEDULES if name not in ("gpipe", "breadth-first", "interleaved", "zb-h2")]
    rows = compare(pipeline, names)
    own = next(row for row in rows if row.name == own_schedule(pipeline.layout))
    found = [(row, "", own) for row in rows if row is not own]
    if pipeline.layout.vpp == 1 and not block(pipeline.layout.recompute):
        found += [(row, stages, own) for row, stages in _balanced(pipeline)]
    return found


def _balanced(pipeline: Pipeline) -> list[tuple[Compared, str]]:
    """The same on balanced stages, none if no stages fit even so."""
    chosen = settings(pipeline)
    try:
        best = balance(pipeline, chosen)
    except Infeasible:
        return []
    made = best.applied(RankCosts(pipeline, chosen))
    return [(row, layout_string(best.sizes, pipeline.job.mtp_depth)) for row in compare(made, ["1f1b", "zb-h1"])]


def _chosen(estimate: Estimate) -> Rescheduled:
    """The layout with the fastest schedule that fits; its own where none is faster."""
    before = float(estimate.step_time)
    same = Rescheduled(estimate, own_schedule(estimate.layout), before, before, estimate.memory_total)
    if estimate.layout.pp < 2:
        return same
    pipeline = Pipeline(estimate.job, estimate.layout, estimate)
    if _passes(estimate.layout, pipeline.micro_batches) > LONGEST:
        return same
    found = _candidates(pipeline)
    if not found or not found[0][2].ran:  # nothing to set them beside
        return same
    able = [(row.step, row, stages) for row, stages, own in found if row.ran and row.fits and row.step < own.step]
    step, row, stages = min(able, key=lambda each: each[0], default=(before, None, ""))
    if row is None or step >= before * (1 - 1e-9):
        return Rescheduled(estimate, same.schedule, before, before, same.memory, tried=len(found))
    return Rescheduled(estimate, row.name, step, before, row.memory, stages, len(found))


def reschedule(estimates: Sequence[Estimate], budget: float = BUDGET) -> Auto:
    """Schedules for the layouts of a plan, best first, until `budget` seconds have passed."""
    start, rows, skipped = time.monotonic(), [], 0
    for estimate in estimates:
        if time.monotonic() - start > budget:
            before = float(estimate.step_time)
            rows.append(Rescheduled(estimate, own_schedule(estimate.layout), before, before, estimate.memory_total))
            skipped += 1
        else:
            rows.append(_chosen(estimate))
    return Auto(tuple(sorted(rows, key=lambda row: row.step)), skipped)
