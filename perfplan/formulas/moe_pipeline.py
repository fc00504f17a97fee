"""A mixture-of-experts layer cut into chunks (FSMoE): three resources, the best number of chunks; payloads of experts.

A chunk is dispatched over the network, gathered inside the node, computed, scattered inside the node and combined over
the network. Each operation takes a constant per chunk and a time for all its data, which the chunks share.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, maximum

__all__ = [
    "chunked_compute_bound",
    "chunked_inner_bound",
    "chunked_network_bound",
    "chunked_time",
    "chunks_for_compute",
    "chunks_for_inner",
    "chunks_for_network",
    "expert_slots",
    "payload_bandwidth",
    "payload_bytes",
]

_FSMOE = "FSMoE, xpan413/FSMoE tools/optim.py; sequence_parallel_moe.md section 4"
_OPTIMUM = "derived: zero of the derivative of the FSMoE form; sequence_parallel_moe.md section 4"


@formula("T_1", "s", source=_FSMOE)
def chunked_network_bound(chunks: Any, a2a_call: Any, a2a: Any, inner_call: Any, inner: Any) -> Any:
    """Time of a chunked layer whose exchanges over the network follow each other without a gap.

    chunks : chunks of the layer [1]
    a2a_call : constant of one dispatch or combine [s]
    a2a : time of the data of one dispatch or combine, whole layer [s]
    inner_call : constant of one gather and one scatter inside a node [s]
    inner : time of the data of gather and scatter, whole layer [s]

    >>> round(chunked_network_bound(8, 0.235e-3, 9.333e-3, 0.1237e-3, 54.07e-3) * 1e3, 2)
    29.31
    """
    return 2 * chunks * a2a_call + 2 * a2a + inner_call + inner / chunks


@formula("T_2", "s", source=_FSMOE)
def chunked_compute_bound(
    chunks: Any, a2a_call: Any, a2a: Any, inner_call: Any, inner: Any, work_call: Any, work: Any
) -> Any:
    """Time of a chunked layer whose experts compute without a gap.

    chunks : chunks of the layer [1]
    a2a_call : constant of one dispatch or combine [s]
    a2a : time of the data of one dispatch or combine, whole layer [s]
    inner_call : constant of one gather and one scatter inside a node [s]
    inner : time of the data of gather and scatter, whole layer [s]
    work_call : constant of the experts' kernels [s]
    work : time of the experts' arithmetic, whole layer [s]

    FSMoE's constants for 32 GPUs, not chunked (86.23 ms):

    >>> round(chunked_compute_bound(1, 0.23515e-3, 9.333e-3, 0.1237e-3, 54.07e-3, 0.59194e-3, 12.306e-3) * 1e3, 2)
    86.23
    """
    return 2 * a2a_call + inner_call + chunks * work_call + work + (2 * a2a + inner) / chunks


@formula("T_3", "s", source=_FSMOE)
def chunked_inner_bound(chunks: Any, a2a_call: Any, a2a: Any, inner_call: Any, inner: Any) -> Any:
    """Time of a chunked layer whose gathers and scatters inside the node follow each other without a gap.

    chunks : chunks of the layer [1]
    a2a_call : constant of one dispatch or combine [s]
    a2a : time of the data of one dispatch or combine, whole layer [s]
    inner_call : constant of one gather and one scatter inside a node [s]
    inner : time of the data of gather and scatter, whole layer [s]

    FSMoE's constants for 32 GPUs in 8 chunks (57.86 ms):

    >>> round(chunked_inner_bound(8, 0.23515e-3, 9.333e-3, 0.1237e-3, 54.07e-3) * 1e3, 2)
    57.86
    """
    return 2 * a2a_call + 2 * a2a / chunks + chunks * inner_call + inner


@formula("T_chunked", "s", source=_FSMOE)
def chunked_time(
    chunks: Any, a2a_call: Any, a2a: Any, inner_call: Any, inner: Any, work_call: Any, work: Any
) -> Any:
    """Time of one pass of a mixture-of-experts layer in chunks: the resource that is busy longest decides.

    chunks : chunks of the layer [1]
    a2a_call : constant of one dispatch or combine [s]
    a2a : time of the data of one dispatch or combine, whole layer [s]
    inner_call : constant of one gather and one scatter inside a node [s]
    inner : time of the data of gather and scatter, whole layer [s]
    work_call : constant of the experts' kernels [s]
    work : time of the experts' arithmetic, whole layer [s]

    >>> round(chunked_time(8, 0.23515e-3, 9.333e-3, 0.1237e-3, 54.07e-3, 0.59194e-3, 12.306e-3) * 1e3, 2)
    57.86
    """
    network = chunked_network_bound(chunks, a2a_call, a2a, inner_call, inner)
    work_ = chunked_compute_bound(chunks, a2a_call, a2a, inner_call, inner, work_call, work)
    return maximum(maximum(network, work_), chunked_inner_bound(chunks, a2a_call, a2a, inner_call, inner))


@formula("r_1", "1", source=_OPTIMUM)
def chunks_for_network(inner: Any, a2a_call: Any) -> Any:
    """Chunks at which a layer bound by the network is quickest.

    inner : time of the data of gather and scatter, whole layer [s]
    a2a_call : constant of one dispatch or combine [s]

    >>> round(chunks_for_network(54.07e-3, 0.23515e-3), 1)
    10.7
    """
    return (inner / (2 * a2a_call)) ** 0.5


@formula("r_2", "1", source=_OPTIMUM)
def chunks_for_compute(a2a: Any, inner: Any, work_call: Any) -> Any:
    """Chunks at which a layer bound by its experts is quickest.

    a2a : time of the data of one dispatch or combine, whole layer [s]
    inner : time of the data of gather and scatter, whole layer [s]
    work_call : constant of the experts' kernels [s]

    >>> round(chunks_for_compute(9.333e-3, 54.07e-3, 0.59194e-3), 1)
    11.1
    """
    return ((2 * a2a + inner) / work_call) ** 0.5


@formula("r_3", "1", source=_OPTIMUM)
def chunks_for_inner(a2a: Any, inner_call: Any) -> Any:
    """Chunks at which a layer bound by the links inside the node is quickest.

    a2a : time of the data of one dispatch or combine, whole layer [s]
    inner_call : constant of one gather and one scatter inside a node [s]

    >>> round(chunks_for_inner(9.333e-3, 0.1237e-3), 1)
    12.3
    """
    return (2 * a2a / inner_call) ** 0.5


@formula("B_pay", "B", source="DeepEP low-latency kernels; sequence_parallel_moe.md section 5")
def payload_bytes(tokens: Any, picks: Any, hidden: Any, element: Any, scale: Any, block: Any) -> Any:
    """Payload of a dispatch or combine of one rank, one copy per token and expert picked.

    tokens : tokens of the rank [1]
    picks : experts per token [1]
    hidden : width of a token [1]
    element : bytes per element [B]
    scale : bytes of a scale factor, 0 = none [B]
    block : elements that share a scale factor [1]

    DeepEP's dispatch in fp8 with fp32 scales, and its combine in bf16 [MB]:

    >>> payload_bytes(128, 8, 7168, 1, 4, 128) / 1e6, payload_bytes(128, 8, 7168, 2, 0, 128) / 1e6
    (7.569408, 14.680064)
    """
    return tokens * picks * hidden * (element + scale / block)


@formula("W_pay", "B/s", source="DeepEP README: payload over time, local copies included")
def payload_bandwidth(payload: Any, time: Any) -> Any:
    """Bandwidth at which a payload moves.

    payload : bytes of one rank [B]
    time : time of the call [s]

    >>> round(payload_bandwidth(7.569408e6, 77e-6) / 1e9, 1)
    98.3
    """
    return payload / time


@formula("n_slots", "1", source="DeepSeek-V3 technical report and inference system: redundant experts")
def expert_slots(experts: Any, redundant: Any, ranks: Any) -> Any:
    """Routed experts that each rank holds in a layer.

    experts : experts of the layer [1]
    redundant : slots beyond them, for replicas [1]
    ranks : ranks that share the layer [1]

    >>> expert_slots(256, 32, 32), expert_slots(256, 32, 144)
    (9.0, 2.0)
    """
    return (experts + redundant) / ranks
