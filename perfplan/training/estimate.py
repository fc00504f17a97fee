"""The cost of one layout, as numbers: time by part, memory by part, what binds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from perfplan.catalog.specs import Recipe
from perfplan.errors import Indivisible
from perfplan.formulas.accounting import mfu_from_time, token_rate
from perfplan.formulas.compute import gemm_flops
from perfplan.formulas.core import total
from perfplan.training import host
from perfplan.training.job import Job
from perfplan.training.layers import Away, end_costs, layer_cost
from perfplan.training.layout import Layout, block
from perfplan.training.mtp import prediction_cost, prediction_ops
from perfplan.training.network import Network
from perfplan.training.ops import Core, Gemm, Op, head_ops, layer_ops, unmodelled
from perfplan.training.rules import RULES, limits
from perfplan.training.shape import Shape
from perfplan.training.stages import chunk_sizes, stages
from perfplan.training.step import Pieces, memory, step_time

__all__ = ["Estimate", "broken_rules", "estimate", "kind_jobs", "layer_sequence", "model_flops", "pieces"]

BF16 = {"forward": "bf16", "dgrad": "bf16", "wgrad": "bf16"}


@dataclass(frozen=True)
class Estimate:
    """What a layout costs. Times [s], memory of the fullest rank [B]; `breakdown` adds up to `step_time`."""

    job: Job
    layout: Layout
    step_time: float
    breakdown: dict[str, float]
    memory: dict[str, float]
    band: tuple[float, float]
    caveats: tuple[str, ...] = ()

    @property
    def memory_total(self) -> float:
        """Memory of the fullest rank, everything included [B]."""
        return sum(self.memory.values())

    @property
    def memory_allocated(self) -> float:
        """What the framework's allocator holds at its peak: no driver context, libraries or fragmentation [B]."""
        return sum(
            size for part, size in self.memory.items() if part not in ("communication", "context", "fragmentation")
        )

    @property
    def headroom(self) -> float:
        """Memory left on the fullest rank, negative if it does not fit [B]."""
        return self.job.cluster.accelerator.memory - self.memory_total

    @property
    def fits(self) -> bool:
        """Whether the fullest rank fits into the memory that the driver reports."""
        return self.headroom >= 0

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Tokens per second and accelerator in use."""
        tokens = self.job.global_batch * self.job.seq_len
        return float(token_rate(tokens, float(self.step_time), int(self.layout.world)))

    @property
    def mfu(self) -> float:
        """Model FLOPs (causal attention, no recompute: Megatron's convention) over the dense peak of the GEMM dtype."""
        peak = self.job.data_sheet_peak(self.job.recipe.gemm["forward"])
        return float(mfu_from_time(model_flops(self.job), float(self.step_time), int(self.layout.world), peak))

    @property
    def binding(self) -> str:
        """The largest part of the step time."""
        return max(self.breakdown, key=lambda part: self.breakdown[part])


# ---------------------------------------------------------------- kinds, with layers kept in bf16
def layer_sequence(job: Job) -> tuple[tuple[int, ...], int]:
    """(kind of each layer, number of kinds); layers that the recipe keeps in bf16 are kinds of their own."""
    first, last = job.recipe.bf16_layers
    layers, count = job.model.layers, len(job.model.kinds)
    if not (first or last):
        return layers, count
    plain = [i < first or i >= len(layers) - last for i in range(len(layers))]
    return tuple(kind + count * keep for kind, keep in zip(layers, plain, strict=True)), 2 * count


def kind_jobs(job: Job) -> list[Job]:
    """The job under which each kind of layer of `layer_sequence` is priced."""
    count = len(job.model.kinds)
    if layer_sequence(job)[1] == count:
        return [job] * count
    plain: Recipe = replace(job.recipe, gemm=BF16, experts=BF16, saved=2.0)
    return [job] * count + [replace(job, recipe=plain)] * count


def pieces(job: Job, net: Network, shape: Shape, cp_kind: str, recompute: tuple[str, ...], away: Away = ()) -> Pieces:
    """Costs of every piece of a stage for these axes."""
    kinds, settings = job.model.kinds, [(), ("full",)] if block(recompute) else [recompute]
    costs = [
        layer_cost(each, net, kinds[index % len(kinds)], shape, cp_kind, setting, away)
        for setting in settings
        for index, each in enumerate(kind_jobs(job))
    ]
    ahead = prediction_cost(job, net, shape, cp_kind, settings[0], away)
    return Pieces(costs, *end_costs(job, net, shape), ahead)


def model_flops(job: Job) -> float:
    """Model FLOPs of one step: forward, dgrad, and wgrad if weights learn; causal attention, routed tokens, logits,
    multi-token prediction if it is trained.

    Router, norms, adapters and recompute do not count.
    """
    plain = replace(job, attention="flash", routing_skew=1.0, skews=(), method="pretrain")
    shape = Shape(job.seq_len, 1, 1, 0, 1, 1, 1)
    ops = [(1, head_ops(plain, shape))]
    ops += [(job.model.layers.count(i), layer_ops(plain, kind, shape)) for i, kind in enumerate(job.model.kinds)]
    passes, ahead = 2 if job.frozen else 3, job.mtp_depth
    if ahead:
        ops += [(ahead, head_ops(plain, shape)), (ahead, prediction_ops(plain, shape))]
        ops += [(ahead, layer_ops(plain, job.model.kinds[index], shape)) for index in job.model.prediction_block]
    return job.global_batch * sum(count * _flops(some, passes) for count, some in ops)


def _flops(ops: list[Op], passes: int) -> float:
    products = (gemm_flops(op.m, op.n, op.k) for op in ops if isinstance(op, Gemm) and op.part != "router")
    return float(passes * sum(products) + 3 * sum(op.flops for op in ops if isinstance(op, Core)))


def _release_words(job: Job) -> tuple[str, ...]:
    """What the release that is meant does to the estimate."""
    name, found, chip = job.framework.release, job.release, job.cluster.accelerator.id
    if not name:
        return ()
    if found is None:
        return (f"release {name}: no factor is known for such models on {chip}; the step time is the framework's own",)
    return (f"release {name}: the step time x {found.factor:.3f} ({found.rows} measured rows; {found.source})",)


def broken_rules(job: Job, layout: Layout) -> list[str]:
    """Why the layout cannot run, one sentence per broken rule."""
    limit = limits(job)
    facts = {
        "world": layout.world,
        "gpus": job.gpus,
        "batch": job.global_batch,
        "mbs": layout.mbs,
        "dp": layout.dp,
        "tp": layout.tp,
        "cp": layout.cp,
        "ep": layout.ep,
        "pp": layout.pp,
        "etp": layout.etp,
        "heads": limit.heads,
        "kv_heads": limit.kv_heads,
        "widths": sorted(limit.widths),
        "seq": job.seq_len,
        "experts": limit.experts,
        "modules": ", ".join(("core_attn", "layernorm", *limit.modules)),
        "expert_width": limit.expert_width,
    }
    reasons = [rule.says.format(**facts) for rule in RULES if bool(rule.broken(job, limit, layout))]
    if stages(*layer_sequence(job), layout.pp, layout.vpp, tail=job.mtp_depth) is None:
        reasons.append(
            f"{len(job.model.layers)} layers, embedding and head do not fill pp*vpp = {layout.pp}*{layout.vpp} chunks"
        )
    if layout.vpp > 1 and layout.pp == 1:
        reasons.append("vpp > 1 needs pp > 1")
    return reasons


def _uneven_words(job: Job, layout: Layout) -> tuple[str, ...]:
    """That interleaving takes chunks to be alike where they are not (event simulation: up to 4% longer on
    llama-3.1-405b over 16 ranks, 23% on deepseek-v3 with chunks of one and two layers)."""
    inner = (chunk_sizes(len(job.model.layers), layout.pp * layout.vpp, job.mtp_depth) or ())[1:-1]
    if layout.vpp == 1 or max(inner, default=0) == min(inner, default=0):
        return ()
    return (f"chunks of {min(inner)} and {max(inner)} layers interleave as if alike here, which may be too fast;"
            " perfplan schedule pipeline simulates them",)


def estimate(job: Job, layout: Layout) -> Estimate:
    """Price one layout; Indivisible (one sentence) if it cannot run at all. Whether it fits is in the estimate."""
    reasons = broken_rules(job, layout)
    if reasons:
        raise Indivisible(f"layout {str(layout)!r} cannot run {job.model.id}: {'; '.join(reasons)}")
    net = Network(job.cluster, max(job.gpus, layout.world))
    shape = Shape(job.seq_len, layout.mbs, layout.tp, layout.sp, layout.cp, layout.ep, layout.etp)
    split = stages(*layer_sequence(job), layout.pp, layout.vpp, block(layout.recompute), job.mtp_depth)
    assert split is not None
    parts = pieces(job, net, shape, layout.cp_kind, layout.recompute, layout.offload)
    times = step_time(job, net, layout, parts, split)
    step = total("T_step", "s", times)
    sizes = memory(job, layout, parts, split)
    breakdown = {name: float(value) for name, value in times.items()}
    return Estimate(
        job,
        layout,
        step,
        breakdown,
        {name: float(size) for name, size in sizes.items()},
        (float(step), float(step)),
        job.caveats + unmodelled(job) + host.caveats(job, layout) + _uneven_words(job, layout) + _release_words(job),
    )
