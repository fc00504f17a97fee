"""Plans of deployments by names of the catalog: what the command line and `api` call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perfplan.errors import Infeasible, OutOfRange
from perfplan.serving.deploy import bands_of, serving_job, tpot_margin
from perfplan.serving.plan import KINDS, ServePlan, plan
from perfplan.serving.pools import Limits, Traffic
from perfplan.serving.reuse import reuse_of
from perfplan.serving.words import ENGINE, rate_of
from perfplan.units import parse, show

if TYPE_CHECKING:
    from perfplan.calibration.bands import Bands
    from perfplan.catalog import Catalog
    from perfplan.catalog.workloads import Workload
    from perfplan.serving.diagnose import Diagnosis

__all__ = ["diagnose_by_name", "load_workload", "plan_by_name"]


def load_workload(catalog: Catalog, workload: str, isl: float | None, osl: float | None) -> Workload:
    """The workload of that name or trace, or requests all of `isl` and `osl` tokens."""
    from perfplan.catalog.workloads import fixed_workload

    if workload and (isl or osl):
        raise OutOfRange("give a workload or the lengths of a request, not both")
    if workload:
        return catalog.workload(workload)
    if not isl or not osl or isl < 1 or osl < 1:
        raise OutOfRange("give a workload, or the tokens of a prompt and of an output, at least 1 each")
    return fixed_workload(isl, osl)


def plan_by_name(
    model: str,
    *,
    cluster: str,
    gpus: int,
    catalog: Catalog,
    workload: str = "",
    isl: float | None = None,
    osl: float | None = None,
    rate: float | str | None = None,
    concurrency: float | None = None,
    think: float | str = 0.0,
    ttft: float | str = 2.0,
    tpot: float | str = 0.05,
    percentile: float = 90.0,
    margin: float | None = None,
    arrivals: float | None = None,
    engine: str = ENGINE,
    weights: str = "",
    kv: Sequence[str] = (),
    objective: str = "gpus",
    kinds: Sequence[str] = KINDS,
    top: int = 8,
    sensitivity: bool = True,
    prefix_hit: float = 0.0,
    prefixes: int = 0,
    host_hit: float = 0.0,
    host_memory: float | str = 0.0,
    host_bandwidth: float | str = 0.0,
    **settings: Any,
) -> ServePlan:
    """The best deployments by names. arrivals: coefficient of variation of the times between arrivals, the
    workload's own unless given; times may be texts such as "40 ms", the rate such as "12/s"; kv: formats of the
    cache to choose from; margin: share by which TPOT may exceed its prediction and still meet its limit, by the error
    band of the model's kind unless given."""
    population = load_workload(catalog, workload, isl, osl)
    first = kv[0] if kv else ""
    reuse = reuse_of(prefix_hit, prefixes, host_hit, host_memory, host_bandwidth)
    job = serving_job(model, cluster, catalog, engine=engine, weights=weights, kv=first, reuse=reuse, **settings)
    asked = rate_of(rate) if isinstance(rate, str) else (rate or 0.0)
    if arrivals is not None and not 0 <= arrivals <= 1000:
        raise OutOfRange(f"arrivals vary by {arrivals:g}, but a coefficient of variation lies from 0 to 1000")
    if concurrency is not None and concurrency <= 0:
        raise OutOfRange(f"concurrency is {concurrency:g}, but must be above 0")
    think_time = _seconds(think, "--think")
    if think_time and not concurrency:
        raise OutOfRange(f"--think {think} changes nothing without --concurrency; give both")
    varied = population.arrivals if arrivals is None else arrivals**2
    bands = catalog.bands()
    less = tpot_margin(bands, job.model) if margin is None else margin
    traffic = Traffic(asked, float(concurrency or 0.0), think_time, varied)
    limits = Limits(_seconds(ttft, "--ttft"), _seconds(tpot, "--tpot"), percentile / 100, less)
    found = plan(
        job,
        population,
        traffic,
        limits,
        gpus,
        objective=objective,
        kinds=kinds,
        kvs=kv,
        top=top,
        sensitivity=sensitivity,
    )
    return banded(found, bands)


def banded(found: ServePlan, bands: Bands) -> ServePlan:
    """The plan with the error bands of its best deployment, from the residuals of measured deployments of its kind."""
    each, first = bands_of(found.job, bands)
    tpot, ttft = each.around(found.point.tpot_percentile), first.around(found.point.ttft_percentile)
    reach = [
        f"the error band of {name} reaches to {show(band[1], 's')}, beyond the limit of {show(limit, 's')}"
        for name, band, limit in (("TTFT", ttft, found.limits.ttft), ("TPOT", tpot, found.limits.tpot))
        if band[1] > limit
    ]
    said = (*reach, *([each.caveat] if each.caveat else ()))
    return replace(found, ttft_band=ttft, tpot_band=tpot, caveats=(*said, *found.caveats))


def _seconds(given: float | str, option: str) -> float:
    return parse(given, "s", option) if isinstance(given, str) else given


def diagnose_by_name(
    model: str,
    *,
    cluster: str,
    measured: str,
    isl: int,
    osl: int,
    catalog: Catalog,
    layout: str = "",
    concurrency: int | None = None,
    engine: str = ENGINE,
    weights: str = "",
    kv: str = "",
    expected: str = "",
    peak: str = "",
    kv_per_token: str = "",
    per_user: str = "",
) -> Diagnosis:
    """A measured throughput explained, by names. layout: the fewest accelerators that fit unless given."""
    from perfplan.serving.diagnose import diagnose
    from perfplan.serving.layout import ServingLayout
    from perfplan.serving.memory import fits, smallest

    job = serving_job(model, cluster, catalog, engine=engine, weights=weights, kv=kv)
    if layout:
        chosen = ServingLayout.parse(layout)
    else:
        least = smallest(job, isl + osl)
        if least is None:
            raise Infeasible(
                f"{job.model.id} fits on no number of {job.cluster.accelerator.id} up to 256; narrower weights?"
            )
        chosen = fits(job, least, isl + osl)[0].layout
    return diagnose(
        job, chosen, isl, osl, measured, catalog, concurrency=concurrency, expected=expected, peak=peak,
        kv=kv_per_token, per_user=per_user
    )
