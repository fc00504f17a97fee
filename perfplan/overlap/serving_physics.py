"""The gap to physics of a serving step: what no layout of the replica's accelerators and no schedule can beat.

The bound is the larger of two: the arithmetic of the products and of full attention at the data sheet's peak, and the
weights that a token needs and the cached tokens that the step reads, once each, at full memory bandwidth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfplan.catalog.parameters import parameters
from perfplan.catalog.specs import Attention, LayerKind
from perfplan.errors import OutOfRange, offer
from perfplan.formulas import bounds
from perfplan.formulas.attention import attention_flops, causal_pairs
from perfplan.overlap.physics import Gap, Physics
from perfplan.serving.curves import Curve
from perfplan.serving.deploy import Deployment
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.memory import cache_per_token, weights
from perfplan.serving.step import decode_step, network, prompt_step

__all__ = ["PHASES", "ServedStep", "decode_gap", "pool_gaps", "served_step", "serving_physics"]

PHASES = ("decode", "prefill")
OUTSIDE = ("tp", "ep", "pp", "host")  # parts of a step that are no compute


@dataclass(frozen=True)
class ServedStep:
    """One step of a replica. batch: sequences; context: tokens cached, or of a prompt; parts: times by op [s]."""

    job: ServingJob
    layout: ServingLayout
    phase: str
    batch: float
    context: int
    parts: Mapping[str, float]

    @property
    def time(self) -> float:
        """The step [s]."""
        return sum(self.parts.values())

    @property
    def compute(self) -> float:
        """What of it the accelerators compute [s]."""
        return sum(time for name, time in self.parts.items() if name not in OUTSIDE)


def served_step(job: ServingJob, layout: ServingLayout, phase: str, batch: int, context: int) -> ServedStep:
    """A step that decodes `batch` sequences of a replica, or computes as many prompts of `context` tokens."""
    if phase not in PHASES:
        raise OutOfRange(f"phase {phase!r} is unknown{offer(phase, PHASES)}")
    if batch < layout.adp * layout.pp or context < 1:
        raise OutOfRange(f"batch {batch} and context {context}: give every attention group and stage a sequence (at"
                         f" least {layout.adp * layout.pp}) of at least one token")
    net, share = network(job, layout), batch / layout.adp
    if phase == "decode":
        found, passing = decode_step(job, net, layout, share, float(context)), share / layout.pp
    else:
        found, passing = prompt_step(job, net, layout, share * context, float(context)), share
    parts = {name: float(time) for name, time in found.items()}
    return ServedStep(job, layout, phase, passing * layout.adp, context, parts)


def _read(kind: LayerKind, context: float) -> float:
    """Cached tokens that one decode reads in a layer at the least [1]."""
    a = kind.mixer
    if not isinstance(a, Attention):
        return 0.0
    limits = [float(limit) for limit in (a.window, a.index_topk) if limit]
    return min([context, *limits])


def _attention(kind: LayerKind, length: float) -> float:
    """Arithmetic of one prompt's attention in a layer, nothing where a window or an indexer leaves some out [FLOP]."""
    a = kind.mixer
    if not isinstance(a, Attention) or a.window or a.index_topk or a.compression:
        return 0.0
    return float(attention_flops(causal_pairs(length), a.heads, a.head_dim, a.v_head_dim))


def serving_physics(step: ServedStep) -> Physics:
    """The least time of a step on the accelerators of its replica, whatever their layout."""
    job, alone, chip = step.job, ServingLayout(), step.job.cluster.accelerator
    model, counted, gpus = job.model, parameters(step.job.model), step.layout.instance
    decode, length, batch = step.phase == "decode", float(step.context), step.batch
    tables = model.vocab * model.hidden * (1 if model.tied else 2)  # looked up, or used where a token is drawn only
    counts = Counter(model.layers)
    attention = 0.0 if decode else sum(n * _attention(model.kinds[i], length) for i, n in counts.items())
    flops = 2 * (counted.active - tables) * batch * (1.0 if decode else length) + attention * batch
    needed = weights(job, alone) * (counted.active - tables) / counted.total
    cached = sum(n * float(cache_per_token(job, model.kinds[i], alone)) * _read(model.kinds[i], length)
                 for i, n in counts.items()) * batch if decode else 0.0
    peak = max(chip.peak.get(job.units, 0.0), job.peak(job.units), chip.peak.get("bf16", 0.0))
    return Physics({
        "arithmetic": float(bounds.flop_floor(flops, gpus, peak)),
        "memory traffic": float(bounds.read_floor(needed, cached, gpus, chip.l2 or 0.0, chip.memory_bandwidth)),
    }, int(-(-weights(job, alone) // chip.memory)))


def decode_gap(one: Deployment) -> Gap | None:
    """The mean decode step of a deployment split into physics, layout and schedule; None if none decodes."""
    parts = {name: float(time) for name, time in one.steady.decode.items()}
    batch = float(one.steady.in_flight) / one.layout.pp
    step = ServedStep(one.job, one.layout, "decode", batch, one.isl + one.osl // 2, parts)
    return Gap(step.time, step.compute, serving_physics(step)) if one.osl > 1 and step.time > 0 else None


def pool_gaps(prefill: Curve, decode: Curve, batch: float) -> tuple[Gap, Gap]:
    """A prompt of mean length on an instance of the one, and a step that decodes `batch` sequences on each attention
    rank of the other, split likewise."""
    job, layout, length = prefill.job, prefill.layout, float((prefill.weights * prefill.lengths).sum())
    prompt = _whole_step(job, layout, "prefill", 1.0, length, prompt_step(job, network(job, layout), layout, length,
                                                                          length))
    job, layout = decode.job, decode.layout
    parts = decode_step(job, network(job, layout), layout, batch, decode.context)
    return prompt, _whole_step(job, layout, "decode", batch / layout.pp, decode.context, parts)


def _whole_step(job: ServingJob, layout: ServingLayout, phase: str, batch: float, length: float,
                parts: Mapping[str, Any]) -> Gap:
    times = {name: float(time) for name, time in parts.items()}
    step = ServedStep(job, layout, phase, batch * layout.adp, int(length), times)
    return Gap(step.time, step.compute, serving_physics(step))
