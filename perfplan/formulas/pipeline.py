"""Pipeline schedules: bubbles, point-to-point latency, micro-batches in flight."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import ceil_div, formula, maximum, minimum

__all__ = [
    "bubble_time",
    "dual_pipe_bubble",
    "dual_pipe_in_flight",
    "in_flight_chunks",
    "one_f_one_b_bubble",
    "pipeline_latency",
    "pipeline_latency_interleaved",
    "steady_time",
    "v_min_bubble",
    "v_min_in_flight",
    "zero_bubble_fill",
    "zero_bubble_h1_bubble",
]

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


@formula("T_bub", "s", source="deepseek-ai/DualPipe README, table of schedules; SC21 section 2.2")
def one_f_one_b_bubble(stages: Any, forward: Any, backward: Any) -> Any:
    """Idle time of a rank under 1F1B with equal stages, any number of micro-batches.

    stages : pipeline stages [1]
    forward : forward of a micro-batch on a stage [s]
    backward : whole backward, both gradients [s]

    >>> one_f_one_b_bubble(8, 1.0, 2.0)
    21.0
    """
    return (stages - 1) * (forward + backward)


@formula("T_bub", "s", source="Qi et al. 2024 (ZB-H1, or ZB1P); deepseek-ai/DualPipe README, table of schedules")
def zero_bubble_h1_bubble(stages: Any, forward: Any, backward: Any, weights: Any) -> Any:
    """Idle time of a rank under ZB-H1 with equal stages: the weight gradients fill the drain.

    Exact against event simulation where there are at least as many micro-batches as stages and the weight gradient
    takes no longer than the forward or the input gradient.

    stages : pipeline stages [1]
    forward : forward of a micro-batch on a stage [s]
    backward : whole backward, both gradients [s]
    weights : gradient of the weights alone [s]

    A third of 1F1B's bubble where the three passes take as long as each other:

    >>> zero_bubble_h1_bubble(8, 1.0, 2.0, 1.0)
    7.0
    """
    return (stages - 1) * (forward + backward - 2 * weights)


@formula("T_bub", "s", source="Qi et al. 2024: ZB-H2 (2401.10241), ZB-V (2405.15362) [derived, run]")
def zero_bubble_fill(ranks: Any, forward: Any) -> Any:
    """Idle time of a rank under ZB-H2 or ZB-V when all ranks meet at the end of the step: the way to the last rank.

    Exact against event simulation where forward, input gradient and weight gradient take as long as each other and
    there are at least 2p - 1 micro-batches; between its own first and last pass no rank idles.

    ranks : pipeline ranks [1]
    forward : forward of a micro-batch on a stage (ZB-H2), or on one of the two chunks of a rank (ZB-V) [s]

    >>> zero_bubble_fill(8, 0.5)
    3.5
    """
    return (ranks - 1) * forward


@formula("T_bub", "s", source="Qi et al. 2024 (2405.15362), V-Min: 2/3 of 1F1B's bubble [count: derived, run]")
def v_min_bubble(ranks: Any, unit: Any) -> Any:
    """Idle time of a rank under V-Min, two chunks per rank, where all passes of a chunk take as long as each other.

    Exact against event simulation from two ranks and as many micro-batches on. The blocks of neighbouring micro-batches
    collide where three divides the ranks, which costs two passes more.

    ranks : pipeline ranks, at least 2 [1]
    unit : forward of a chunk, equal to either gradient [s]

    >>> v_min_bubble(8, 0.5), v_min_bubble(9, 0.5), round(v_min_bubble(512, 0.5) / one_f_one_b_bubble(512, 1, 2), 3)
    (13.5, 16.5, 0.666)
    """
    return (4 * ranks - 5 + 2 * (1 - minimum(ranks % 3, 1))) * unit


@formula("n_flight", "1", source="Qi et al. 2024 (2405.15362), V-Min: a third of 1F1B's activations [derived, run]")
def v_min_in_flight(ranks: Any) -> Any:
    """Chunks, two to a stage of 1F1B, that a rank holds at its peak under V-Min.

    ranks : pipeline ranks, at least 2 [1]

    >>> v_min_in_flight(8), v_min_in_flight(512) / 1024
    (8, 0.3359375)
    """
    return 2 * ceil_div(ranks + 2, 3)


@formula("T_bub", "s", source="deepseek-ai/DualPipe README, table of schedules")
def dual_pipe_bubble(stages: Any, fused: Any, backward: Any, weights: Any) -> Any:
    """Idle time of the rank that idles most under DualPipe, or DualPipeV, with equal stages.

    Exact against event simulation where forward, input gradient and weight gradient take as long as each other, for any
    time of the two passes that run together, and at least two micro-batches per stage.

    stages : pipeline stages: the ranks of DualPipe, twice the ranks of DualPipeV [1]
    fused : a forward and a backward that run together [s]
    backward : whole backward, both gradients [s]
    weights : gradient of the weights alone [s]

    >>> dual_pipe_bubble(8, 3.0, 2.0, 1.0)
    6.0
    """
    return (stages / 2 - 1) * (fused + backward - 3 * weights)


@formula("n_flight", "1", source="deepseek-ai/DualPipe README, table of schedules")
def dual_pipe_in_flight(stages: Any) -> Any:
    """Passes of stages whose activations every rank holds at its peak under DualPipe, or DualPipeV.

    stages : pipeline stages: the ranks of DualPipe, twice the ranks of DualPipeV [1]

    >>> dual_pipe_in_flight(8)
    9
    """
    return stages + 1


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
