"""`replicate` in one call: loads in; the plans of all policies with the step that each makes, or a sweep of how many
redundant slots there are, with the step and the memory of each."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perfplan.errors import OutOfRange, SpecError, Unsupported, offer
from perfplan.optimize.certificate import Certificate
from perfplan.placement.given import read_slots
from perfplan.placement.replicate import EPLB, EQUAL, Plan, check_slots, even_plans, given_plan, plans
from perfplan.placement.replicate_milp import certified
from perfplan.placement.routing import Array, Routing, Whole
from perfplan.placement.step import Step, Timed, routed_layers

__all__ = [
    "KNEE",
    "Choice",
    "Replicated",
    "Sweep",
    "Swept",
    "amounts",
    "asked",
    "choose",
    "replicated",
    "solver_seconds",
    "sweep",
]

KNEE = 0.01  # of a step: what more slots save must be more than this to be worth their memory
_SECONDS = 30.0  # of the solver, unless given
_AUTO = (0, 1, 2, 3, 4, 6, 8)  # redundant slots of a GPU that `auto` sweeps


@dataclass(frozen=True, eq=False)
class Choice:
    """A plan with its loads of GPUs over their mean [layer, GPU] and its step."""

    plan: Plan
    balance: Array
    time: Timed
    certificate: Certificate


@dataclass(frozen=True, eq=False)
class Replicated:
    """All plans of one instance. choices: as they stand without replicas first."""

    step: Step
    routing: Routing
    redundant: int
    nodes: int
    choices: tuple[Choice, ...]

    @property
    def slots(self) -> int:
        """Slots of a GPU in a layer."""
        return int(self.choices[-1].plan.slots.shape[1]) // self.step.gpus

    def memory(self) -> float:
        """Weights that the redundant slots of all layers take on a GPU [B]."""
        return self.step.slot_bytes(self.redundant, self.routing.layers)


def _choice(step: Step, routing: Routing, plan: Plan) -> Choice:
    loads = plan.gpu_loads(routing.loads, step.gpus)
    return Choice(
        plan,
        loads / loads.mean(axis=1, keepdims=True),
        step.time_slots(routing, plan.slots, plan.shares),
        plan.certificate(routing.loads, step.gpus),
    )


def replicated(
    step: Step,
    routing: Routing,
    redundant: int,
    groups: int = 1,
    given: tuple[str, Whole] | None = None,
    certify: float = 0.0,
) -> Replicated:
    """Plans of `redundant` slots more than experts in every layer; by node too where the group spans fast domains.

    given: somebody's plan beside them, its name and experts by slot [layer, slot]; certify: seconds for the solver to
    better the plans with equal and unequal split or to bound them, 0 = without it.
    """
    domain = step.pricing.net.inner.size or step.gpus
    nodes = max(step.gpus // domain, 1)
    slots = check_slots(routing.experts, step.gpus, redundant, nodes if groups > 1 else 1, groups)
    rows = np.tile(np.arange(routing.experts), (routing.layers, 1))
    none = Plan(
        "no replicas, in order",
        rows,
        np.ones(rows.shape),
        np.zeros(routing.layers),
        routing.loads.sum(axis=1) / step.gpus,
    )
    found = plans(routing.loads, slots, step.gpus, nodes if groups > 1 else 1, groups)
    if certify:
        found = _certified(found, routing.loads, step.gpus, certify)
    if given is not None:
        found.append(given_plan(*given, routing.loads, step.gpus))
    return Replicated(step, routing, redundant, nodes, tuple(_choice(step, routing, plan) for plan in (none, *found)))


def _certified(found: list[Plan], loads: Array, gpus: int, seconds: float) -> list[Plan]:
    """The plans with equal and unequal split as the solver leaves them; EPLB's with the bound of the equal split."""
    end, better = time.monotonic() + seconds, dict[tuple[str, int], Plan]()
    wanted = [plan for plan in found if plan.rule != EPLB]
    for turn, plan in enumerate(wanted):
        now = time.monotonic()
        share = now + (end - now) / (len(wanted) - turn)
        better[plan.rule, plan.nodes] = certified(plan, loads, gpus, share)
    return [better.get((plan.rule, plan.nodes)) or _bounded(plan, better[EQUAL, plan.nodes]) for plan in found]


def _bounded(plan: Plan, other: Plan) -> Plan:
    """A plan with the bound of a better one of its kind."""
    return replace(plan, least=np.maximum(plan.least, other.least), by=other.by)


def choose(found: Replicated, policy: str) -> Choice:
    """The plan of a name; for "" the most even one whose replicas share loads evenly, which every engine can run, of
    equal ones that with the better bound."""
    names = [choice.plan.name for choice in found.choices]
    if policy:
        if policy not in names:
            raise Unsupported(f"there is no policy {policy!r}{offer(policy, names)}")
        return found.choices[names.index(policy)]
    even = [choice for choice in found.choices[1:] if choice.plan.even]
    return min(even, key=lambda choice: (choice.certificate.objective, -choice.certificate.bound))


# ---------------------------------------------------------------- how many redundant slots
@dataclass(frozen=True, eq=False)
class Swept:
    """An amount of redundant slots: the quickest plan with equal shares. memory: weights of the redundant slots
    on a GPU [B]; next: step on the second half of a trace with the plan of the first [s], None without a trace."""

    redundant: int
    slots: int
    choice: Choice
    memory: float
    next: float | None


@dataclass(frozen=True, eq=False)
class Sweep:
    """Amounts of redundant slots side by side. knee: the fewest after which no more of them saves another KNEE of a
    step, on the next window where there is one."""

    step: Step
    routing: Routing
    rows: tuple[Swept, ...]
    knee: Swept


def amounts(text: str, experts: int, gpus: int) -> tuple[int, ...]:
    """Redundant slots that a text asks for: a number, several with commas, or `auto`.

    >>> amounts("0,16,32", 256, 16), amounts("auto", 8, 4)
    ((0, 16, 32), (0, 4, 8, 12, 16, 24))
    """
    if text.strip() == "auto":
        least = -experts % gpus
        return tuple(least + gpus * n for n in _AUTO if least + gpus * n <= experts * (gpus - 1))
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise SpecError(f"--redundant {text!r} is no number of slots; write 32, 0,16,32,64 or auto") from None
    for redundant in found:
        check_slots(experts, gpus, redundant)
    return found


def asked(step: Step, redundant: str, evaluate: str = "") -> tuple[tuple[int, ...], tuple[str, Whole] | None]:
    """(amounts of redundant slots, name and slots of the file to evaluate, if any): one of the two tells them."""
    if not evaluate:
        if not redundant:
            raise SpecError("give --redundant, the slots of a layer beyond its experts: 32, 0,16,32,64 or auto")
        return amounts(redundant, step.moe.experts, step.gpus), None
    table = read_slots(evaluate, routed_layers(step.job), step.moe.experts, step.gpus)
    more = table.shape[1] - step.moe.experts
    if redundant and redundant != str(more):
        raise SpecError(f"{evaluate} has {more} redundant slots a layer, --redundant is {redundant}; leave it out")
    return (more,), (Path(evaluate).name, table)


def solver_seconds(certify: bool, time_limit: float | None = None) -> float:
    """Seconds that the solver gets, 0 if it is not asked.

    >>> solver_seconds(True), solver_seconds(False)
    (30.0, 0.0)
    """
    if time_limit is None:
        return _SECONDS if certify else 0.0
    if not certify:
        raise OutOfRange(f"a time limit of {time_limit:g} s changes nothing without --certify; give both")
    if not time_limit > 0:
        raise OutOfRange(f"a time limit of {time_limit:g} s leaves no time to certify plans; give more than 0 s")
    return time_limit


def sweep(step: Step, routing: Routing, wanted: tuple[int, ...]) -> Sweep:
    """The quickest plan with equal shares for each amount of redundant slots, what it costs, and the knee."""
    if not wanted:
        raise OutOfRange("a sweep needs an amount of redundant slots; write --redundant 0,16,32,64 or auto")
    rows = tuple(_swept(step, routing, redundant) for redundant in wanted)
    times = [row.choice.time.step if row.next is None else row.next for row in rows]
    knee = next(i for i, time in enumerate(times) if min(times[i:]) >= time * (1 - KNEE))
    return Sweep(step, routing, rows, rows[knee])


def _swept(step: Step, routing: Routing, redundant: int) -> Swept:
    slots = check_slots(routing.experts, step.gpus, redundant)
    plan = _quickest(step, routing, slots)
    later, windows = None, routing.windows()
    if windows is not None:
        seen = _quickest(step, windows[0], slots).plan
        later = step.time_slots(windows[1], seen.slots, seen.shares).step
    return Swept(redundant, slots // step.gpus, plan, step.slot_bytes(redundant, routing.layers), later)


def _quickest(step: Step, routing: Routing, slots: int) -> Choice:
    """Of the plans whose replicas share loads evenly, the one with the quickest step."""
    found = (_choice(step, routing, plan) for plan in even_plans(routing.loads, slots, step.gpus))
    return min(found, key=lambda choice: choice.time.step)
