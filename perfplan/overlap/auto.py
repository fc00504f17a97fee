"""`plan train --schedule auto`: other pipeline schedules and balanced stages for the layouts of a plan.

Only what the simulation finds faster, and what fits, is taken, so that no layout gets worse; what it took is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perfplan.errors import Infeasible
from perfplan.overlap.balance import balance
from perfplan.overlap.orders import SCHEDULES, chunks_of
from perfplan.overlap.partition import RankCosts, layout_string, settings
from perfplan.overlap.stages import Compared, Pipeline, compare, own_schedule
from perfplan.training.estimate import Estimate
from perfplan.training.layout import Layout, block

__all__ = ["Auto", "Rescheduled", "reschedule"]

BUDGET = 300_000  # passes simulated for a plan, 10 us each: the same answer on every machine, within 5 s
WORTH = 1e-3  # a schedule that saves less of the step is not worth other software
UNTRIED = ("gpipe", "breadth-first", "interleaved", "zb-h2")  # never faster than another that needs less memory


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
    """The layouts of a plan with their schedules, fastest first; skipped: those that the budget did not allow."""

    rows: tuple[Rescheduled, ...]
    skipped: int

    @property
    def best(self) -> Rescheduled:
        """The fastest."""
        return self.rows[0]


def _work(layout: Layout, micro_batches: int, names: Sequence[str]) -> int:
    """Passes that running these schedules takes."""
    return sum(3 * layout.pp * chunks_of(name, layout.vpp) * micro_batches for name in names)


def _names(layout: Layout, twins: set[Layout]) -> list[str]:
    """Schedules to run for a layout: its own, and those that no layout with other chunks has been given."""
    own = own_schedule(layout)
    others = [] if replace(layout, vpp=1) in twins else [name for name in SCHEDULES if name not in (own, *UNTRIED)]
    return [own, *others]


def _balanced(pipeline: Pipeline) -> list[tuple[Compared, str]]:
    """(schedule, stages in words) on balanced stages, none if no stages fit even so."""
    if pipeline.layout.vpp > 1 or block(pipeline.layout.recompute):
        return []
    chosen = settings(pipeline)
    try:
        best = balance(pipeline, chosen)
    except Infeasible:
        return []
    made = best.applied(RankCosts(pipeline, chosen))
    return [(row, layout_string(best.sizes, pipeline.job.mtp_depth)) for row in compare(made, ["1f1b", "zb-h1"])]


def _same(estimate: Estimate, tried: int = 0) -> Rescheduled:
    """The layout as the plan has it."""
    before = float(estimate.step_time)
    return Rescheduled(estimate, own_schedule(estimate.layout), before, before, estimate.memory_total, tried=tried)


def _chosen(pipeline: Pipeline, names: Sequence[str]) -> Rescheduled:
    """The layout with the fastest schedule that fits; its own where none is faster."""
    rows = compare(pipeline, names)
    own = next(row for row in rows if row.name == names[0])
    found = [(row, "") for row in rows if row is not own] + _balanced(pipeline)
    same = _same(pipeline.whole, len(found))
    if not own.ran:  # nothing to set them beside
        return same
    able = [(row.step, row, stages) for row, stages in found if row.ran and row.fits and row.step < own.step]
    step, row, stages = min(able, key=lambda each: each[0], default=(same.before, own, ""))
    if step >= same.before * (1 - WORTH):
        return same
    return replace(same, schedule=row.name, step=step, memory=row.memory, stages=stages)


def reschedule(estimates: Sequence[Estimate], budget: int = BUDGET) -> Auto:
    """Schedules for the layouts of a plan, best first, as long as no more than `budget` passes are simulated."""
    twins: set[Layout] = set()
    rows, skipped = [], 0
    for estimate in estimates:
        if estimate.layout.pp < 2:
            rows.append(_same(estimate))
            continue
        pipeline = Pipeline(estimate.job, estimate.layout, estimate)
        names = _names(estimate.layout, twins)
        work = _work(estimate.layout, pipeline.micro_batches, names)
        if work > budget:
            rows.append(_same(estimate))
            skipped += 1
            continue
        budget -= work
        twins.add(replace(estimate.layout, vpp=1))
        rows.append(_chosen(pipeline, names))
    return Auto(tuple(sorted(rows, key=lambda row: row.step)), skipped)
