"""Pipeline schedules of a layout, its stages balanced where that is asked for; techniques on a window of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from perfplan.errors import Infeasible, OutOfRange, Unsupported
from perfplan.optimize.certificate import Certificate
from perfplan.overlap.balance import balance
from perfplan.overlap.blocks import Sharing, Window
from perfplan.overlap.partition import Partition, RankCosts, even, settings
from perfplan.overlap.replicas import Exchange, exchanged
from perfplan.overlap.stages import Compared, Pipeline, compare, own_schedule
from perfplan.overlap.techniques import ALIASES, SECONDS, TECHNIQUES, Scheduled, best, scheduled
from perfplan.overlap.timeline import Timeline
from perfplan.training.job import Job
from perfplan.training.layout import Layout, block

__all__ = ["ScheduledLayer", "ScheduledPipeline", "schedule_layer", "schedule_pipeline"]


@dataclass(frozen=True)
class ScheduledPipeline:
    """Schedules of one layout compared. partition, even: chosen stages and the even ones, if they were asked for;
    exchange: of the replicas under the layout's own schedule."""

    pipeline: Pipeline
    rows: tuple[Compared, ...]
    partition: Partition | None = None
    even: Partition | None = None
    exchange: Exchange | None = None

    @cached_property
    def timelines(self) -> tuple[Timeline, ...]:
        """Timelines of the schedules that ran, those that fit first."""
        ran = [row for row in self.rows if row.ran is not None]
        return tuple(row.ran.timeline(row.name) for row in sorted(ran, key=lambda row: not row.fits) if row.ran)


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
        return ScheduledPipeline(pipeline, tuple(compare(pipeline, names)), exchange=exchanged(pipeline))
    if block(layout.recompute):
        raise Unsupported("balanced stages choose what each layer recomputes; leave rc=full:N out of the layout")
    chosen = settings(pipeline)
    costs = RankCosts(pipeline, chosen)
    best, plain = balance(pipeline, chosen, time_limit), _even(costs)
    found = [ScheduledPipeline(*_applied(best, costs, names), best, plain)]
    if plain is not None and layout.vpp > 1:  # unequal chunks can cost interleaving more than the busiest rank gains
        found.append(ScheduledPipeline(*_applied(plain, costs, names), _bounded(plain, best), plain))
    quickest = min(found, key=_own_step)
    return replace(quickest, exchange=exchanged(quickest.pipeline))


def _bounded(plain: Partition, best: Partition) -> Partition:
    """The even stages with the bound that the search for better ones proved."""
    method = "the even slot rule, whose chunks interleave faster than those of the least busiest rank"
    return replace(plain, certificate=Certificate(plain.busiest, best.certificate.bound, method, "MILP over the cuts",
                                                  "s"))


def _own_step(found: ScheduledPipeline) -> tuple[bool, float]:
    """(whether the layout's own schedule does not fit, its step [s])."""
    own = next(row for row in found.rows if row.name == own_schedule(found.pipeline.layout))
    return not own.fits, own.step


def _applied(best: Partition, costs: RankCosts, names: Sequence[str]) -> tuple[Pipeline, tuple[Compared, ...]]:
    """The balanced stages and schedules on them; the settings of a rank spread over its chunks if it then fits, as that
    keeps the chunks alike in time."""
    for light_first in (False, True):
        made = best.applied(costs, light_first)
        rows = tuple(compare(made, names))
        if made.layout.vpp == 1 or any(row.fits for row in rows if row.name == own_schedule(made.layout)):
            break
    return made, rows


@dataclass(frozen=True)
class ScheduledLayer:
    """Techniques on one window, in the order asked for."""

    window: Window
    sharing: Sharing
    rows: tuple[Scheduled, ...]

    @property
    def timelines(self) -> tuple[Timeline, ...]:
        """One timeline per technique, the shortest that leaves the model and the hardware as they are first."""
        able = sorted(self.rows, key=lambda s: (bool(s.technique.changes) or s.technique.ideal, s.time))
        return tuple(s.timeline for s in able)


def schedule_layer(
    window: Window, sharing: Sharing, names: Sequence[str] = (), time_limit: float | None = None
) -> ScheduledLayer:
    """Run techniques by name on a window (all, and the best, unless given). time_limit: of the search for the best [s],
    SECONDS unless given."""
    wanted = list(dict.fromkeys(ALIASES.get(name, name) for name in names or (*TECHNIQUES, "best")))
    if time_limit is not None and "best" not in wanted:
        raise OutOfRange(f"--time-limit {time_limit:g} changes nothing without technique best; give both")
    rows = {name: scheduled(window, name) for name in wanted if name != "best"}
    if "best" in wanted:
        plain = [rows.get(name) or scheduled(window, name) for name in TECHNIQUES]
        rows["best"] = best(window, SECONDS if time_limit is None else time_limit, plain)
    return ScheduledLayer(window, sharing, tuple(rows[name] for name in wanted))
