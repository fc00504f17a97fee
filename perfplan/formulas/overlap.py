"""Overlap of communication, copies and compute in closed form: what published techniques save."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.compute import exposed_time
from perfplan.formulas.core import formula, maximum

__all__ = [
    "decoded_communication_time",
    "flushed_backward_time",
    "fused_collective_time",
    "ladder_speedup",
    "triggered_speedup",
]

_LADDER = "training_communication.md section 2 (Ladder-residual) [derived]"
_T3 = "training_communication.md section 10 (T3, hypothetical hardware) [derived]"
_DOS = "training_communication.md section 8 (Maurya et al. 2024, Deep Optimizer States) [derived]"


@formula("T_comm", "s", source=_LADDER)
def decoded_communication_time(
    batch: Any,
    ranks: Any,
    layers: Any,
    hidden: Any,
    element: Any,
    prompt: Any,
    generated: Any,
    latency: Any,
    bandwidth: Any,
) -> Any:
    """Blocking all-reduces of one batch of requests, two per layer, from its prompt to its last token.

    batch : requests [1]
    ranks : ranks of the tensor-parallel group [1]
    layers : layers of the model [1]
    hidden : width of the model [1]
    element : bytes per element reduced [B]
    prompt : tokens of a prompt [1]
    generated : tokens generated per request [1]
    latency : constant of one all-reduce [s]
    bandwidth : bus bandwidth [B/s]

    A 70B model on 8 ranks, 24.3 us and 277 GB/s, one request of 1024 + 512 tokens (measured: 1.99 s):

    >>> round(decoded_communication_time(1, 8, 80, 8192, 2, 1024, 512, 24.3e-6, 277e9), 2)
    2.02
    """
    moved = 2 * layers * batch * element * hidden * (prompt + generated - 1)
    return 2 * layers * generated * latency + 2 * (ranks - 1) / ranks * moved / bandwidth


@formula("S_ladder", "1", source=_LADDER)
def ladder_speedup(compute: Any, communication: Any, unhidden: Any) -> Any:
    """Speed-up over blocking all-reduces when those of a block run behind the next one, contention aside.

    compute : time with all communication removed [s]
    communication : blocking communication [s]
    unhidden : share of it that stays exposed by contention [1]

    >>> ladder_speedup(6.0, 2.0, 0.0)
    1.3333333333333333
    """
    return (compute + communication) / (compute + unhidden * communication)


@formula("T_fused", "s", source=_T3)
def fused_collective_time(product: Any, collective: Any, stages: Any) -> Any:
    """Time of a product and its collective fused tile by tile: the first stage of tiles overlaps with nothing.

    product : time of the product [s]
    collective : time of the collective [s]
    stages : waves of tiles [1]

    >>> fused_collective_time(8.0, 6.0, 8)
    9.0
    """
    return maximum(product, collective) + product / stages


@formula("S_T3", "1", source=_T3)
def triggered_speedup(share: Any) -> Any:
    """Speed-up of a product, reduce-scatter and all-gather when the reduce-scatter hides behind the product entirely.

    share : time of the reduce-scatter, and of the all-gather, over that of the product, at most 1 [1]

    >>> triggered_speedup(1.0), round(triggered_speedup(0.89), 2)
    (1.5, 1.47)
    """
    return (1 + 2 * share) / (1 + share)


@formula("T_bwd", "s", source=_DOS)
def flushed_backward_time(compute: Any, copy: Any, overlap: Any) -> Any:
    """Backward pass that also copies its gradients to the host, in step with it or behind it.

    compute : backward alone [s]
    copy : time of the copy [s]
    overlap : fraction of the copy that may run behind the backward, 0 = in step [1]

    >>> flushed_backward_time(1.5, 3.0, 0.0), flushed_backward_time(1.5, 0.5, 1.0)
    (4.5, 1.5)
    """
    return compute + exposed_time(copy, compute, overlap)
