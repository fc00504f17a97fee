"""The gap to physics: what no layout and no schedule of the declared model can beat, and where a step loses the rest.

The bound is the largest of four: arithmetic at the data sheet's peak, memory traffic, host links, and the cut
around a fast domain. Each holds for every assignment of work, recompute, sharding and overlap, because it counts only
what the model's own definition demands. Nothing about kernels, libraries or frameworks goes into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from perfplan.errors import OutOfRange
from perfplan.formulas import bounds
from perfplan.formulas.compute import gemm_flops
from perfplan.training.estimate import Estimate
from perfplan.training.job import Job
from perfplan.training.layers import layer_parameters
from perfplan.training.ops import Core, Gemm, Op, head_ops, layer_ops
from perfplan.training.shape import Shape

__all__ = ["Gap", "Physics", "gap", "physics"]

LEAST_GRADIENT, LEAST_ACTIVATION = 0.5, 1.0  # B: 4-bit gradients (ZeRO++), 8-bit activations
COMPUTE = ("forward", "backward", "recompute", "optimizer")


@dataclass(frozen=True)
class Physics:
    """Least step time by what bounds it [s]. accelerators: fewest whose memory holds weights, gradients and optimizer
    state without the host."""

    floors: Mapping[str, float]
    accelerators: int

    @property
    def time(self) -> float:
        """The bound [s]."""
        return max(self.floors.values())

    @property
    def reason(self) -> str:
        """What bounds."""
        return max(self.floors, key=lambda name: self.floors[name])


def _flops(job: Job) -> Counter[str]:
    """FLOPs of one step by number format: forward, dgrad, wgrad; causal attention; nothing recomputed."""
    plain = replace(job, attention="flash", routing_skew=1.0, skews=(), method="pretrain")
    shape = Shape(job.seq_len, 1, 1, 0, 1, 1, 1)
    found: Counter[str] = Counter()
    _count(found, job, head_ops(plain, shape), 1)
    for index, kind in enumerate(job.model.kinds):
        _count(found, job, layer_ops(plain, kind, shape), job.model.layers.count(index))
    return Counter({dtype: job.global_batch * flops for dtype, flops in found.items()})


def _count(found: Counter[str], job: Job, ops: list[Op], layers: int) -> None:
    passes = ("forward", "dgrad") if job.frozen else ("forward", "dgrad", "wgrad")
    for op in ops:
        if isinstance(op, Core):
            found[job.recipe.attention] += layers * 3 * op.flops
        if isinstance(op, Gemm) and op.part != "router":
            table = job.recipe.experts if op.kind == "grouped_gemm" else job.recipe.gemm
            for each in passes:
                dtype = job.recipe.head if op.kind == "head" else table[each]
                found[dtype] += layers * gemm_flops(op.m, op.n, op.k)


def _parameters(job: Job) -> tuple[float, float]:
    """(dense, routed-expert) parameters of the whole model."""
    dense = job.model.vocab * job.model.hidden * (1.0 if job.model.tied else 2.0)
    expert = 0.0
    for index, kind in enumerate(job.model.kinds):
        some, routed = layer_parameters(job, kind, 1, 1, 1)
        dense += job.model.layers.count(index) * float(some)
        expert += job.model.layers.count(index) * float(routed)
    return dense, expert


def _cut(job: Job, dense: float) -> float:
    """Floor of what enters a fast domain [s]; 0 where one holds the job, or the network's bandwidth is not known."""
    inner, outer = job.cluster.levels[0], job.cluster.levels[1:]
    size = min(inner.size, job.gpus) if inner.size > 0 else job.gpus
    domains = job.gpus / size
    if domains <= 1 or not outer:
        return 0.0
    learning = 0.0 if job.frozen else dense
    tokens = job.global_batch * job.seq_len
    entering = size * max(level.bandwidth for level in outer)
    return float(bounds.cut_floor(learning, LEAST_GRADIENT, tokens, job.model.hidden, LEAST_ACTIVATION, domains,
                                  entering))


def physics(job: Job) -> Physics:
    """The least time that any layout and schedule of the job takes on its accelerators."""
    chip, recipe = job.cluster.accelerator, job.recipe
    dense, expert = _parameters(job)
    count = dense + expert
    arithmetic = sum(float(bounds.flop_floor(flops, job.gpus, job.data_sheet_peak(dtype)))
                     for dtype, flops in _flops(job).items())
    learning = 0.0 if job.frozen else count
    state = count * recipe.weight + learning * (recipe.gradient + recipe.master + job.moments[0])
    floors = {
        "arithmetic": arithmetic,
        "memory traffic": float(bounds.traffic_floor(count * recipe.weight, job.gpus, chip.l2 or chip.memory,
                                                     chip.memory_bandwidth)),
        "network": _cut(job, dense),
    }
    if chip.host_bandwidth is not None:
        floors["host link"] = float(bounds.host_floor(state, job.gpus, chip.memory, chip.host_bandwidth))
    return Physics(floors, int(-(-state // chip.memory)))


@dataclass(frozen=True)
class Gap:
    """A step split in four that add up to it [s]. physics: no layout and schedule is below; layout: what the compute of
    this layout takes beyond, kernels, recompute and imbalance included; schedule: exposed communication, bubbles and
    gaps; unexplained: a measurement less the prediction, None without one. step, compute: predicted [s]."""

    step: float
    compute: float
    bound: Physics
    measured: float | None = None

    def __post_init__(self) -> None:
        """Reject what is no measurement."""
        if self.measured is not None and not self.measured > 0:
            raise OutOfRange(f"a measured step of {self.measured:g} s is none; give a time above 0")

    @cached_property
    def parts(self) -> dict[str, float]:
        """The split by name [s]."""
        low = min(self.bound.time, self.step)
        busy = max(self.compute, low)
        parts = {"physics": low, "layout": busy - low, "schedule": self.step - busy}
        return parts if self.measured is None else {**parts, "unexplained": self.measured - self.step}

    @property
    def share(self) -> float:
        """The bound over the step, measured if that is known [1]."""
        return self.bound.time / (self.step if self.measured is None else self.measured)


def gap(estimate: Estimate, measured: float | None = None) -> Gap:
    """Where the time of a training step goes beyond what physics demands."""
    compute = sum(float(estimate.breakdown.get(part, 0.0)) for part in COMPUTE)
    return Gap(float(estimate.step_time), compute, physics(estimate.job), measured)
