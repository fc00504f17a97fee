"""Layers of a serving step as blocks, priced by the serving model's own operations."""

from __future__ import annotations

from dataclasses import replace

from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Mamba, Mlp, Moe
from perfplan.errors import OutOfRange
from perfplan.overlap.blocks import Block, Segment, Sharing, Window, frequent, joined
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.ops import WIDE, Load, Pricing, layer_times, product, prompt_attention
from perfplan.serving.step import network
from perfplan.training.exchange import COMBINE, DISPATCH, send_to_experts
from perfplan.training.network import Group
from perfplan.units import show

__all__ = ["serving_window"]


class _Layer:
    """One layer kind in one step, in segments."""

    def __init__(self, p: Pricing, kind: LayerKind, sharing: Sharing) -> None:
        self.p, self.kind, self.sharing = p, kind, sharing
        self.times = {name: float(time) for name, time in layer_times(p, kind).items()}
        self.path = p.net.path(Group(int(p.tp), 1))

    def compute(self, name: str, kind: str, time: float, traffic: float) -> Segment:
        """A run of kernels: all SMs, unless the memory is what it waits for."""
        memory = min(traffic / (self.p.bandwidth * time), 1.0) if time > 0 else 0.0
        sms = self.sharing.memory_sms if kind == "attention" and memory > 0.5 else 1.0
        return Segment(name, kind, time, {"sm": sms, "hbm": memory} if memory else {"sm": sms})

    def link(self, name: str, kind: str, time: float, group: Group) -> Segment:
        """A collective on the links that its group needs."""
        far = float(self.p.net.path(group).domains) > 1
        link = {"scale-up": 1.0, "scale-out": 1.0} if far else {"scale-up": 1.0}
        return Segment(name, kind, time, {**link, "sm": self.sharing.communication_sms}, True)

    def out(self) -> Segment:
        """The output projection of the mixer."""
        a, hidden, t, tp = self.kind.mixer, self.p.job.model.hidden, float(self.p.load.tokens), float(self.p.tp)
        match a:
            case Mamba():
                part, width = "mamba", a.heads * a.head_dim
            case LinearAttention():
                part, width = "linear_attention", a.v_heads * a.v_head_dim
            case _:
                assert isinstance(a, Attention)
                part, width = "attention", a.heads * a.v_head_dim
        time = float(product(self.p, part, self.p.load.tokens, hidden, width / self.p.tp))
        return self.compute("out", "gemm", time, self.weight_bytes(width * hidden / tp) + WIDE * t * hidden)

    def weight_bytes(self, n: float) -> float:
        """Bytes of a matrix of `n` elements on the rank [B]."""
        return n * self.p.job.weights.weight

    @property
    def streams(self) -> float:
        """Norms and other passes over the activations of the mixer or the feed-forward part [s]."""
        return self.times["streams"] / ((self.kind.mixer is not None) + (self.kind.ffn is not None))

    def mixer(self) -> Block:
        """Attention, or a layer with a state: projections in, core, projection out, all-reduce."""
        a, hidden, t, tp = self.kind.mixer, self.p.job.model.hidden, float(self.p.load.tokens), float(self.p.tp)
        out = self.out()
        if isinstance(a, Attention):
            wide = a.heads * a.head_dim + 2 * a.kv_heads * a.head_dim if not a.kv_lora_rank else (
                (a.q_lora_rank or 0) + a.kv_lora_rank + a.heads * (a.head_dim + a.qk_nope_head_dim + a.v_head_dim) / 4
            )
        elif isinstance(a, Mamba):
            wide = 2 * a.heads * a.head_dim + 2 * a.groups * a.state + a.heads
        else:
            assert a is not None
            wide = 2 * a.v_heads * a.v_head_dim + 2 * a.qk_heads * a.qk_head_dim + 2 * a.v_heads
        into = self.compute("qkv", "gemm", self.times["projections"] - out.time + self.streams,
                            self.weight_bytes(wide * hidden / tp) + WIDE * t * hidden)
        return Block("attention", (into, *self._core(), out), self._reduce())

    def _core(self) -> tuple[Segment, ...]:
        """Core attention, of prompts and decodes apart, or the scan and the update of a state, which moves memory."""
        a, time, tp, load = self.kind.mixer, self.times["attention"], float(self.p.tp), self.p.load
        if not isinstance(a, Attention):
            return (self.compute("attention", "attention", time, float("inf") if load.decodes else 0.0),)
        cached = float(load.decodes * load.context) * _cache_width(self.p, a)
        moved = 4 * WIDE * float(load.prompt) * a.heads / tp * a.head_dim
        if load.decodes and load.prompt:
            prompts = float(prompt_attention(self.p, a))
            return (self.compute("attention of prompts", "attention", prompts, moved),
                    self.compute("attention of decodes", "attention", time - prompts, cached))
        return (self.compute("attention", "attention", time, cached if load.decodes else moved),)

    def _reduce(self) -> Segment | None:
        both = self.kind.mixer is not None and self.kind.ffn is not None and not self.kind.parallel
        time = self.times["tp"] / (2 if both else 1)
        return self.link("all-reduce", "all-reduce", time, Group(int(self.p.tp), 1)) if time > 0 else None

    def feed_forward(self) -> Block:
        """The MLP and its all-reduce."""
        ffn, hidden, t = self.kind.ffn, self.p.job.model.hidden, float(self.p.load.tokens)
        assert isinstance(ffn, Mlp)
        width = ffn.width / float(self.p.tp)
        down = float(product(self.p, "mlp", t, hidden, width))
        chain = (
            self.compute("up", "gemm", self.times["mlp"] - down + self.streams,
                         self.weight_bytes((2 if ffn.gated else 1) * width * hidden) + 2 * WIDE * t * width),
            self.compute("down", "gemm", down, self.weight_bytes(width * hidden) + WIDE * t * (width + hidden)),
        )
        return Block("mlp", chain, self._reduce())

    def experts(self) -> Block:
        """Router, dispatch, experts, combine; shared experts beside; the all-reduce where attention splits heads."""
        ffn, hidden, p = self.kind.ffn, self.p.job.model.hidden, self.p
        assert isinstance(ffn, Moe)
        here = ffn.experts / float(p.ep) * 3 * ffn.width * hidden * float(p.ep) / float(p.tp * p.adp)
        chain = [self.compute("router", "gemm", self.times["router"] + self.streams, 0.0)]
        work = self.compute("experts", "gemm", self.times["experts"], self.weight_bytes(here))
        if self.times["ep"] > 0:
            group = Group(int(p.tp * p.adp), 1)
            size = p.load.tokens / p.tp * (ffn.latent or hidden) * p.job.skew(p.ep)
            path = p.net.path(group)
            there = float(send_to_experts(path, DISPATCH, size * p.job.weights.inputs, ffn.top_k))
            back = float(send_to_experts(path, COMBINE, size * WIDE, ffn.top_k))
            chain += [self.link("dispatch", "all-to-all", there, group), work,
                      self.link("combine", "all-to-all", back, group)]
        else:
            chain.append(work)
        shared = self.times.get("mlp", 0.0)
        read = self.weight_bytes(3 * ffn.shared_width / float(p.tp) * hidden)
        beside = (self.compute("shared expert", "gemm", shared, read),) if shared else ()
        return Block("experts", tuple(chain), self._reduce(), beside)

    def blocks(self) -> list[Block]:
        """The blocks of the layer."""
        found = [self.mixer()] if self.kind.mixer is not None else []
        if self.kind.ffn is not None:
            found.append(self.feed_forward() if isinstance(self.kind.ffn, Mlp) else self.experts())
        return [joined(found)] if self.kind.parallel and len(found) == 2 else found


def _cache_width(p: Pricing, a: Attention) -> float:
    """Bytes that the cache of one token takes on the rank, at two per element [B]."""
    if a.kv_lora_rank:
        return 2.0 * (a.kv_lora_rank + a.qk_rope_head_dim)
    return 2.0 * max(a.kv_heads / float(p.tp), 1.0) * (a.head_dim + a.v_head_dim)


def serving_window(job: ServingJob, layout: ServingLayout, phase: str, batch: int, context: int,
                   sharing: Sharing, layers: int = 2, prompt: int = 0) -> Window:
    """A window of the model's most frequent run of layers in a decode step (`context` tokens cached), a prompt step
    (prompts of `context` tokens), or a mixed one: decodes and, beside them, a chunk of `prompt` tokens of prompts.
    batch: sequences of the whole replica; prompt: tokens of the whole replica."""
    run = [job.model.kinds[index] for index in frequent(job.model.layers, layers)]
    if batch < layout.adp:
        raise OutOfRange(f"batch {batch} leaves attention groups without a sequence; give at least {layout.adp}")
    if phase == "mixed" and prompt < 1:
        raise OutOfRange("a mixed step has tokens of prompts beside its decodes; give --prompt, such as 512")
    if phase != "mixed" and prompt:
        raise OutOfRange(f"{prompt} tokens of prompt stand beside the decodes of a mixed step; give --phase mixed")
    net, each = network(job, layout), batch / layout.adp
    load = Load(prompt=each * context, length=float(context)) if phase == "prefill" else (
        Load(each, float(context), prompt / layout.adp, float(max(prompt / layout.adp, 1))))

    def price(part: float, load: Load = load) -> tuple[Block, ...]:
        one = replace(load, decodes=part * load.decodes, prompt=part * load.prompt)
        pricing = Pricing(job, net, one, layout.tp, layout.adp, layout.ep)
        return tuple(_named(block, number) for number, kind in enumerate(run)
                     for block in _Layer(pricing, kind, sharing).blocks())

    caveats = ["head, embedding, sampling and the host stay outside the window"]
    chunk = ""
    if prompt:
        apart = [sum(block.time for block in price(1.0, one)) for one in
                 (replace(load, prompt=0.0), replace(load, decodes=0.0))]
        caveats.append(f"in steps of their own, one operation after another, the decodes take {show(apart[0], 's')} and"
                       f" the prompts {show(apart[1], 's')}")
        chunk = f" and {prompt} tokens of prompt"
    return Window(price, layers, f"{job.model.id} {phase}, batch {batch}, {context} tokens{chunk}, {layout}",
                  tuple(caveats))


def _named(block: Block, number: int) -> Block:
    return replace(block, name=f"layer {number} {block.name}")
