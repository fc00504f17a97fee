"""FSMoE's pipelined layer of a training job: its operations priced, cut into chunks, gradients in the idle windows.

Every operation is a constant per chunk and a time that grows with its data: both from its price at the whole and at
half of the sequence. Dispatch and combine go between the accelerators that share the experts (ep), gather and scatter
between those that share one expert (etp), the reduction of the gradients of a layer between its replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perfplan.catalog.specs import LayerKind, Moe
from perfplan.errors import OutOfRange, SpecError
from perfplan.formulas.moe_pipeline import (
    chunked_compute_bound,
    chunked_inner_bound,
    chunked_network_bound,
    chunks_for_compute,
    chunks_for_inner,
    chunks_for_network,
)
from perfplan.placement.pipeline import CHUNKS, Chunked, Gradients, best_chunks, partition_gradients, simulated
from perfplan.training.estimate import broken_rules
from perfplan.training.exchange import COMBINE, DISPATCH, send_to_experts
from perfplan.training.job import Job
from perfplan.training.layers import layer_parameters, op_times
from perfplan.training.layout import Layout
from perfplan.training.network import Group, Network
from perfplan.training.ops import layer_ops
from perfplan.training.shape import Shape

__all__ = ["ChunkedLayer", "ChunkedPass", "chunked_layer"]


@dataclass(frozen=True)
class ChunkedPass:
    """One pass of the layer. name: forward or backward; best: of the numbers of chunks tried; bounds: by number of
    chunks (network, experts, links inside, the largest, events) [s]; free: chunks that would be quickest if any number
    were allowed and the binding resource stayed."""

    name: str
    layer: Chunked
    best: int
    bounds: tuple[tuple[int, float, float, float, float, float], ...]
    free: float


@dataclass(frozen=True, eq=False)
class ChunkedLayer:
    """A job's layer. passes: forward, backward; layers: with experts in the model; gradients: of them in the windows of
    the backward; reduce: time of these gradients alone [s]."""

    job: Job
    layout: Layout
    layers: int
    passes: tuple[ChunkedPass, ChunkedPass]
    gradients: Gradients
    reduce: float


def chunked_layer(job: Job, layout: Layout, chunks: Sequence[int] = CHUNKS) -> ChunkedLayer:
    """The pipelined layer of a job: forward and backward apart, and the partition of its gradients."""
    kinds = [job.model.kinds[index] for index in job.model.layers]
    routed = [kind for kind in kinds if isinstance(kind.ffn, Moe)]
    if not routed:
        raise SpecError(f"{job.model.id} has no routed experts: there is no layer to cut into chunks")
    if layout.ep * layout.etp == 1:
        raise SpecError(f"layout '{layout}' exchanges no tokens between accelerators; give it ep or etp above 1")
    if broken := broken_rules(job, layout):
        raise SpecError(f"layout '{layout}' does not run {job.model.id}: {broken[0]}")
    if job.seq_len < 2 or not chunks or min(chunks) < 1:
        raise OutOfRange("a layer is cut into 1 chunk or more, of a sequence of 2 tokens or more")
    net = Network(job.cluster, max(job.gpus, layout.world))
    whole, half = (_times(replace(job, seq_len=n), net, layout, routed[0]) for n in (job.seq_len, job.seq_len // 2))
    ahead, behind = (_fitted(whole, half, job.seq_len, way) for way in (0, 1))
    count, beta = _gradients(job, net, layout, routed[0])
    found = partition_gradients([behind] * len(routed), [count] * len(routed), beta, chunks)
    passes = _pass("forward", ahead, chunks), _pass("backward", behind, chunks)
    return ChunkedLayer(job, layout, len(routed), passes, found, count * len(routed) * beta)


def _pass(name: str, layer: Chunked, chunks: Sequence[int]) -> ChunkedPass:
    call, data = (layer.gather[i] + layer.scatter[i] for i in range(2))
    rows = []
    for r in sorted(set(chunks)):
        between = float(chunked_network_bound(r, *layer.a2a, call, data))
        work = float(chunked_compute_bound(r, *layer.a2a, call, data, *layer.work))
        inside = float(chunked_inner_bound(r, *layer.a2a, call, data))
        rows.append((r, between, work, inside, layer.time(r), simulated(layer, r)))
    best = best_chunks(layer, chunks)
    binding = max(range(1, 4), key=lambda i: next(row for row in rows if row[0] == best)[i])
    free = (
        chunks_for_network(data, layer.a2a[0] or 1e-12),
        chunks_for_compute(layer.a2a[1], data, layer.work[0] or 1e-12),
        chunks_for_inner(layer.a2a[1], call or 1e-12),
    )[binding - 1]
    return ChunkedPass(name, layer, best, tuple(rows), max(1.0, float(free)))


Times = dict[str, tuple[float, float]]  # of an operation, forward and backward [s]


def _times(job: Job, net: Network, layout: Layout, kind: LayerKind) -> Times:
    """The operations of one layer."""
    moe, wire = kind.ffn, job.recipe.wire
    assert isinstance(moe, Moe)
    shape = Shape(job.seq_len, layout.mbs, layout.tp, layout.sp, layout.cp, layout.ep, layout.etp)
    token = shape.rows * (moe.latent or job.model.hidden) * job.skew(layout.ep)
    path, slices = net.path(Group(layout.ep, layout.etp)), net.path(Group(layout.etp, 1))
    out = float(send_to_experts(path, DISPATCH, token * wire["ep_dispatch"], moe.top_k)) if layout.ep > 1 else 0.0
    back = float(send_to_experts(path, COMBINE, token * wire["ep_combine"], moe.top_k)) if layout.ep > 1 else 0.0
    gather = float(slices.all_gather(token * moe.top_k * layout.etp * wire["ep_combine"])) if layout.etp > 1 else 0.0
    experts = [op_times(job, op) for op in layer_ops(job, kind, shape) if op.part.startswith("expert")]
    return {
        "a2a": ((out + back) / 2, back),
        "gather": (gather, gather),
        "work": (sum(float(one[0]) for one in experts), sum(float(one[1]) for one in experts)),
    }


def _fitted(whole: Times, half: Times, tokens: int, way: int) -> Chunked:
    """(constant per chunk, time of all data) of each operation, from its times at two lengths."""
    part = (tokens // 2) / tokens

    def line(name: str) -> tuple[float, float]:
        data = max(whole[name][way] - half[name][way], 0.0) / (1 - part)
        data = min(data, whole[name][way])
        return whole[name][way] - data, data

    return Chunked(line("a2a"), line("gather"), line("gather"), line("work"))


def _gradients(job: Job, net: Network, layout: Layout, kind: LayerKind) -> tuple[float, float]:
    """(dense parameters of a layer on a rank, time to reduce one of their gradients over the replicas [s])."""
    dense, _ = layer_parameters(job, kind, layout.tp, layout.ep, layout.etp)
    if layout.dp * layout.cp == 1:
        return float(dense), 0.0
    path, size = net.path(Group(layout.dp * layout.cp, layout.tp)), float(dense) * job.recipe.gradient
    return float(dense), float(path.all_reduce(size) - path.all_reduce(size / 2)) / (float(dense) / 2)
