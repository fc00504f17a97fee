"""Weights and gradients that are gathered and reduced in every micro-batch: FSDP, ZeRO-3, HSDP and ZeRO++."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfplan.formulas import compute, sharding
from perfplan.formulas.core import maximum, minimum
from perfplan.training.job import Job, kernel
from perfplan.training.layout import Layout
from perfplan.training.network import Group, Network, Path

__all__ = ["CLASSES", "Replicas", "Shards", "gather_and_reduce", "shards"]

CLASSES = ("dense", "expert")  # parameters with replica groups of their own
BF16, INT8, INT4 = 2.0, 1.0, 0.5  # bytes per element; the scales of ZeRO++'s blocks are left out


@dataclass(frozen=True)
class Replicas:
    """Data-parallel replicas of one class of parameters. ranks: how many; stride: accelerators apart; weights,
    gradients, optimizer: ranks that share one copy; secondary: those that share the copy which backward gathers."""

    ranks: Any
    stride: Any
    weights: Any
    gradients: Any
    optimizer: Any
    secondary: Any


@dataclass(frozen=True)
class Shards:
    """Where one class of parameters is gathered and reduced. forward, backward: gathers of weights; reduce: of
    gradients; near, far: the two hops of a hierarchical all-to-all, `inside` ranks in the first."""

    name: str
    group: Replicas
    forward: Path
    backward: Path
    reduce: Path
    near: Path
    far: Path
    inside: Any


def shards(net: Network, groups: Sequence[Replicas]) -> list[Shards]:
    """The paths of each class of parameters."""
    found = []
    for name, g in zip(CLASSES, groups, strict=False):
        inside = minimum(g.gradients, maximum(net.taken(net.inner) // g.stride, 1))
        forward, backward, reduce, near = (
            net.path(Group(width, g.stride)) for width in (g.weights, g.secondary, g.gradients, inside)
        )
        far = net.path(Group(maximum(g.gradients / inside, 1), g.stride * inside))
        found.append(Shards(name, g, forward, backward, reduce, near, far, inside))
    return found


def gather_and_reduce(job: Job, layout: Layout, sizes: Sequence[tuple[int, Shards, Any, Any]]) -> tuple[Any, Any, Any]:
    """(gather for forward, gather for backward, reduction of gradients) of one micro-batch [s].

    sizes: pieces of the stage, each with its count, its class, its parameters and those of them that learn.
    """
    ahead = behind = reduce = 0.0
    for count, at, held, learning in sizes:
        narrow, copied = bool(layout.qwz), bool(layout.hpz)  # the secondary copy is in 16 bits
        ahead = ahead + count * _gather(job, at.forward, at.group.weights, held, narrow)
        behind = behind + count * _gather(job, at.backward, at.group.secondary, held, narrow and not copied)
        reduce = reduce + count * _reduce(job, at, learning, bool(layout.qgz))
    return ahead, behind, reduce


def _gather(job: Job, path: Path, width: Any, held: Any, quantised: bool) -> Any:
    if not quantised:
        return path.all_gather(held * job.recipe.wire["dp_gather"])
    return path.all_gather(held * INT8) + _cast(job, sharding.quantised_gather_traffic(held, width, BF16, INT8))


def _reduce(job: Job, at: Shards, learning: Any, quantised: bool) -> Any:
    """Reduce-scatter of gradients, or ZeRO++'s two all-to-alls of int4 with a reduction after each."""
    if not quantised:
        return at.reduce.all_gather(learning * job.recipe.wire["dp_reduce"])
    hops = at.near.all_to_all(learning * INT4) + at.far.all_to_all(learning / at.inside * INT4)
    return hops + _cast(job, sharding.quantised_reduce_traffic(learning, at.inside, BF16, INT4))


def _cast(job: Job, traffic: Any) -> Any:
    constants = kernel(job, "stream", "bf16")
    return compute.stream_time(
        traffic, constants.memory, job.cluster.accelerator.memory_bandwidth, 2 * constants.overhead
    )
