"""What a placement is worth: hops between GPUs and nodes, balance of the loads, and the objective they make.

A placement is an array [layer, expert] of GPUs. Transitions cost 0 on one GPU, 1 between GPUs of a node and `far`
between nodes. Balance is the largest over the mean load of the GPUs of a layer, its mean over layers is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perfplan.errors import Indivisible, Infeasible, OutOfRange, SpecError
from perfplan.placement.routing import Array, Routing, Whole

__all__ = ["OBJECTIVES", "Problem", "Score", "gpu_loads", "rho", "summed"]

OBJECTIVES = ("traffic", "load", "joint", "latency")


@dataclass(frozen=True, eq=False)
class Problem:
    """Experts to place. gpus: of the group; per_node: GPUs of a node; far: cost of a hop between nodes, inside 1;
    traffic, load: weights of the mean cost of a transition and of the mean balance in the objective; limit: largest
    mean balance allowed, ceiling: largest balance of any layer, inf = none; capacity: experts of all layers together
    that fit on a GPU, which may then hold more of one layer and fewer of another, 0 = equal numbers in every layer."""

    routing: Routing
    gpus: int
    per_node: int
    far: float = 1.0
    traffic: float = 1.0
    load: float = 0.0
    limit: float = np.inf
    ceiling: float = np.inf
    capacity: int = 0

    def __post_init__(self) -> None:
        """Refuse groups that do not divide the experts, and traffic without transitions."""
        experts = self.routing.experts
        if self.gpus < 1 or experts % self.gpus:
            allowed = [n for n in range(1, experts + 1) if experts % n == 0]
            raise Indivisible(
                f"ep={self.gpus} does not divide the {experts} experts of a layer; it may be "
                f"{', '.join(map(str, allowed))}"
            )
        if self.gpus % self.per_node:
            raise Indivisible(f"{self.per_node} GPUs a node do not divide ep={self.gpus}")
        if self.traffic and self.routing.transitions is None:
            raise SpecError(
                f"{self.routing.source} has loads only: the traffic between layers is not known; use "
                "--objective load or give a trace"
            )
        if 0 < self.capacity * self.gpus < self.routing.layers * experts:
            raise Infeasible(
                f"{self.gpus} GPUs with room for {self.capacity} experts each hold {self.gpus * self.capacity} of the "
                f"{self.routing.layers * experts} experts of all layers; give room for "
                f"{self.routing.layers * self.size} each"
            )
        if not min(self.limit, self.ceiling) >= 1:
            raise OutOfRange(
                f"a balance of {min(self.limit, self.ceiling):g} is out of reach: the largest over the mean "
                "load is at least 1"
            )

    @property
    def size(self) -> int:
        """Experts of a layer on each GPU."""
        return self.routing.experts // self.gpus

    @property
    def limited(self) -> bool:
        """Whether the balance has a limit of either kind."""
        return bool(np.isfinite(self.limit) or np.isfinite(self.ceiling))

    @property
    def flat(self) -> bool:
        """Whether all hops cost the same."""
        return self.per_node == self.gpus or self.far == 1.0

    @cached_property
    def hops(self) -> Array:
        """Cost of a transition [from GPU, to GPU]."""
        gpu = np.arange(self.gpus)
        node = gpu // self.per_node
        apart = np.where(node[:, None] == node[None, :], 1.0, self.far)
        return np.where(gpu[:, None] == gpu[None, :], 0.0, apart)

    @cached_property
    def moves(self) -> Array:
        """Transitions as shares [layer, expert, expert], shares of all of them, times the traffic weight."""
        table = self.routing.transitions
        if table is None or not self.traffic or len(table) == 0:
            return np.zeros((max(self.routing.layers - 1, 0), self.routing.experts, self.routing.experts))
        return np.asarray(self.traffic * table / table.sum(), dtype=float)

    @cached_property
    def weights(self) -> Array:
        """Loads over the mean load of a GPU, [layer, expert]: a GPU's sum is its balance."""
        return np.asarray(self.routing.loads * self.gpus / self.routing.loads.sum(axis=1, keepdims=True), dtype=float)

    def held(self, placed: Whole) -> Whole:
        """Experts of all layers on each GPU."""
        return np.bincount(placed.ravel(), minlength=self.gpus)

    def contiguous(self) -> Whole:
        """The placement that engines start from: experts in order, in all layers."""
        row = np.arange(self.routing.experts) // self.size
        return np.tile(row, (self.routing.layers, 1))

    def step_costs(self, placed: Whole) -> Array:
        """Cost of the transitions after each layer, in the objective."""
        pairs = zip(self.moves, placed, placed[1:], strict=False)
        return np.array([float((w * self.hops[here[:, None], there[None, :]]).sum()) for w, here, there in pairs])

    def objective(self, placed: Whole) -> float:
        """What the search makes small: infinite where a limit of balance is broken, or the capacity of a GPU."""
        if self.capacity and self.held(placed).max() > self.capacity:
            return np.inf
        balance = rho(self.weights, placed, self.gpus)
        if balance.mean() > self.limit * (1 + 1e-12) or balance.max() > self.ceiling * (1 + 1e-12):
            return np.inf
        return float(self.step_costs(placed).sum() + self.load * balance.mean())

    def score(self, placed: Whole) -> Score:
        """Everything that is reported of a placement."""
        balance = rho(self.weights, placed, self.gpus)
        table = self.routing.transitions
        if table is None or not len(table):
            return Score(self.objective(placed), None, None, float(balance.mean()), float(balance.max()), balance)
        share, node = table / table.sum(), placed // self.per_node
        apart = [(w * (a[:, None] != b[None, :])).sum() for w, a, b in zip(share, placed, placed[1:], strict=False)]
        beyond = [(w * (a[:, None] != b[None, :])).sum() for w, a, b in zip(share, node, node[1:], strict=False)]
        return Score(
            self.objective(placed),
            float(sum(apart)),
            float(sum(beyond)),
            float(balance.mean()),
            float(balance.max()),
            balance,
        )


@dataclass(frozen=True, eq=False)
class Score:
    """A placement's figures. cross, cross_node: share of transitions between GPUs and between nodes, None if not known;
    balance: mean over layers of the largest over the mean load; worst: of any layer; layers: of each."""

    objective: float
    cross: float | None
    cross_node: float | None
    balance: float
    worst: float
    layers: Array


def summed(table: Array, row: Whole, gpus: int) -> Array:
    """Rows of a table summed over the experts of each GPU: [GPU, column] from [expert, column]; row: GPU of each."""
    from scipy import sparse

    hot = sparse.csc_matrix((np.ones(len(row)), row, np.arange(len(row) + 1)), shape=(gpus, len(row)))
    return np.asarray(hot @ table, dtype=float)


def gpu_loads(loads: Array, placed: Whole, gpus: int) -> Array:
    """Load of each GPU [layer, GPU]."""
    table = np.zeros((len(loads), gpus))
    np.add.at(table, (np.arange(len(loads))[:, None], placed), loads)
    return table


def rho(weights: Array, placed: Whole, gpus: int) -> Array:
    """Largest over mean load of each layer, from loads over the mean load of a GPU."""
    return np.asarray(gpu_loads(weights, placed, gpus).max(axis=1), dtype=float)
