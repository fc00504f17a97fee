"""From names of the catalog to jobs, fits and estimates of a deployment: what the command line and `api` call."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perfplan.catalog.check import refuse_unused
from perfplan.catalog.specs import Model
from perfplan.errors import Infeasible, MissingField, OutOfRange
from perfplan.formulas.accounting import energy_used, money_spent
from perfplan.serving import estimate as price
from perfplan.serving.formats import number_format
from perfplan.serving.found import reuse_notes
from perfplan.serving.job import ServingJob, assumed, unmodelled
from perfplan.serving.layout import ServingLayout, check
from perfplan.serving.memory import Fit, check_context, fit, fits, smallest
from perfplan.serving.step import whole
from perfplan.serving.words import ENGINE

if TYPE_CHECKING:
    from perfplan.calibration.bands import Band, Bands
    from perfplan.catalog import Catalog

__all__ = ["Deployment", "Room", "bands_of", "deployment", "on_layout", "room", "serving_job", "tpot_margin"]

MILLION = 1e6
_ARRIVAL = {
    "requests/s": "requests that are all alike and come at random (Poisson), dealt out evenly",
    "flight": "requests that are all alike, one coming as another ends, in bursts as fitted for the engine",
    "queued": "requests that are all alike; TTFT from the start of the step in which one is admitted",
    "batch": "one batch of requests that are all alike",
}


def serving_job(
    model: str,
    cluster: str,
    catalog: Catalog,
    *,
    engine: str = ENGINE,
    weights: str = "",
    kv: str = "",
    caveats: tuple[str, ...] = (),
    **settings: Any,
) -> ServingJob:
    """The job of these names. weights: number format, the checkpoint's own unless given; kv: 16 bits unless given;
    caveats: further ones; settings: the other fields of a job."""
    machine, found = catalog.cluster(cluster), catalog.model(model)
    release = catalog.engine(engine, "", machine.accelerator.family, machine.accelerator.id)
    own = (f"weights in {found.dtype}, as the checkpoint has them",) if not weights else ()
    return ServingJob(found, machine, release, number_format(weights or found.dtype), kv or "bf16",
                      caveats=(*release.notes, *own, *caveats), **settings)


def on_layout(
    model: str, cluster: str, layout: str, catalog: Catalog, context: int, **settings: Any
) -> tuple[ServingJob, ServingLayout]:
    """The job of these names and a layout that its model allows; facts of the catalog that were set must be used.
    context: tokens that the model must have room for."""
    job, place = serving_job(model, cluster, catalog, **settings), ServingLayout.parse(layout)
    refuse_unused(catalog)
    check(job.model, place)
    check_context(job, context)
    return job, place


@dataclass(frozen=True)
class Room:
    """Whether a model fits on so many accelerators: every legal layout, best first, and the fewest that would do."""

    job: ServingJob
    gpus: int
    context: int
    users: int
    layouts: tuple[Fit, ...]
    least: int | None
    used: int

    @property
    def fits(self) -> bool:
        """Whether some layout holds as many users as wanted."""
        return any(one.fits for one in self.layouts)


def room(job: ServingJob, gpus: int, context: int, users: int = 1, expected: int | None = None) -> Room:
    """Every way to place the model on `gpus` accelerators, or, where none is legal, on the most that have one."""
    if gpus < 1 or users < 1:
        raise OutOfRange(f"accelerators ({gpus}) and users ({users}) must be at least 1")
    check_context(job, context)
    if expected is not None and not 1 <= expected <= context:
        raise OutOfRange(f"sequences of {expected} tokens on average are outside 1 to {context}, the longest; give a"
                         " mean within")
    limit = job.cluster.size
    if limit is not None and gpus > limit:
        raise OutOfRange(f"gpus is {gpus}, but cluster {job.cluster.id} has {limit} accelerators")
    used, found = gpus, fits(job, gpus, context, users, expected)
    while used > 1 and not any(one.fits for one in found) and not found:
        used -= 1
        found = fits(job, used, context, users, expected)
    return Room(job, gpus, context, users, tuple(found), smallest(job, context, users), used)


@dataclass(frozen=True)
class Deployment:
    """One layout under one load: what it delivers, what it costs, whether it fits. band, first_band: interval of TPOT
    and of TTFT [s]; without: what going without each assumption of the job would give."""

    job: ServingJob
    layout: ServingLayout
    isl: int
    osl: int
    load: str
    steady: price.Steady
    fit: Fit
    band: tuple[float, float]
    first_band: tuple[float, float]
    caveats: tuple[str, ...]
    without: tuple[tuple[str, price.Steady], ...] = ()

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Generated tokens per second and accelerator."""
        return float(self.steady.tokens_per_s) / self.layout.world

    @property
    def request(self) -> Mapping[str, float]:
        """Seconds by part of the mean latency of a request; they add up to TTFT + (osl - 1) TPOT."""
        steps = max(self.osl - 1, 0)
        parts = {f"decode: {name}": steps * float(time) * self._per_token for name, time in self.steady.decode.items()}
        parts["decode: prompts of others"] = steps * float(self.steady.tpot) - sum(parts.values())
        own = float(whole(self.steady.prompt))
        first = {f"prompt: {name}": float(time) for name, time in self.steady.prompt.items()}
        return parts | first | {"waiting": float(self.steady.ttft) - own}

    @property
    def assumed(self) -> str:
        """What the percentiles of TTFT and TPOT take for granted."""
        return f"{_ARRIVAL[self.load.split()[-1]]}; lengths that differ spread them further"

    @property
    def _per_token(self) -> float:
        from perfplan.formulas.serving import drafted_tokens

        return float(1 / drafted_tokens(self.job.acceptance, self.job.drafts))

    @property
    def joules_per_million(self) -> float:
        """Energy of a million generated tokens at the meter, accelerators at full board power [J]."""
        chip, cluster = self.job.cluster.accelerator, self.job.cluster
        if chip.tdp is None:
            raise MissingField(f"accelerator {chip.id} states no tdp, which energy needs; add it to its YAML")
        return float(energy_used(chip.tdp + cluster.overhead_power, self.layout.world, self._million, cluster.pue))

    @property
    def dollars_per_million(self) -> float:
        """Money for a million generated tokens at the catalog's price [$]."""
        chip = self.job.cluster.accelerator
        if chip.price_per_hour is None:
            raise MissingField(f"accelerator {chip.id} states no price_per_hour; add it to its YAML")
        return float(money_spent(chip.price_per_hour, self.layout.world, self._million))

    @property
    def _million(self) -> float:
        return MILLION / float(self.steady.tokens_per_s)


def deployment(
    job: ServingJob,
    layout: ServingLayout,
    isl: int,
    osl: int,
    *,
    concurrency: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    bands: Bands | None = None,
) -> Deployment:
    """Price a layout under one of: a closed loop of `concurrency`, one fixed `batch`, arrivals at `rate` [1/s]; all
    requests queued at once if none is given. bands: of the catalog; without them an interval is the value itself."""
    check(job.model, layout)
    if isl < 1 or osl < 1:
        raise OutOfRange(f"lengths are {isl} and {osl} tokens, but each must be at least 1")
    check_context(job, isl + osl)
    if job.imbalance > 1 and layout.adp == 1:
        raise OutOfRange(f"imbalance {job.imbalance:g} changes nothing: layout {str(layout)!r} has one attention rank;"
                         " give it adp2 or more")
    if sum(value is not None for value in (concurrency, batch, rate)) > 1:
        raise OutOfRange("give one of concurrency, batch and rate, not several")
    for name, count in (("concurrency", concurrency), ("batch", batch)):
        if count is not None and not 1 <= count <= 1 << 20:
            raise OutOfRange(f"{name} is {count}, but must be between 1 and {1 << 20}")

    def under(one: ServingJob) -> tuple[price.Steady, str]:
        if concurrency is not None:
            return price.steady(one, layout, isl, osl, float(concurrency)), f"{concurrency} requests in flight"
        if batch is not None:
            return price.static_batch(one, layout, isl, osl, batch), f"{batch} requests in one batch"
        if rate is not None:
            return price.at_rate(one, layout, isl, osl, rate), f"{rate:g} requests/s"
        return price.saturated(one, layout, isl, osl), "all requests queued"

    steady, load = under(job)
    less = []
    for words, plain in assumed(job):
        with suppress(Infeasible):  # such as experts that do not fit on the accelerators
            less.append((words, under(replace(job, **plain))[0]))
    each, first, said = _bands(job, steady, bands)
    held = fit(job, layout, isl + osl, 1, isl + osl // 2)
    ranks = layout.dp * layout.adp
    found = reuse_notes(job, layout, isl, osl, float(steady.rate) / ranks)
    return Deployment(job, layout, isl, osl, load, steady, held, each, first,
                      found + job.caveats + unmodelled(job) + said,
                      tuple(less))


def _bands(job: ServingJob, steady: price.Steady, bands: Bands | None
           ) -> tuple[tuple[float, float], tuple[float, float], tuple[str, ...]]:
    """(interval of TPOT, interval of TTFT, caveats) by the residuals of measured deployments of the kind."""
    tpot, ttft = float(steady.tpot), float(steady.ttft)
    if bands is None:
        return (tpot, tpot), (ttft, ttft), ()
    each, first = bands_of(job, bands)
    return each.around(tpot), first.around(ttft), (each.caveat,) if each.caveat else ()


def bands_of(job: ServingJob, bands: Bands) -> tuple[Band, Band]:
    """Error bands of TPOT and TTFT, from the residuals of measured deployments of the job's kind."""
    chip = job.cluster.accelerator
    moe = job.model.routed
    borrowed = bool(job.kernel("gemm", job.units).borrowed)
    return (bands.find("serving", moe, chip.family, borrowed=borrowed),
            bands.find("first-token", moe, chip.family, borrowed=borrowed))


def tpot_margin(bands: Bands, model: Model) -> float:
    """Share by which a predicted TPOT stays below a limit that nine of ten deployments of such a model, dense or MoE,
    shall keep [1]."""
    return bands.excess("serving", model.routed)
