"""Core attention: query-key pairs under a mask, FLOPs, traffic."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula

__all__ = ["attention_flops", "attention_traffic", "causal_pairs", "windowed_pairs"]


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
