"""A job and its layout as neutral facts, the names that the mapping tables know."""

from __future__ import annotations

from dataclasses import replace

from perfplan.export.architecture import model_facts
from perfplan.export.launchers import Fact, Facts
from perfplan.training.job import ORDERS, Job
from perfplan.training.layout import Layout, block
from perfplan.training.stages import chunk_sizes

__all__ = ["facts_of", "layout_facts", "zero_stage"]

FORMATS = {"fp8": "fp8", "fp8-block": "fp8-block", "mxfp8": "mxfp8"}


def facts_of(job: Job, layout: Layout) -> Facts:
    """Everything that a launch line may say of a job, its layout and its model; defaults are left out."""
    model = replace(job.model, mtp_layers=job.mtp_depth)
    return {**layout_facts(job, layout), **_software(job, layout), **_precision(job), **model_facts(model)}


def _unless(facts: dict[str, tuple[Fact, Fact]]) -> dict[str, Fact]:
    """Facts that differ from their default: name -> (value, default)."""
    return {name: value for name, (value, default) in facts.items() if value != default}


# ---------------------------------------------------------------- layout
def layout_facts(job: Job, layout: Layout) -> dict[str, Fact]:
    """The facts of a layout."""
    routed = job.model.routed
    facts = _unless({
        "tp": (layout.tp, 1), "sp": (bool(layout.sp), False), "pp": (layout.pp, 1), "cp": (layout.cp, 1),
        "cp_kind": (layout.cp_kind, "ring"), "ep": (layout.ep, 1), "dp": (layout.dp, 1)})
    batches = job.global_batch // (layout.mbs * layout.dp)
    return {
        **facts, **({"etp": layout.etp} if routed else {}), **_chunks(job, layout), "mbs": layout.mbs,
        "global_batch": job.global_batch, "seq_len": job.seq_len, "accumulation": batches, "world": layout.world,
        "tokens_per_micro_batch": layout.mbs * job.seq_len, "tokens_per_step": job.global_batch * job.seq_len,
        **({"micro_batches": batches} if layout.pp > 1 else {}), **_sharding(layout), **_recompute(layout),
        **_offload(layout)}


def _chunks(job: Job, layout: Layout) -> dict[str, Fact]:
    """How the layers are cut into pipeline chunks: by number where they divide, else chunk by chunk."""
    layers, chunks = len(job.model.layers), layout.pp * layout.vpp
    if layout.pp == 1:
        return {}
    schedule = {"schedule": "1F1B" if layout.vpp == 1 else "Interleaved1F1B"}
    if layers % chunks == 0:
        more = {"chunk_layers": layers // chunks, "vpp": layout.vpp} if layout.vpp > 1 else {}
        return {**schedule, **more}
    sizes = chunk_sizes(layers, chunks, job.mtp_depth)
    if sizes is None:
        return {**schedule, "vpp": layout.vpp}
    return {**schedule, "vpp": layout.vpp, "stage_layers": stage_text(sizes, job.mtp_depth)}


def stage_text(sizes: tuple[int, ...], mtp: int = 0) -> str:
    """Megatron's text of a split: E embedding, t layer, m multi-token prediction, L head, | between chunks.

    >>> stage_text((2, 3, 3, 2))
    'Ett|ttt|ttt|ttL'
    >>> stage_text((15, 16, 16, 14), mtp=1)
    'Et*15|t*16|t*16|t*14mL'
    """
    words = [f"t*{size}" if size > 3 else "t" * size for size in sizes]
    return f"E{'|'.join(words)}{'m' * mtp}L"


def zero_stage(layout: Layout) -> int:
    """ZeRO stage that the widths amount to: 0 to 3."""
    return 3 - [layout.shard_weights, layout.shard_gradients, layout.shard_optimizer].count(1)


def _sharding(layout: Layout) -> dict[str, Fact]:
    stage, ranks = zero_stage(layout), layout.dp * layout.cp
    widths = {w or ranks for w in (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer) if w != 1}
    facts: dict[str, Fact] = {"zero": stage, "shard_optimizer": stage > 0, "hpz": layout.hpz, "qwz": bool(layout.qwz),
                              "qgz": bool(layout.qgz)}
    if stage > 1:
        facts |= {"megatron_fsdp": True, "shard_strategy": f"zero{stage}"}
        facts |= {"reshard": "always" if stage == 3 else "never"}
    if len(widths) > 1:
        facts["three_widths"] = layout.sharding
    width = max(widths, default=1)
    if 1 < width < ranks:
        facts["shard_instances"] = ranks // width
    shard = max(width // layout.cp, 1) if stage > 1 else 1
    facts |= {"dp_shard": shard, "dp_replicate": max(layout.dp // shard, 1)}
    if stage == 1:
        facts["optimizer_alone"] = True
    return {name: value for name, value in facts.items() if value is not False and (value or name == "zero")}


def _recompute(layout: Layout) -> dict[str, Fact]:
    if not layout.recompute:
        return {}
    if some := block(layout.recompute):
        return {"recompute": "full", "recompute_method": "block", "recompute_layers": some}
    if layout.recompute == ("full",):
        return {"recompute": "full", "recompute_method": "uniform", "recompute_layers": 1}
    return {"recompute": "modules", "recompute_modules": layout.recompute}


def _offload(layout: Layout) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    for name, number in layout.offload:
        if name == "optim" and not number:
            facts |= {"offload_optimizer": True, "offload_optimizer_device": "cpu"}
        elif name == "params":
            facts |= {"offload_weights": True, "offload_weights_device": "cpu"}
        else:
            facts[f"off={name}{f':{number}' if number else ''}"] = True
    return facts


# ---------------------------------------------------------------- software and precision
def _software(job: Job, layout: Layout) -> dict[str, Fact]:
    replicas, alone = layout.dp * layout.cp > 1, job.optimizer is None
    sharded = replicas and zero_stage(layout) > 0
    hides = job.overlapped("fsdp" if zero_stage(layout) > 1 else "dp") > 0
    facts = _unless({
        "overlap_reduce": (replicas and hides, False), "overlap_gather": (sharded and hides, False),
        "overlap_tp": (bool(layout.sp) and job.overlapped("tp") > 0, False),
        "overlap_ep": (layout.ep > 1 and job.overlapped("ep") > 0, False),
        "overlap_pp": (layout.vpp == 1 or job.overlapped("pp") > 0, True),
        "order_pp_inside": (job.order == ORDERS[1], False), "graphs": (job.graphs, ()),
        "pad_experts": (job.padded_experts, False), "lora": (job.frozen, False),
        "packed": (job.packed, 0), "attention": ("flash" if job.fused_attention else "unfused", "flash")})
    if job.padded_experts:
        facts["capacity"] = "1.0"
    if job.optimizer is not None and not alone:
        name = job.optimizer.id
        facts["optimizer"] = f"{name}-sharded" if name == "muon" and sharded else name
    if not job.framework.dropout:
        facts |= {"hidden_dropout": "0", "attention_dropout": "0"}
    return facts


def _precision(job: Job) -> dict[str, Fact]:
    recipe, dtype = job.recipe, job.recipe.gemm["forward"]
    first, last = recipe.bf16_layers
    facts = _unless({
        "bf16": (dtype not in ("fp16", "fp32"), False), "fp16": (dtype == "fp16", False),
        "reduce_bf16": (recipe.wire["dp_reduce"] == 2 and dtype != "fp16", False),
        "fp8_weights": (dtype in FORMATS and recipe.weight < 2, False), "ends_bf16": (bool(first or last), False)})
    if dtype in FORMATS:
        kind = "fp8-current" if recipe.cast_reads > 1 else FORMATS[dtype]
        facts |= {"fp8_format": "e4m3" if dtype == "fp8-block" else "hybrid", "fp8_recipe": kind}
    elif dtype == "nvfp4":
        facts |= {"fp4_format": "e2m1", "fp4_recipe": "nvfp4"}
    if first or last:
        facts |= {"first_bf16": first, "last_bf16": last}
    if (job.optimizer is None and recipe.moments == 4) or (job.optimizer and job.optimizer.id == "adam-bf16"):
        facts |= {"precise_optimizer": True, "first_moment": "bf16", "second_moment": "bf16"}
    if dtype != "fp32" and not recipe.master:
        facts["no_master_weights"] = True
    return facts
