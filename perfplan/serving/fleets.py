"""Fleets by names of the catalog: what the command line and `api` call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfplan.catalog.workloads import Workload
from perfplan.errors import OutOfRange
from perfplan.serving.deploy import serving_job
from perfplan.serving.plan import clipped
from perfplan.serving.planning import load_workload
from perfplan.serving.pools import Limits, Traffic
from perfplan.serving.provision import Bounds, Design, Fleet, provision
from perfplan.serving.words import rate_of
from perfplan.units import parse

if TYPE_CHECKING:
    from perfplan.catalog import Catalog

__all__ = ["Provisioned", "provision_by_name"]


@dataclass(frozen=True, eq=False)
class Provisioned:
    """A fleet with what was asked: designs are the pairings of machine types at its power and its price."""

    model: str
    workload: Workload
    traffic: Traffic
    limits: Limits
    bounds: Bounds
    fleet: Fleet
    designs: tuple[Design, ...]
    caveats: tuple[str, ...]


def _given(value: float | str | None, unit: str) -> float | None:
    return parse(value, unit) if isinstance(value, str) else value


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
    ttft: float | str = 2.0,
    tpot: float | str = 0.1,
    percentile: float = 90.0,
    engine: str = "vllm",
    weights: str = "",
    kv: str = "",
) -> Provisioned:
    """The best fleet by names; quantities may be texts such as "232kW" or "70/s"."""
    if not clusters:
        raise OutOfRange("name at least one cluster, such as dgx-h100")
    if not 50 <= percentile < 100:
        raise OutOfRange(f"percentile is {percentile:g}, but must be from 50 to below 100")
    jobs = [
        serving_job(model, name, catalog, engine=engine, weights=weights, kv=kv) for name in dict.fromkeys(clusters)
    ]
    population = clipped(load_workload(catalog, workload, isl, osl), jobs[0].model.max_position or 0)
    asked = rate_of(rate) if isinstance(rate, str) else (rate or 0.0)
    traffic = Traffic(asked, arrivals=population.arrivals)
    limits = Limits(_given(ttft, "s") or 0.0, _given(tpot, "s") or 0.0, percentile / 100)
    if limits.ttft <= 0 or limits.tpot <= 0:
        raise OutOfRange("limits on TTFT and TPOT must be above 0 s")
    bounds = Bounds(_given(power, "W"), _given(budget, "$/h"), servers)
    fractions = [_given(cap, "1") or 0.0 for cap in caps]
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
    notes = tuple(dict.fromkeys((*population.notes, *(note for job in jobs for note in job.caveats), *capped)))
    return Provisioned(jobs[0].model.id, population, traffic, limits, bounds, fleet, tuple(designs), notes)
