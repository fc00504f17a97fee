"""At which value of a hardware number a step turns from waiting for the network to computing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from perfplan.catalog.specs import Cluster
from perfplan.errors import UnknownName, Unsupported, offer
from perfplan.symbolic.break_even import BreakEven, break_even
from perfplan.training.estimate import Estimate, estimate
from perfplan.training.plan import scaled

__all__ = ["COMPUTE", "NETWORK", "NUMBERS", "turning_point"]

COMPUTE = ("forward", "backward", "recompute", "optimizer")
NETWORK = ("tp", "cp", "ep", "sharding", "pp", "dp")
REACH = 1024.0  # the range searched: from the number divided by this to the number times this


def _network(cluster: Cluster) -> float:
    if len(cluster.levels) == 1:
        raise Unsupported(f"cluster {cluster.id} has no network beyond its fast domain")
    return cluster.levels[1].bandwidth


# hardware number -> (its value in a job, unit)
NUMBERS: Mapping[str, tuple[Callable[[Estimate], float], str]] = {
    "peak FLOP/s": (lambda e: e.job.cluster.accelerator.peak[e.job.recipe.gemm["forward"]], "FLOP/s"),
    "memory bandwidth": (lambda e: e.job.cluster.accelerator.memory_bandwidth, "B/s"),
    "fast-domain bandwidth": (lambda e: e.job.cluster.levels[0].bandwidth, "B/s"),
    "network bandwidth": (lambda e: _network(e.job.cluster), "B/s"),
}


def _lead(parts: Mapping[str, float]) -> float:
    """Compute minus exposed communication of one step [s]."""
    return sum(parts[name] for name in COMPUTE) - sum(parts[name] for name in NETWORK)


def turning_point(e: Estimate, number: str) -> BreakEven:
    """Where, as `number` alone changes, the exposed communication of this layout's step equals its compute.

    `number` is one of `NUMBERS`; bandwidths are per accelerator and direction. The range searched is a factor of 1024
    to both sides.
    """
    if number not in NUMBERS:
        raise UnknownName(f"there is no hardware number {number!r}{offer(number, NUMBERS)}")
    value, unit = NUMBERS[number]
    now = value(e)

    def difference(x: float) -> float:
        cluster = scaled(e.job.cluster, {number: x / now})
        return _lead(estimate(replace(e.job, cluster=cluster), e.layout).breakdown)

    return break_even(
        difference,
        now / REACH,
        now * REACH,
        name=number,
        unit=unit,
        below="communication-bound",
        above="compute-bound",
    )
