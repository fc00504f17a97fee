"""Pipeline schedules of a job and layout, with the stages balanced first where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from perfplan.errors import Infeasible, Unsupported
from perfplan.overlap.partition import Partition, RankCosts, balance, even, settings
from perfplan.overlap.stages import Pipeline, ScheduledPipeline, compare
from perfplan.training.job import Job
from perfplan.training.layout import Layout, block

__all__ = ["schedule_pipeline"]


def _even(costs: RankCosts) -> Partition | None:
    """The even stages under the same freedom, or None if they do not fit."""
    try:
        return even(costs)
    except Infeasible:
        return None


def schedule_pipeline(
    job: Job, layout: Layout, names: Sequence[str] = (), balanced: bool = False, time_limit: float = 30.0
) -> ScheduledPipeline:
    """Compare schedules by name (all unless given) on the stages of a layout, or on balanced ones."""
    pipeline = Pipeline.of(job, layout)
    if not balanced:
        return ScheduledPipeline(pipeline, tuple(compare(pipeline, names)))
    if block(layout.recompute):
        raise Unsupported("balanced stages choose what each layer recomputes; leave rc=full:N out of the layout")
    chosen = settings(pipeline)
    costs = RankCosts(pipeline, chosen)
    best = balance(pipeline, chosen, time_limit)
    made = best.applied(costs)
    return ScheduledPipeline(made, tuple(compare(made, names)), best, _even(costs))
