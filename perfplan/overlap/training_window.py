"""Layers of a training step as blocks: forward of some layers, then their backward with weight gradients set free."""

from __future__ import annotations

from dataclasses import replace

from perfplan.catalog.specs import Attention, LayerKind, Mlp, Moe
from perfplan.errors import Unsupported
from perfplan.overlap.blocks import Block, Segment, Sharing, Window, frequent, joined
from perfplan.training.exchange import COMBINE, DISPATCH, send_to_experts
from perfplan.training.job import Job
from perfplan.training.layers import layer_parameters, op_times, recomputed, weight_gradients
from perfplan.training.layout import Layout, block
from perfplan.training.network import Group, Network
from perfplan.training.ops import Op, layer_ops
from perfplan.training.shape import Shape
from perfplan.training.sharded import gather_and_reduce, shards
from perfplan.training.step import replicas

__all__ = ["training_window"]

Runs = dict[str, list[Op]]
SEGMENTS = ("qkv", "attention", "out", "up", "down", "router", "experts", "shared")
STARTS = (
    ("qkv", "qkv"), ("latent norms", "qkv"), ("rope", "qkv"), ("indexer", "qkv"), ("core", "attention"),
    ("softmax", "attention"), ("attention output", "out"), ("mlp down", "down"), ("mlp", "up"), ("router", "router"),
    ("routing", "router"), ("permute", "router"), ("latent projections", "router"), ("expert", "experts"),
    ("unpermute", "experts"), ("shared expert", "shared"),
    *((f"{mixer} {part}", segment) for mixer in ("mamba", "linear attention") for part, segment in
      (("in", "qkv"), ("conv", "qkv"), ("scan", "attention"), ("gate norm", "out"), ("out", "out"))),
)
"""What an operator's name begins with -> the segment it belongs to; norms go with what follows them."""


def _runs(ops: list[Op], kind: LayerKind) -> Runs:
    """Operators of a layer by the segment they belong to."""
    found: Runs = {name: [] for name in SEGMENTS}
    first = "qkv" if kind.mixer is not None else "up" if isinstance(kind.ffn, Mlp) else "router"
    for op in ops:
        name = first if op.part.startswith("norm") else next(
            (to for start, to in STARTS if op.part.startswith(start)), None)
        if name is None:
            raise Unsupported(f"schedule layer has no place for the operator {op.part!r} of this layer")
        found[name].append(op)
    return found


class _Layer:
    """One layer of a training job at one size of micro-batch."""

    def __init__(self, job: Job, net: Network, layout: Layout, kind: LayerKind, part: float, sharing: Sharing) -> None:
        self.job, self.net, self.layout, self.kind, self.sharing = job, net, layout, kind, sharing
        self.shape = Shape(job.seq_len, layout.mbs * part, layout.tp, layout.sp, layout.cp, layout.ep, layout.etp)
        self.runs = _runs(layer_ops(job, kind, self.shape, layout.cp_kind), kind)

    def _compute(self, name: str, kind: str, time: float) -> Segment:
        return Segment(name, kind, time, {"sm": 1.0})

    def forward(self, name: str) -> Segment:
        """A run of operators forward."""
        time = sum(float(op_times(self.job, op)[0]) for op in self.runs[name])
        return self._compute(name, "attention" if name == "attention" else "gemm", time)

    def backward(self, name: str) -> Segment:
        """Gradient of the inputs of a run, and what of it is computed again."""
        time = sum(float(op_times(self.job, op)[1]) for op in self.runs[name]) - self._weights(name)
        time += sum(float(op_times(self.job, op)[0]) for op in self.runs[name]
                    if recomputed(self.layout.recompute, op.module))
        return self._compute(f"{name} dgrad", "attention" if name == "attention" else "gemm", time)

    def _weights(self, name: str) -> float:
        return float(weight_gradients(self.job, self.runs[name]))

    def late(self, *names: str) -> tuple[Segment, ...]:
        """Gradients of the weights of some runs."""
        return tuple(self._compute(f"{n} wgrad", "gemm", self._weights(n)) for n in names if self._weights(n) > 0)

    def link(self, name: str, kind: str, time: float, group: Group) -> Segment:
        """A collective on the links that its group needs; one rank per fast domain leaves the links inside alone."""
        far, near = float(self.net.path(group).domains) > 1, float(self.net.path(group).domains) < group.ranks
        links = {**({"scale-up": 1.0} if near or not far else {}), **({"scale-out": 1.0} if far else {})}
        return Segment(name, kind, time, {**links, "sm": self.sharing.communication_sms}, True)

    def reduce(self) -> Segment | None:
        """What ends a block: all-reduce, or with sequence parallelism reduce-scatter and the next block's gather."""
        if self.shape.tp == 1:
            return None
        group = Group(self.shape.tp, 1)
        path = self.net.path(group)
        size = self.shape.tokens * self.job.model.hidden * self.job.recipe.wire["tp"]
        if self.shape.sp:
            return self.link("reduce-scatter and gather", "reduce-scatter", 2 * float(path.all_gather(size)), group)
        return self.link("all-reduce", "all-reduce", float(path.all_reduce(size)), group)

    def exchange(self, name: str, label: str = "") -> list[Segment]:
        """Dispatch or combine between experts, and between the slices of one (etp): gather before, scatter behind."""
        moe, shape, wire = self.kind.ffn, self.shape, self.job.recipe.wire
        assert isinstance(moe, Moe)
        token = shape.rows * (moe.latent or self.job.model.hidden) * self.job.skew(shape.ep)
        found = []
        if shape.ep > 1:
            group = Group(shape.ep, shape.etp)
            way, bytes_ = (DISPATCH, wire["ep_dispatch"]) if name == "dispatch" else (COMBINE, wire["ep_combine"])
            time = float(send_to_experts(self.net.path(group), way, token * bytes_, moe.top_k))
            found.append(self.link(label or name, "all-to-all", time, group))
        if shape.etp > 1:
            slices = Group(shape.etp, 1)
            time = float(self.net.path(slices).all_gather(token * moe.top_k * shape.etp * wire["ep_combine"]))
            first = name == "dispatch" if not label else label == "gradient of combine"
            sliced = self.link("gather of slices" if first else "scatter of slices",
                               "all-gather" if first else "reduce-scatter", time, slices)
            found.insert(len(found) if first else 0, sliced)
        return found

    def core(self, backward: bool) -> list[Segment]:
        """Core attention with the context-parallel exchange around it, or beside it as hops of a ring."""
        core = self.backward("attention") if backward else self.forward("attention")
        a, shape = self.kind.mixer, self.shape
        if shape.cp == 1 or not isinstance(a, Attention):
            return [core]
        group, wire = Group(shape.cp, shape.tp), self.job.recipe.wire["cp"]
        path, heads = self.net.path(group), (a.head_dim + a.v_head_dim) * wire
        kv = shape.tokens * max(a.kv_heads, shape.tp) / shape.tp * heads
        if self.layout.cp_kind == "ring":
            hop = self.link("send of gradients" if backward else "send of keys and values", "send",
                            float(path.send(2 * kv if backward else kv)), group)
            return [replace(core, hop=hop, hops=int(shape.cp) - 1)]
        if self.layout.cp_kind == "allgather":
            gather = self.link("gather of keys and values", "all-gather", float(path.all_gather(kv * shape.cp)), group)
            scatter = replace(gather, name="scatter of gradients", kind="reduce-scatter")
            return [gather, core, *([scatter] if backward else [])]
        moved = kv + shape.tokens * a.heads / shape.tp * heads
        whole = float(path.all_to_all(moved))
        out = whole * shape.tokens * a.heads / shape.tp * a.v_head_dim * wire / moved
        into = self.link("to heads", "all-to-all", whole - out, group)
        back = self.link("to tokens", "all-to-all", out, group)
        return [replace(back, name="gradient to heads"), core, replace(into, name="gradient to tokens")] if backward \
            else [into, core, back]

    def ahead(self) -> list[Block]:
        """Blocks of the forward pass."""
        found = []
        if self.kind.mixer is not None:
            chain = (self.forward("qkv"), *self.core(False), self.forward("out"))
            found.append(Block("attention", chain, self.reduce()))
        if isinstance(self.kind.ffn, Mlp):
            found.append(Block("mlp", (self.forward("up"), self.forward("down")), self.reduce()))
        elif isinstance(self.kind.ffn, Moe):
            shared = (self.forward("shared"),) if self.runs["shared"] else ()
            chain = (self.forward("router"), *self.exchange("dispatch"), self.forward("experts"),
                     *self.exchange("combine"))
            found.append(Block("experts", chain, None, shared))
        return [joined(found)] if self.kind.parallel and len(found) == 2 else found

    def behind(self) -> list[Block]:
        """Blocks of the backward pass."""
        found = []
        if isinstance(self.kind.ffn, Mlp):
            found.append(Block("mlp backward", (self.backward("down"), self.backward("up")), self.reduce(), (),
                               self.late("down", "up")))
        elif isinstance(self.kind.ffn, Moe):
            shared = (self.backward("shared"),) if self.runs["shared"] else ()
            back = self.exchange("combine", "gradient of combine"), self.exchange("combine", "gradient of dispatch")
            chain = (*back[0], self.backward("experts"), *back[1], self.backward("router"))
            found.append(Block("experts backward", chain, None, shared, self.late("experts", "shared", "router"),
                               up=1 / 3))
        if self.kind.mixer is not None:
            core = self.core(True)
            chain = (self.backward("out"), *core, self.backward("qkv"))
            found.append(Block("attention backward", chain, self.reduce(), (), self.late("out", "qkv")))
        return [joined(found[::-1])] if self.kind.parallel and len(found) == 2 else found


def _sharded(job: Job, net: Network, layout: Layout, kind: LayerKind, sharing: Sharing) -> (
    tuple[Segment, Segment, Segment] | None
):
    """(gather, gather for backward, reduction) of a layer's sharded weights and gradients; None if they are whole."""
    groups = replicas(job, layout)
    if groups[0].weights == 1 and groups[0].gradients == 1:
        return None
    sizes = layer_parameters(job, kind, layout.tp, layout.ep, layout.etp)
    held = [(1, at, size, size) for at, size in zip(shards(net, groups), sizes, strict=False)]
    times = gather_and_reduce(job, layout, held)
    far = float(net.path(Group(groups[0].ranks, groups[0].stride)).domains) > 1
    shares = {"scale-up": 1.0, "sm": sharing.communication_sms, **({"scale-out": 1.0} if far else {})}
    names = (("gather", "all-gather"), ("gather again", "all-gather"), ("reduce", "reduce-scatter"))
    first, second, third = (Segment(name, kind_, float(time), shares, True)
                            for (name, kind_), time in zip(names, times, strict=True))
    return first, second, third


def training_window(job: Job, layout: Layout, sharing: Sharing, layers: int = 2) -> Window:
    """A window of the model's most frequent run of layers: forward, then backward in reverse."""
    run = [job.model.kinds[index] for index in frequent(job.model.layers, layers)]
    if layout.recompute == ("full",) or block(layout.recompute):
        raise Unsupported("schedule layer has no graph of layers that are recomputed whole; give a layout with rc=none"
                          " or rc=core_attn")
    if layout.cp > 1 and any(kind.mixer is not None and not isinstance(kind.mixer, Attention) for kind in run):
        raise Unsupported("context parallelism of layers with a state is not modelled; give a layout with cp1")
    net = Network(job.cluster, max(job.gpus, layout.world))
    moved = [_sharded(job, net, layout, kind, sharing) for kind in run]

    def price(part: float) -> tuple[Block, ...]:
        down: list[Block] = []
        up: list[list[Block]] = []
        for number, (kind, weights) in enumerate(zip(run, moved, strict=True)):
            layer = _Layer(job, net, layout, kind, part, sharing)
            ahead, behind = layer.ahead(), layer.behind()
            if weights is not None:  # a layer is a unit: gathered before its first block, reduced after its last
                ahead[0] = replace(ahead[0], gather=weights[0])
                behind[0] = replace(behind[0], gather=weights[1])
                behind[-1] = replace(behind[-1], reduce=weights[2])
            down += [_named(each, number) for each in ahead]
            up.insert(0, [_named(each, number) for each in behind])
        return (*down, *(each for blocks in up for each in blocks))

    caveats = ("embedding, head, pipeline sends, whole gradients and the optimizer stay outside the window",)
    title = f"{job.model.id} training, micro-batch {layout.mbs} x {job.seq_len}, {layout}"
    return Window(price, layers, title, caveats)


def _named(block: Block, number: int) -> Block:
    return replace(block, name=f"layer {number} {block.name}")
