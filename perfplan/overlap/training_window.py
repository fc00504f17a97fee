"""Layers of a training step as blocks: forward of some layers, then their backward with weight gradients set free."""

from __future__ import annotations

from dataclasses import replace

from perfplan.catalog.specs import Attention, LayerKind, Mlp, Moe
from perfplan.errors import Unsupported
from perfplan.overlap.blocks import Block, Segment, Sharing, Window
from perfplan.training.exchange import COMBINE, DISPATCH, send_to_experts
from perfplan.training.job import Job
from perfplan.training.layers import layer_parameters, op_times, weight_gradients
from perfplan.training.layout import Layout
from perfplan.training.network import Group, Network
from perfplan.training.ops import Op, Shape, layer_ops
from perfplan.training.sharded import gather_and_reduce, shards
from perfplan.training.step import replicas

__all__ = ["training_window"]

Runs = dict[str, list[Op]]


def _runs(ops: list[Op]) -> Runs:
    """Operators of a layer by the segment they belong to; norms go with what follows them."""
    names = ("qkv", "attention", "out", "up", "down", "router", "experts", "shared")
    found: Runs = {name: [] for name in names}
    starts = (
        ("norm", ""), ("qkv", "qkv"), ("latent", "qkv"), ("rope", "qkv"), ("core", "attention"),
        ("softmax", "attention"), ("attention output", "out"), ("mlp down", "down"), ("mlp", "up"),
        ("router", "router"), ("routing", "router"), ("permute", "router"), ("latent", "router"),
        ("expert", "experts"), ("unpermute", "experts"), ("shared expert", "shared"),
    )
    for op in ops:
        name = next((to for start, to in starts if op.part.startswith(start)), None)
        if name is None:
            raise Unsupported(f"schedule layer has no place for the operator {op.part!r} of this layer")
        found[name or "qkv"].append(op)
    return found


class _Layer:
    """One layer of a training job at one size of micro-batch."""

    def __init__(self, job: Job, net: Network, layout: Layout, kind: LayerKind, part: float, sharing: Sharing) -> None:
        self.job, self.net, self.kind, self.sharing = job, net, kind, sharing
        self.shape = Shape(job.seq_len, layout.mbs * part, layout.tp, layout.sp, layout.cp, layout.ep, layout.etp)
        self.runs = _runs(layer_ops(job, kind, self.shape))

    def _compute(self, name: str, kind: str, time: float) -> Segment:
        return Segment(name, kind, time, {"sm": 1.0})

    def forward(self, name: str) -> Segment:
        """A run of operators forward."""
        time = sum(float(op_times(self.job, op)[0]) for op in self.runs[name])
        return self._compute(name, "attention" if name == "attention" else "gemm", time)

    def backward(self, name: str) -> Segment:
        """Gradient of the inputs of a run."""
        time = sum(float(op_times(self.job, op)[1]) for op in self.runs[name]) - self._late(name)
        return self._compute(f"{name} dgrad", "attention" if name == "attention" else "gemm", time)

    def _late(self, name: str) -> float:
        return float(weight_gradients(self.job, self.runs[name]))

    def late(self, *names: str) -> tuple[Segment, ...]:
        """Gradients of the weights of some runs."""
        return tuple(self._compute(f"{n} wgrad", "gemm", self._late(n)) for n in names if self._late(n) > 0)

    def link(self, name: str, kind: str, time: float, group: Group) -> Segment:
        """A collective on the links that its group needs."""
        far = float(self.net.path(group).domains) > 1
        link = {"scale-up": 1.0, "scale-out": 1.0} if far else {"scale-up": 1.0}
        return Segment(name, kind, time, {**link, "sm": self.sharing.communication_sms}, True)

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
        """Dispatch or combine between experts."""
        moe = self.kind.ffn
        assert isinstance(moe, Moe)
        if self.shape.ep == 1:
            return []
        group = Group(self.shape.ep, self.shape.etp)
        token = self.shape.rows * (moe.latent or self.job.model.hidden) * self.job.skew(self.shape.ep)
        way, wire = (DISPATCH, "ep_dispatch") if name == "dispatch" else (COMBINE, "ep_combine")
        time = float(send_to_experts(self.net.path(group), way, token * self.job.recipe.wire[wire], moe.top_k))
        return [self.link(label or name, "all-to-all", time, group)]

    def ahead(self) -> list[Block]:
        """Blocks of the forward pass."""
        first = Block("attention", tuple(map(self.forward, ("qkv", "attention", "out"))), self.reduce())
        if isinstance(self.kind.ffn, Mlp):
            return [first, Block("mlp", (self.forward("up"), self.forward("down")), self.reduce())]
        shared = (self.forward("shared"),) if self.runs["shared"] else ()
        chain = (self.forward("router"), *self.exchange("dispatch"), self.forward("experts"), *self.exchange("combine"))
        return [first, Block("experts", chain, None, shared)]

    def behind(self) -> list[Block]:
        """Blocks of the backward pass."""
        if isinstance(self.kind.ffn, Mlp):
            ffn = Block("mlp backward", (self.backward("down"), self.backward("up")), self.reduce(), (),
                        self.late("down", "up"))
        else:
            shared = (self.backward("shared"),) if self.runs["shared"] else ()
            back = self.exchange("combine", "gradient of combine"), self.exchange("combine", "gradient of dispatch")
            chain = (*back[0], self.backward("experts"), *back[1], self.backward("router"))
            ffn = Block("experts backward", chain, None, shared, self.late("experts", "shared"))
        chain = tuple(map(self.backward, ("out", "attention", "qkv")))
        return [ffn, Block("attention backward", chain, self.reduce(), (), self.late("out", "qkv"))]


def _sharded(job: Job, net: Network, layout: Layout, kind: LayerKind, sharing: Sharing) -> (
    tuple[Segment, Segment, Segment] | None
):
    """(gather, gather for backward, reduction) of a layer's sharded weights and gradients; None if they are whole."""
    groups = replicas(job, layout)
    if groups[0].weights == 1 and groups[0].gradients == 1:
        return None
    sizes = layer_parameters(job, kind, layout.tp, layout.ep, layout.etp)
    held = [(1, at, size, size) for at, size in zip(shards(job, net, groups), sizes, strict=False)]
    times = gather_and_reduce(job, layout, held)
    far = float(net.path(Group(groups[0].ranks, groups[0].stride)).domains) > 1
    shares = {"scale-up": 1.0, "sm": sharing.communication_sms, **({"scale-out": 1.0} if far else {})}
    names = (("gather", "all-gather"), ("gather again", "all-gather"), ("reduce", "reduce-scatter"))
    first, second, third = (Segment(name, kind_, float(time), shares, True)
                            for (name, kind_), time in zip(names, times, strict=True))
    return first, second, third


def training_window(job: Job, layout: Layout, sharing: Sharing, layers: int = 2) -> Window:
    """A window of the model's most frequent layer kind: forward of the layers, then backward in reverse."""
    index = max(set(job.model.layers), key=job.model.layers.count)
    kind = job.model.kinds[index]
    if not isinstance(kind.mixer, Attention) or not isinstance(kind.ffn, Mlp | Moe) or kind.parallel:
        raise Unsupported(f"layers of {job.model.id} are not attention followed by an MLP or experts, which is what"
                          " schedule layer has graphs of")
    if layout.cp > 1:
        raise Unsupported("schedule layer has no graph of context parallelism yet; give a layout with cp1")
    net = Network(job.cluster, max(job.gpus, layout.world))

    moved = _sharded(job, net, layout, kind, sharing)

    def price(part: float) -> tuple[Block, ...]:
        layer = _Layer(job, net, layout, kind, part, sharing)
        ahead, behind = layer.ahead(), layer.behind()
        if moved is not None:  # a layer is a unit: gathered before its first block, reduced after its last
            ahead[0] = replace(ahead[0], gather=moved[0])
            behind = [replace(behind[0], gather=moved[1]), *behind[1:-1], replace(behind[-1], reduce=moved[2])]
        down = [_named(block, n) for n in range(layers) for block in ahead]
        return (*down, *(_named(block, n) for n in reversed(range(layers)) for block in behind))

    caveats = ("embedding, head, pipeline sends, whole gradients and the optimizer stay outside the window",)
    title = f"{job.model.id} training, micro-batch {layout.mbs} x {job.seq_len}, {layout}"
    return Window(price, layers, title, caveats)


def _named(block: Block, number: int) -> Block:
    return replace(block, name=f"layer {number} {block.name}")
