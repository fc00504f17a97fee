"""What one layer computes in one step of an engine: times by op on one rank, for decodes and prompts together.

Products run over all tokens of the step, attention over decodes and prompts apart. Degrees may be columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

from perfplan.catalog.specs import Attention, Kernel, LayerKind, LinearAttention, Mamba, Mlp, Moe
from perfplan.formulas import compute
from perfplan.formulas.attention import (
    attention_flops,
    attention_traffic,
    causal_pairs,
    indexer_flops,
    latent_decode_flops,
    latent_decode_traffic,
    windowed_pairs,
)
from perfplan.formulas.core import maximum, minimum, where
from perfplan.formulas.moe import expert_flops, expert_moves, expert_traffic, experts_time
from perfplan.formulas.offload import host_copy_time
from perfplan.formulas.serving import attended_tokens, kv_head_share, touched_experts
from perfplan.serving.attention import decode_kernel, latent_decode, plain_decode
from perfplan.serving.formats import Format
from perfplan.serving.job import BITS, ServingJob
from perfplan.training.exchange import COMBINE, DISPATCH, engine_all_reduce, send_to_experts
from perfplan.training.network import Group, Network

__all__ = ["Load", "head_times", "layer_times", "routed_time"]

WIDE = 2.0  # bytes per element of activations between kernels
SCORE = 8.0  # bytes moved per score of an indexer, written and read in fp32
NEVER_SHORT = 1.0  # tokens: guards divisions where a step has no prompts


@dataclass(frozen=True)
class Load:
    """What one step carries on one attention rank; numbers or columns.

    decodes: sequences that produce tokens; context: mean tokens that each has cached; prompt: prompt tokens computed;
    length: tokens of one piece of prompt; past: mean tokens cached before a piece; drafts: tokens checked per decode
    beyond the one that is sure.
    """

    decodes: Any = 0.0
    context: Any = 0.0
    prompt: Any = 0.0
    length: Any = 1.0
    past: Any = 0.0
    drafts: Any = 0.0

    @property
    def tokens(self) -> Any:
        """Tokens that go through the products."""
        return self.decodes * (1 + self.drafts) + self.prompt

    @property
    def sampled(self) -> Any:
        """Positions at which a token is drawn."""
        return self.decodes * (1 + self.drafts) + self.prompt / maximum(self.length, NEVER_SHORT)


@dataclass(frozen=True)
class Pricing:
    """One step of a job on a layout: what every op needs."""

    job: ServingJob
    net: Network
    load: Load
    tp: Any
    adp: Any
    ep: Any
    aside: bool = False  # on a second stream, behind whose kernels these are launched

    @property
    def share(self) -> Any:
        """Share of a kernel's constant that counts: less in a captured graph than when prompts run kernel by kernel."""
        engine = self.job.engine
        return 0.0 if self.aside else where(self.load.prompt > 0, engine.eager, engine.overhead)

    @property
    def bandwidth(self) -> float:
        """Memory bandwidth of the accelerator [B/s]."""
        return self.job.cluster.accelerator.memory_bandwidth


def reading(p: Pricing, form: str, usual: float) -> Any:
    """Fraction of the memory bandwidth at which weights are read: the engine's own, short of what the units draw."""
    engine, units = p.job.engine, p.job.cluster.accelerator.units
    reached = engine.reads.get(form, usual)
    if not engine.unit_rate or units is None:
        return reached
    return min(reached, units * engine.unit_rate / p.bandwidth)


def product(p: Pricing, part: str, m: Any, n: Any, k: Any) -> Any:
    """Time of the matrix product of a part: m rows with a matrix of k times n [s]."""
    form = p.job.weights.of(part)
    units = p.job.units if form is p.job.weights else _plain(p.job)
    constants = p.job.kernel("gemm", units)
    flops, peak = compute.gemm_flops(m, n, k), matrix_rate(p, units)
    traffic = compute.gemm_bytes(m, n, k, 1, form.inputs, form.weight, WIDE)
    memory = reading(p, form.id, constants.memory)
    over = compute.loop_overhead(k, constants.step, constants.overhead) * p.share
    time = compute.kernel_time(flops, traffic, reached(p, constants, peak, form), peak, memory, p.bandwidth, over)
    return time + unpacked(p, form, m, n * k, memory)


def reached(p: Pricing, constants: Kernel, peak: float, form: Format) -> Any:
    """Fraction of the peak that the engine's products in a format reach."""
    share = p.job.engine.compute * (p.job.engine.quantised if form.inputs < WIDE else 1.0)
    return minimum(constants.compute * share, power_limit(p) / peak)


def unpacked(p: Pricing, form: Format, rows: Any, weights: Any, memory: float) -> Any:
    """Time in which narrow weights are written in 16 bits and read again, for products of many rows [s]."""
    if not p.job.engine.unpack or form.weight >= WIDE:
        return 0.0
    return where(rows >= p.job.engine.unpack, 2 * WIDE * weights / (memory * p.bandwidth), 0.0)


def matrix_rate(p: Pricing, units: str) -> float:
    """Dense peak of products in a format, as the engine accumulates them [FLOP/s]."""
    wide, chip = p.job.peak(units), p.job.cluster.accelerator
    narrow = p.job.engine.narrow and units in ("fp16", "bf16") and "int8" in chip.peak
    return max(wide, chip.peak["int8"] / 2) if narrow else wide


def power_limit(p: Pricing) -> float:
    """Rate of products at which the engine's kernels draw all the power of the chip [FLOP/s]."""
    rate, watts = p.job.engine.per_watt, p.job.cluster.accelerator.tdp
    return rate * watts if rate and watts else inf


def _plain(job: ServingJob) -> str:
    """16-bit format that the chip has."""
    peaks = job.cluster.accelerator.peak
    return next((name for name in ("bf16", "fp16", "fp32") if name in peaks), "bf16")


def stream(p: Pricing, traffic: Any, kernels: int = 1) -> Any:
    """Time of memory-bound kernels [s]."""
    constants = p.job.kernel("stream", _plain(p.job))
    return compute.stream_time(traffic, constants.memory, p.bandwidth, kernels * constants.overhead * p.share)


# ---------------------------------------------------------------- mixers
def _pairs(load: Load, window: int) -> Any:
    """Query-key pairs of the prompts of a step."""
    pieces = load.prompt / maximum(load.length, NEVER_SHORT)
    whole = causal_pairs(load.length) + load.length * load.past
    if not window:
        return pieces * whole
    return pieces * minimum(whole, load.length * window)


def _window(p: Pricing, a: Attention) -> int:
    """Tokens that the engine lets one query of the layer see, 0 = all."""
    return a.window if p.job.engine.windows else 0


def prompt_attention(p: Pricing, a: Attention) -> Any:
    """Time of core attention over the prompts of a step [s]."""
    load, heads = p.load, a.heads / p.tp
    dtype = _plain(p.job)
    constants = p.job.kernel("attention", dtype)
    flops = attention_flops(_pairs(load, _window(p, a)), heads, a.head_dim, a.v_head_dim)
    kv = kv_head_share(a.kv_heads, p.tp)
    traffic = attention_traffic(load.prompt, heads, kv, a.head_dim, a.v_head_dim, WIDE)
    reached = constants.compute * compute.saturation(maximum(load.length, NEVER_SHORT), constants.half)
    over = constants.overhead * p.share
    time = compute.kernel_time(flops, traffic, reached, p.job.peak(dtype), constants.memory, p.bandwidth, over)
    if a.index_topk and a.kv_lora_rank:
        kept = _selected(load, a.index_topk)
        flops = latent_decode_flops(1, kept, heads, a.kv_lora_rank, a.qk_rope_head_dim)
        traffic = latent_decode_traffic(1, kept, 0, a.kv_lora_rank, a.qk_rope_head_dim, WIDE, WIDE)
        fewer = compute.kernel_time(flops, traffic, constants.compute, p.job.peak(dtype), constants.memory,
                                    p.bandwidth, over)
        time = where(load.past + load.length > a.index_topk, minimum(time, fewer), time)
    return where(load.prompt > 0, time, 0.0)


def _selected(load: Load, topk: int) -> Any:
    """Query-key pairs of the prompts of a step of which each query keeps `topk` at most."""
    pieces, seen = load.prompt / maximum(load.length, NEVER_SHORT), load.past + load.length
    return pieces * (windowed_pairs(seen, minimum(seen, topk)) - windowed_pairs(load.past, minimum(load.past, topk)))


def index_scores(p: Pricing, a: Attention) -> Any:
    """Time in which an indexer, whole on every rank, scores the tokens that a query sees, and the best are chosen [s].

    The keys of a sequence are read once, the scores are written and read; what the gather of chosen tokens loses to
    their scattered places is not known.
    """
    load, dtype = p.load, "fp8" if "fp8" in p.job.cluster.accelerator.peak else _plain(p.job)
    constants = p.job.kernel("gemm", dtype)
    queries, pieces = load.decodes * (1 + load.drafts), load.prompt / maximum(load.length, NEVER_SHORT)
    seen = load.past + load.length
    scored = queries * load.context + load.prompt * seen
    keys = (load.decodes * load.context + pieces * seen) * a.index_head_dim
    flops = indexer_flops(1, scored, a.index_heads, a.index_head_dim)
    time = compute.kernel_time(flops, keys, constants.compute, p.job.peak(dtype), constants.memory, p.bandwidth,
                               constants.overhead * p.share)
    return time + stream(p, SCORE * scored, 1)


def decode_attention(p: Pricing, a: Attention) -> Any:
    """Time of core attention of the decodes of a step, which reads what they have cached [s]."""
    load, kv, chip = p.load, p.job.kv, p.job.cluster.accelerator
    window = _window(p, a)
    read = attended_tokens(load.context, window) if window else load.context
    if a.compression:
        read = read + load.context / a.compression
    if a.index_topk:
        read = minimum(read, a.index_topk)
    constants = decode_kernel(chip, kv, p.job.engine.kernel_names)
    constants = replace(constants, memory=constants.memory * p.job.engine.cached)
    own = p.job.engine.products  # kernels on the vector units: their products hide behind the reads, or bind
    if own:
        constants = replace(constants, compute=1.0)
    heads, queries = a.heads / p.tp, maximum(load.decodes, NEVER_SHORT) * (1 + load.drafts)
    if a.kv_lora_rank:
        time = latent_decode(chip, constants, queries, read, heads, a.kv_lora_rank, a.qk_rope_head_dim, kv)
    else:
        values = 0 if a.kv_shared else a.v_head_dim
        shared = kv_head_share(a.kv_heads, p.tp)
        time = plain_decode(chip, constants, queries, read, heads, shared, a.head_dim, values, kv_dtype=kv)
        if own:
            flops = attention_flops(queries * read, heads, a.head_dim, a.v_head_dim)
            time = maximum(time, flops / (own * p.job.peak(_plain(p.job))) + constants.overhead)
    return where(load.decodes > 0, time - (1 - p.share) * constants.overhead, 0.0)


def _attention(p: Pricing, a: Attention) -> dict[str, Any]:
    hidden, t, heads = p.job.model.hidden, p.load.tokens, a.heads / p.tp
    if a.kv_lora_rank:
        down = product(p, "attention", t, (a.q_lora_rank or 0) + a.kv_lora_rank + a.qk_rope_head_dim, hidden)
        up = product(p, "attention", t, heads * a.head_dim, a.q_lora_rank or hidden)
        latent = product(p, "attention", t, heads * (a.qk_nope_head_dim + a.v_head_dim), a.kv_lora_rank)
        into, rotated = down + up + latent, (heads + 1) * a.qk_rope_head_dim + a.kv_lora_rank
    else:
        kv = kv_head_share(a.kv_heads, p.tp) * (a.head_dim + (0 if a.kv_shared else a.v_head_dim))
        into = product(p, "attention", t, heads * a.head_dim * (2 if a.output_gate else 1) + kv, hidden)
        rotated = heads * a.head_dim + kv
    out = product(p, "attention", t, hidden, heads * a.v_head_dim)
    core = prompt_attention(p, a) + decode_attention(p, a)
    if a.index_heads:
        into = into + product(p, "indexer", t, a.index_heads * a.index_head_dim, a.q_lora_rank or hidden)
        into = into + product(p, "indexer", t, a.index_head_dim + a.index_heads, hidden)
        core = core + index_scores(p, a)
    return {"projections": into + out, "attention": core,
            "streams": stream(p, 2 * WIDE * t * rotated)}


def _recurrent(p: Pricing, part: str, inner: float, keys: float, state: float, extra: float) -> dict[str, Any]:
    """A layer with a state: its products, and the state read and written once per decode, scanned for prompts."""
    t, hidden, load = p.load.tokens, p.job.model.hidden, p.load
    into = product(p, part, t, (2 * inner + keys + extra) / p.tp, hidden)
    out = product(p, part, t, hidden, inner / p.tp)
    moved = load.decodes * 2 * 4 * state / p.tp + load.prompt * WIDE * 4 * inner / p.tp
    constants = p.job.kernel("scan", _plain(p.job))
    scan = compute.kernel_time(load.prompt * 4 * state / p.tp, load.prompt * WIDE * 3 * inner / p.tp, constants.compute,
                               p.job.peak(_plain(p.job)), constants.memory, p.bandwidth, 0.0)
    return {"projections": into + out, "attention": stream(p, moved, 3) + where(load.prompt > 0, scan, 0.0)}


def _mixer(p: Pricing, kind: LayerKind) -> dict[str, Any]:
    match kind.mixer:
        case Attention() as a:
            return _attention(p, a)
        case Mamba() as m:
            inner = float(m.heads * m.head_dim)
            return _recurrent(p, "mamba", inner, 2 * m.groups * m.state, inner * m.state, m.heads)
        case LinearAttention() as m:
            inner, keys = float(m.v_heads * m.v_head_dim), float(m.qk_heads * m.qk_head_dim)
            return _recurrent(p, "linear_attention", inner, 2 * keys, inner * m.qk_head_dim, 2 * m.v_heads)
    return {}


# ---------------------------------------------------------------- feed-forward parts
def _mlp(p: Pricing, part: str, width: float, gated: bool) -> Any:
    t, hidden, share = p.load.tokens, p.job.model.hidden, width / p.tp
    up = product(p, part, t, share * (2 if gated else 1), hidden)
    return up + product(p, part, t, hidden, share) + stream(p, WIDE * t * share * (3 if gated else 2))


def _expert_kernel(job: ServingJob) -> Kernel:
    """Constants of expert layers; those of plain products where the chip has none.

    Weights narrower than the units fill up tiles with fewer rows, as on chips that read faster: reading binds for less.
    """
    kind = "experts" if "experts" in job.cluster.accelerator.kernels else "gemm"
    found = job.kernel(kind, job.units)
    if not found.around:
        return replace(found, half=0.0, around=job.kernel("stream", _plain(job)).memory)
    return replace(found, half=found.half * min(job.weights.weight / WIDE, 1.0)) if job.units in BITS else found


def routed_time(p: Pricing, moe: Moe, rows: Any, met: Any, here: Any, inner: Any, tokens: Any) -> Any:
    """Time of the routed experts of one rank in one layer [s]. rows: token copies computed; met: experts that some
    token reaches, of those `here`; inner: width of an expert on the rank; tokens: whose results the rank writes."""
    engine, form, constants, peak = p.job.engine, p.job.weights, _expert_kernel(p.job), matrix_rate(p, p.job.units)
    used = met + engine.idle_experts.get(form.id, 0.0) * (here - met)
    shape = moe.latent or p.job.model.hidden, inner, 3 if moe.gated else 2
    traffic = expert_traffic(0.0, used * (1 - p.job.host_experts), *shape, form.weight, WIDE)
    traffic = traffic + expert_traffic(rows, 0.0, *shape, form.inputs, WIDE)
    memory = reading(p, form.id, constants.memory)
    moved = expert_moves(rows, tokens, *shape, form.inputs, WIDE)
    moved = moved - engine.gathers * rows * shape[0] * (WIDE + form.inputs)
    return engine.routed + experts_time(
        expert_flops(rows, *shape), expert_flops(constants.half * used, *shape), reached(p, constants, peak, form),
        peak, traffic, memory, p.bandwidth, moved, constants.around, here, constants.each * engine.tables,
        constants.overhead * p.share)


def host_read(p: Pricing, moe: Moe, met: Any, inner: Any) -> Any:
    """Time in which the weights of the experts that are met come from host memory, for those kept there [s]."""
    weights = (3 if moe.gated else 2) * inner * (moe.latent or p.job.model.hidden) * p.job.weights.weight
    return host_copy_time(met * p.job.host_experts * weights, p.job.host_bandwidth, 1.0)


def _moe(p: Pricing, moe: Moe) -> dict[str, Any]:
    hidden, t = p.job.model.hidden, p.load.tokens
    width = p.tp * p.adp
    split = width / p.ep
    everyone = t * p.adp
    rows = everyone * moe.top_k / p.ep * p.job.skew(p.ep)
    here = moe.experts / p.ep
    met = minimum(touched_experts(moe.experts, moe.top_k, everyone, p.job.engine.evenness) / p.ep, here)
    seen = moe.latent or hidden
    latent = product(p, "latent", t, 2 * seen, hidden) if moe.latent else 0.0
    parts = {"experts": routed_time(p, moe, rows, met, here, moe.width / split, everyone / p.ep) + latent,
             "router": product(p, "router", t, moe.experts, hidden) + stream(p, 2 * WIDE * t * moe.experts)}
    if p.job.host_experts:
        parts["offload"] = host_read(p, moe, met, moe.width / split)
    if moe.shared_width:
        parts["mlp"] = _mlp(replace(p, aside=True), "shared", moe.shared_width, moe.gated)
    return parts


def _ep_time(p: Pricing, moe: Moe) -> Any:
    """Dispatch and combine between attention-parallel groups; without them every rank has all tokens [s]."""
    size = p.load.tokens / p.tp * (moe.latent or p.job.model.hidden) * p.job.skew(p.ep)
    path = p.net.path(Group(p.tp * p.adp, 1))
    whole = send_to_experts(path, DISPATCH, size * p.job.weights.inputs, moe.top_k)
    return where(p.adp > 1, whole + send_to_experts(path, COMBINE, size * WIDE, moe.top_k), 0.0)


def _tp_time(p: Pricing, calls: int) -> Any:
    """All-reduces of a layer over the tensor-parallel group [s]."""
    library = p.job.engine.kernels or p.job.cluster.library
    path = p.net.path(Group(p.tp, 1))
    return calls * engine_all_reduce(path, library, p.load.tokens * p.job.model.hidden * WIDE)


def layer_times(p: Pricing, kind: LayerKind) -> dict[str, Any]:
    """Times by op of one layer in one step [s]."""
    parts = dict(_mixer(p, kind))
    if isinstance(kind.ffn, Mlp):
        parts["mlp"] = _mlp(p, "mlp", kind.ffn.width, kind.ffn.gated)
    if isinstance(kind.ffn, Moe):
        parts |= _moe(p, kind.ffn)
    blocks = 1 if kind.parallel else (kind.mixer is not None) + (kind.ffn is not None)
    norms = stream(p, 4 * WIDE * blocks * p.load.tokens * p.job.model.hidden, blocks)
    parts["streams"] = parts.get("streams", 0.0) + norms + p.job.engine.layer
    parts["tp"] = _tp_time(p, blocks)
    if isinstance(kind.ffn, Moe):
        parts["ep"] = _ep_time(p, kind.ffn)
    return parts


def head_times(p: Pricing) -> dict[str, Any]:
    """Times of the embedding, of the LM head where a token is drawn, and of drawing it [s]."""
    vocab, hidden, n = p.job.model.vocab, p.job.model.hidden, p.load.sampled
    constants = p.job.kernel("gemm", _plain(p.job))
    traffic = compute.gemm_bytes(n, vocab / p.tp, hidden, 1, WIDE, p.job.weights.head, WIDE)
    memory = reading(p, p.job.weights.id, constants.memory)
    product_ = compute.kernel_time(compute.gemm_flops(n, vocab / p.tp, hidden), traffic, constants.compute,
                                   p.job.peak(_plain(p.job)), memory, p.bandwidth, constants.overhead * p.share)
    gather = p.net.path(Group(p.tp, 1)).all_gather(n * vocab * WIDE)
    return {"head": product_ + stream(p, 4 * n * vocab / p.tp) + gather}
