"""What is served, on what, by which engine: everything but the layout and the traffic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from perfplan.catalog.constants import same_units
from perfplan.catalog.specs import Attention, Cluster, Engine, Kernel, Model
from perfplan.errors import MissingField, OutOfRange, Unsupported
from perfplan.formulas.core import where
from perfplan.serving.attention import cached_width
from perfplan.serving.formats import Format
from perfplan.serving.reuse import Reuse
from perfplan.training.formats import WIDTH
from perfplan.training.job import constants

__all__ = ["BITS", "ServingJob", "assumed", "unmodelled"]

BITS = ("bf16", "fp16")  # formats of units without scales, two bytes wide


@dataclass(frozen=True)
class ServingJob:
    """weights: number format of the weights; kv: dtype of the cache; routing_skew: load of the most loaded expert rank
    over the mean [1]; skews: (ep, that load) where routing is known, instead of one routing_skew; drafts,
    acceptance: draft tokens per step of speculative decoding or MTP, and the chance that one is accepted; imbalance:
    sequences of the fullest attention rank over the mean [1]; reuse: cache that requests find instead of computing;
    host_experts: share of the routed experts' weights that is kept in host memory and read over the host link [1]."""

    model: Model
    cluster: Cluster
    engine: Engine
    weights: Format
    kv: str = "bf16"
    routing_skew: float = 1.0
    drafts: int = 0
    acceptance: float = 0.0
    imbalance: float = 1.0
    caveats: tuple[str, ...] = ()
    skews: tuple[tuple[int, float], ...] = ()
    reuse: Reuse = Reuse()
    host_experts: float = 0.0

    def __post_init__(self) -> None:
        """Reject numbers outside their meaning and formats that the accelerator lacks."""
        cached_width(self.kv)
        self.peak(self.units)
        if not 0 <= self.acceptance < 1:
            raise OutOfRange(f"acceptance is {self.acceptance:g}, but the chance of a draft token is below 1")
        for name in ("routing_skew", "imbalance"):
            if getattr(self, name) < 1:
                raise OutOfRange(f"{name} is {getattr(self, name):g}, but the fullest rank over the mean is at least 1")
        if (self.routing_skew > 1 or self.skews) and not self.model.routed:
            raise OutOfRange(f"routing skew changes nothing: {self.model.id} has no routed experts")
        self._check_host()

    def _check_host(self) -> None:
        if not 0 <= self.host_experts <= 1:
            raise OutOfRange(f"{self.host_experts:g} of the experts cannot be in host memory; give a share from 0 to 1")
        if self.host_experts and not self.model.routed:
            raise OutOfRange(f"experts in host memory change nothing: {self.model.id} has no routed experts")
        if self.reuse.bandwidth and not (self.reuse.host_hit or self.host_experts):
            raise OutOfRange("the host link changes nothing without --host-hit or --host-experts; give one of them")

    def skew(self, ep: Any) -> Any:
        """Load of the most loaded of `ep` expert ranks over the mean; 1 where every rank has a share of all experts."""
        result: Any = self.routing_skew
        for ranks, load in self.skews:
            result = where(ep == ranks, load, result)
        return where(ep > 1, result, 1.0)

    @property
    def host_bandwidth(self) -> float:
        """Bandwidth of the host link of one accelerator, each way [B/s]."""
        chip = self.cluster.accelerator
        if not (self.reuse.bandwidth or chip.host_bandwidth):
            raise MissingField(f"accelerator {chip.id} states no host_bandwidth, which host memory needs; give"
                               " --host-bandwidth, such as '50 GB/s'")
        return self.reuse.bandwidth or float(chip.host_bandwidth or 0.0)

    @property
    def units(self) -> str:
        """Number format that the products of quantised weights run in on this accelerator."""
        have = self.cluster.accelerator.peak
        if self.weights.otherwise and not any(name in have for name in same_units(self.weights.units)):
            return self.weights.otherwise
        return self.weights.units

    def clock(self, dtype: str) -> float:
        """Share of the full clock: what a long run sustains, if the engine's constants are of such runs, else what
        borrowed constants overstate [1]."""
        chip = self.cluster.accelerator
        return chip.sustained.get(dtype, chip.sustained.get("any", 1.0)) if self.engine.throttled else chip.lent.get(
            dtype, 1.0)

    def peak(self, dtype: str) -> float:
        """Dense peak of the dtype at the clock of the engine's runs [FLOP/s]."""
        chip = self.cluster.accelerator
        for name in same_units(dtype):
            if name in chip.peak:
                return chip.peak[name] * self.clock(name)
        if dtype in BITS:  # no 16-bit peak is stated: that of another format, by its width
            return max(peak * WIDTH[name] / WIDTH[dtype] for name, peak in chip.peak.items() if name in WIDTH)
        raise Unsupported(f"weights in {self.weights.id} need {dtype}, which {chip.id} does not have (it has"
                          f" {', '.join(sorted(chip.peak))}); choose other --weights")

    def kernel(self, kind: str, dtype: str) -> Kernel:
        """Constants of a kernel kind for a dtype; those of any other where the chip has none for it."""
        chip = self.cluster.accelerator
        try:
            return constants(chip, kind, dtype)
        except Unsupported:
            others = chip.kernels.get(kind) or chip.kernels.get("gemm", {})
            if not others:
                raise
            return next(iter(others.values()))


def assumed(job: ServingJob) -> tuple[tuple[str, dict[str, Any]], ...]:
    """What the job assumes of its traffic beyond lengths and arrivals: words for going without each, and the fields
    that do so."""
    every: tuple[tuple[str, dict[str, Any]], ...] = (
        ("experts loaded evenly", {"routing_skew": 1.0, "skews": ()}),
        ("attention ranks filled evenly", {"imbalance": 1.0}),
        ("no draft tokens", {"drafts": 0, "acceptance": 0.0}),
        ("no cache in host memory", {"reuse": replace(
            job.reuse, host_hit=0.0, host_memory=0.0, bandwidth=job.reuse.bandwidth * (job.host_experts > 0))}),
        ("all experts on the accelerators", {"host_experts": 0.0, **({} if job.reuse.host_hit else {
            "reuse": replace(job.reuse, bandwidth=0.0)})}),
        ("no prefix in the cache", {"reuse": replace(job.reuse, hit=0.0, prefixes=0)}),
    )
    return tuple((words, plain) for words, plain in every
                 if any(getattr(job, name) != value for name, value in plain.items()))


def unmodelled(job: ServingJob) -> tuple[str, ...]:
    """Features of the model that serving prices in a simpler way, one caveat each."""
    attention = [k.mixer for k in job.model.kinds if isinstance(k.mixer, Attention)]
    left_out = {
        "compressed attention is priced by its window and its compressed entries":
            any(a.compression for a in attention),
        "sparse attention is priced by its arithmetic and reads alone: no kernel of it was measured":
            any(one.index_topk for one in attention),
        "several residual streams are priced as one": job.model.residual_streams > 1,
        "multi-token prediction is left out unless --drafts says how many tokens it proposes":
            job.model.mtp_layers > 0 and not job.drafts,
    }
    return tuple(text for text, present in left_out.items() if present)
