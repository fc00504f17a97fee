"""Training state: bytes per parameter under three sharding widths, optimizer step."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import ceil_div, formula, where

__all__ = [
    "gradient_memory",
    "node_crossing_volume",
    "optimizer_memory",
    "optimizer_traffic",
    "quantised_gather_traffic",
    "quantised_reduce_traffic",
    "ruled_activations",
    "ruled_memory",
    "weight_memory",
]

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


_ZEROPP = "ZeRO++ (Wang et al., arXiv 2306.10209) section 4; DeepSpeed ZeRO++ tutorial"


@formula("V_node", "B", source=_ZEROPP)
def node_crossing_volume(parameters: Any, forward: Any, backward: Any, reduce: Any) -> Any:
    """What crosses the border of a node per micro-batch, with a large number of nodes.

    parameters : parameters of the model [1]
    forward : bytes per weight gathered across nodes in the forward pass [B]
    backward : bytes per weight gathered across nodes in the backward pass, 0 with a secondary copy in the node [B]
    reduce : bytes per gradient reduced across nodes [B]

    ZeRO-3 moves three times the model in 16 bits, ZeRO++ (int8, hpZ, int4) a quarter of that:

    >>> node_crossing_volume(1e9, 2, 2, 2), node_crossing_volume(1e9, 1, 0, 0.5)
    (6000000000.0, 1500000000.0)
    """
    return parameters * (forward + backward + reduce)


@formula("B_qwz", "B", source=_ZEROPP)
def quantised_gather_traffic(parameters: Any, width: Any, stored: Any, wire: Any) -> Any:
    """Memory traffic to quantise a rank's share of 16-bit weights, and to restore all of them after the gather.

    parameters : weights gathered [1]
    width : ranks that share them [1]
    stored : bytes per element in memory [B]
    wire : bytes per element on the wire [B]

    >>> quantised_gather_traffic(8e9, 8, 2, 1)
    27000000000.0
    """
    return parameters * (stored + wire) * (1 + 1 / width)


@formula("B_qgz", "B", source=_ZEROPP)
def quantised_reduce_traffic(parameters: Any, inside: Any, stored: Any, wire: Any) -> Any:
    """Memory traffic of the casts around two all-to-alls: all gradients before, the rest after the first twice more.

    parameters : gradients reduced [1]
    inside : ranks of the first all-to-all [1]
    stored : bytes per element in memory [B]
    wire : bytes per element on the wire [B]

    >>> quantised_reduce_traffic(8e9, 8, 2, 0.5)
    25000000000.0
    """
    return parameters * ((stored + wire) + wire + 2 * wire / inside)


_RULES = "RedCoast (Tan et al. 2024), its two sharding rules (training_communication.md section 13)"


@formula("M_rule", "B", source=_RULES)
def ruled_memory(parameters: Any, width: Any, ranks: Any, state: Any) -> Any:
    """Memory of one matrix with its gradients and optimizer state, sharded along `width` if the ranks divide it.

    A dimension that the ranks do not divide leaves the whole matrix on every rank.

    parameters : elements of the matrix [1]
    width : length of the dimension that the rules shard [1]
    ranks : accelerators that the matrix is spread over [1]
    state : bytes per parameter of weights, gradients and optimizer [B]

    The embedding of GPT-2 large (50,257 rows of 1280) on two accelerators, and an MLP matrix of it, in fp32 with Adam:

    >>> ruled_memory(50257 * 1280, 50257, 2, 16), ruled_memory(5120 * 1280, 5120, 2, 16)
    (1029263360.0, 52428800.0)
    """
    return parameters * state / where(ceil_div(width, ranks) * ranks > width, 1, ranks)


@formula("A_rule", "B", source="derived: two norms in and out, q, k, v and output, MLP in and out, scores and softmax")
def ruled_activations(tokens: Any, hidden: Any, attention: Any, mlp: Any, heads: Any, keys: Any, ranks: Any,
                      element: Any) -> Any:
    """Activations of one layer that keeps everything, what lies inside attention and MLP split over the ranks.

    tokens : tokens of the batch on a rank [1]
    hidden : model width [1]
    attention : width of all heads together, attentions of the layer together [1]
    mlp : width of the MLP, gate and up together [1]
    heads : heads of all attentions of the layer [1]
    keys : tokens that a query attends to [1]
    ranks : accelerators that the layer is spread over [1]
    element : bytes per element [B]

    LLaMA-7B in fp32, one sequence of 1024 tokens on four accelerators:

    >>> round(ruled_activations(1024, 4096, 4096, 22016, 32, 1024, 4, 4) / 2**20)
    187
    """
    return tokens * element * (4 * hidden + (4 * attention + 2 * mlp + 2 * heads * keys) / ranks)
