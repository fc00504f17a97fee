"""FSMoE's pipelined layer: the number of chunks, an event simulation, gradients cut to fill idle network time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from perfplan.errors import OutOfRange, SolverError
from perfplan.formulas.moe_pipeline import chunked_time
from perfplan.placement.routing import Array

__all__ = ["CHUNKS", "Chunked", "Gradients", "best_chunks", "partition_gradients", "simulated"]

CHUNKS = (1, 2, 4, 8)  # FSMoE's choice
_MOST = 4096  # vectors of degrees that are all tried


@dataclass(frozen=True)
class Chunked:
    """One pass of a layer. For each operation (a2a: dispatch or combine; gather, scatter: inside the node; work: the
    experts) a constant per chunk and the time of all its data [s]."""

    a2a: tuple[float, float]
    gather: tuple[float, float]
    scatter: tuple[float, float]
    work: tuple[float, float]

    def time(self, chunks: int) -> float:
        """Time of the pass in so many chunks, by the formula [s]."""
        call, data = (self.gather[i] + self.scatter[i] for i in range(2))
        return float(chunked_time(chunks, *self.a2a, call, data, *self.work))

    def network_time(self, chunks: int) -> float:
        """Time that the network is busy with dispatch and combine [s]."""
        return 2 * (chunks * self.a2a[0] + self.a2a[1])


def best_chunks(layer: Chunked, allowed: Sequence[int] = CHUNKS) -> int:
    """The number of chunks with the least time, of a few."""
    return min(allowed, key=lambda chunks: (layer.time(chunks), chunks))


def simulated(layer: Chunked, chunks: int) -> float:
    """Time of the pass by events: each resource takes its operations in order, all of one kind before the next [s]."""
    free = {"network": 0.0, "node": 0.0, "experts": 0.0}
    ready = [0.0] * chunks
    steps = (
        ("network", layer.a2a),
        ("node", layer.gather),
        ("experts", layer.work),
        ("node", layer.scatter),
        ("network", layer.a2a),
    )
    for resource, (call, data) in steps:
        for chunk in range(chunks):
            free[resource] = max(free[resource], ready[chunk]) + call + data / chunks
            ready[chunk] = free[resource]
    return max(ready)


@dataclass(frozen=True, eq=False)
class Gradients:
    """How gradients are cut. chunks: degree of each layer; pieces: elements reduced in each layer's window; time: all
    backward layers and of what is left over [s]; proven: whether all vectors of degrees were tried."""

    chunks: tuple[int, ...]
    pieces: Array
    time: float
    proven: bool


def partition_gradients(
    layers: Sequence[Chunked], gradients: Sequence[float], beta: float, allowed: Sequence[int] = CHUNKS
) -> Gradients:
    """Put gradient elements into the windows of backward layers, in the order in which they become available.

    layers: in the order of backward; gradients: elements that each makes ready [1]; beta: time per element reduced [s].
    For given degrees it is a linear programme: a window lasts as long as its layer, or its exchanges and its piece.
    """
    if len(layers) != len(gradients) or not layers:
        raise OutOfRange(f"{len(layers)} layers have {len(gradients)} amounts of gradients; each has one")
    alone = tuple(best_chunks(layer, allowed) for layer in layers)
    every = len(allowed) ** len(layers) <= _MOST
    vectors = product(allowed, repeat=len(layers)) if every else iter([alone])
    found = min((_programme(layers, gradients, beta, chunks) for chunks in vectors), key=lambda one: one[0])
    return Gradients(found[2], found[1], found[0], every)


def _programme(
    layers: Sequence[Chunked], gradients: Sequence[float], beta: float, chunks: tuple[int, ...]
) -> tuple[float, Array, tuple[int, ...]]:
    """(time, pieces, degrees): windows t_l >= time of the layer and >= its network time + beta x_l."""
    from scipy.optimize import linprog

    count, total = len(layers), float(sum(gradients))
    base = np.array([layer.time(r) for layer, r in zip(layers, chunks, strict=True)])
    network = np.array([layer.network_time(r) for layer, r in zip(layers, chunks, strict=True)])
    goal = np.concatenate([np.ones(count), np.full(count, -beta * total)])  # pieces as shares of all elements
    wait = np.hstack([-np.eye(count), beta * total * np.eye(count)])
    ready = np.hstack([np.zeros((count, count)), np.tril(np.ones((count, count)))])
    rows: Any = np.vstack([wait, ready])
    limits = np.concatenate([-network, np.cumsum(gradients) / total if total else np.zeros(count)])
    answer = linprog(goal, A_ub=rows, b_ub=limits, bounds=[(time, None) for time in base] + [(0, None)] * count)
    if answer.x is None:
        raise SolverError(f"the gradient partition has no answer: {answer.message}")
    return float(answer.fun + beta * total), answer.x[count:] * total, chunks
