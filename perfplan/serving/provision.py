"""Fleets: how many machines of which type, power cap and role serve a workload for the least money, power or machines.

An integer programme over units (see `serving.machines`): whole numbers of each, one continuous variable for the rate
that goes through separate prefill and decode pools, linear capacities. A pool's capacity per unit depends on its size,
as few servers queue more than many, so the answer is checked with the queue of each pool and solved again with the
capacities of the sizes found until they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perfplan.catalog.workloads import Workload
from perfplan.errors import Infeasible, MissingField, OutOfRange, offer
from perfplan.optimize.certificate import Certificate
from perfplan.optimize.milp import Solution, solve
from perfplan.serving.curves import curves
from perfplan.serving.job import ServingJob
from perfplan.serving.machines import Unit, regauged, reloaded, units
from perfplan.serving.plan import check_floors, clipped, other_lengths
from perfplan.serving.pools import Limits, Traffic
from perfplan.units import show

if TYPE_CHECKING:
    import pulp

__all__ = ["OBJECTIVES", "Bounds", "Design", "Fleet", "Share", "provision", "under_other_lengths"]

OBJECTIVES = {"cost": "$/h", "power": "W", "servers": "1", "throughput": "1/s"}
_ROUNDS = 8
_LIMIT = 20.0  # s for the solver, of each programme
_ENOUGH = 1e-6


@dataclass(frozen=True)
class Bounds:
    """What a fleet may take at most; None is no bound. power: [W]; budget: [$/h]; servers: machines."""

    power: float | None = None
    budget: float | None = None
    servers: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything is bounded."""
        return any(bound is not None for bound in (self.power, self.budget, self.servers))


@dataclass(frozen=True)
class Share:
    """So many units of one choice in a fleet."""

    unit: Unit
    count: int

    @property
    def machines(self) -> int:
        """Machines of all units."""
        return self.count * self.unit.machines


@dataclass(frozen=True)
class Fleet:
    """An answer. shares: what stands in it; rate: requests per second that it serves within the limits [1/s]; checked:
    whether the queue of each pool confirms it; rounds: programmes solved."""

    objective: str
    shares: tuple[Share, ...]
    rate: float
    certificate: Certificate
    checked: bool
    rounds: int

    @property
    def machines(self) -> int:
        """Machines in all."""
        return sum(share.machines for share in self.shares)

    @property
    def power(self) -> float:
        """Power of all machines, caps applied [W]."""
        return sum(share.count * share.unit.power for share in self.shares)

    @property
    def price(self) -> float | None:
        """Price of all machines [$/h]; None where one has none."""
        prices = [share.unit.price for share in self.shares]
        return None if None in prices else sum(s.count * (s.unit.price or 0.0) for s in self.shares)


@dataclass(frozen=True)
class Design:
    """One pairing of machine types at a fixed power or price: what it serves. view: iso-power or iso-cost."""

    view: str
    prefill: str
    decode: str
    machines: tuple[int, int]
    rate: float
    power: float
    price: float | None


def _cost(objective: str, unit: Unit) -> float:
    if objective == "cost":
        if unit.price is None:
            raise MissingField(
                f"accelerator {unit.cluster.accelerator.id} states no price_per_hour, which the objective"
                " cost needs; add it to its YAML or choose --objective power"
            )
        return unit.price
    return unit.power if objective == "power" else float(unit.machines)


def _bounded(problem: pulp.LpProblem, counts: Mapping[int, Any], found: Sequence[Unit], bounds: Bounds) -> None:
    if bounds.power is not None:
        problem += sum(counts[i] * (u.power / 1e3) for i, u in enumerate(found)) <= bounds.power / 1e3, "power"
    if bounds.budget is not None:
        problem += sum(counts[i] * _cost("cost", u) for i, u in enumerate(found)) <= bounds.budget, "budget"
    if bounds.servers is not None:
        problem += sum(counts[i] * u.machines for i, u in enumerate(found)) <= bounds.servers, "servers"


def _programme(found: Sequence[Unit], rate: float, objective: str, bounds: Bounds) -> Solution:
    import pulp

    most = objective == "throughput"
    problem = pulp.LpProblem("provision", pulp.LpMaximize if most else pulp.LpMinimize)
    counts = {i: problem.add_variable(f"units_{i:03d}", lowBound=0, cat=pulp.LpInteger) for i in range(len(found))}
    apart = problem.add_variable("rate_apart", lowBound=0)
    together = problem.add_variable("rate_mixed", lowBound=0)

    def capacity(role: str) -> Any:
        return pulp.lpSum(counts[i] * u.rate for i, u in enumerate(found) if u.role == role)

    problem += apart + together if most else pulp.lpSum(counts[i] * _cost(objective, u) for i, u in enumerate(found))
    problem += apart <= capacity("prefill"), "prefill"
    problem += apart <= capacity("decode"), "decode"
    problem += together <= capacity("mixed"), "mixed"
    if rate:
        problem += apart + together >= rate, "rate"
    _bounded(problem, counts, found, bounds)
    return solve(problem, _LIMIT)


def _shares(solution: Solution, found: Sequence[Unit]) -> tuple[Share, ...]:
    counted = [(u, int(solution.values[f"units_{i:03d}"])) for i, u in enumerate(found)]
    return tuple(Share(unit, count) for unit, count in counted if count)


def served(shares: Iterable[Share]) -> float:
    """Requests per second of a fleet by the rates of its units [1/s]."""
    by: dict[str, float] = {}
    for share in shares:
        by[share.unit.role] = by.get(share.unit.role, 0.0) + share.count * share.unit.rate
    return min(by.get("prefill", 0.0), by.get("decode", 0.0)) + by.get("mixed", 0.0)


def _certificate(solution: Solution, objective: str) -> Certificate:
    method = "integer programme, HiGHS"
    by = "" if solution.status == "optimal" else "the solver's dual bound"
    sign = -1.0 if objective == "throughput" else 1.0
    return Certificate(sign * solution.objective, sign * solution.bound, method, by, OBJECTIVES[objective])


def _solved(found: list[Unit], rate: float, objective: str, bounds: Bounds, limits: Limits, traffic: Traffic) -> Fleet:
    """Programmes solved until the queues of the pools confirm their capacities."""
    best: Fleet | None = None
    for turn in range(1, _ROUNDS + 1):
        solution = _programme(found, rate, objective, bounds)
        if not solution.found:
            raise _nothing(found, rate, bounds)
        shares = _shares(solution, found)
        exact = {id(s.unit): regauged(s.unit, s.count, limits, traffic) for s in shares}
        real = tuple(Share(exact[id(s.unit)], s.count) for s in shares)
        reached = served(real)
        wanted = rate or solution.objective
        fleet = Fleet(objective, real, reached, _certificate(solution, objective), reached >= wanted * (1 - 1e-3), turn)
        if fleet.checked or best is None or (fleet.rate > best.rate and not best.checked):
            best = fleet
        if fleet.checked:
            break
        found = [exact.get(id(u), u) for u in found]
    assert best is not None
    return best


def _nothing(found: Sequence[Unit], rate: float, bounds: Bounds) -> Infeasible:
    most = _programme(found, 0.0, "throughput", bounds)
    known = most.found and most.objective < 1e12
    reach = f"; the most within them is {max(0.0, most.objective):.3g} requests/s" if known else ""
    words = [
        f"{show(bounds.power, 'W')}" if bounds.power is not None else "",
        f"{show(bounds.budget, '$/h')}" if bounds.budget is not None else "",
        f"{bounds.servers} machines" if bounds.servers is not None else "",
    ]
    within = ", ".join(word for word in words if word)
    return Infeasible(
        f"{rate:g} requests/s need more than {within or 'any fleet'}{reach}; allow more, or lower the rate"
    )


def _side(unit: Unit) -> tuple[str, float]:
    return unit.cluster.accelerator.id, unit.cap


def _designs(found: Sequence[Unit], view: str, bounds: Bounds, limits: Limits, traffic: Traffic) -> list[Design]:
    """What every pairing of prefill and decode machines serves within the same power or price."""
    sides = list(dict.fromkeys(_side(u) for u in found))
    made = []
    pairs = [(p, d) for p in sides for d in sides] + [(s, None) for s in sides]
    for first, second in pairs:
        roles = {"mixed": first} if second is None else {"prefill": first, "decode": second}
        kept = [u for u in found if roles.get(u.role) == _side(u)]
        if {u.role for u in kept} != set(roles):
            continue
        solution = _programme(kept, 0.0, "throughput", bounds)
        if not solution.found or solution.objective < _ENOUGH:
            continue
        shares = _shares(solution, kept)
        real = [Share(regauged(s.unit, s.count, limits, traffic), s.count) for s in shares]
        fleet = Fleet("throughput", tuple(real), served(real), _certificate(solution, "throughput"), True, 1)
        counts = [sum(s.machines for s in real if s.unit.role == role) for role in ("prefill", "decode", "mixed")]
        split = (counts[2], 0) if second is None else (counts[0], counts[1])
        made.append(
            Design(
                view, _words(first), _words(second) if second else "mixed", split, fleet.rate, fleet.power, fleet.price
            )
        )
    return sorted(made, key=lambda one: -one.rate)


def _words(side: tuple[str, float]) -> str:
    return side[0] if side[1] == 1 else f"{side[0]} at {100 * side[1]:.0f} %"


def under_other_lengths(
    fleet: Fleet, workload: Workload, limits: Limits, traffic: Traffic
) -> tuple[tuple[str, float], ...]:
    """(change of lengths or arrivals, requests per second that the same machines then serve) [1/s]."""
    job = fleet.shares[0].unit.curve.job
    found = []
    for words, other, arrivals, plain in other_lengths(job, workload, traffic.arrivals):
        if plain:
            continue
        fitted, load = clipped(other, job.model.max_position or 0), replace(traffic, arrivals=arrivals)
        units = [(reloaded(share.unit, fitted), share.count) for share in fleet.shares]
        again = [Share(regauged(unit, count, limits, load), count) for unit, count in units if unit is not None]
        found.append((words, served(again)))
    return tuple(found)


def provision(
    jobs: Sequence[ServingJob],
    workload: Workload,
    traffic: Traffic,
    limits: Limits,
    *,
    objective: str = "cost",
    bounds: Bounds = Bounds(),  # noqa: B008
    caps: Sequence[float] = (1.0, 0.7),
) -> tuple[Fleet, list[Design], list[Unit]]:
    """The best fleet of machines of the jobs' clusters; what every pairing of types serves at its power and at its
    price; and the units it was made of. Raises Infeasible where nothing serves the rate within the bounds."""
    if objective not in OBJECTIVES:
        raise OutOfRange(f"objective {objective!r} is not known{offer(objective, OBJECTIVES)}")
    if objective == "throughput" and not bounds.any:
        raise OutOfRange(
            "the most throughput is without end unless power, budget or servers are bounded; give one of them"
        )
    if objective != "throughput" and traffic.rate <= 0:
        raise OutOfRange(f"a rate of {traffic.rate:g} requests/s needs no machine; give more than 0")
    for name in ("power", "budget", "servers"):
        value = getattr(bounds, name)
        if value is not None and value <= 0:
            raise OutOfRange(f"{name} is {value:g}, but must be above 0")
    found = units(jobs, workload, sorted(set(caps), reverse=True), limits, traffic)
    if not {"prefill", "decode"} <= {u.role for u in found} and not any(u.role == "mixed" for u in found):
        each = [curves([job], workload, job.cluster.accelerators_per_node) for job in jobs]
        if fitting := [one for curves_of in each for one in curves_of if one is not None]:
            check_floors(fitting, limits)
        names = ", ".join(job.cluster.id for job in jobs)
        raise Infeasible(
            f"no machine of {names} holds {jobs[0].model.id} and meets the limits at any rate; allow more time"
            " or other machines"
        )
    rate = 0.0 if objective == "throughput" else traffic.rate
    fleet = _solved(list(found), rate, objective, bounds, limits, traffic)
    views = _designs(found, "iso-power", Bounds(power=bounds.power or fleet.power), limits, traffic)
    if fleet.price is not None:
        views += _designs(found, "iso-cost", Bounds(budget=bounds.budget or fleet.price), limits, traffic)
    return fleet, views, found
