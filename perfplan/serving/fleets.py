"""Fleets by names of the catalog: what the command line and `api` call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perfplan.catalog.workloads import Workload
from perfplan.errors import OutOfRange, offer
from perfplan.serving.deploy import serving_job, tpot_margin
from perfplan.serving.job import ServingJob
from perfplan.serving.plan import check_lengths, check_limits, clipped
from perfplan.serving.planning import load_workload
from perfplan.serving.pools import Limits, Traffic
from perfplan.serving.provision import Bounds, Design, Fleet, provision, under_other_lengths
from perfplan.serving.words import ENGINE, rate_of
from perfplan.units import parse, show

if TYPE_CHECKING:
    from perfplan.catalog import Catalog

__all__ = ["Provisioned", "provision_by_name"]


@dataclass(frozen=True, eq=False)
class Provisioned:
    """A fleet with what was asked: designs are the pairings of machine types at its power and its price; other_lengths:
    what the same machines serve under other lengths [1/s]."""

    model: str
    workload: Workload
    traffic: Traffic
    limits: Limits
    bounds: Bounds
    fleet: Fleet
    designs: tuple[Design, ...]
    caveats: tuple[str, ...]
    other_lengths: tuple[tuple[str, float], ...]


def _given(value: float | str | None, unit: str, option: str) -> float | None:
    return parse(value, unit, option) if isinstance(value, str) else value


def _powered(jobs: list[ServingJob], given: Sequence[str]) -> tuple[list[ServingJob], tuple[str, ...]]:
    """The jobs with the power that is assumed of their accelerators, and what there is to say of it."""
    assumed = {}
    known = [job.cluster.accelerator.id for job in jobs]
    for token in given:
        name, _, power = token.partition("=")
        if not power:
            raise OutOfRange(f"--assume-power {token!r} names no power; write {known[0]}=300W")
        if name not in known:
            raise OutOfRange(f"--assume-power {token!r}: no cluster asked for has {name!r}{offer(name, known)}")
        assumed[name] = parse(power, "W", f"--assume-power {name}")
        if assumed[name] <= 0:
            raise OutOfRange(f"--assume-power {token!r}: an accelerator draws more than 0 W; give its power")
    def fed(job: ServingJob) -> ServingJob:
        chip = job.cluster.accelerator
        power = assumed.get(chip.id, chip.tdp)
        return replace(job, cluster=replace(job.cluster, accelerator=replace(chip, tdp=power)))

    return [fed(job) for job in jobs], tuple(
        f"{name} is taken to draw {show(power, 'W')}, as given" for name, power in assumed.items())


def provision_by_name(
    model: str,
    *,
    clusters: Sequence[str],
    catalog: Catalog,
    workload: str = "",
    isl: float | None = None,
    osl: float | None = None,
    rate: float | str | None = None,
    objective: str = "cost",
    power: float | str | None = None,
    budget: float | str | None = None,
    servers: int | None = None,
    caps: Sequence[float | str] = (1.0, 0.7),
    assume_power: Sequence[str] = (),
    ttft: float | str = 2.0,
    tpot: float | str = 0.1,
    percentile: float = 90.0,
    margin: float | None = None,
    engine: str = ENGINE,
    weights: str = "",
    kv: str = "",
) -> Provisioned:
    """The best fleet by names; quantities may be texts such as "232kW" or "70/s"; assume_power: what accelerators draw,
    such as "tpu-v6e=300W", in the place of the catalog's figure."""
    if not clusters:
        raise OutOfRange("name at least one cluster, such as dgx-h100")
    if not 50 <= percentile < 100:
        raise OutOfRange(f"percentile is {percentile:g}, but must be from 50 to below 100")
    jobs = [
        serving_job(model, name, catalog, engine=engine, weights=weights, kv=kv) for name in dict.fromkeys(clusters)
    ]
    jobs, drawn = _powered(jobs, assume_power)
    population = load_workload(catalog, workload, isl, osl)
    check_lengths(jobs[0].model, population, percentile / 100)
    population = clipped(population, jobs[0].model.max_position or 0)
    asked = rate_of(rate) if isinstance(rate, str) else (rate or 0.0)
    traffic = Traffic(asked, arrivals=population.arrivals)
    limits = Limits(_given(ttft, "s", "--ttft") or 0.0, _given(tpot, "s", "--tpot") or 0.0, percentile / 100,
                    tpot_margin(catalog.bands(), jobs[0].model) if margin is None else margin)
    check_limits(limits)
    bounds = Bounds(_given(power, "W", "--power"), _given(budget, "$/h", "--budget"), servers)
    fractions = [_given(cap, "1", "--caps") or 0.0 for cap in caps]
    fleet, designs, _ = provision(
        jobs, population, traffic, limits, objective=objective, bounds=bounds, caps=fractions or (1.0,)
    )
    capped = (
        (
            "a capped machine computes prompts 1.30 times as long at 70 % of its power and decodes as before, as "
            "measured by Splitwise on H100; other caps lie on that line",
        )
        if any(c < 1 for c in fractions)
        else ()
    )
    notes = tuple(dict.fromkeys((
        *population.notes, *drawn, *(note for job in jobs for note in job.caveats), *capped)))
    others = under_other_lengths(fleet, population, limits, traffic)
    return Provisioned(jobs[0].model.id, population, traffic, limits, bounds, fleet, tuple(designs), notes, others)
