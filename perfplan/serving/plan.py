"""The best deployment of a model for a workload under latency limits, and how it compares.

Every layout of every instance size is priced once, every number of replicas and every pair of pools is tried: the
answer is exhaustive over them. What is predicted is the goodput, the highest rate at which a share of the requests
meets each limit; the fewest accelerators whose goodput is the rate asked for win.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfplan.catalog.parameters import parameters
from perfplan.catalog.specs import Model
from perfplan.catalog.workloads import Lengths, Workload, fixed_workload, stretched
from perfplan.errors import Infeasible, OutOfRange
from perfplan.formulas.serving import drafted_tokens
from perfplan.serving.curves import Curve, curve, curves, curves_of, with_budget
from perfplan.serving.found import reuse_notes
from perfplan.serving.job import ServingJob, assumed, unmodelled
from perfplan.serving.layout import ServingLayout, check
from perfplan.serving.memory import weights
from perfplan.serving.pools import Candidate, Limits, Operating, Traffic, aggregated, disaggregated, moved, operating
from perfplan.serving.queues import burst_length
from perfplan.units import show

__all__ = ["OBJECTIVES", "KINDS", "Baseline", "Flip", "ServePlan", "beaten", "check_floors", "check_limits", "front",
           "other_lengths", "plan"]

OBJECTIVES = ("gpus", "goodput")
KINDS = ("aggregated", "disaggregated")
SMALL_BUDGET = 2048  # tokens per step, beside the engine's own
_BURSTY = 4.0  # squared variation of arrivals beyond which a queue's tail is hard to know
_NEAR = 0.82  # load beyond which a capacity 22 % too high would mean an endless queue
_WIDEST = 10.0  # widest margin below a limit
_TRIED = 8  # layouts of each kind that a change of the workload is tried on


@dataclass(frozen=True)
class Flip:
    """What another workload, or one assumption less, would make of the plan. change: what differs; kind, layout,
    gpus: of its best deployment, empty and 0 if there is none; goodput: of the plan's own deployment
    then, reached: of the best [1/s]."""

    change: str
    kind: str
    layout: str
    gpus: int
    goodput: float
    reached: float = 0.0


@dataclass(frozen=True, eq=False)
class Baseline:
    """The user's own deployment beside the plan. name: where it comes from; layout: one instance; candidate: as many
    instances as are needed, or as many as there is room for, None where no number of them meets the limits at any
    rate; point: what it gives."""

    name: str
    layout: ServingLayout
    candidate: Candidate | None
    point: Operating | None


@dataclass(frozen=True, eq=False)
class ServePlan:
    """The deployments found, best first, at most one per pair of layouts. tried: deployments of each kind; unfit:
    layouts that do not hold the longest request; flips: the answer under other workloads; ttft_band,
    tpot_band: where the percentiles of the best should lie, by the errors on measured deployments [s]."""

    job: ServingJob
    workload: Workload
    traffic: Traffic
    limits: Limits
    gpus: int
    objective: str
    candidates: tuple[Candidate, ...]
    points: tuple[Operating, ...]
    tried: dict[str, int]
    unfit: int
    priced: int
    flips: tuple[Flip, ...]
    caveats: tuple[str, ...]
    curves: tuple[Curve, ...]
    ttft_band: tuple[float, float] | None = None
    tpot_band: tuple[float, float] | None = None
    baseline: Baseline | None = None

    @property
    def best(self) -> Candidate:
        """The deployment to use."""
        return self.candidates[0]

    @property
    def point(self) -> Operating:
        """What it gives at the rate asked for."""
        return self.points[0]

    def other(self) -> Candidate | None:
        """The best deployment of the other kind, or None if none of it was tried."""
        return next((one for one in self.candidates if one.kind != self.best.kind), None)

    def tokens_per_gpu(self, one: Candidate, rate: float) -> float:
        """Output tokens per second and accelerator at that rate."""
        return rate * self.workload.osl.mean / one.gpus


def check_limits(limits: Limits) -> None:
    """Raise OutOfRange for limits that mean nothing."""
    if limits.ttft <= 0 or limits.tpot <= 0:
        raise OutOfRange("limits on TTFT and TPOT must be above 0 s")
    if not 0 <= limits.margin <= _WIDEST:
        raise OutOfRange(f"margin is {limits.margin:g}, but the share by which TPOT may exceed its prediction lies"
                         f" from 0 to {_WIDEST:g}; 0.2 is 20 %")


def _check(job: ServingJob, workload: Workload, traffic: Traffic, limits: Limits, gpus: int) -> None:
    if gpus < 1 or (job.cluster.size is not None and gpus > job.cluster.size):
        raise OutOfRange(f"gpus is {gpus}, but cluster {job.cluster.id} has 1 to {job.cluster.size or 'any'}")
    if not 0.5 <= limits.share < 1:
        raise OutOfRange(f"percentile is {100 * limits.share:g}, but must be from 50 to below 100")
    if (traffic.rate > 0) == (traffic.users > 0):
        raise OutOfRange("give a rate of requests or a number of users in flight, one of the two")
    check_limits(limits)
    check_lengths(job.model, workload, limits.share)


def check_lengths(model: Model, workload: Workload, share: float) -> None:
    """Raise OutOfRange for a workload of which less than `share` [1] of the requests go into the model's context."""
    shortest = workload.isl.percentile(share) + workload.osl.percentile(share)
    if model.max_position and shortest > model.max_position:
        raise OutOfRange(
            f"requests of {workload.id} have {shortest:.0f} tokens at percentile {100 * share:g}, more"
            f" than the {model.max_position} of {model.id}; choose a model with a longer context"
        )


def clipped(workload: Workload, limit: int) -> Workload:
    """The workload with prompts and outputs no longer than a model's context."""
    import numpy

    def cut(lengths: Lengths, most: float) -> Lengths:
        return Lengths(numpy.minimum(lengths.values, most), lengths.weights)

    if not limit or workload.isl.longest + workload.osl.longest <= limit:
        return workload
    output = cut(workload.osl, limit / 2)
    return replace(workload, osl=output, isl=cut(workload.isl, limit - output.longest), pairs=None)


def _jobs(job: ServingJob, kvs: Sequence[str]) -> list[ServingJob]:
    variants = [replace(job, kv=kv) for kv in (kvs or (job.kv,))]
    small = job.engine.chunked and job.engine.token_budget > SMALL_BUDGET
    return [*variants, *(with_budget(one, SMALL_BUDGET) for one in variants if small)]


def _search(
    found: Sequence[Curve], workload: Workload, traffic: Traffic, limits: Limits, gpus: int, kinds: Sequence[str]
) -> tuple[list[Candidate], dict[str, int]]:
    whole, counted = [], {}
    if "aggregated" in kinds:
        mixed = aggregated(found, gpus, limits, traffic)
        counted["aggregated"] = len(mixed)
        whole += [one for one in mixed if one.goodput > 0]
    if "disaggregated" in kinds:
        largest = max(f.job.engine.token_budget for f in found)
        own = [c for c in found if c.job.engine.token_budget == largest or c.layout.pp > 1]
        apart, counted["disaggregated"] = disaggregated(own, gpus, limits, traffic, workload.isl.values)
        whole += apart
    return whole, counted


def _ranked(found: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Those that meet what is needed first, then by the objective; of layouts alike but for ep only the first."""

    def key(one: Candidate) -> tuple[Any, ...]:
        size = (one.gpus, -one.goodput) if objective == "gpus" else (-one.goodput, one.gpus)
        batch = one.decode.batch_at(min(one.needed, one.goodput) / one.decodes, one.kind == "aggregated")
        quick = one.decode.at(one.decode.step, batch)  # of equal goodput, the faster decode
        return (not one.feasible, *(size if one.feasible else (-one.goodput, one.gpus)), quick, one.layout)

    seen: dict[tuple[Any, ...], Candidate] = {}
    for one in sorted(found, key=key):
        pools = (one.kind, one.decode.job.kv, *(replace(c.layout, ep=1) for c in (one.prefill, one.decode)))
        seen.setdefault(pools, one)
    return list(seen.values())


def _physics(c: Curve) -> tuple[float, float]:
    """Times below which no software gets: of the mean prompt at the dense peak of the matrix units, of a token whose
    weights are read at the full bandwidth of memory [s]."""
    job, counted = c.job, parameters(c.job.model)
    chip, fresh = job.cluster.accelerator, (c.weights * c.lengths).sum() * (1 - c.hit)
    compute = 2 * counted.active * fresh / (job.peak(job.units) * c.gpus)
    read = weights(job, c.layout) * min(counted.active / counted.total, 1.0) / chip.memory_bandwidth
    return float(compute), read * c.layout.pp / float(drafted_tokens(job.acceptance, job.drafts))


def check_floors(found: Sequence[Curve], limits: Limits) -> None:
    """Raise Infeasible if a limit is below what an empty machine takes, and say what physics alone would allow."""
    first = min(found, key=lambda c: c.prefill_service().percentile(limits.share))
    floor = first.prefill_service().percentile(limits.share)
    if limits.ttft < floor:
        raise Infeasible(
            f"a TTFT of {show(limits.ttft, 's')} at percentile {100 * limits.share:g} is below the floor of"
            f" {show(floor, 's')}: so long takes the prompt alone on an empty machine ({first.layout}, the"
            f" fastest; its products at the dense peak {show(_physics(first)[0], 's')} for the mean prompt); allow more"
            " time"
        )
    quick = min(found, key=lambda c: float(c.step[0]))
    if limits.planned < float(quick.step[0]):
        less = f" (planned to {show(limits.planned, 's')}, for predictions err)" if limits.margin else ""
        raise Infeasible(
            f"a TPOT of {show(limits.tpot, 's')}{less} is below the floor of {show(float(quick.step[0]), 's')}: so"
            f" long takes a decode step of one sequence ({quick.layout}, the fastest; to read its weights alone"
            f" {show(_physics(quick)[1], 's')}); allow more time"
        )


def _too_much(ranked: Sequence[Candidate], traffic: Traffic, gpus: int) -> Infeasible:
    if not ranked:
        return Infeasible(
            f"no deployment of up to {gpus} accelerators meets the limits at any rate; allow more time or use"
            " more accelerators per instance"
        )
    best = ranked[0]
    what = f"{traffic.rate:g} requests/s" if traffic.rate else f"{traffic.users:g} users"
    wanted = traffic.rate or best.needed
    more = f"; about {gpus * wanted / best.goodput:.0f} accelerators would do" if wanted < 1e9 else ""
    return Infeasible(
        f"{what} are beyond any deployment on {gpus} accelerators: the best meets the limits up to"
        f" {best.goodput:.3g} requests/s ({best.kind}, {best.layout}; {best.limit} ends it){more}",
        (),
    )


def other_lengths(job: ServingJob, workload: Workload, arrivals: float
             ) -> list[tuple[str, Workload, float, dict[str, Any]]]:
    """(words, workload, variation of arrivals, fields of the job) of each change."""
    alike = fixed_workload(round(workload.isl.mean), round(workload.osl.mean))
    return [
        ("prompts twice as long", stretched(workload, 2, 1), arrivals, {}),
        ("prompts half as long", stretched(workload, 0.5, 1), arrivals, {}),
        ("outputs twice as long", stretched(workload, 1, 2), arrivals, {}),
        ("outputs half as long", stretched(workload, 1, 0.5), arrivals, {}),
        ("all requests alike, of mean lengths", alike, arrivals, {}),
        *([("arrivals at random (Poisson)", workload, 1.0, {})] if arrivals > 1.2 else []),
        *((words, workload, arrivals, plain) for words, plain in assumed(job)),
    ]


def _key(c: Curve) -> tuple[str, str, int]:
    return str(c.layout), c.job.kv, c.job.engine.token_budget


def _pool(c: Curve) -> tuple[ServingLayout, str, int]:
    return replace(c.layout, ep=1), c.job.kv, c.job.engine.token_budget


def _again(found: Iterable[Curve], workload: Workload, plain: Mapping[str, Any]) -> dict[tuple[str, str, int], Any]:
    """Curves under another workload and with other fields of the job, by key; None where that does not fit."""
    alike: dict[tuple[str, int], list[Curve]] = {}
    for c in found:
        alike.setdefault((c.job.kv, c.job.engine.token_budget), []).append(c)
    priced: dict[tuple[str, str, int], Any] = {}
    for same in alike.values():
        new = curves_of(replace(same[0].job, **plain), [c.layout for c in same], workload)
        priced |= {_key(c): new.get(c.layout) for c in same}
    return priced


def _flips(
    ranked: Sequence[Candidate],
    every: Sequence[Curve],
    workload: Workload,
    traffic: Traffic,
    limits: Limits,
    gpus: int,
    kinds: Sequence[str],
) -> tuple[Flip, ...]:
    """The answer again under other lengths and with fewer assumptions, among the layouts that were best under these."""
    tried: dict[tuple[str, str, int], Curve] = {}
    for kind in kinds:
        for one in [c for c in ranked if c.kind == kind][:_TRIED]:
            for c in (one.prefill, one.decode):
                tried[_key(c)] = c
    pools = {_pool(c) for c in tried.values()}
    alike = {_key(c): c for c in every if _pool(c) in pools}  # other ep, which even loads may make the better one
    found = []
    for change, other, arrivals, plain in other_lengths(ranked[0].decode.job, workload, traffic.arrivals):
        limit = next(iter(tried.values())).job.model.max_position or 0
        fitted = clipped(other, limit)
        these = alike if "skews" in plain else tried
        priced = _again(these.values(), fitted, plain)
        again = [new for new in priced.values() if new is not None]
        load = replace(traffic, arrivals=arrivals)
        whole, _ = _search(again, fitted, load, limits, gpus, kinds) if again else ([], {})
        best = next(iter(_ranked(whole, "gpus")), None)
        prefill, decode = priced[_key(ranked[0].prefill)], priced[_key(ranked[0].decode)]
        own = 0.0
        if prefill is not None and decode is not None:
            own = moved(ranked[0], prefill, decode, gpus, limits, load, fitted.isl.values)
        found.append(
            Flip(change, best.kind, best.layout, best.gpus, own, best.goodput)
            if best and best.feasible
            else Flip(change, "", "", 0, own)
        )
    return tuple(found)


def plan(
    job: ServingJob,
    workload: Workload,
    traffic: Traffic,
    limits: Limits,
    gpus: int,
    *,
    objective: str = "gpus",
    kinds: Sequence[str] = KINDS,
    kvs: Sequence[str] = (),
    top: int = 8,
    sensitivity: bool = True,
) -> ServePlan:
    """The best deployments on at most `gpus` accelerators. objective: fewest accelerators for what is asked, or the
    highest goodput; kvs: formats of the cache to try. Raises Infeasible, with the floor or the best goodput, if there
    is none."""
    for name, given, known in (("objective", [objective], OBJECTIVES), ("kind", [*kinds], KINDS)):
        if not given or not set(given) <= set(known):
            raise OutOfRange(f"{name} {', '.join(given)!r} is unknown; choose from {', '.join(known)}")
    _check(job, workload, traffic, limits, gpus)
    fitted = clipped(workload, job.model.max_position or 0)
    every = curves(_jobs(job, kvs), fitted, gpus)
    found = [one for one in every if one is not None]
    if not found:
        raise Infeasible(
            f"no layout of {job.model.id} on up to {gpus} x {job.cluster.accelerator.id} holds one request of"
            f" {fitted.isl.longest}+{fitted.osl.longest} tokens; use more accelerators or narrower weights"
        )
    check_floors(found, limits)
    whole, counted = _search(found, fitted, traffic, limits, gpus, kinds)
    ranked = _ranked(whole, objective)
    if not ranked or not ranked[0].feasible:
        raise _too_much(ranked, traffic, gpus)
    shown = _shown(ranked, top)
    points = tuple(operating(one, min(one.needed, one.goodput), limits.share, traffic.arrivals) for one in shown)
    flips = _flips(ranked, found, fitted, traffic, limits, gpus, kinds) if sensitivity else ()
    return ServePlan(
        job,
        fitted,
        traffic,
        limits,
        gpus,
        objective,
        tuple(shown),
        points,
        counted,
        len(every) - len(found),
        len(every),
        flips,
        _caveats(job, workload, fitted, shown[0], traffic),
        tuple(found),
    )


def beaten(found: ServePlan, job: ServingJob, layout: ServingLayout, name: str) -> ServePlan:
    """The plan with the user's own layout, under the settings of `job`, as the baseline that it has to beat."""
    one = replace(layout, dp=1)
    check(job.model, one)
    if one.instance > found.gpus:
        raise OutOfRange(f"the {name} line takes {one.instance} accelerators for one instance, more than the"
                         f" {found.gpus} of --gpus; give more")
    own = curve(job, one, found.workload)
    tried = aggregated([own], found.gpus, found.limits, found.traffic) if own else []
    kept = next(iter(_ranked([each for each in tried if each.goodput > 0], found.objective)), None)
    point = None
    if kept is not None:
        point = operating(kept, min(kept.needed, kept.goodput), found.limits.share, found.traffic.arrivals)
    return replace(found, baseline=Baseline(name, one, kept, point))


def _shown(ranked: Sequence[Candidate], top: int) -> list[Candidate]:
    """The first `top`, and the best of the other kind if it is not among them."""
    shown = list(ranked[:top])
    other = next((one for one in ranked if one.kind != ranked[0].kind), None)
    return shown if other is None or other in shown else [*shown[: max(top - 1, 1)], other]


def _caveats(job: ServingJob, given: Workload, used: Workload, best: Candidate, traffic: Traffic) -> tuple[str, ...]:
    load = best.needed / best.goodput
    near = (
        (
            f"the load is {100 * load:.0f} % of the goodput: were the capacity 22 % below that, a common error,"
            " the queue would not end; add an instance",
        )
        if load > _NEAR
        else ()
    )
    runs = (
        (
            f"arrivals come in runs of about {burst_length(traffic.arrivals):.0f} requests; against the simulation p90"
            " TTFT is then known to a factor of two: --simulate",
        )
        if traffic.rate and traffic.arrivals > _BURSTY
        else ()
    )
    cut = (f"requests are cut to the {job.model.max_position} tokens of the model",) if used is not given else ()
    rank = min(best.needed, best.goodput) / (best.prefills * best.prefill.layout.adp)
    shared = reuse_notes(best.prefill.job, best.prefill.layout, used.isl.mean, used.osl.mean, rank)
    apart = ("the first token of a disaggregated deployment is counted when the cache has reached the decode pool",)
    return (
        *near,
        *runs,
        *cut,
        *shared,
        *given.notes,
        *job.caveats,
        *unmodelled(job),
        *(apart if best.kind == "disaggregated" else ()),
    )


# ---------------------------------------------------------------- throughput against latency
@dataclass(frozen=True)
class FrontPoint:
    """One trade between throughput and latency. tokens_per_gpu: output tokens per second and accelerator; tpot: at the
    percentile [s]."""

    kind: str
    layout: str
    gpus: int
    rate: float
    tokens_per_gpu: float
    tpot: float


def front(plan: ServePlan, steps: int = 24) -> list[FrontPoint]:
    """For both kinds, the most throughput per accelerator at each limit on TPOT, TTFT limited as before."""
    tpots = sorted({float(c.step[0]) for c in plan.curves})
    floor, roof = tpots[0], max(2 * plan.limits.tpot, 4 * tpots[0])
    found = []
    for kind in plan.tried:
        best = 0.0
        for i in range(1, steps + 1):
            limits = replace(plan.limits, margin=0.0, tpot=floor * (roof / floor) ** (i / steps))
            whole, _ = _search(
                plan.curves, plan.workload, replace(plan.traffic, rate=1e-9, users=0.0), limits, plan.gpus, [kind]
            )
            one = max(whole, key=lambda c: (c.goodput / c.gpus, -c.gpus), default=None)
            if one is None or one.goodput / one.gpus <= best * 1.001:
                continue
            best = one.goodput / one.gpus
            point = operating(one, one.goodput, limits.share, plan.traffic.arrivals)
            found.append(
                FrontPoint(
                    kind, one.layout, one.gpus, one.goodput, best * plan.workload.osl.mean, point.tpot_percentile
                )
            )
    return found
