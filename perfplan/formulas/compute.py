"""Kernel times: GEMM, memory-bound streams, launches, overlap of communication with compute."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, maximum, minimum, where

__all__ = ["aligned_share", "cast_traffic", "exposed_time", "free_share", "gemm_bytes", "gemm_flops",
           "hidden_penalty", "host_wait", "kernel_time", "loop_overhead", "released_time", "repeated_time",
           "saturation", "skew_wait", "stream_time", "sync_wait"]

_KERNEL = "perfplan kernel form: roofline with fitted fractions plus a constant (training_core.md section 6)"


@formula("F_gemm", "FLOP", source="definition: one multiply and one add per (m, n, k)")
def gemm_flops(m: Any, n: Any, k: Any) -> Any:
    """FLOPs of one matrix product D[m,n] = A[m,k] B[k,n].

    m : rows of the output [1]
    n : columns of the output [1]
    k : inner dimension [1]

    >>> gemm_flops(4096, 4096, 4096)
    137438953472
    """
    return 2 * m * n * k


@formula("B_gemm", "B", source="each operand is read or written once; every group has weights of its own")
def gemm_bytes(m: Any, n: Any, k: Any, groups: Any, left: Any, right: Any, output: Any) -> Any:
    """Memory traffic of one pass of D[m,n] = A[m,k] B[k,n] (forward, dgrad or wgrad touch the same three matrices).

    m : rows of all groups together [1]
    n : columns of the output [1]
    k : inner dimension [1]
    groups : matrices B, one per group [1]
    left : bytes moved per element of A [B]
    right : bytes moved per element of B [B]
    output : bytes moved per element of D [B]

    >>> gemm_bytes(2, 3, 4, 1, 2, 2, 2)
    52
    """
    return left * m * k + right * k * n * groups + output * m * n


@formula("t_kernel", "s", source=_KERNEL)
def kernel_time(flops: Any, traffic: Any, compute: Any, peak: Any, memory: Any, bandwidth: Any, overhead: Any) -> Any:
    """Time of one kernel: the slower of its arithmetic and its memory traffic, plus a constant.

    flops : floating-point operations [FLOP]
    traffic : bytes read and written [B]
    compute : fraction of the dense peak reached by large kernels [1]
    peak : dense peak of the dtype, at the clock a long step sustains [FLOP/s]
    memory : fraction of the memory bandwidth reached [1]
    bandwidth : memory bandwidth [B/s]
    overhead : constant per kernel [s]

    A 4096-cube bf16 GEMM on an H100 with the constants of its catalog entry (0.76, 0.80, 3.7 us):

    >>> round(kernel_time(137438953472, 1e8, 0.76, 989e12, 0.80, 3.35e12, 3.7e-6) * 1e6, 1)
    186.6
    """
    return maximum(flops / (compute * peak), traffic / (memory * bandwidth)) + overhead


@formula("t_loop", "s", source="perfplan GEMM form: a block walks along the inner dimension whatever lies beside")
def loop_overhead(depth: Any, step: Any, overhead: Any) -> Any:
    """Constant of one matrix product with the latency of its loop over the inner dimension, which nothing hides.

    depth : inner dimension [1]
    step : latency of the loop per element of the inner dimension [s]
    overhead : constant per kernel [s]

    >>> round(loop_overhead(8192, 0.45e-9, 3e-6) * 1e6, 2)
    6.69
    """
    return overhead + depth * step


@formula("t_stream", "s", source=_KERNEL)
def stream_time(traffic: Any, memory: Any, bandwidth: Any, overhead: Any) -> Any:
    """Time of memory-bound kernels that move `traffic` bytes.

    traffic : bytes read and written [B]
    memory : fraction of the memory bandwidth reached [1]
    bandwidth : memory bandwidth [B/s]
    overhead : constant time of all kernels of the op [s]

    Adam on an eighth of 8.03e9 parameters, 30 B each, at the full 3.35 TB/s (training_core.md section 6):

    >>> round(stream_time(8.03e9 / 8 * 30, 1, 3.35e12, 0) * 1e3, 1)
    9.0
    """
    return traffic / (memory * bandwidth) + overhead


@formula("B_cast", "B", source="training_core.md section 6: operand read, narrow copies and scales written")
def cast_traffic(elements: Any, reads: Any, wide: Any, written: Any) -> Any:
    """Memory traffic of a cast from 16 bits to a narrow format.

    elements : elements of the operand [1]
    reads : times that the operand is read; 2 where the scale of the whole tensor is found first [1]
    wide : bytes per element before the cast [B]
    written : bytes per element of all narrow copies, scales included [B]

    One element to fp8 with 1 x 128 blocks, row-wise and transposed (training_core.md: 2 + 1 + 1 B and the scales):

    >>> cast_traffic(1, 1, 2, 2 * (1 + 4 / 128))
    4.0625
    """
    return elements * (reads * wide + written)


@formula("e_sat", "1", source="saturating efficiency, half of it reached at `half`")
def saturation(work: Any, half: Any) -> Any:
    """Fraction of the full efficiency reached at a finite size.

    work : size (attention: query length) [1]
    half : size at which half of the efficiency is reached [1]

    >>> saturation(1000, 1000)
    0.5
    """
    return work / (work + half)


@formula("t_host", "s", source="an eager step takes at least its launches (training_core.md section 6)")
def host_wait(device: Any, host: Any) -> Any:
    """Time that the accelerator waits for a host which launches kernels one by one.

    device : time of the kernels on the accelerator [s]
    host : time the host takes to launch them, 0 with captured graphs [s]

    >>> host_wait(1.0, 1.5), host_wait(1.0, 0.5)
    (0.5, 0.0)
    """
    return maximum(host - device, 0.0)


@formula("t_sync", "s", source="derived: a blocking collective waits for the stream before it")
def sync_wait(calls: Any, ranks: Any, sync: Any) -> Any:
    """Time that blocking collectives stop the accelerator beyond what their library takes; exactly 0 for one rank.

    calls : blocking collectives [1]
    ranks : ranks that meet [1]
    sync : stop per call [s]

    >>> sync_wait(6, 8, 1e-4), sync_wait(6, 1, 1e-4)
    (0.0006000000000000001, 0.0)
    """
    return calls * minimum(ranks - 1, 1) * sync


@formula("t_skew", "s", source="derived: ranks launched one by one by separate hosts meet at every blocking collective")
def skew_wait(calls: Any, ranks: Any, skew: Any) -> Any:
    """Time that blocking collectives wait for the rank whose host is last; exactly 0 for one rank.

    calls : blocking collectives [1]
    ranks : ranks that meet [1]
    skew : wait per call and further rank [s]

    >>> skew_wait(10, 8, 1e-6), skew_wait(10, 1, 1e-6)
    (7e-05, 0.0)
    """
    return calls * (ranks - 1) * skew


@formula("t_rel", "s", source="measured steps of one software release over those of the framework in general")
def released_time(time: Any, factor: Any) -> Any:
    """Time under one software release.

    time : time under the framework in general [s]
    factor : how much longer the release takes on this accelerator, for dense models or for mixtures of experts [1]

    >>> released_time(2.0, 0.95)
    1.9
    """
    return time * factor


@formula("t_rep", "s", source="repetition")
def repeated_time(count: Any, time: Any) -> Any:
    """Time of `count` equal pieces.

    count : how many [1]
    time : time of one [s]

    >>> repeated_time(3, 2.0)
    6.0
    """
    return count * time


@formula("t_exp", "s", source="derived: what cannot hide behind compute is exposed")
def exposed_time(communication: Any, compute: Any, overlap: Any) -> Any:
    """Communication left exposed when a fraction of it may run behind compute.

    communication : communication time [s]
    compute : compute that it may hide behind [s]
    overlap : fraction of the communication that may be overlapped, 0 = blocking [1]

    >>> exposed_time(3.0, 2.0, 1.0), exposed_time(3.0, 5.0, 0.5), exposed_time(3.0, 5.0, 0)
    (1.0, 1.5, 3.0)
    """
    return communication - minimum(overlap * communication, compute)


@formula("f_free", "1", source="derived: a second of compute hides one second of communication, not several")
def free_share(compute: Any, hidden: Any) -> Any:
    """Share of the compute behind which nothing is hidden yet.

    compute : compute time [s]
    hidden : communication already hidden behind it [s]

    >>> free_share(4.0, 1.0), free_share(4.0, 5.0)
    (0.75, 0.0)
    """
    return maximum(1 - hidden / compute, 0.0)


@formula("e_align", "1", source="cuBLAS needs 16-byte rows for its fast kernels (whole steps with 50257 columns)")
def aligned_share(width: Any, unit: Any, reached: Any, unaligned: Any) -> Any:
    """Fraction of the peak that a product reaches: another one where its rows do not start at whole memory units.

    width : elements of a row [1]
    unit : elements of a memory unit, 8 of 16 bits [1]
    reached : fraction of aligned products [1]
    unaligned : fraction of the others [1]

    >>> aligned_share(51200, 8, 0.8, 0.3), aligned_share(50257, 8, 0.8, 0.3)
    (0.8, 0.3)
    """
    return where(width % unit > 0, unaligned, reached)


@formula("t_cont", "s", source="derived: hidden communication takes SMs and bandwidth from the compute above it")
def hidden_penalty(communication: Any, exposed: Any, contention: Any) -> Any:
    """Extra compute time because hidden communication shares the accelerator.

    communication : communication time [s]
    exposed : part of it that is exposed [s]
    contention : time of compute beside communication over its time alone [1]

    >>> round(hidden_penalty(3.0, 1.0, 1.1), 3)
    0.2
    """
    return (contention - 1) * (communication - exposed)
