"""Activation memory of a transformer layer in 16-bit training, as Korthikanti et al. 2022 (K22) count it.

All forms hold for multi-head attention, a plain MLP of four times the width, dropout on and scores in memory. The
34 bytes per token and channel are 4 for the norms, 11 for attention and 19 for the MLP; the 5 n s / h are the softmax,
its mask and the dropped scores.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, where

__all__ = [
    "activations_of_stack",
    "activations_sequence_parallel_selective",
    "activations_tensor_parallel",
    "in_flight_factor",
    "optimizer_state_bytes",
]

_K22 = "Korthikanti et al. 2022, Table 2"


@formula("A_tp", "B", source=_K22)
def activations_tensor_parallel(tokens: Any, hidden: Any, heads: Any, seq_len: Any, tp: Any) -> Any:
    """Activations of one layer per rank under tensor parallelism: norms, dropouts and their inputs stay whole.

    tokens : tokens of one micro-batch [1]
    hidden : model width [1]
    heads : attention heads [1]
    seq_len : tokens per sequence [1]
    tp : tensor parallel ranks [1]

    22B, 48 layers, micro-batch 4, 8 ranks: the paper's analytic 59.25 GiB.

    >>> 48 * activations_tensor_parallel(4 * 2048, 6144, 64, 2048, 8) / 2**30
    59.25
    """
    return tokens * hidden * (10 + 24 / tp + 5 * heads * seq_len / (hidden * tp))


@formula("A_sp_sel", "B", source=_K22)
def activations_sequence_parallel_selective(tokens: Any, hidden: Any, tp: Any) -> Any:
    """Activations of one layer per rank under sequence parallelism, core attention recomputed.

    tokens : tokens of one micro-batch [1]
    hidden : model width [1]
    tp : tensor parallel ranks [1]

    175B, 96 layers over 8 stages of 3 chunks, first stage: the paper's analytic 12.35 GiB.

    >>> 96 * in_flight_factor(8, 3) * activations_sequence_parallel_selective(2048, 12288, 8) / 2**30
    12.3515625
    """
    return 34 * tokens * hidden / tp


@formula("I", "1", source="Korthikanti et al. 2022, section 4.2.3: layers in flight on the first stage over all layers")
def in_flight_factor(stages: Any, chunks: Any) -> Any:
    """Layers' worth of activations that the first pipeline stage holds, over the layers of the model.

    stages : pipeline stages [1]
    chunks : virtual stages per rank, 1 = no interleaving [1]

    >>> in_flight_factor(64, 1), round(in_flight_factor(35, 3), 4)
    (1.0, 1.3238)
    """
    return 1 + where(chunks > 1, 1, 0) * (stages - 1) / (stages * chunks)


@formula("A_stack", "B", source="Korthikanti et al. 2022, section 4.2.3")
def activations_of_stack(layer: Any, layers: Any, in_flight: Any) -> Any:
    """Activations that the first pipeline stage holds at its peak.

    layer : activations of one layer [B]
    layers : layers of the model [1]
    in_flight : layers' worth held over layers of the model, see `in_flight_factor` [1]

    175B, nothing recomputed: the paper's analytic 66.84 GiB.

    >>> layer = activations_tensor_parallel(2048, 12288, 96, 2048, 8)
    >>> activations_of_stack(layer, 96, in_flight_factor(8, 3)) / 2**30
    66.84375
    """
    return layer * layers * in_flight


@formula("M_state", "B", source="Korthikanti et al. 2022, Figure 1: parameters, gradients and optimizer of the layers")
def optimizer_state_bytes(bytes_per_parameter: Any, layers: Any, hidden: Any, tp: Any, pp: Any) -> Any:
    """Weights, gradients and optimizer state of the layers per rank; no embedding, no biases.

    bytes_per_parameter : stored bytes per parameter, 18 for 16-bit weights with 32-bit gradients [B]
    layers : layers of the model [1]
    hidden : model width [1]
    tp : tensor parallel ranks [1]
    pp : pipeline stages [1]

    22B over 8 ranks: the paper's analytic 45.56 GiB.

    >>> optimizer_state_bytes(18, 48, 6144, 8, 1) / 2**30
    45.5625
    """
    return bytes_per_parameter * 12 * layers * hidden**2 / (tp * pp)
