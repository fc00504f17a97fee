"""The optimizer step: stages into a pipeline, replicas into reductions, and the memory of the fullest rank.

`pp` and `vpp` are plain numbers here (the stages of a model depend on them); every other axis may be a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfplan.catalog.specs import Moe
from perfplan.formulas import compute, pipeline, sharding
from perfplan.formulas.core import maximum, minimum, total, where
from perfplan.formulas.optimizer import newton_schulz_flops
from perfplan.training import host
from perfplan.training.job import ORDERS, Job, kernel
from perfplan.training.layers import Cost
from perfplan.training.layout import Layout
from perfplan.training.network import Group, Network
from perfplan.training.sharded import CLASSES, Replicas, Shards, gather_and_reduce, shards
from perfplan.training.stages import Stage

__all__ = [
    "Pieces",
    "Replicas",
    "fullest",
    "memory",
    "replicas",
    "send_time",
    "stage_memory",
    "stage_reduction",
    "stage_parts",
    "step_time",
]

TIME_PARTS = ("forward", "backward", "recompute", "tp", "cp", "ep", "offload", "host", "sharding")


@dataclass(frozen=True)
class Pieces:
    """Costs of the pieces that stages are made of: one per layer kind, the embedding, the head, and all
    multi-token-prediction modules, which lie beside the head."""

    kinds: Sequence[Cost]
    first: Cost
    last: Cost
    ahead: Cost | None = None


def _widths(layout: Layout, ranks: Any) -> tuple[Any, Any, Any, Any]:
    given = (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer)
    weights, gradients, optimizer = (where(width == 0, ranks, minimum(width, ranks)) for width in given)
    return weights, gradients, optimizer, minimum(layout.hpz, weights) if layout.hpz else weights


def replicas(job: Job, layout: Layout) -> tuple[Replicas, ...]:
    """Replica groups of dense and, if the model has any, of routed-expert parameters (world / (pp ep etp) replicas)."""
    dense = layout.dp * layout.cp
    between = layout.pp if job.order == ORDERS[1] else 1  # stages lie between replicas
    apart = layout.tp * between  # cp ranks priced as far apart as dp ranks
    group = Replicas(dense, apart, *_widths(layout, dense))
    if job.frozen or not job.model.routed:
        return (group,)
    expert = dense * layout.tp / (layout.ep * layout.etp)
    return group, Replicas(expert, layout.ep * layout.etp * between, *_widths(layout, expert))


def _labelled(pieces: Pieces, stage: Stage) -> list[tuple[str, int, Cost]]:
    held = enumerate(zip(stage.layers, pieces.kinds, strict=True), start=1)
    parts = [(f"layers of kind {index}", count, cost) for index, (count, cost) in held if count]
    parts += [("embedding", 1, pieces.first)] * stage.first + [("head", 1, pieces.last)] * stage.last
    if pieces.ahead is not None and stage.last:
        parts.append(("multi-token prediction", 1, pieces.ahead))
    return parts


def _pieces(pieces: Pieces, stage: Stage) -> list[tuple[int, Cost]]:
    return [(count, cost) for _, count, cost in _labelled(pieces, stage)]


def _sum(pieces: Pieces, stage: Stage, name: str, symbol: str, unit: str) -> Any:
    return total(symbol, unit, {label: count * getattr(cost, name) for label, count, cost in _labelled(pieces, stage)})


# ---------------------------------------------------------------- time
def _sizes(cost: Cost, name: str) -> tuple[Any, Any]:
    """(parameters of one class, frozen ones included; those that learn) of a piece."""
    learning = getattr(cost, name)
    return (learning + cost.frozen if name == "dense" else learning), learning


def _weight_share(job: Job, pieces: Pieces, stage: Stage, groups: Sequence[Replicas]) -> Any:
    """Bytes of the weights of a stage that a rank owns, frozen ones included."""
    held = [_sum(pieces, stage, name, f"N_{name}", "1") for name in CLASSES[: len(groups)]]
    held[0] = held[0] + _sum(pieces, stage, "frozen", "N_frozen", "1")
    sizes = zip(CLASSES, held, groups, strict=False)
    return total("M_w", "B", {name: sharding.weight_memory(n, job.recipe.weight, g.weights) for name, n, g in sizes})


def _stage_times(
    job: Job, layout: Layout, pieces: Pieces, stage: Stage, split: Sequence[Shards]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts of one micro-batch on a stage, and the forward and backward windows that hide nothing yet."""
    parts = {name: _sum(pieces, stage, name, f"t_{name}", "s") for name in TIME_PARTS[:-1]}
    hidden = _sum(pieces, stage, "hidden", "t_hidden", "s")
    free = compute.free_share(parts["forward"] + parts["backward"], hidden)
    stretch = 1 + parts["host"] / (
        parts["forward"] + parts["backward"]
    )  # communication also runs while the host is late
    ahead, behind = free * stretch * parts["forward"], free * stretch * parts["backward"] + parts["recompute"]
    parts["sharding"] = 0.0
    if host.on_host(layout, "params"):
        share = _weight_share(job, pieces, stage, replicas(job, layout))
        parts["offload"] = parts["offload"] + host.weight_copies(job, share, ahead, behind)
    if split:
        sizes = [(count, at, *_sizes(cost, at.name)) for count, cost in _pieces(pieces, stage) for at in split]
        gather, again, reduce = gather_and_reduce(job, layout, sizes)
        share = job.overlapped("fsdp")
        shown = compute.exposed_time(gather, ahead, share), compute.exposed_time(again + reduce, behind, share)
        parts["sharding"] = shown[0] + shown[1]
        ahead, behind = ahead - (gather - shown[0]), behind - (again + reduce - shown[1])
        slow = compute.hidden_penalty(gather + again + reduce, parts["sharding"], max(job.framework.contention, 1.0))
        parts["backward"] = parts["backward"] + slow
    return parts, {"forward": ahead, "backward": behind}


def _reduction(job: Job, net: Network, group: Replicas, parameters: Any) -> tuple[Any, Any]:
    """(reduction of gradients, gather of updated weights) once per step, beyond what micro-batches already reduced."""
    wire = job.recipe.wire
    owners = maximum(group.optimizer, group.gradients)
    scatter = net.path(Group(owners / group.gradients, group.stride * group.gradients))
    across = net.path(Group(group.ranks / owners, group.stride * owners))
    spread = net.path(Group(maximum(owners / group.weights, 1), group.stride * group.weights))
    reduce = scatter.all_gather(parameters / group.gradients * wire["dp_reduce"]) + across.all_reduce(
        parameters / owners * wire["dp_reduce"]
    )
    return reduce, spread.all_gather(parameters / group.weights * wire["dp_gather"])


def _data_parallel(
    job: Job, net: Network, groups: Sequence[Replicas], parameters: Sequence[Any], windows: dict[str, Any]
) -> Any:
    reduce = gather = 0.0
    for group, size in zip(groups, parameters, strict=True):
        some = _reduction(job, net, group, size)
        reduce, gather = reduce + some[0], gather + some[1]
    hidden = job.overlapped("dp")
    return compute.exposed_time(reduce, windows["backward"], hidden) + compute.exposed_time(
        gather, windows["forward"], hidden
    )


def _optimizer(job: Job, groups: Sequence[Replicas], parameters: Sequence[Any]) -> Any:
    constants, bandwidth = kernel(job, "stream", "bf16"), job.cluster.accelerator.memory_bandwidth
    moved = job.framework.optimizer_bytes + 2 * (job.moments[0] - job.recipe.moments)  # moments are read and written
    traffic = total(
        "B_opt",
        "B",
        {
            name: sharding.optimizer_traffic(size, moved, maximum(group.optimizer, group.gradients))
            for name, group, size in zip(CLASSES, groups, parameters, strict=False)
        },
    )
    return compute.stream_time(traffic, constants.memory, bandwidth, constants.overhead) + _orthogonal(
        job, groups, parameters
    )


def _orthogonal(job: Job, groups: Sequence[Replicas], parameters: Sequence[Any]) -> Any:
    """Newton-Schulz iterations on what a rank owns; embedding and head count too, which is a little high."""
    if job.optimizer is None or not job.optimizer.iterations:
        return 0.0
    constants, chip = kernel(job, "gemm", "bf16"), job.cluster.accelerator
    narrow = [kind.ffn.width for kind in job.model.kinds if isinstance(kind.ffn, Moe)]
    widths = (job.model.hidden, min([job.model.hidden, *narrow]))
    flops = total(
        "F_ns",
        "FLOP",
        {
            name: newton_schulz_flops(size / maximum(group.optimizer, group.gradients), width, job.optimizer.iterations)
            for name, group, size, width in zip(CLASSES, groups, parameters, widths, strict=False)
        },
    )
    peak = job.peak("bf16")
    return compute.kernel_time(flops, 0.0, constants.compute, peak, constants.memory, chip.memory_bandwidth, 0.0)


def send_time(job: Job, net: Network, layout: Layout) -> Any:
    """Time of one send of a micro-batch between pipeline stages [s]."""
    split = 1 if job.framework.scatter_gather else layout.sp
    rows = layout.mbs * job.seq_len / layout.cp / (1 + (layout.tp - 1) * split)
    path = net.path(Group(layout.pp, _stage_stride(job, layout)))
    return path.send(rows * job.model.hidden * job.recipe.wire["pp"])


def _sends(job: Job, net: Network, layout: Layout, micro_batches: Any) -> Any:
    hop = send_time(job, net, layout)
    if layout.vpp > 1 and job.overlapped("pp"):
        return pipeline.pipeline_latency_interleaved(layout.pp, layout.vpp, hop)
    return layout.vpp * pipeline.pipeline_latency(layout.pp, micro_batches, hop)


def _stage_stride(job: Job, layout: Layout) -> Any:
    return layout.tp * layout.cp * (layout.dp if job.order == ORDERS[0] else 1)


def _extras(job: Job, net: Network, layout: Layout) -> Any:
    """All-reduce of an embedding that the last stage has too, once per step."""
    if not _copied(job, layout):
        return 0.0
    matrix = job.model.vocab * job.model.hidden / layout.tp * job.recipe.wire["dp_reduce"]
    return net.path(Group(2, _stage_stride(job, layout) * (layout.pp - 1))).all_reduce(matrix)


def step_time(job: Job, net: Network, layout: Layout, pieces: Pieces, split: Sequence[Stage]) -> dict[str, Any]:
    """Parts of the step time that add up to it [s]; those of the busiest stage, times the micro-batches, come first."""
    micro_batches = job.global_batch / (layout.mbs * layout.dp)
    groups = replicas(job, layout)
    sharded = _any(maximum(groups[0].weights, groups[0].gradients) > 1)
    rows = shards(net, groups) if sharded else []
    busiest: dict[str, Any] = {}
    windows: dict[str, Any] = {}
    busy: Any = 0.0
    everything: Any = 0.0
    for stage in split:
        parts, free = _stage_times(job, layout, pieces, stage, rows)
        time = total("t_stage", "s", parts)
        everything = everything + stage.count * time
        longer = time > busy
        busiest = {name: where(longer, part, busiest.get(name, part)) for name, part in parts.items()}
        windows = {name: where(longer, part, windows.get(name, part)) for name, part in free.items()}
        busy = maximum(time, busy)
    parameters = [_heaviest(job, layout, pieces, split, name) for name in CLASSES[: len(groups)]]
    result = {name: pipeline.steady_time(micro_batches, part) for name, part in busiest.items()}
    result["bubble"] = pipeline.bubble_time(everything, busy, layout.vpp)
    result["pp"] = _sends(job, net, layout, micro_batches)
    result["dp"] = _data_parallel(job, net, groups, parameters, windows) + _extras(job, net, layout)
    result["optimizer"] = _optimizer(job, groups, parameters)
    if host.on_host(layout, "optim"):
        owned = [size / maximum(g.optimizer, g.gradients) for g, size in zip(groups, parameters, strict=True)]
        result["optimizer"], flush = host.update(job, layout, owned, result["optimizer"], windows["backward"])
        result["offload"] = result["offload"] + flush
    result["gaps"] = micro_batches * layout.vpp * job.host_gap + job.framework.step_gap
    release = job.release
    return {name: compute.released_time(time, release.factor) for name, time in result.items()} if release else result


def stage_parts(job: Job, net: Network, layout: Layout, pieces: Pieces, stage: Stage) -> dict[str, Any]:
    """Parts of the time of one micro-batch on one stage, forward and backward together [s]."""
    groups = replicas(job, layout)
    sharded = _any(maximum(groups[0].weights, groups[0].gradients) > 1)
    return _stage_times(job, layout, pieces, stage, shards(net, groups) if sharded else [])[0]


def stage_reduction(job: Job, net: Network, layout: Layout, pieces: Pieces, stage: Stage) -> tuple[Any, Any]:
    """(reduction of gradients, gather of updated weights) of a stage once per step, nothing of it hidden [s]."""
    reduce = gather = 0.0
    for group, name in zip(replicas(job, layout), CLASSES, strict=False):
        some = _reduction(job, net, group, _parameters(job, layout, pieces, stage, name))
        reduce, gather = reduce + some[0], gather + some[1]
    return reduce, gather


def stage_memory(job: Job, layout: Layout, pieces: Pieces, stage: Stage) -> dict[str, Any]:
    """Memory by part of a rank that holds one stage [B]."""
    return _stage_memory(job, layout, pieces, stage, replicas(job, layout))


def _any(condition: Any) -> bool:
    return bool(condition.any()) if hasattr(condition, "any") else bool(condition)


def _parameters(job: Job, layout: Layout, pieces: Pieces, stage: Stage, name: str) -> Any:
    """Parameters of one class on a rank of the stage; a tied embedding that is also the head counts once."""
    held = _sum(pieces, stage, name, f"N_{name}", "1")
    if name in ("dense", "frozen") and job.model.tied and layout.pp == 1:
        return held - getattr(pieces.first, name)
    if name == "dense" and _copied(job, layout) and stage.last and not job.model.tied:
        return held + pieces.first.dense
    return held


def _copied(job: Job, layout: Layout) -> bool:
    """Whether the last stage has a copy of the embedding: for a tied head, or for multi-token prediction."""
    return bool((job.model.tied or job.mtp_depth) and layout.pp > 1)


def _outside(job: Job, layout: Layout, pieces: Pieces, stage: Stage) -> Any:
    """Learning parameters of a stage outside layers: embedding and head."""
    held = pieces.first.dense * stage.first + pieces.last.dense * stage.last
    return held - pieces.first.dense if job.model.tied and layout.pp == 1 else held


def _heaviest(job: Job, layout: Layout, pieces: Pieces, split: Sequence[Stage], name: str) -> Any:
    heaviest: Any = 0.0
    for stage in split:
        heaviest = maximum(heaviest, _parameters(job, layout, pieces, stage, name))
    return heaviest


# ---------------------------------------------------------------- memory
def _secondary(job: Job, layout: Layout, sizes: Sequence[Any], frozen: Any, groups: Sequence[Replicas]) -> Any:
    """Memory of the copy of the weights that backward gathers (hpZ); 0 without one."""
    if not layout.hpz:
        return 0.0
    held = [sizes[0] + frozen, *sizes[1:]]
    copies = {
        name: sharding.weight_memory(size, job.recipe.weight, g.secondary)
        for name, size, g in zip(CLASSES, held, groups, strict=False)
    }
    return total("M_hpz", "B", copies)


def _stored(job: Job) -> float:
    """Bytes per parameter that learns, of the weights that the products read, if they are kept at all."""
    recipe = job.recipe
    return recipe.weight + recipe.transposed if job.framework.working_copy or not recipe.master else 0.0


def _stage_memory(job: Job, layout: Layout, pieces: Pieces, stage: Stage, groups: Sequence[Replicas]) -> dict[str, Any]:
    recipe, micro_batches = job.recipe, job.global_batch / (layout.mbs * layout.dp)
    sizes = [_parameters(job, layout, pieces, stage, name) for name in CLASSES[: len(groups)]]
    both = list(zip(CLASSES, sizes, groups, strict=False))
    moments, others = job.moments
    frozen = _parameters(job, layout, pieces, stage, "frozen") if job.frozen else 0.0
    chunks = pipeline.in_flight_chunks(layout.pp, layout.vpp, stage.rank, micro_batches)
    saved = _sum(pieces, stage, "saved", "M_saved", "B")
    whole: Any = 0.0
    unit: Any = 0.0
    for _, cost in _pieces(pieces, stage):
        whole = maximum(whole, cost.whole - cost.saved if cost is not pieces.last else 0.0)
        held = [where(g.weights > 1, getattr(cost, n), 0.0) for n, g in zip(CLASSES, groups, strict=False)]
        unit = maximum(unit, sum(held))
    activations = chunks / layout.vpp * saved
    state = {
        "weights": total(
            "M_w", "B", {n: sharding.weight_memory(s, _stored(job), g.weights) for n, s, g in both}
        )
        + sharding.weight_memory(frozen, recipe.weight, groups[0].weights)
        + _secondary(job, layout, sizes, frozen, groups),
        "gradients": total(
            "M_g", "B", {n: sharding.gradient_memory(s, recipe.gradient, g.gradients) for n, s, g in both}
        ),
        "optimizer": total(
            "M_o",
            "B",
            {n: sharding.optimizer_memory(s, recipe.master, moments, g.optimizer) for n, s, g in both},
        )
        + sharding.optimizer_memory(_outside(job, layout, pieces, stage), 0.0, others - moments, groups[0].optimizer),
    }
    for part, name in (("weights", "params"), ("optimizer", "optim")):
        if host.on_host(layout, name):
            state[part] = 0.0 * state[part]
    return {
        **state,
        "activations": activations,
        "recompute buffer": whole,
        "logits": pieces.last.whole if stage.last else 0.0 * activations,
        "gathered weights": unit * job.framework.gathered_units * recipe.wire["dp_gather"],
        "communication": job.cluster.library.memory + 0.0 * activations,
        "context": job.framework.context + 0.0 * activations,
        "fragmentation": job.framework.fragmentation * activations,
    }


def memory(job: Job, layout: Layout, pieces: Pieces, split: Sequence[Stage]) -> dict[str, Any]:
    """Memory by part on the fullest pipeline rank, with what context, libraries and allocator take [B]."""
    groups = replicas(job, layout)
    fullest: dict[str, Any] = {}
    most: Any = -1.0
    for stage in split:
        parts = _stage_memory(job, layout, pieces, stage, groups)
        size = total("M_stage", "B", parts)
        fuller = size > most
        fullest = {name: where(fuller, part, fullest[name]) if fullest else part for name, part in parts.items()}
        most = maximum(size, most)
    return fullest


def fullest(job: Job, layout: Layout, pieces: Pieces, split: Sequence[Stage]) -> Any:
    """Memory of the fullest pipeline rank [B]: the sum of what `memory` gives."""
    groups = replicas(job, layout)
    most: Any = -1.0
    for stage in split:
        most = maximum(total("M_stage", "B", _stage_memory(job, layout, pieces, stage, groups)), most)
    return most
