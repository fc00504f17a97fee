"""Machines as a fleet planner sees them: what one does as a prefill, a decode or a mixed machine, its power and price.

A unit is the smallest set of whole machines of one type that runs an instance; power caps stretch prompts and leave
decode as it is, as measured on capped H100 machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perfplan.catalog.specs import Cluster
from perfplan.catalog.workloads import Workload
from perfplan.errors import MissingField, OutOfRange
from perfplan.formulas.energy import capped_clock, capped_power, capped_time
from perfplan.serving.curves import Curve, curve, curves
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.memory import sequence_cache
from perfplan.serving.pools import Limits, Traffic, mixed_goodput, prefill_goodput

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ROLES", "Unit", "clock_at", "machine_power", "machine_price", "regauged", "reloaded", "units"]

ROLES = ("prefill", "decode", "mixed")
MEASURED_CAP, MEASURED_TIME = 0.7, 1.3
"""Splitwise: machines capped to 0.7 of their power compute prompts 1.30 times as long and decode as before."""
_SPANS = (1, 2, 4)  # machines of one instance
_FEW = 24  # layouts looked at closely, of each role


@dataclass(frozen=True, eq=False)
class Unit:
    """One choice of the fleet. cluster: whose machines; cap: fraction of their power allowed; role: what they do;
    curve: the layout of an instance; instances: per unit; machines: per unit; rate: requests per second of a unit in
    its pool [1/s]; power: [W]; price: [$/h]; size: of the cache of a prompt, by length [B]."""

    cluster: Cluster
    cap: float
    role: str
    curve: Curve
    instances: int
    machines: int
    rate: float
    power: float
    price: float | None
    size: np.ndarray

    @property
    def name(self) -> str:
        """What it is in words: "h100-sxm prefill, tp4", "a100-sxm-80gb at 70 % decode, tp8"."""
        cap = "" if self.cap == 1 else f" at {100 * self.cap:.0f} % power"
        return f"{self.cluster.accelerator.id}{cap} {self.role}, {self.instances} x {self.curve.layout}"


def clock_at(cap: float) -> float:
    """Clock of prompts under a power cap, on the line through the capped machines measured [1].

    >>> clock_at(1.0), round(1 / clock_at(0.7), 2)
    (1.0, 1.3)
    """
    if not 0.5 <= cap <= 1:
        raise OutOfRange(f"a power cap of {cap:g} is not modelled; choose from 0.5 to 1 of the machine's power")
    return float(capped_clock(cap, MEASURED_CAP, MEASURED_TIME))


def machine_power(cluster: Cluster) -> float:
    """Power of a machine at full load, its share of host and network with it [W]."""
    chip = cluster.accelerator
    if chip.tdp is None:
        raise MissingField(f"the catalog has no power of {chip.id}; say what it draws with --assume-power"
                           f" {chip.id}=300W, or add tdp to its YAML")
    return (chip.tdp + cluster.overhead_power) * cluster.accelerators_per_node


def machine_price(cluster: Cluster) -> float | None:
    """Price of a machine for an hour [$/h]; None where the catalog has none."""
    price = cluster.accelerator.price_per_hour
    return None if price is None else price * cluster.accelerators_per_node


def _capped(curve: Curve, cap: float) -> Curve:
    factor = float(capped_time(1.0, 1.0, clock_at(cap)))
    return replace(curve, prompts=curve.prompts * factor)


def reloaded(unit: Unit, workload: Workload) -> Unit | None:
    """The unit with the curve of another workload; None where its longest request does not fit."""
    job, layout = unit.curve.job, unit.curve.layout
    found = curve(job, layout, workload)
    size = sequence_cache(job, ServingLayout(), workload.isl.values)
    return None if found is None else replace(unit, curve=_capped(found, unit.cap), size=size)


def _spanned(curve: Curve, per_machine: int) -> tuple[int, int] | None:
    """Machines and instances of a unit; None where machines would be left partly empty across nodes."""
    if curve.gpus <= per_machine:
        return 1, per_machine // curve.gpus
    return (curve.gpus // per_machine, 1) if curve.gpus % per_machine == 0 else None


def _rate(unit: Unit, pool: int, limits: Limits, traffic: Traffic, gpus: int) -> float:
    """Requests per second of one unit in a pool of so many [1/s]."""
    count = pool * unit.instances
    if unit.role == "decode":
        smooth = unit.curve.decode_tpot_percentile(limits.share) <= limits.planned
        return unit.instances * float(unit.curve.decode_rate()[smooth].max()) if smooth.any() else 0.0
    if unit.role == "mixed":
        return mixed_goodput(unit.curve, count, limits, traffic) / pool
    return prefill_goodput(unit.curve, count, gpus, limits, traffic, unit.size) / pool


def regauged(unit: Unit, pool: int, limits: Limits, traffic: Traffic) -> Unit:
    """The unit with the rate that it has in a pool of so many units; few servers queue more than many."""
    beyond = unit.cluster.fast_domain + 1  # the cache travels over the network
    return replace(unit, rate=_rate(unit, max(pool, 1), limits, traffic, beyond))


def _best(found: Iterable[Unit], pool: int, limits: Limits, traffic: Traffic) -> Unit | None:
    """The most requests per machine, then the lowest time of a decode step."""
    gauged = [regauged(unit, pool, limits, traffic) for unit in found]
    best = max(gauged, key=lambda u: (u.rate / u.machines, -float(u.curve.step[0])), default=None)
    return best if best is not None and best.rate > 0 else None


def _candidates(job: ServingJob, workload: Workload, caps: Sequence[float]) -> list[Unit]:
    cluster = job.cluster
    size = sequence_cache(job, ServingLayout(), workload.isl.values)
    power, price = machine_power(cluster), machine_price(cluster)
    most = cluster.accelerators_per_node * max(_SPANS)
    found = []
    for one in curves([job], workload, most):
        spans = _spanned(one, cluster.accelerators_per_node) if one is not None else None
        if one is None or spans is None or spans[0] not in _SPANS or one.layout.tp > cluster.fast_domain:
            continue
        machines, instances = spans
        for cap in caps:
            own = float(capped_power(power, cap)) * machines
            cost = None if price is None else price * machines
            found += [
                Unit(cluster, cap, role, _capped(one, cap), instances, machines, 0.0, own, cost, size)
                for role in ROLES
            ]
    return found


def units(
    jobs: Sequence[ServingJob], workload: Workload, caps: Sequence[float], limits: Limits, traffic: Traffic
) -> list[Unit]:
    """The best unit of every machine type, cap, role and number of machines, gauged in a pool that serves all
    traffic."""
    chosen = []
    for job in jobs:
        every = _candidates(job, workload, caps)
        for key in sorted({(u.cap, u.role, u.machines) for u in every}, reverse=True):
            same = [u for u in every if (u.cap, u.role, u.machines) == key]
            first = _best(same, 4, limits, traffic)
            if first is None:
                continue
            pool = max(1, math.ceil(traffic.rate / first.rate))
            best = _best(same, min(pool, 512), limits, traffic)
            if best is not None:
                chosen.append(best)
    return chosen
