"""Pipeline schedules: bubbles, point-to-point latency, micro-batches in flight."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, maximum, minimum

__all__ = ["bubble_time", "in_flight_chunks", "pipeline_latency", "pipeline_latency_interleaved", "steady_time"]

_SC21 = "Narayanan et al. 2021 (SC21), section 2.2; uneven stages: training_core.md section 5 [derived, run]"


@formula("T_steady", "s", source=_SC21)
def steady_time(micro_batches: Any, busiest: Any) -> Any:
    """Time in which the busiest stage works through its micro-batches.

    micro_batches : micro-batches per step and data-parallel rank [1]
    busiest : forward and backward of one micro-batch on the busiest stage [s]

    >>> steady_time(8, 3.0)
    24.0
    """
    return micro_batches * busiest


@formula("T_bubble", "s", source=_SC21)
def bubble_time(all_stages: Any, busiest: Any, chunks: Any) -> Any:
    """Fill and drain of 1F1B (one chunk per rank) and of its interleaved form; exactly 0 for one stage.

    all_stages : forward and backward of one micro-batch, summed over the stages [s]
    busiest : the same on the busiest stage [s]
    chunks : virtual stages per rank [1]

    Four stages of F + B = 3, eight micro-batches, two chunks: 24 + 4.5 = 28.5 (training_core.md section 5):

    >>> steady_time(8, 3.0) + bubble_time(12.0, 3.0, 2)
    28.5
    """
    return (all_stages - busiest) / chunks


@formula("T_p2p", "s", source="training_core.md section 5 [derived, run; exact for m a multiple of p]")
def pipeline_latency(stages: Any, micro_batches: Any, hop: Any) -> Any:
    """What sends between stages add to 1F1B when they hide behind nothing but do not occupy the accelerator.

    stages : pipeline stages [1]
    micro_batches : micro-batches per step [1]
    hop : time of one send [s]

    >>> pipeline_latency(4, 8, 1.0), pipeline_latency(1, 8, 1.0)
    (16.0, 0.0)
    """
    return hop * (2 * (stages - 1) * micro_batches / stages + 2 * maximum(stages - 2, 0))


@formula("T_p2p", "s", source="training_core.md section 5 [derived, run]")
def pipeline_latency_interleaved(stages: Any, chunks: Any, hop: Any) -> Any:
    """What sends between stages add to interleaved 1F1B: only warm-up and cool-down pay.

    stages : pipeline stages [1]
    chunks : virtual stages per rank [1]
    hop : time of one send [s]

    >>> pipeline_latency_interleaved(4, 2, 1.0), pipeline_latency_interleaved(1, 1, 1.0)
    (14.0, 0.0)
    """
    return 2 * (stages * chunks - 1) * hop


@formula("n_flight", "1", source="Megatron-LM schedules.py: warm-up counts (training_core.md section 2.4)")
def in_flight_chunks(stages: Any, chunks: Any, rank: Any, micro_batches: Any) -> Any:
    """Model chunks whose activations a rank holds at its peak, under 1F1B (one chunk) and interleaved 1F1B.

    stages : pipeline stages [1]
    chunks : virtual stages per rank [1]
    rank : position of the stage, 0 first [1]
    micro_batches : micro-batches per step [1]

    First rank of 1F1B over 8 stages, and of 3 interleaved chunks (Korthikanti 2022: L (1 + (p-1)/(pv)) layers):

    >>> in_flight_chunks(8, 1, 0, 64), in_flight_chunks(8, 3, 0, 64)
    (8, 31)
    """
    one = stages - rank
    many = 2 * (stages - rank - 1) + (chunks - 1) * stages + 1
    return minimum(one + (many - one) * minimum(chunks - 1, 1), micro_batches * chunks)
