"""Training state: bytes per parameter under three sharding widths, optimizer step."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula

__all__ = ["gradient_memory", "optimizer_memory", "optimizer_traffic", "weight_memory"]

_STATE = "training_core.md section 2.2 (Megatron-LM dist_optimizer.md; Rajbhandari et al. 2020)"


@formula("M_w", "B", source=_STATE)
def weight_memory(parameters: Any, weight: Any, width: Any) -> Any:
    """Memory of the weights that the GEMMs read.

    parameters : parameters of the rank before sharding [1]
    weight : bytes per parameter, transposed copies included [B]
    width : ranks that share one copy [1]

    >>> weight_memory(8e9, 2, 8)
    2000000000.0
    """
    return parameters * weight / width


@formula("M_g", "B", source=_STATE)
def gradient_memory(parameters: Any, gradient: Any, width: Any) -> Any:
    """Memory of the gradient buffer.

    parameters : parameters of the rank before sharding [1]
    gradient : bytes per accumulated gradient [B]
    width : ranks that share one copy [1]

    >>> gradient_memory(8e9, 4, 1)
    32000000000.0
    """
    return parameters * gradient / width


@formula("M_o", "B", source=_STATE)
def optimizer_memory(parameters: Any, master: Any, moments: Any, width: Any) -> Any:
    """Memory of the master weights and the optimizer moments.

    parameters : parameters of the rank before sharding [1]
    master : bytes per master weight [B]
    moments : bytes of all moments per parameter [B]
    width : ranks that share one copy [1]

    Llama-3-8B in bf16 on one rank holds 18 B per parameter, 134.62 GiB (training_core.md section 2.2):

    >>> n = 8030261248
    >>> round((weight_memory(n, 2, 1) + gradient_memory(n, 4, 1) + optimizer_memory(n, 4, 8, 1)) / 2**30, 2)
    134.62
    """
    return parameters * (master + moments) / width


@formula("B_opt", "B", source="fused Adam reads g, p, m, v and writes p, m, v and the low-precision copy")
def optimizer_traffic(parameters: Any, traffic: Any, width: Any) -> Any:
    """Memory traffic of the optimizer step on one rank.

    parameters : parameters of the rank before sharding [1]
    traffic : bytes moved per owned parameter [B]
    width : ranks that share one optimizer state [1]

    >>> optimizer_traffic(8e9, 30, 8)
    30000000000.0
    """
    return parameters * traffic / width
