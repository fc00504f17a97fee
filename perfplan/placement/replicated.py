"""`replicate` in one call: loads in, the plans of all policies with the step that each makes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfplan.errors import Unsupported, offer
from perfplan.optimize.certificate import Certificate
from perfplan.placement.replicate import Plan, check_slots, plans
from perfplan.placement.routing import Array, Routing
from perfplan.placement.step import Step, Timed

__all__ = ["Choice", "Replicated", "choose", "replicated"]


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
        return self.redundant / self.step.gpus * self.routing.layers * self.step.expert_bytes()


def _choice(step: Step, routing: Routing, plan: Plan) -> Choice:
    loads = plan.gpu_loads(routing.loads, step.gpus)
    return Choice(
        plan,
        loads / loads.mean(axis=1, keepdims=True),
        step.time_slots(routing, plan.slots, plan.shares),
        plan.certificate(routing.loads, step.gpus),
    )


def replicated(step: Step, routing: Routing, redundant: int, groups: int = 1) -> Replicated:
    """Plans of `redundant` slots more than experts in every layer; by node too where the group spans fast domains."""
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
    found = [none, *plans(routing.loads, slots, step.gpus, nodes if groups > 1 else 1, groups)]
    return Replicated(step, routing, redundant, nodes, tuple(_choice(step, routing, plan) for plan in found))


def choose(found: Replicated, policy: str) -> Choice:
    """The plan of a name; the quickest whose replicas share loads evenly, which every engine can run, for ""."""
    names = [choice.plan.name for choice in found.choices]
    if policy:
        if policy not in names:
            raise Unsupported(f"there is no policy {policy!r}{offer(policy, names)}")
        return found.choices[names.index(policy)]
    even = [choice for choice in found.choices[1:] if not choice.plan.name.startswith("fractional")]
    return min(even, key=lambda choice: choice.certificate.objective)
