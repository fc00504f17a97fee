"""The routed experts of one rank: what they compute, read and move, and the time that takes."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, maximum

__all__ = ["expert_flops", "expert_moves", "expert_traffic", "experts_time"]


@formula("F_exp", "FLOP", source="definition: one multiply and one add per weight of an expert and row")
def expert_flops(rows: Any, hidden: Any, width: Any, matrices: Any) -> Any:
    """FLOPs of the experts of one rank.

    rows : token copies that the rank computes [1]
    hidden : width that an expert sees [1]
    width : width of one expert on the rank [1]
    matrices : 3 with a gate, else 2 [1]

    >>> expert_flops(1024, 7168, 2048, 3)
    90194313216
    """
    return 2 * matrices * rows * hidden * width


@formula("B_exp", "B", source="weights of the experts that a token reached are read once, activations once per matrix")
def expert_traffic(rows: Any, touched: Any, hidden: Any, width: Any, matrices: Any, element: Any, wide: Any) -> Any:
    """Memory traffic of the products of the experts of one rank.

    rows : token copies that the rank computes [1]
    touched : experts of the rank that at least one token reached [1]
    hidden : width that an expert sees [1]
    width : width of one expert on the rank [1]
    matrices : 3 with a gate, else 2 [1]
    element : bytes per weight and per element of an operand [B]
    wide : bytes per element of a result [B]

    >>> expert_traffic(0, 32, 7168, 2048, 3, 1, 2)
    1409286144
    """
    weights = matrices * touched * hidden * width * element
    return weights + rows * (element * (hidden + width) + wide * ((matrices - 1) * width + hidden))


@formula("B_moved", "B", source="rows permuted and cast, activated and cast again, weighted and added up, per token")
def expert_moves(rows: Any, tokens: Any, hidden: Any, width: Any, matrices: Any, element: Any, wide: Any) -> Any:
    """Bytes that the kernels around the products move: permutation, casts, activation, combination.

    rows : token copies that the rank computes [1]
    tokens : tokens of the rank whose results are written [1]
    hidden : width that an expert sees [1]
    width : width of one expert on the rank [1]
    matrices : 3 with a gate, else 2 [1]
    element : bytes per element of an operand [B]
    wide : bytes per element between kernels [B]

    >>> expert_moves(1024, 128, 7168, 2048, 3, 1, 2)
    49020928
    """
    return rows * (hidden * (2 * wide + element) + width * ((matrices - 1) * wide + element)) + wide * tokens * hidden


@formula("t_exp", "s", source="perfplan expert form: roofline with half a tile per expert, kernels around it, tables")
def experts_time(flops: Any, padding: Any, compute: Any, peak: Any, traffic: Any, memory: Any, bandwidth: Any,
                 moved: Any, around: Any, local: Any, each: Any, overhead: Any) -> Any:
    """Time of the routed experts of one rank: grouped products and the kernels around them.

    The rows of an expert are filled up to whole tiles, on average by a constant number of rows per expert reached:
    that is `padding`. At small batches the weights of the experts reached bind instead.

    flops : products of the rows [FLOP]
    padding : products of the rows that fill up tiles [FLOP]
    compute : fraction of the dense peak reached [1]
    peak : dense peak of the dtype [FLOP/s]
    traffic : weights and activations [B]
    memory : fraction of the memory bandwidth that the products reach [1]
    bandwidth : memory bandwidth [B/s]
    moved : traffic of the kernels around the products [B]
    around : fraction of the bandwidth that these reach [1]
    local : experts on the rank, with or without tokens [1]
    each : time that the tables of one expert cost [s]
    overhead : constant of the layer [s]

    32 of 256 experts of DeepSeek-V3 in fp8-block on an H100, 4096 tokens, balanced (887 us measured at 8 ranks):

    >>> t = experts_time(3.61e11, 4.0e11, 0.65, 1979e12, 1.6e9, 0.89, 3.35e12, 2e8, 0.17, 32, 0.244e-6, 21e-6)
    >>> round(t * 1e6)
    972
    """
    products = maximum((flops + padding) / (compute * peak), traffic / (memory * bandwidth))
    return products + moved / (around * bandwidth) + local * each + overhead
