"""What one layer costs: compute, exposed communication, memory kept; priced once per set of the axes it depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Mamba, Mlp, Moe
from perfplan.formulas import compute, offload
from perfplan.formulas.core import maximum, minimum, total, where
from perfplan.formulas.parameters import (
    indexer_parameters,
    key_value_parameters,
    linear_attention_parameters,
    low_rank_query_parameters,
    mamba2_parameters,
    mla_kv_output_parameters,
    mlp_parameters,
    query_parameters,
    routed_expert_parameters,
    router_parameters,
)
from perfplan.training.exchange import COMBINE, DISPATCH, send_to_experts
from perfplan.training.formats import element_bytes
from perfplan.training.job import Job, host_link, kernel
from perfplan.training.network import Group, Network
from perfplan.training.ops import (
    Core,
    Gemm,
    Op,
    Stream,
    captured,
    embedding_ops,
    head_ops,
    latent_products,
    layer_ops,
    layer_saved,
)
from perfplan.training.shape import Shape

MEMORY_UNIT = 8  # elements of 16 bits to which rows must be aligned
Away = tuple[tuple[str, int], ...]
"""What lies in host memory: (name, layers that it is for; 0 = all)."""
__all__ = [
    "Away", "Cost", "end_costs", "layer_cost", "layer_parameters", "op_times", "recomputed", "run_cost",
    "weight_gradients",
]


@dataclass(frozen=True)
class Cost:
    """One piece of a stage, per micro-batch and rank. Times [s], memory [B]; numbers or columns.

    forward, backward, recompute: compute; tp, cp, ep: exposed communication of all passes; host: waiting for
    launches; hidden: communication behind compute; offload: exposed copies to and from the host; saved: kept until
    backward on the device;
    whole: alive while the piece itself runs backward; dense, expert, frozen: parameters of the rank
    before sharding: learning ones by replica group, and frozen ones.
    """

    forward: Any = 0.0
    backward: Any = 0.0
    recompute: Any = 0.0
    tp: Any = 0.0
    cp: Any = 0.0
    ep: Any = 0.0
    host: Any = 0.0
    hidden: Any = 0.0
    offload: Any = 0.0
    saved: Any = 0.0
    whole: Any = 0.0
    dense: Any = 0.0
    expert: Any = 0.0
    frozen: Any = 0.0


# ---------------------------------------------------------------- compute
def _gemm_pass(job: Job, op: Gemm, dtype: str, left: float, right: float, output: float) -> Any:
    """One pass of a GEMM; left, right, output: bytes moved per element of the input, the weights and the output."""
    constants = kernel(job, op.kind, dtype)
    traffic = compute.gemm_bytes(op.m, op.n, op.k, op.groups, left, right, output)
    reached = constants.compute
    if constants.half:
        reached = reached * compute.saturation(op.m / op.groups, constants.half)
    if op.kind == "head":
        reached = compute.aligned_share(op.n, MEMORY_UNIT, reached, kernel(job, "unaligned_gemm", dtype).compute)
    return compute.kernel_time(
        compute.gemm_flops(op.m, op.n, op.k),
        traffic,
        reached,
        job.peak(dtype),
        constants.memory,
        job.cluster.accelerator.memory_bandwidth,
        compute.loop_overhead(op.k, constants.step, constants.overhead) if constants.step else constants.overhead,
    )


def _dtypes(job: Job, op: Gemm) -> tuple[str, str, str]:
    recipe = job.recipe
    if op.kind == "head":
        return recipe.head, recipe.head, recipe.head
    if op.part == "router":
        return recipe.router, recipe.router, recipe.router
    table = recipe.experts if op.kind == "grouped_gemm" else recipe.gemm
    return table["forward"], table["dgrad"], table["wgrad"]


def _gemm_times(job: Job, op: Gemm) -> tuple[Any, Any]:
    forward, dgrad, wgrad = _dtypes(job, op)
    f, d, w = (element_bytes(job.recipe, dtype) for dtype in (forward, dgrad, wgrad))
    accumulate = 2 * job.recipe.gradient  # the weight gradient is read and written
    if job.frozen and not op.part.endswith("adapter"):
        return _gemm_pass(job, op, forward, f, f, 2.0), _gemm_pass(job, op, dgrad, 2.0, d, d)
    return (
        _gemm_pass(job, op, forward, f, f, 2.0),
        total(
            "t_bwd",
            "s",
            {"dgrad": _gemm_pass(job, op, dgrad, 2.0, d, d), "wgrad": _gemm_pass(job, op, wgrad, w, accumulate, w)},
        ),
    )


def _core_times(job: Job, op: Core) -> tuple[Any, Any]:
    chip, dtype = job.cluster.accelerator, job.recipe.attention

    def run(kind: str, work: float) -> Any:
        constants = kernel(job, kind, dtype)
        reached = constants.compute * compute.saturation(op.length, constants.half)
        return compute.kernel_time(
            work * op.flops,
            work * op.traffic,
            reached,
            job.peak(dtype),
            constants.memory,
            chip.memory_bandwidth,
            constants.overhead,
        )

    back = "attention_backward" if op.kind == "attention" else op.kind
    if op.backward is not None:
        return run(op.kind, 1.0), run(back, op.backward)
    return run(op.kind, 1.0), run(back, 2.5 if op.kind.startswith("attention") else 2.0)


def _stream_times(job: Job, op: Stream) -> tuple[Any, Any]:
    constants, bandwidth = kernel(job, "stream", "bf16"), job.cluster.accelerator.memory_bandwidth
    overhead = op.kernels * constants.overhead
    return (
        compute.stream_time(op.forward, constants.memory, bandwidth, overhead),
        compute.stream_time(op.backward, constants.memory, bandwidth, overhead),
    )


def op_times(job: Job, op: Op) -> tuple[Any, Any, int]:
    """(forward time, backward time, kernels launched forward) of one operator."""
    if isinstance(op, Gemm):
        return *_gemm_times(job, op), 1
    if isinstance(op, Core):
        return *_core_times(job, op), 1
    return *_stream_times(job, op), op.kernels


def weight_gradients(job: Job, ops: list[Op]) -> Any:
    """Part of the backward of operators that computes gradients of weights and may therefore wait [s]."""
    accumulate, result = 2 * job.recipe.gradient, 0.0
    for op in ops:
        if isinstance(op, Gemm) and not (job.frozen and not op.part.endswith("adapter")):
            dtype = _dtypes(job, op)[2]
            width = element_bytes(job.recipe, dtype)
            result = result + _gemm_pass(job, op, dtype, width, accumulate, width)
    return result


def recomputed(recompute: tuple[str, ...], module: str) -> bool:
    """Whether an operator of a module is computed again in the backward pass."""
    return (
        recompute == ("full",) or (bool(module) and module in recompute) or (module == "moe_act" and "moe" in recompute)
    )


def _host_time(job: Job, op: Op, kernels: int) -> Any:
    """Time that the host takes to launch the forward of an operator; inside a CUDA graph none [s]."""
    if captured(job, op):
        return 0.0
    groups = op.groups if isinstance(op, Gemm) and op.kind == "grouped_gemm" else 0
    return kernels * job.framework.launch + groups * job.framework.group_launch


def _host_waits(job: Job, kind: LayerKind, calls: Any, ranks: Any) -> Any:
    """Host time of a layer outside its operators: blocking collectives, and the sizes that routing decides [s]."""
    if job.whole_graph:
        return 0.0
    routed = isinstance(kind.ffn, Moe) and not job.padded_experts
    launches = calls * minimum(ranks - 1, 1) * job.framework.launch
    late = compute.skew_wait(calls, ranks, job.framework.skew)
    return launches + late + (job.framework.moe_launch if routed else 0.0)


def _compute(
    job: Job, ops: list[Op], recompute: tuple[str, ...], held: tuple[str, ...] = ()
) -> tuple[Any, Any, Any, Any]:
    """(forward, backward, recompute, host time for the launches) of a run of operators; products in `held` are kept.

    The backward engine launches twice the kernels of the forward at half the host time each, so they count once.
    """
    forward: dict[str, Any] = {}
    backward: dict[str, Any] = {}
    again: dict[str, Any] = {}
    launched: Any = 0.0
    for index, op in enumerate(ops):
        ahead, back, kernels = op_times(job, op)
        forward[f"{op.part} {index}"], backward[f"{op.part} {index}"] = ahead, back
        launches = _host_time(job, op, kernels)
        launched = launched + 2 * launches
        if recomputed(recompute, op.module) and not (isinstance(op, Gemm) and op.part in held):
            again[f"{op.part} {index}"] = ahead
            launched = launched + launches
    return (
        total("t_fwd", "s", forward),
        total("t_bwd", "s", backward),
        total("t_rec", "s", again) if again else 0.0,
        launched,
    )


# ---------------------------------------------------------------- communication
def _tp_time(job: Job, net: Network, shape: Shape, regions: list[float], passes: int) -> Any:
    """Tensor-parallel collectives of a layer.

    regions: bytes per token gathered into each region; passes: 3 with a recomputed forward. With sequence parallelism
    each pass gathers a region's input and scatters its output. A weight that learns gathers the input once more for
    its gradient (Korthikanti et al. 2022, section 4.2.2); a frozen one has none, and its adapters keep the input whole.
    What adapters exchange themselves is as wide as their rank, under 1 % of the hidden width, and is left out.
    """
    path, wire = net.path(Group(shape.tp, 1)), job.recipe.wire["tp"]
    out = shape.tokens * job.model.hidden * wire
    parts: dict[str, Any] = {}
    for index, width in enumerate(regions):
        enter = shape.tokens * width * wire
        entries = passes if job.frozen else passes + 1
        sharded = entries * path.all_gather(enter) + passes * path.all_gather(out)
        whole = (passes - 1) * path.all_reduce(out) + path.all_reduce(enter)
        parts[f"region {index}"] = where(shape.sp > 0, sharded, whole)
    return total("t_tp", "s", parts)


def _regions(job: Job, kind: LayerKind) -> list[float]:
    hidden = float(job.model.hidden)
    regions = []
    if isinstance(kind.mixer, Attention) and kind.mixer.kv_lora_rank:
        latent = float(kind.mixer.kv_lora_rank + kind.mixer.qk_rope_head_dim)
        regions.append(latent + (kind.mixer.q_lora_rank or hidden))
    elif kind.mixer is not None:
        regions.append(hidden)
    dense = isinstance(kind.ffn, Mlp) or (isinstance(kind.ffn, Moe) and kind.ffn.shared_width)
    if dense and not (kind.parallel and regions):
        regions.append(hidden)
    return regions


def _cp_time(
    job: Job, net: Network, shape: Shape, a: Attention, attention: tuple[Any, Any], kind: str, passes: int
) -> Any:
    """(exposed, hidden) context-parallel exchange of one attention layer, all passes."""
    path, wire = net.path(Group(shape.cp, shape.tp)), job.recipe.wire["cp"]
    kv = shape.tokens * maximum(a.kv_heads, shape.tp) / shape.tp * (a.head_dim + a.v_head_dim) * wire
    if kind == "allgather":
        return (passes + 1) * path.all_gather(kv * shape.cp), 0.0  # backward gathers again and scatters
    if kind == "a2a":
        moved = kv + shape.tokens * a.heads / shape.tp * (a.head_dim + a.v_head_dim) * wire
        return passes * path.all_to_all(moved), 0.0
    hops, hidden = shape.cp - 1, job.overlapped("cp")
    ahead, back = hops * path.send(kv), hops * path.send(2 * kv)
    shown = [compute.exposed_time(ahead, attention[0], hidden), compute.exposed_time(back, attention[1], hidden)]
    exposed = (passes - 1) * shown[0] + shown[1]
    return exposed, (passes - 1) * ahead + back - exposed


def _ep_time(job: Job, net: Network, shape: Shape, moe: Moe, passes: int) -> Any:
    """Dispatch and combine of one MoE layer, all passes, and the exchange of the dispatched rows over etp."""
    token = shape.rows * (moe.latent or job.model.hidden) * job.skew(shape.ep)
    experts, wire = net.path(Group(shape.ep, shape.etp)), job.recipe.wire
    dispatch = send_to_experts(experts, DISPATCH, token * wire["ep_dispatch"], moe.top_k)
    combine = send_to_experts(experts, COMBINE, token * wire["ep_combine"], moe.top_k)
    sliced = 2 * net.path(Group(shape.etp, 1)).all_gather(token * moe.top_k * shape.etp * wire["ep_combine"])
    return (passes - 1) * (dispatch + combine + sliced) + 2 * combine + sliced


# ---------------------------------------------------------------- a layer
def layer_parameters(job: Job, kind: LayerKind, tp: Any, ep: Any, etp: Any) -> tuple[Any, Any]:
    """(dense, routed-expert) parameters of one layer on one rank before data-parallel sharding [1]."""
    hidden, expert = job.model.hidden, 0.0
    dense: dict[str, Any] = {"norms": 2 * hidden}
    match kind.mixer:
        case Attention() as a if a.kv_lora_rank:
            dense["q"] = (
                low_rank_query_parameters(hidden, a.heads / tp, a.head_dim, a.q_lora_rank)
                if a.q_lora_rank
                else query_parameters(hidden, a.heads / tp, a.head_dim)
            )
            dense["indexer"] = _indexer_parameters(hidden, a)
            dense["kv, output"] = mla_kv_output_parameters(
                hidden, a.heads / tp, a.kv_lora_rank, a.qk_nope_head_dim, a.qk_rope_head_dim, a.v_head_dim
            )
        case Attention() as a:
            dense["q"] = query_parameters(hidden, a.heads / tp, a.head_dim)
            dense["k, v"] = key_value_parameters(hidden, maximum(a.kv_heads, tp) / tp, a.head_dim, a.v_head_dim)
            dense["output"] = query_parameters(hidden, a.heads / tp, a.v_head_dim)
            dense["indexer"] = _indexer_parameters(hidden, a)
            if a.output_gate:
                dense["gate"] = query_parameters(hidden, a.heads / tp, a.v_head_dim)
        case Mamba() as a:
            dense["mamba"] = mamba2_parameters(hidden, a.heads, a.head_dim, a.state, a.groups, a.conv) / tp
        case LinearAttention() as a:
            dense["linear attention"] = (
                linear_attention_parameters(
                    hidden, a.qk_heads * a.qk_head_dim, a.v_heads * a.v_head_dim, a.v_heads, a.conv
                )
                / tp
            )
    match kind.ffn:
        case Mlp() as f:
            dense["mlp"] = mlp_parameters(hidden, f.width / tp, 3 if f.gated else 2)
        case Moe() as f:
            dense["router"] = router_parameters(hidden, f.experts)
            dense["shared experts"] = mlp_parameters(hidden, f.shared_width / tp, 3 if f.gated else 2)
            dense["latent"] = 2 * hidden * f.latent
            expert = routed_expert_parameters(f.latent or hidden, f.width / etp, 3 if f.gated else 2, f.experts / ep)
    return total("N_dense", "1", dense), expert


def _indexer_parameters(hidden: int, a: Attention) -> float:
    """Parameters of a layer's indexer, whole on every rank; 0 without one."""
    if not a.index_heads:
        return 0.0
    return float(indexer_parameters(hidden, a.q_lora_rank or hidden, a.index_heads, a.index_head_dim))


def adapter_parameters(job: Job, kind: LayerKind, tp: Any) -> Any:
    """Parameters of one layer that learn beside a frozen base: LoRA adapters of QKV and the attention output [1]."""
    a = kind.mixer
    if not isinstance(a, Attention):
        return 0.0
    output = job.model.hidden + a.heads * a.v_head_dim / tp
    if a.kv_lora_rank:
        one = Shape(1, 1, tp, 0, 1, 1, 1)
        return job.lora_rank * (output + sum(n + k for _, n, k in latent_products(job, one, a)))
    qkv = (a.heads * a.head_dim + maximum(a.kv_heads, tp) * (a.head_dim + a.v_head_dim)) / tp
    return job.lora_rank * (job.model.hidden + qkv + output)


# what `off=` names -> (the saved tensor that it moves, the products that need no recomputation then)
_TENSORS = {
    "input": ("layer input", ()),
    "qkv": ("q, k, v", ("qkv",)),
    "out": ("block input", ("attention output",)),
}


def _memory(job: Job, kind: LayerKind, shape: Shape, recompute: tuple[str, ...], away: Away) -> tuple[Any, Any, Any]:
    """(kept on the device, alive while the layer runs backward, moved to the host by a layer that offloads)."""
    saved = layer_saved(job, kind, shape)
    whole = total("M_layer", "B", {item.name: item.size for item in saved})
    full, named = recompute == ("full",), {_TENSORS[name][0] for name, _ in away if name in _TENSORS}
    kept = {
        item.name: item.size
        for item in saved
        if item.name in named or (item.name == "layer input" if full else not recomputed(recompute, item.module))
    }
    held = total("M_saved", "B", kept)
    if not away:
        return held, whole, 0.0
    gone = total("M_moved", "B", {n: size for n, size in kept.items() if n in named or away[0][0] == "acts"})
    stays = offload.resident_memory(held, gone, _share(job, away))
    return stays, stays + whole - held + 2 * gone, gone  # two layers are in flight to or from the host


def _share(job: Job, away: Away) -> float:
    """Share of the model's layers that offload."""
    layers, count = away[0][1], len(job.model.layers)
    return min(layers, count) / count if layers else 1.0


def _copies(job: Job, moved: Any, away: Away, ahead: Any, behind: Any) -> Any:
    """Exposed copies of what layers offload: out beside the forward pass, back in ahead of the backward pass.

    Where some layers offload, their copies spread over all layers (Transformer Engine's cpu_offload.py: windows of
    num_layers // num_offload_group layers).
    """
    copy = _share(job, away) * offload.host_copy_time(moved, *host_link(job))
    share = job.overlapped("offload")
    return compute.exposed_time(copy, ahead, share) + compute.exposed_time(copy, behind, share)


def layer_cost(
    job: Job, net: Network, kind: LayerKind, shape: Shape, cp_kind: str, recompute: tuple[str, ...], away: Away = ()
) -> Cost:
    """Everything one layer of this kind costs on one rank, per micro-batch; `away`: what lies in host memory."""
    away = tuple((name, layers) for name, layers in away if name == "acts" or name in _TENSORS)
    ops, regions = layer_ops(job, kind, shape, cp_kind), _regions(job, kind)
    held = tuple(part for name, _ in away if name in _TENSORS for part in _TENSORS[name][1])
    forward, backward, again, launched = _compute(job, ops, recompute, held)
    full = recompute == ("full",)
    cp = behind = whole_ep = 0.0
    if isinstance(kind.mixer, Attention):
        core = next(op_times(job, op)[:2] for op in ops if isinstance(op, Core))
        passes = 3 if full or "core_attn" in recompute else 2
        cp, behind = _cp_time(job, net, shape, kind.mixer, core, cp_kind, passes)
    window = maximum(forward + backward - behind, 0.0)  # compute that still hides nothing
    whole_tp = _tp_time(job, net, shape, regions, 3 if full else 2)
    tp = compute.exposed_time(whole_tp, window, job.overlapped("tp"))
    if isinstance(kind.ffn, Moe):
        whole_ep = _ep_time(job, net, shape, kind.ffn, 3 if full or "moe" in recompute else 2)
    ep = compute.exposed_time(whole_ep, maximum(window - (whole_tp - tp), 0.0), job.overlapped("ep"))
    backward = backward + compute.hidden_penalty(whole_tp + whole_ep, tp + ep, max(job.framework.contention, 1.0))
    calls = len(regions) * (3 if full else 2) * (1 + shape.sp)  # an all-reduce, or a gather and a scatter
    tp = tp + compute.sync_wait(calls, shape.tp, job.framework.sync)
    device = forward + backward + again + tp + cp + ep
    host = compute.host_wait(device, launched + _host_waits(job, kind, calls, shape.tp))
    hidden = behind + (whole_tp - tp) + (whole_ep - ep)
    saved, whole, moved = _memory(job, kind, shape, recompute, away)
    copies = _copies(job, moved, away, forward, backward + again) if away else 0.0
    dense, expert = layer_parameters(job, kind, shape.tp, shape.ep, shape.etp)
    parameters = (adapter_parameters(job, kind, shape.tp), 0.0, dense + expert) if job.frozen else (dense, expert, 0.0)
    return Cost(forward, backward, again, tp, cp, ep, host, hidden, copies, saved, whole, *parameters)


def run_cost(job: Job, net: Network, shape: Shape, ops: list[Op], width: float) -> Cost:
    """Time of operators outside layers behind one tensor-parallel region that gathers `width` elements per
    token; never recomputed."""
    forward, backward, _, launched = _compute(job, ops, ())
    tp = _tp_time(job, net, shape, [width], 2)
    return Cost(forward, backward, tp=tp, host=compute.host_wait(forward + backward + tp, launched))


def end_costs(job: Job, net: Network, shape: Shape) -> tuple[Cost, Cost]:
    """Costs of the embedding (first stage) and of the final norm, LM head and loss (last stage)."""
    matrix = job.model.vocab * job.model.hidden / shape.tp
    first = _compute(job, embedding_ops(job, shape), ())
    last = _compute(job, head_ops(job, shape), ())
    loss = 3 * net.path(Group(shape.tp, 1)).all_reduce(4 * shape.tokens)
    gathered = _tp_time(job, net, shape, [float(job.model.hidden)], 2)
    logits = shape.tokens * job.model.vocab / shape.tp
    losses = 1 + job.mtp_depth  # each keeps its softmax in 4 B until backward; one gradient of 2 B at a time
    block = shape.rows * job.model.hidden
    learns, rests = (0.0, matrix) if job.frozen else (matrix, 0.0)
    return (
        Cost(first[0], first[1], 0.0, gathered / 2, saved=8.0 * shape.tokens, dense=learns, frozen=rests),
        Cost(
            last[0],
            last[1],
            0.0,
            gathered / 2 + loss,
            saved=4 * block,
            whole=((job.framework.logits - 2) * losses + 2) * logits,
            dense=learns,
            frozen=rests,
        ),
    )
