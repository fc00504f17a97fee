"""Core attention: query-key pairs under a mask, FLOPs, traffic."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, log2, maximum, minimum

__all__ = ["attention_flops", "attention_traffic", "causal_pairs", "decode_time", "decode_traffic", "indexer_backward",
           "indexer_flops", "latent_decode_flops", "latent_decode_traffic", "pass_pair_time", "windowed_pairs"]


@formula("N_pairs", "1", source="counting: token i sees i tokens (training_core.md section 1.2)")
def causal_pairs(length: Any) -> Any:
    """Query-key pairs of one causal sequence.

    length : tokens [1]

    >>> causal_pairs(8192)
    33558528.0
    """
    return length * (length + 1) / 2


@formula("N_pairs,w", "1", source="counting: token i sees min(i, w) tokens (training_core.md section 1.2)")
def windowed_pairs(length: Any, window: Any) -> Any:
    """Query-key pairs of one causal sequence with a sliding window no longer than the sequence.

    length : tokens [1]
    window : tokens that one query sees, itself included [1]

    >>> windowed_pairs(8192, 4096)
    25167872.0
    """
    return length * window - window * (window - 1) / 2


@formula("F_core", "FLOP", source="two products per pair, scores and values (training_core.md section 1.2)")
def attention_flops(pairs: Any, heads: Any, key_width: Any, value_width: Any) -> Any:
    """FLOPs of the two products of core attention.

    pairs : query-key pairs of all sequences [1]
    heads : query heads on the rank [1]
    key_width : width of a query or key head [1]
    value_width : width of a value head [1]

    >>> attention_flops(1, 128, 192, 128)
    81920
    """
    return 2 * heads * pairs * (key_width + value_width)


@formula("B_core", "B", source="flash attention reads Q, K, V once and writes O (Dao et al. 2022)")
def attention_traffic(tokens: Any, heads: Any, kv_heads: Any, key_width: Any, value_width: Any, element: Any) -> Any:
    """Memory traffic of fused attention.

    tokens : tokens on the rank [1]
    heads : query heads on the rank [1]
    kv_heads : key-value heads on the rank [1]
    key_width : width of a query or key head [1]
    value_width : width of a value head [1]
    element : bytes per element [B]

    >>> attention_traffic(1, 32, 8, 128, 128, 2)
    20480
    """
    return tokens * element * (heads + kv_heads) * (key_width + value_width)


@formula("B_dec", "B", source="definition: the cache is read once, queries read and outputs written in 16 bits")
def decode_traffic(batch: Any, context: Any, heads: Any, kv_heads: Any, key_width: Any, value_width: Any, element: Any,
                   query: Any) -> Any:
    """Memory traffic of decode attention: every cached key and value once, whatever the number of query heads.

    batch : queries, one per sequence (several where drafts are checked) [1]
    context : cached tokens that one query sees [1]
    heads : query heads on the rank [1]
    kv_heads : key-value heads on the rank [1]
    key_width : width of a query or key head [1]
    value_width : width of a value head [1]
    element : bytes per cached element [B]
    query : bytes per element of queries and outputs [B]

    >>> decode_traffic(32, 8192, 64, 8, 128, 128, 2, 2) / 1e9
    1.0747904
    """
    return batch * (key_width + value_width) * (context * kv_heads * element + heads * query)


@formula("t_dec", "s", source="perfplan decode form: bandwidth that few heads cannot use, a ramp, work beside, a floor")
def decode_time(traffic: Any, flops: Any, work: Any, memory: Any, bandwidth: Any, units: Any, spread: Any, start: Any,
                ramp: Any, compute: Any, peak: Any, overhead: Any) -> Any:
    """Time of one decode-attention kernel: cache over bandwidth, short of what too few heads can draw.

    Kernels that split a long cache over all units have `spread` = `units`; one that does not reads a sequence's head
    on one unit. While the pipelines fill, the first bytes come slower: `start` of the bandwidth, for at most `ramp`.
    The products of one query per head use the matrix units badly and do not hide behind the reads, which is why the
    fraction of the bandwidth reached falls as more query heads share a key-value head.

    traffic : bytes read and written [B]
    flops : floating-point operations [FLOP]
    work : sequences times key-value heads on the rank [1]
    memory : fraction of the bandwidth that long caches reach [1]
    bandwidth : memory bandwidth [B/s]
    units : units (SMs, CUs) of the chip [1]
    spread : units that one key-value head of one sequence keeps busy [1]
    start : fraction of the bandwidth while the pipelines fill, counted beside `memory` [1]
    ramp : longest time that filling costs [s]
    compute : fraction of the dense peak that single-query products reach [1]
    peak : dense peak of the dtype [FLOP/s]
    overhead : constant per call [s]

    32 sequences of 8192 tokens, 64 query and 8 key-value heads on an H100 (365.7 us measured with TensorRT-LLM):

    >>> t = decode_time(1.0748e9, 8.59e9, 256, 0.95, 3.35e12, 132, 132, 2.0, 13.7e-6, 0.35, 989e12, 11e-6)
    >>> round(t * 1e6)
    387
    """
    stream = traffic / (memory * bandwidth) * maximum(units / (spread * work), 1)
    return stream + minimum(traffic / (start * bandwidth), ramp) + flops / (compute * peak) + overhead


@formula("B_mla", "B", source="absorbed attention reads one latent per token for all heads (training_core.md 1.2)")
def latent_decode_traffic(batch: Any, context: Any, heads: Any, latent: Any, rope: Any, element: Any, query: Any
                          ) -> Any:
    """Memory traffic of absorbed latent decode attention: the latent cache once for all heads, on every rank.

    batch : queries, one per sequence [1]
    context : cached tokens that one query sees [1]
    heads : query heads on the rank [1]
    latent : width of the latent [1]
    rope : width of the rotary key [1]
    element : bytes per cached element [B]
    query : bytes per element of queries and outputs [B]

    DeepSeek-V3 in bf16, cache alone 1152 B per token:

    >>> latent_decode_traffic(1, 8192, 128, 512, 64, 2, 2) - 2 * 128 * (2 * 512 + 64)
    9437184
    """
    return batch * (context * (latent + rope) * element + query * heads * (2 * latent + rope))


@formula("F_mla", "FLOP", source="scores over latent and rotary key, values over the latent (training_core.md 1.2)")
def latent_decode_flops(batch: Any, context: Any, heads: Any, latent: Any, rope: Any) -> Any:
    """FLOPs of absorbed latent decode attention, the absorbed projections not counted.

    batch : queries, one per sequence [1]
    context : cached tokens that one query sees [1]
    heads : query heads on the rank [1]
    latent : width of the latent [1]
    rope : width of the rotary key [1]

    DeepSeek-V3, one pair (training_core.md 1.2):

    >>> latent_decode_flops(1, 1, 128, 512, 64)
    278528
    """
    return 2 * batch * context * heads * (2 * latent + rope)


@formula("F_idx", "FLOP", source="DeepSeek-V3.2 indexer: every query against every token (training_core.md section 8)")
def indexer_flops(queries: Any, context: Any, heads: Any, head_dim: Any) -> Any:
    """FLOPs of the scores by which a sparse-attention indexer chooses tokens; causality halves nothing.

    queries : queries of all sequences [1]
    context : tokens that each query is scored against [1]
    heads : indexer heads [1]
    head_dim : width of an indexer head [1]

    DeepSeek-V3.2, one query at 131,072 tokens (training_core.md section 8):

    >>> indexer_flops(1, 131072, 64, 128)
    2147483648
    """
    return 2 * queries * context * heads * head_dim


@formula("r_idx", "1", source="derived: two products as large as the forward's, over the pairs that were selected only")
def indexer_backward(pairs: Any, queries: Any, context: Any) -> Any:
    """Backward work of the indexer's scores over their forward work, where only selected tokens have a loss.

    pairs : query-key pairs that attention keeps, of the same queries [1]
    queries : queries [1]
    context : tokens that each query is scored against [1]

    A causal sequence of 8192 tokens that keeps all pairs, and one that keeps 2048 per query:

    >>> round(indexer_backward(33558528, 8192, 8192), 3), round(indexer_backward(14681088, 8192, 8192), 3)
    (1.0, 0.438)
    """
    return 2 * pairs / (queries * context)


@formula("t_pair", "s", source="perfplan form: whole blocks on the diagonal, operands moved beside the products")
def pass_pair_time(flops: Any, diagonal: Any, length: Any, width: Any, compute: Any, narrow: Any, peak: Any,
                   traffic: Any, memory: Any, bandwidth: Any, overhead: Any) -> Any:
    """Time of core attention in training, forward and backward together.

    flops : floating-point operations of both passes [FLOP]
    diagonal : tokens by which the blocks on the diagonal lengthen a causal sequence, 0 without a mask [1]
    length : tokens of a sequence [1]
    width : width of a head [1]
    compute : fraction of the dense peak that long sequences reach with heads of 128 [1]
    narrow : the same with heads of 64, over that with heads of 128 [1]
    peak : dense peak of the dtype [FLOP/s]
    traffic : bytes that are moved beside the products [B]
    memory : fraction of the memory bandwidth reached [1]
    bandwidth : memory bandwidth [B/s]
    overhead : constant of both passes [s]

    FlashAttention-2 on an A100, 16k tokens in one causal sequence of 16 heads (189 TFLOP/s published):

    >>> t = pass_pair_time(3.85e12, 180, 16384, 128, 0.644, 0.876, 312e12, 8.05e8, 0.922, 2.039e12, 1.4e-6)
    >>> round(3.85 / t)
    194
    """
    reached = compute * narrow ** log2(128 / width)
    return flops * (1 + diagonal / length) / (reached * peak) + traffic / (memory * bandwidth) + overhead
