"""Sparse attention in training (DeepSeek-V3.2's DSA): an indexer scores all tokens, attention keeps the best top-k.

Up to top-k tokens nothing is left out: the layer is dense attention and its indexer. Beyond, latent attention runs
whichever is cheaper: every pair with the selection as a mask, or the selected pairs alone in absorbed form, where each
query reads its own latents (training_core.md section 8). The indexer is whole on every tensor-parallel rank.
"""

from __future__ import annotations

from typing import Any

from perfplan.catalog.specs import Attention
from perfplan.formulas.attention import (
    attention_flops,
    causal_pairs,
    indexer_backward,
    indexer_flops,
    latent_decode_flops,
    windowed_pairs,
)
from perfplan.formulas.core import minimum
from perfplan.training.job import Job
from perfplan.training.shape import Shape

__all__ = ["absorbed", "index_saved", "index_work", "kept_pairs", "selects"]


def selects(job: Job, a: Attention) -> bool:
    """Whether the layer leaves tokens out at this length."""
    return 0 < a.index_topk < job.document


def kept_pairs(a: Attention, seq: int) -> Any:
    """Query-key pairs of one causal sequence under the layer's window and selection; where old tokens are compressed,
    those of the window and of the entries that are kept."""
    if a.compression:
        entries = causal_pairs(seq) / a.compression
        chosen = minimum(entries, windowed_pairs(seq, a.index_topk)) if 0 < a.index_topk < seq else entries
        return chosen + (windowed_pairs(seq, a.window) if 0 < a.window < seq else 0.0)
    limits = [limit for limit in (a.window, a.index_topk) if 0 < limit < seq]
    return windowed_pairs(seq, min(limits)) if limits else causal_pairs(seq)


def absorbed(job: Job, a: Attention) -> bool:
    """Whether latent attention runs over the selected latents alone, because that is less work than all pairs."""
    if not (a.kv_lora_rank and selects(job, a)):
        return False
    alone = latent_decode_flops(1, kept_pairs(a, job.document), a.heads, a.kv_lora_rank, a.qk_rope_head_dim)
    return bool(alone < attention_flops(causal_pairs(job.document), a.heads, a.head_dim, a.v_head_dim))


def index_work(job: Job, shape: Shape, a: Attention) -> tuple[Any, Any, Any]:
    """(FLOPs of the indexer's scores, backward work over forward work, bytes of the scores)."""
    scored = indexer_flops(shape.tokens, job.document, a.index_heads, a.index_head_dim)
    back = indexer_backward(kept_pairs(a, job.document), job.document, job.document)
    return scored, back, 4 * shape.tokens * job.document


def index_saved(job: Job, shape: Shape, a: Attention) -> Any:
    """Bytes that the indexer keeps for backward: queries, keys and head weights in 16 bits, the selection in 4 B."""
    width = a.index_heads * a.index_head_dim + a.index_head_dim + a.index_heads
    return shape.tokens * (2 * width + 4 * min(a.index_topk, job.document))
