"""Which layouts make sense: one rule per reason, used row by row and by whole columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perfplan.catalog.specs import Attention, LinearAttention, Mamba, Moe
from perfplan.training.job import ORDERS, Job
from perfplan.training.layout import Layout, block

__all__ = ["DEGREE_RULES", "KEY_RULES", "RULES", "SHARDING_RULES", "Limits", "Rule", "limits", "redundant"]


@dataclass(frozen=True)
class Limits:
    """What a model allows: numbers that degrees must divide (0 = the axis must stay 1)."""

    heads: int
    kv_heads: int
    experts: int
    expert_width: int
    widths: tuple[int, ...]
    recurrent: bool
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A reason to reject: `broken(job, limits, layout)` is true where a layout breaks it; `says` has {fields}."""

    name: str
    says: str
    broken: Callable[[Job, Limits, Layout], Any]


def limits(job: Job) -> Limits:
    """The divisibility limits of the job's model."""
    mixers = [k.mixer for k in job.model.kinds]
    attention = [m for m in mixers if isinstance(m, Attention)]
    experts = [k.ffn for k in job.model.kinds if isinstance(k.ffn, Moe)]
    other = [m.heads if isinstance(m, Mamba) else m.v_heads for m in mixers if isinstance(m, Mamba | LinearAttention)]
    return Limits(
        _gcd([a.heads for a in attention] + other),
        _gcd([a.kv_heads for a in attention]),
        _gcd([f.experts for f in experts]),
        _gcd([f.width for f in experts]),
        tuple({f.width for k in job.model.kinds if (f := k.ffn) and not isinstance(f, Moe)}),
        bool(other),
        _recomputable(job),
    )


def _recomputable(job: Job) -> tuple[str, ...]:
    parts = [k.ffn for k in job.model.kinds]
    latent = any(isinstance(k.mixer, Attention) and k.mixer.kv_lora_rank for k in job.model.kinds)
    routed = [f for f in parts if isinstance(f, Moe)]
    present = {
        "mla_up_proj": latent,
        "mlp": any(f is not None and not isinstance(f, Moe) for f in parts),
        "moe": bool(routed),
        "moe_act": bool(routed),
        "shared_experts": any(f.shared_width for f in routed),
    }
    return tuple(name for name, there in present.items() if there)


def _gcd(numbers: list[int]) -> int:
    import math

    return math.gcd(*numbers) if numbers else 0


def _world(job: Job, _: Limits, layout: Layout) -> Any:
    return layout.world > job.gpus


def _batch(job: Job, _: Limits, layout: Layout) -> Any:
    return job.global_batch % (layout.mbs * layout.dp) != 0


def _heads(_: Job, limit: Limits, layout: Layout) -> Any:
    return (limit.heads % layout.tp != 0) if limit.heads else (layout.tp > 1)


def _kv_heads(_: Job, limit: Limits, layout: Layout) -> Any:
    return (
        (limit.kv_heads % layout.tp != 0) & (layout.tp % max(limit.kv_heads, 1) != 0)
        if limit.kv_heads
        else layout.tp < 1
    )


def _widths(_: Job, limit: Limits, layout: Layout) -> Any:
    broken = layout.tp < 1
    for width in limit.widths:
        broken = broken | (width % layout.tp != 0)
    return broken


def _sequence(job: Job, _: Limits, layout: Layout) -> Any:
    parts = layout.cp * (1 + (layout.tp - 1) * layout.sp)
    return (job.seq_len % parts != 0) | ((layout.cp > 1) & (job.seq_len % (2 * layout.cp) != 0))


def _sp(_: Job, __: Limits, layout: Layout) -> Any:
    return (layout.sp > 0) & (layout.tp == 1)


def _ep(_: Job, limit: Limits, layout: Layout) -> Any:
    return (limit.experts % layout.ep != 0) if limit.experts else (layout.ep > 1)


def _etp(_: Job, limit: Limits, layout: Layout) -> Any:
    return (limit.expert_width % layout.etp != 0) if limit.experts else (layout.etp > 1)


def _experts_fit(_: Job, __: Limits, layout: Layout) -> Any:
    return (layout.tp * layout.cp * layout.dp) % (layout.ep * layout.etp) != 0


def _moe_sp(_: Job, limit: Limits, layout: Layout) -> Any:
    return ((layout.tp > 1) & (layout.sp == 0)) if limit.experts else (layout.tp < 1)


def _recurrent_cp(_: Job, limit: Limits, layout: Layout) -> Any:
    return (layout.cp > 1) if limit.recurrent else (layout.cp < 1)


def _widths_divide(_: Job, __: Limits, layout: Layout) -> Any:
    ranks = layout.dp * layout.cp
    broken = layout.tp < 1
    for width in (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer):
        broken = broken | ((width > 1) & (ranks % _at_least_one(width) != 0))
    return broken


def _at_least_one(width: Any) -> Any:
    return width + (width == 0)


def _widths_rise(_: Job, __: Limits, layout: Layout) -> Any:
    weights, gradients, optimizer = (
        width + (width == 0) * _ALL for width in (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer)
    )
    return (weights > gradients) | (gradients > optimizer) | (layout.tp < 1)


def _pipeline_sharding(_: Job, __: Limits, layout: Layout) -> Any:
    return (layout.pp > 1) & ((layout.shard_gradients != 1) | (layout.shard_weights != 1))


def _experts_inside(job: Job, limit: Limits, layout: Layout) -> Any:
    """With stages inside data parallelism, stages of experts must be those of the rest (Megatron asserts it)."""
    if job.order == ORDERS[0] or not limit.experts:
        return layout.tp < 1
    return (layout.pp > 1) & (layout.ep * layout.etp != layout.tp * layout.cp)


def _one_cp_kind(_: Job, __: Limits, layout: Layout) -> Any:
    return (layout.cp == 1) & (layout.cp_kind != 0) & (layout.cp_kind != "ring")


def _cp_heads(_: Job, limit: Limits, layout: Layout) -> Any:
    exchanged, ranks = (layout.cp_kind == 2) | (layout.cp_kind == "a2a"), layout.tp * layout.cp
    return exchanged & ((max(limit.heads, 1) % ranks != 0) | (max(limit.kv_heads, 1) % ranks != 0))


def _modules(_: Job, limit: Limits, layout: Layout) -> Any:
    asked = set(layout.recompute) if isinstance(layout.recompute, tuple) and not block(layout.recompute) else set()
    return bool(asked - {"full", "core_attn", "layernorm", *limit.modules}) | (layout.tp < 1)


def _sharded_to_host(_: Job, __: Limits, layout: Layout) -> Any:
    return any(name == "params" for name, _ in layout.offload) & (layout.shard_weights == 1)


def _secondary(_: Job, __: Limits, layout: Layout) -> Any:
    ranks = layout.dp * layout.cp
    weights = layout.shard_weights or ranks
    return (layout.hpz > 0) & ((weights % max(layout.hpz, 1) != 0) | (weights <= layout.hpz))


def _quantised(_: Job, __: Limits, layout: Layout) -> Any:
    whole = (layout.qwz and layout.shard_weights == 1) or (layout.qgz and layout.shard_gradients == 1)
    return bool(whole) | (layout.tp < 1)


def _interleaving(job: Job, _: Limits, layout: Layout) -> Any:
    micro_batches = job.global_batch // (layout.mbs * layout.dp)
    return (layout.vpp > 1) & (micro_batches % layout.pp != 0)


KEY_RULES = (
    Rule("recompute modules", "rc names modules that the model does not have; it has {modules}", _modules),
    Rule("attention heads", "tp={tp} does not divide the {heads} attention heads", _heads),
    Rule("kv heads", "tp={tp} neither divides nor is a multiple of the {kv_heads} key-value heads", _kv_heads),
    Rule("MLP width", "tp={tp} does not divide the MLP widths {widths}", _widths),
    Rule("sequence length", "sequence length {seq} does not split over tp (sp) and cp, zigzag needs 2*cp", _sequence),
    Rule("sp without tp", "sp1 shards over the tensor-parallel group, so it needs tp > 1", _sp),
    Rule("cp kind without cp", "cp=allgather and cp=a2a need cp > 1", _one_cp_kind),
    Rule(
        "cp=a2a heads",
        "cp=a2a needs tp*cp = {tp}*{cp} to divide the {heads} attention and {kv_heads} key-value heads",
        _cp_heads,
    ),
    Rule("cp on recurrent layers", "cp > 1 is not modelled for SSM and linear-attention layers", _recurrent_cp),
    Rule("experts", "ep={ep} does not divide the number of experts, {experts}", _ep),
    Rule("expert width", "etp={etp} does not divide the expert width {expert_width}", _etp),
    Rule("MoE without sp", "experts with tp > 1 need sp1 (tokens would be dispatched tp times)", _moe_sp),
)
"""Rules about the axes that layer costs depend on."""

DEGREE_RULES = (
    Rule("accelerators", "tp*cp*pp*dp = {world} needs more than the {gpus} accelerators", _world),
    Rule("global batch", "global batch {batch} is not a multiple of mbs*dp = {mbs}*{dp}", _batch),
    Rule(
        "interleaving",
        "vpp > 1 needs the micro-batches {batch}/({mbs}*{dp}) to be a multiple of pp={pp}",
        _interleaving,
    ),
    Rule("expert groups", "ep*etp = {ep}*{etp} does not divide tp*cp*dp = {tp}*{cp}*{dp}", _experts_fit),
    Rule(
        "experts across stages",
        "order tp-cp-pp-dp with experts needs ep*etp = {ep}*{etp} to be tp*cp = {tp}*{cp}, or pp1",
        _experts_inside,
    ),
)
"""Rules about the degrees of a whole layout."""

SHARDING_RULES = (
    Rule("sharding width", "a sharding width does not divide the dp*cp = {dp}*{cp} replicas", _widths_divide),
    Rule("hpz width", "hpz needs weights sharded over a larger multiple of its ranks", _secondary),
    Rule("quantised collectives", "qwz needs sharded weights and qgz sharded gradients", _quantised),
    Rule("params on the host", "off=params needs sharded weights: zero3, fsdp or hsdpN", _sharded_to_host),
    Rule(
        "sharding order",
        "weights must not be sharded wider than gradients, nor those than optimizer state",
        _widths_rise,
    ),
    Rule(
        "sharded gradients under pp",
        "zero2, zero3 and hsdp with pp > 1 are not modelled: gradients would be reduced, and weights gathered, in every"
        " micro-batch; use zero1, or pp1",
        _pipeline_sharding,
    ),
)
"""Rules about how widely the state of a whole layout is sharded."""


def redundant(offered: tuple[tuple[int, int, int], ...]) -> Rule:
    """Layouts left out because an equal one, with another of the `offered` shardings, is in the space."""

    def broken(_: Job, limit: Limits, layout: Layout) -> Any:
        ranks = layout.dp * layout.cp
        experts = ranks * layout.tp // (layout.ep * layout.etp) if limit.experts else ranks
        widths = (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer)
        alone = (ranks == 1) & (experts == 1) & ((1, 1, 1) in offered and widths != (1, 1, 1))
        wide = tuple(0 if width > 1 else width for width in widths)
        whole = (ranks <= max(widths)) & (experts <= max(widths)) & (wide != widths and wide in offered)
        return alone | whole

    return Rule("same as another sharding", "the sharding changes nothing with dp*cp = {dp}*{cp} replicas", broken)


_ALL = 1 << 30  # stands for "all replicas" where widths are compared

RULES = (*KEY_RULES, *DEGREE_RULES, *SHARDING_RULES)
