"""What one layer of each kind computes: its operators on one rank, and what they keep for backward.

Shapes follow training_core.md sections 1.1, 2.3 and 6. All counts are per micro-batch and rank; any may be a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Mamba, Mlp, Moe
from perfplan.formulas.attention import (
    attention_flops,
    attention_traffic,
    causal_pairs,
    latent_decode_flops,
    windowed_pairs,
)
from perfplan.formulas.compute import cast_traffic
from perfplan.formulas.core import maximum, minimum
from perfplan.training import sparse
from perfplan.training.formats import element_bytes
from perfplan.training.job import Job
from perfplan.training.shape import Shape

__all__ = [
    "Core",
    "Gemm",
    "Op",
    "Saved",
    "Stream",
    "embedding_ops",
    "head_ops",
    "layer_ops",
    "layer_saved",
    "unmodelled",
]


@dataclass(frozen=True)
class Gemm:
    """Matrix products D[m,n] = A[m,k] B[k,n], `groups` of them with m rows in all."""

    part: str
    module: str
    m: Any
    n: Any
    k: Any
    kind: str = "gemm"
    groups: Any = 1


@dataclass(frozen=True)
class Core:
    """Core attention or another scan: fused arithmetic over the sequence."""

    part: str
    module: str
    flops: Any
    traffic: Any
    length: Any
    kind: str = "attention"
    backward: Any = None  # work of the backward pass over the forward's, where the kind does not say


@dataclass(frozen=True)
class Stream:
    """Memory-bound kernels: bytes moved forward and backward, and how many kernels that takes."""

    part: str
    module: str
    forward: Any
    backward: Any
    kernels: int = 1


Op = Gemm | Core | Stream


@dataclass(frozen=True)
class Saved:
    """Bytes kept for backward, and the recompute module that frees them ("" = none does)."""

    name: str
    module: str
    size: Any


# ---------------------------------------------------------------- operators
def _norm(job: Job, shape: Shape, count: int) -> Iterator[Op]:
    hidden, dropout = job.model.hidden * job.model.residual_streams, 5 if job.framework.dropout else 0
    yield Stream(
        "norm",
        "layernorm",
        count * shape.rows * hidden * (8 + dropout),
        count * shape.rows * hidden * (12 + dropout),
        2 * count,
    )


def _quantise(job: Job, dtype: str, name: str, elements: Any, outputs: Any) -> Iterator[Op]:
    """Casts of GEMM inputs and output gradients to a narrow format, row-wise and, for weight gradients, transposed."""
    if dtype in ("bf16", "fp16", "fp32", "tf32"):
        return
    written = (1 if job.frozen else 2) * element_bytes(job.recipe, dtype)
    each = cast_traffic(1, job.recipe.cast_reads, 2, written)
    yield Stream(f"{name} cast", "", each * elements, each * outputs, 2)


def _linear(job: Job, part: str, module: str, m: Any, n: Any, k: Any) -> Iterator[Op]:
    yield Gemm(part, module, m, n, k)
    yield from _quantise(job, job.recipe.gemm["forward"], part, m * k, m * n)


CAPTURED = {
    "attn": (
        "norm",
        "qkv",
        "latent norms",
        "rope",
        "core attention",
        "softmax",
        "attention output",
        "linear attention",
        "indexer",
    ),
    "mamba": ("norm", "mamba"),
    "mlp": ("norm", "mlp"),
    "moe_router": ("norm", "router", "routing", "shared expert"),
    "moe_preprocess": ("permute",),
    "full_iteration": ("",),
}  # what a CUDA graph of each kind captures: how the names of operators begin


def captured(job: Job, op: Op) -> bool:
    """Whether the operator runs inside a CUDA graph, so that the host does not launch it."""
    return any(op.part.startswith(CAPTURED[scope]) for scope in job.graphs)


def unmodelled(job: Job) -> tuple[str, ...]:
    """Features of the model that the training model leaves out or prices in a simpler way, one caveat each."""
    mixers = [kind.mixer for kind in job.model.kinds]
    attention = [m for m in mixers if isinstance(m, Attention)]
    left_out = {
        "compressed attention is priced by the pairs of its window and of its compressed entries": any(
            a.compression for a in attention
        ),
        "several residual streams are priced by their reads and writes alone": job.model.residual_streams > 1,
        "keys that serve as values are priced as two projections": any(a.kv_shared for a in attention),
        "chunked attention is priced as a sliding window": any(
            0 < a.window < job.seq_len and a.chunked for a in attention
        ),
        "the loss that teaches the indexer (against the scores of the main attention) is not priced": any(
            a.index_heads for a in attention
        ),
        "the output gate of latent attention is not priced": any(a.output_gate and a.kv_lora_rank for a in attention),
        "low-rank gates of linear attention are priced at full width": any(
            isinstance(m, LinearAttention) and m.gate_rank for m in mixers
        ),
        "its multi-token-prediction layers are not trained; give --mtp to train them": job.model.mtp_layers
        and not job.mtp_depth
        and not job.frozen,
    }
    return tuple(text for text, present in left_out.items() if present)


def pairs(attention: Attention, seq: int) -> Any:
    """Query-key pairs that the kernel computes of one sequence: under the layer's window, and of a selection only
    where keys are not latents, which run with the selection as a mask."""
    if (attention.index_topk or attention.compression) and not attention.kv_lora_rank:
        return sparse.kept_pairs(attention, seq)
    if 0 < attention.window < seq:
        return windowed_pairs(seq, attention.window)
    return causal_pairs(seq)


def _core_attention(job: Job, shape: Shape, a: Attention) -> Iterator[Op]:
    heads, kv = a.heads / shape.tp, maximum(a.kv_heads, shape.tp) / shape.tp
    if job.fused_attention and sparse.absorbed(job, a):
        yield _sparse_core(job, shape, a)
        return
    if job.fused_attention:
        documents = shape.tokens / job.document  # on this rank, in whole and in parts
        flops = attention_flops(pairs(a, job.document) * documents, heads, a.head_dim, a.v_head_dim)
        traffic = attention_traffic(shape.tokens, heads, kv, a.head_dim, a.v_head_dim, 2)
        length = minimum(job.document, job.seq_len / shape.cp)
        yield Core("core attention", "core_attn", flops, traffic, length, job.fused_kernel)
        return
    scores = shape.tokens * job.seq_len * heads
    yield Core(
        "core attention",
        "core_attn",
        attention_flops(scores / heads, heads, a.head_dim, a.v_head_dim),
        2 * 2 * scores + shape.tokens * heads * 2 * 2 * (a.head_dim + a.v_head_dim),
        job.seq_len,
        "unfused_attention",
    )
    extra = 5 if job.framework.dropout else 0
    yield Stream("softmax and dropout", "core_attn", (4 + extra) * scores, (6 + extra) * scores, 2)


def _adapter(job: Job, part: str, m: Any, n: Any, k: Any) -> Iterator[Op]:
    """The two small products of a LoRA adapter beside a frozen matrix (Hu et al. 2021), and its addition."""
    if job.frozen:
        yield Gemm(f"{part} adapter", "", m, job.lora_rank, k)
        yield Gemm(f"{part} adapter", "", m, n, job.lora_rank)
        yield Stream(f"{part} adapter", "", 6 * m * n, 4 * m * n, 2)


def _indexer(job: Job, shape: Shape, a: Attention) -> Iterator[Op]:
    """Queries, the one key and head weights of a sparse-attention indexer, its scores, and the selection."""
    tokens, hidden, width = shape.tokens, job.model.hidden, a.index_heads * a.index_head_dim
    yield from _linear(job, "indexer", "", tokens, width, a.q_lora_rank or hidden)
    yield from _linear(job, "indexer", "", tokens, a.index_head_dim + a.index_heads, hidden)
    scored, back, scores = sparse.index_work(job, shape, a)
    keys = 2 * tokens * (width + a.index_head_dim)
    yield Core("indexer scores", "", scored, keys + scores, job.document, job.fused_kernel, back)
    yield Stream("indexer selection", "", scores, 0 * scores, 2)


def _sparse_core(job: Job, shape: Shape, a: Attention) -> Core:
    """Absorbed latent attention over the selected tokens; every query reads its own latents."""
    chosen = sparse.kept_pairs(a, job.document) * shape.tokens / job.document
    heads, latent = a.heads / shape.tp, a.kv_lora_rank + a.qk_rope_head_dim
    flops = latent_decode_flops(1, chosen, heads, a.kv_lora_rank, a.qk_rope_head_dim)
    traffic = 2 * chosen * latent + 2 * shape.tokens * heads * (latent + a.kv_lora_rank)
    length = minimum(job.document, job.seq_len / shape.cp)
    return Core("core attention", "core_attn", flops, traffic, length, job.fused_kernel)


def latent_products(job: Job, shape: Shape, a: Attention) -> Iterator[tuple[Any, Any, Any]]:
    """(rows, columns, inner dimension) of the products before latent attention: queries, then keys and values, each
    down to its bottleneck, which every tensor-parallel rank does for its own rows, and up to the heads."""
    hidden, heads = job.model.hidden, a.heads / shape.tp
    if a.q_lora_rank:
        yield shape.rows, a.q_lora_rank, hidden
    yield shape.tokens, heads * a.head_dim, a.q_lora_rank or hidden
    yield shape.rows, a.kv_lora_rank + a.qk_rope_head_dim, hidden
    yield shape.tokens, heads * (a.qk_nope_head_dim + a.v_head_dim), a.kv_lora_rank


def _attention(job: Job, shape: Shape, a: Attention) -> Iterator[Op]:
    hidden, tokens, tp = job.model.hidden, shape.tokens, shape.tp
    heads = a.heads / tp
    if a.kv_lora_rank:
        for rows, columns, inner in latent_products(job, shape, a):
            yield from _linear(job, "qkv", "mla_up_proj", rows, columns, inner)
            yield from _adapter(job, "qkv", rows, columns, inner)
        yield Stream(
            "latent norms",
            "layernorm",
            shape.rows * 4 * (a.q_lora_rank + a.kv_lora_rank),
            shape.rows * 6 * (a.q_lora_rank + a.kv_lora_rank),
            2,
        )
    else:
        kv = maximum(a.kv_heads, tp) / tp
        queries = heads * a.head_dim * (2 if a.output_gate else 1)
        width = kv * (a.head_dim + a.v_head_dim) + (a.q_lora_rank or queries)
        yield from _linear(job, "qkv", "", tokens, width, hidden)
        yield from _adapter(job, "qkv", tokens, width, hidden)
        if a.q_lora_rank:
            yield from _linear(job, "qkv", "", tokens, queries, a.q_lora_rank)
        if a.compression:
            yield from _linear(job, "qkv", "", tokens, 2 * a.head_dim, hidden)
    if job.model.positional == "rope":
        rotated = a.qk_rope_head_dim or a.head_dim
        width = (heads + (1 if a.kv_lora_rank else maximum(a.kv_heads, tp) / tp)) * rotated
        yield Stream("rope", "", 4 * tokens * width, 4 * tokens * width, 2)
    if a.index_heads:
        yield from _indexer(job, shape, a)
    yield from _core_attention(job, shape, a)
    if a.o_lora_rank:  # low-rank inside each group of heads, then over the groups
        yield from _linear(job, "attention output", "", tokens, a.o_lora_rank, heads * a.v_head_dim)
        yield from _linear(job, "attention output", "", tokens, hidden, a.o_groups * a.o_lora_rank / tp)
        return
    yield from _linear(job, "attention output", "", tokens, hidden, heads * a.v_head_dim)
    yield from _adapter(job, "attention output", tokens, hidden, heads * a.v_head_dim)


def _mamba(job: Job, shape: Shape, a: Mamba) -> Iterator[Op]:
    inner, hidden, tokens = a.heads * a.head_dim, job.model.hidden, shape.tokens
    mixed = inner + 2 * a.groups * a.state
    yield from _linear(job, "mamba in", "", tokens, (inner + mixed + a.heads) / shape.tp, hidden)
    yield Stream("mamba conv", "", 4 * tokens * mixed / shape.tp, 8 * tokens * mixed / shape.tp, 2)
    scan = tokens * (2 * a.chunk * a.state * a.groups + 2 * a.chunk * inner + 4 * a.state * inner) / shape.tp
    yield Core("mamba scan", "", scan, tokens * (8 * inner + 4 * a.groups * a.state) / shape.tp, job.seq_len, "scan")
    yield Stream("mamba gate norm", "layernorm", 8 * tokens * inner / shape.tp, 14 * tokens * inner / shape.tp, 2)
    yield from _linear(job, "mamba out", "", tokens, hidden, inner / shape.tp)


def _linear_attention(job: Job, shape: Shape, a: LinearAttention) -> Iterator[Op]:
    keys, values, tokens = a.qk_heads * a.qk_head_dim, a.v_heads * a.v_head_dim, shape.tokens
    yield from _linear(
        job, "linear attention in", "", tokens, (2 * keys + 2 * values + 2 * a.v_heads) / shape.tp, job.model.hidden
    )
    yield Stream(
        "linear attention conv",
        "",
        4 * tokens * (2 * keys + values) / shape.tp,
        8 * tokens * (2 * keys + values) / shape.tp,
        2,
    )
    per_head = 2 * a.chunk * (a.qk_head_dim + a.v_head_dim) + 4 * a.qk_head_dim * a.v_head_dim
    yield Core(
        "linear attention scan",
        "",
        tokens * a.v_heads * per_head / shape.tp,
        4 * tokens * (2 * keys + 2 * values) / shape.tp,
        job.seq_len,
        "scan",
    )
    yield Stream(
        "linear attention gate norm", "layernorm", 8 * tokens * values / shape.tp, 14 * tokens * values / shape.tp, 2
    )
    yield from _linear(job, "linear attention out", "", tokens, job.model.hidden, values / shape.tp)


def _mlp(job: Job, shape: Shape, width: int, gated: bool, name: str, module: str) -> Iterator[Op]:
    hidden, tokens, share = job.model.hidden, shape.tokens, width / shape.tp
    yield from _linear(job, f"{name} up", module, tokens, share * (2 if gated else 1), hidden)
    yield Stream(
        f"{name} activation", module, tokens * share * (6 if gated else 4), tokens * share * (10 if gated else 6), 1
    )
    yield from _linear(job, f"{name} down", module, tokens, hidden, share)


def dispatched_rows(job: Job, shape: Shape, moe: Moe) -> Any:
    """Token rows that the most loaded expert rank computes per micro-batch."""
    return shape.rows * moe.top_k * shape.etp * job.skew(shape.ep)


def _moe(job: Job, shape: Shape, moe: Moe) -> Iterator[Op]:
    hidden, rows = job.model.hidden, shape.rows
    seen, received = moe.latent or hidden, dispatched_rows(job, shape, moe)
    groups, width = moe.experts / shape.ep, moe.width / shape.etp
    yield Gemm("router", "moe", rows, moe.experts, hidden)
    yield Stream("routing", "moe", rows * moe.experts * 12, rows * moe.experts * 8, 30)
    if moe.latent:
        yield Gemm("latent projections", "moe", rows, moe.latent, hidden)
        yield Gemm("latent projections", "moe", rows, hidden, moe.latent)
    moved = 2 * seen * (rows * moe.top_k + received / shape.etp) + 2 * rows * hidden
    yield Stream("permute", "moe", moved, moved, 8)
    yield Gemm("expert up", "moe", received, width * (2 if moe.gated else 1), seen, "grouped_gemm", groups)
    cast = received * (seen + width)
    yield from _quantise(job, job.recipe.experts["forward"], "expert", cast, cast)
    yield Stream(
        "expert activation",
        "moe_act",
        received * width * (6 if moe.gated else 16),  # not gated: ReLU, square and router weight are kernels of
        received * width * (10 if moe.gated else 24),  # their own, the last one partly in fp32
        1,
    )
    yield Gemm("expert down", "moe", received, seen, width, "grouped_gemm", groups)
    yield Stream("unpermute", "moe", moved, moved, 8)
    if moe.shared_width:
        yield from _mlp(job, shape, moe.shared_width, moe.gated, "shared expert", "shared_experts")


def _kernel_length(job: Job, op: Op, cp_kind: str) -> Op:
    """The operator under its kind of context parallelism: a ring runs one attention kernel per hop, over the keys of
    one rank; all-gather and all-to-all run over those of the whole document (Transformer Engine, context_parallel.py).
    """
    if isinstance(op, Core) and op.part == "core attention" and job.fused_attention and cp_kind != "ring":
        return replace(op, length=job.document)
    return op


def layer_ops(job: Job, kind: LayerKind, shape: Shape, cp_kind: str = "ring") -> list[Op]:
    """The operators of one layer, in order; `cp_kind`: how context parallelism exchanges (layout.CP_KINDS)."""
    ops: list[Op] = []
    match kind.mixer:
        case Attention():
            ops += _attention(job, shape, kind.mixer)
        case Mamba():
            ops += _mamba(job, shape, kind.mixer)
        case LinearAttention():
            ops += _linear_attention(job, shape, kind.mixer)
    match kind.ffn:
        case Mlp():
            ops += _mlp(job, shape, kind.ffn.width, kind.ffn.gated, "mlp", "mlp")
        case Moe():
            ops += _moe(job, shape, kind.ffn)
    blocks = 1 if kind.parallel else (kind.mixer is not None) + (kind.ffn is not None)
    return [*_norm(job, shape, blocks), *(_kernel_length(job, op, cp_kind) for op in ops)]


def embedding_ops(job: Job, shape: Shape) -> list[Op]:
    """Lookup of the input embedding and the scatter of its gradient."""
    width = shape.rows * job.model.hidden
    return [Stream("embedding", "", 4 * width, 10 * width, 1)]


def head_ops(job: Job, shape: Shape) -> list[Op]:
    """Final norm, LM head and cross entropy on the rank's share of the vocabulary."""
    logits = shape.tokens * job.model.vocab / shape.tp
    return [
        *_norm(job, shape, 1),
        Gemm("lm head", "", shape.tokens, job.model.vocab / shape.tp, job.model.hidden, "head"),
        Stream("cross entropy", "", 14 * logits, 6 * logits, 6),
    ]


# ---------------------------------------------------------------- what is kept for backward
def _saved_mixer(job: Job, shape: Shape, kind: LayerKind) -> Iterator[Saved]:
    tokens, keep, tp = shape.tokens, job.recipe.saved, shape.tp
    match kind.mixer:
        case Attention() as a:
            heads, kv = a.heads / tp, maximum(a.kv_heads, tp) / tp
            if a.kv_lora_rank:
                yield Saved(
                    "latents", "", shape.rows * (4 * a.q_lora_rank + 4 * a.kv_lora_rank + 2 * a.qk_rope_head_dim)
                )
                wide = a.kv_lora_rank * 2 + a.qk_rope_head_dim  # absorbed queries and what attention gathers
                wide = wide if sparse.absorbed(job, a) and job.fused_attention else 2 * a.head_dim + a.v_head_dim
                yield Saved("q, k, v", "mla_up_proj", 2 * tokens * heads * wide)
            else:
                width = 1 if job.recipe.attention.startswith("fp8") else 2  # an FP8 kernel keeps what it read
                yield Saved("q, k, v", "", width * tokens * (heads * a.head_dim + kv * (a.head_dim + a.v_head_dim)))
            yield Saved("attention output", "", keep * tokens * heads * a.v_head_dim)
            if a.index_heads:
                yield Saved("indexer", "", sparse.index_saved(job, shape, a))
            if job.fused_attention:
                yield Saved("log-sum-exp", "core_attn", 4 * tokens * heads)
            else:
                yield Saved("attention scores", "core_attn", 5 * tokens * job.seq_len * heads)
        case Mamba() as a:
            inner = a.heads * a.head_dim
            yield Saved("mamba", "", 2 * tokens * (4 * inner + 4 * a.groups * a.state) / tp)
        case LinearAttention() as a:
            values = a.v_heads * a.v_head_dim
            yield Saved("linear attention", "", 2 * tokens * (4 * a.qk_heads * a.qk_head_dim + 4 * values) / tp)


def _saved_ffn(job: Job, shape: Shape, kind: LayerKind) -> Iterator[Saved]:
    keep = 0.0 if job.frozen else job.recipe.saved  # inputs of frozen matrices are not kept: they have no wgrad
    match kind.ffn:
        case Mlp() as f:
            yield Saved("mlp", "mlp", shape.tokens * f.width / shape.tp * ((4 + keep) if f.gated else (2 + keep)))
        case Moe() as f:
            received, width = dispatched_rows(job, shape, f), f.width / shape.etp
            yield Saved("router", "moe", 8 * shape.rows * f.experts)
            yield Saved("expert input", "moe", keep * received * (f.latent or job.model.hidden))
            yield Saved("expert gate and up", "moe", 2 * received * width * (2 if f.gated else 1))
            yield Saved("expert activation", "moe_act", keep * received * width)
            yield Saved(
                "shared experts",
                "shared_experts",
                shape.tokens * f.shared_width / shape.tp * ((4 + keep) if f.gated else (2 + keep)),
            )


def _normed(job: Job, kind: LayerKind, shape: Shape, blocks: int) -> Any:
    """Rows of norm outputs that wait for a weight gradient: of matrices that learn, the rank's own, gathered again in
    backward; of adapters beside a frozen QKV, those that forward gathered."""
    if job.frozen:
        gathered = isinstance(kind.mixer, Attention) and not kind.mixer.kv_lora_rank
        return shape.tokens if gathered else shape.rows
    return (1 if kind.parallel else blocks) * shape.rows


def layer_saved(job: Job, kind: LayerKind, shape: Shape) -> list[Saved]:
    """What one layer keeps for backward, per micro-batch [B]."""
    blocks = (kind.mixer is not None) + (kind.ffn is not None)
    block = shape.rows * job.model.hidden
    saved = [
        Saved("layer input", "", 2 * block),
        Saved("block input", "", 2 * (blocks - 1) * block),
        Saved("norm output", "layernorm", job.recipe.saved * _normed(job, kind, shape, blocks) * job.model.hidden),
    ]
    if job.framework.dropout:
        saved.append(Saved("dropout masks", "", blocks * block))
    return [*saved, *_saved_mixer(job, shape, kind), *_saved_ffn(job, shape, kind)]
