"""Published laws of serving systems: throughput bounds, disaggregated pools, KV transfer, shared prefixes.

Tokens and requests are counts. `kv` is the bytes of key-value cache per token over all layers and ranks.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, maximum
from perfplan.formulas.serving import cached_pages

__all__ = [
    "bound_share",
    "cache_bytes",
    "decode_efficiency",
    "distserve_decode_time",
    "distserve_kv_tokens",
    "distserve_prefill_time",
    "exposed_kv_transfer",
    "floored_time",
    "group_prefix_saving",
    "host_transfer_rate",
    "knee_over_capacity",
    "kv_transfer_time",
    "kv_read_rate",
    "nodes_for_span",
    "prefill_efficiency",
    "prefix_speedup_bound",
    "prompt_kv_bytes",
    "rank_share",
    "sequences_at_context",
    "throughput_bound",
]

_NANOFLOW = "NanoFlow (OSDI 2025); serving_power_edge.md section 3"
_DISTSERVE = "DistServe (OSDI 2024), simulator time_estimator.py; serving_power_edge.md section 1"
_SPLITWISE = "Splitwise (ISCA 2024), splitwise-sim; serving_power_edge.md section 4"
_BATCHLLM = "BatchLLM; serving_power_edge.md section 7 [derived]"


@formula("Thr_opt", "1/s", source=_NANOFLOW)
def throughput_bound(flop_rate: Any, parameters: Any) -> Any:
    """Most tokens per second and accelerator, prompt and output together, when only the weights' GEMMs bind.

    flop_rate : GEMM rate achieved [FLOP/s]
    parameters : parameters that a token meets [1]

    Llama-2-70B at the 260 TFLOP/s that an A100 reaches:

    >>> round(throughput_bound(260e12, 70e9))
    1857
    """
    return flop_rate / (2 * parameters)


@formula("eta_opt", "1", source=_NANOFLOW)
def bound_share(rate: Any, bound: Any) -> Any:
    """Share of the bound that an engine reaches.

    rate : tokens per second and accelerator [1/s]
    bound : bound of the same [1/s]

    >>> round(bound_share(1286, 1857.14), 3)
    0.692
    """
    return rate / bound


@formula("x_knee", "1", source=_NANOFLOW + " [derived]")
def knee_over_capacity(knee: Any, capacity: Any) -> Any:
    """How far the knee of a finite test lies above the steady capacity: the backlog that builds does not show yet.

    knee : rate at which the latency of the test crosses its limit [1/s]
    capacity : rate that the engine sustains [1/s]

    >>> round(knee_over_capacity(4.2, 3.3), 2)
    1.27
    """
    return knee / capacity


@formula("B_kv,host", "B/s", source=_NANOFLOW)
def host_transfer_rate(rate: Any, kv: Any) -> Any:
    """Bandwidth to move the cache of every token to the host as it retires.

    rate : tokens of the deployment per second [1/s]
    kv : cache per token over all ranks [B]

    Llama-2-70B on 8 accelerators at its bound (README: 5 GB/s):

    >>> round(host_transfer_rate(8 * 1857.14, 327680) / 1e9, 2)
    4.87
    """
    return rate * kv


@formula("T_pre", "s", source=_DISTSERVE)
def distserve_prefill_time(tokens: Any, squares: Any, constant: Any, linear: Any, quadratic: Any, pp: Any) -> Any:
    """Prefill time of a batch by DistServe's fitted law, without the millisecond per stage that its simulator adds.

    tokens : prompt tokens of the batch [1]
    squares : sum of the squared prompt lengths [1]
    constant : time of any batch [s]
    linear : time per token [s]
    quadratic : time per squared token [s]
    pp : pipeline stages [1]

    OPT-13B, TP1, 512 tokens:

    >>> round(distserve_prefill_time(512, 512**2, 18.1e-3, 0.10191e-3, 7.12e-9, 1), 4)
    0.0721
    """
    return (constant + linear * tokens + quadratic * squares) / pp


@formula("T_dec", "s", source=_DISTSERVE)
def distserve_decode_time(context: Any, batch: Any, constant: Any, read: Any, each: Any, pp: Any) -> Any:
    """Decode time of a batch by DistServe's fitted law.

    context : tokens of context of all sequences [1]
    batch : sequences [1]
    constant : time of any batch [s]
    read : time per token of context [s]
    each : time per sequence [s]
    pp : pipeline stages [1]

    OPT-13B, TP1, 32 sequences of 500 tokens:

    >>> round(distserve_decode_time(16000, 32, 19.93e-3, 6.27e-7, 0.03851e-3, 1), 4)
    0.0312
    """
    return (constant + read * context + each * batch) / pp


@formula("N_kv", "1", source="DistServe max_num_tokens.csv; serving_power_edge.md section 1 [derived]")
def distserve_kv_tokens(accelerators: Any, usable: Any, layers: Any, hidden: Any, element: Any, block: Any) -> Any:
    """Cache capacity of an MHA model whose weights count 12 L h^2 elements (no embeddings), in whole blocks.

    accelerators : tp x pp [1]
    usable : memory of one accelerator for weights and cache [B]
    layers : layers [1]
    hidden : width [1]
    element : bytes per weight and per element of the cache [B]
    block : tokens of a block [1]

    OPT-13B on one A100 (the published table has 66,144):

    >>> distserve_kv_tokens(1, 73.905 * 2**30, 40, 5120, 2, 16)
    66144
    """
    room = accelerators * usable - 12 * layers * hidden**2 * element
    return block * cached_pages(room, block, 2 * layers * hidden * element)


@formula("C_eff", "FLOP/s", source=_DISTSERVE + " [derived]")
def prefill_efficiency(layers: Any, hidden: Any, linear: Any, tp: Any) -> Any:
    """GEMM rate per accelerator that a prefill law's time per token implies, at 24 L h^2 FLOP per token.

    layers : layers [1]
    hidden : width [1]
    linear : time per token [s]
    tp : tensor parallel degree [1]

    OPT-13B, TP1:

    >>> round(prefill_efficiency(40, 5120, 0.10191e-3, 1) / 1e12)
    247
    """
    return 24 * layers * hidden**2 / linear / tp


@formula("MBU", "1", source=_DISTSERVE + " [derived]")
def decode_efficiency(weights: Any, constant: Any, tp: Any, bandwidth: Any) -> Any:
    """Share of the memory bandwidth that a decode law's constant implies if it reads the weights once.

    weights : weights of the model [B]
    constant : time of a decode step of any batch [s]
    tp : tensor parallel degree [1]
    bandwidth : memory bandwidth of one accelerator [B/s]

    OPT-13B, TP1, A100:

    >>> round(decode_efficiency(24 * 40 * 5120**2, 19.93e-3, 1, 2.04e12), 2)
    0.62
    """
    return weights / constant / tp / bandwidth


@formula("BW_kv", "B/s", source=_DISTSERVE + " [derived]")
def kv_read_rate(kv: Any, read: Any, tp: Any) -> Any:
    """Rate per accelerator at which a decode law reads the cache.

    kv : cache per token over all ranks [B]
    read : time per token of context [s]
    tp : tensor parallel degree [1]

    OPT-13B, TP1, in TB/s:

    >>> round(kv_read_rate(4 * 40 * 5120, 6.27e-7, 1) / 1e12, 2)
    1.31
    """
    return kv / read / tp


@formula("S_tokens", "B", source="definition: bytes per token times tokens")
def cache_bytes(tokens: Any, kv: Any) -> Any:
    """Cache of so many tokens.

    tokens : tokens cached [1]
    kv : cache per token over all ranks [B]

    Llama-3.1-405B, the 79,392 tokens of vllm#6746, in GB:

    >>> round(cache_bytes(79392, 516096) / 1e9, 1)
    41.0
    """
    return tokens * kv


@formula("S_rank", "B", source="definition: an even share")
def rank_share(size: Any, ranks: Any) -> Any:
    """Bytes on each of several accelerators that share something evenly.

    size : bytes in all [B]
    ranks : accelerators [1]

    DeepSeek-V3 in fp8 on 8 accelerators of 80 GB (lmdeploy#2960), in GB:

    >>> round(rank_share(671e9, 8) / 1e9, 1)
    83.9
    """
    return size / ranks


@formula("N_conc", "1", source="vLLM startup log; serving_power_edge.md section 2")
def sequences_at_context(blocks: Any, block: Any, context: Any) -> Any:
    """Sequences of a given length that the cache holds.

    blocks : blocks of cache [1]
    block : tokens of a block [1]
    context : tokens of one sequence [1]

    vllm#10517, 1952 blocks at 20,000 tokens and 1478 at 29,000:

    >>> round(sequences_at_context(1952, 16, 20000), 2), round(sequences_at_context(1478, 16, 29000), 2)
    (1.56, 0.82)
    """
    return blocks * block / context


@formula("S_kv", "B", source=_SPLITWISE)
def prompt_kv_bytes(tokens: Any, hidden: Any, layers: Any, element: Any) -> Any:
    """Cache of a prompt as Splitwise counts it: keys and values of full width, no grouped queries.

    tokens : prompt tokens [1]
    hidden : width [1]
    layers : layers [1]
    element : bytes per element [B]

    BLOOM, 512 tokens, in GB:

    >>> round(prompt_kv_bytes(512, 14336, 70, 2) / 1e9, 3)
    2.055
    """
    return 2 * tokens * hidden * layers * element


@formula("T_kv", "s", source=_SPLITWISE)
def kv_transfer_time(size: Any, bandwidth: Any) -> Any:
    """Time to send the cache of a prompt from the prefill to the decode pool, nothing hidden.

    size : cache of the prompt [B]
    bandwidth : bandwidth between the pools [B/s]

    BLOOM, 512 tokens at 200 GiB/s, in ms:

    >>> round(kv_transfer_time(2.055e9, 200 * 2**30) * 1e3, 2)
    9.57
    """
    return size / bandwidth


@formula("T_kv,exp", "s", source="serving_power_edge.md section 4 [derived]: the last layer is never hidden")
def exposed_kv_transfer(size: Any, layers: Any, bandwidth: Any, prefill: Any) -> Any:
    """Part of a layer-wise cache transfer that outlasts the prefill which computes it.

    size : cache of the prompt [B]
    layers : layers [1]
    bandwidth : bandwidth between the pools [B/s]
    prefill : time of the prefill [s]

    >>> round(exposed_kv_transfer(2.055e9, 70, 200 * 2**30, 0.1738) * 1e6)
    137
    """
    whole = kv_transfer_time(size, bandwidth)
    return maximum(whole / layers, whole - prefill * (layers - 1) / layers)


@formula("T_floor", "s", source="serving_power_edge.md section 4: the software floor of small batches")
def floored_time(time: Any, floor: Any) -> Any:
    """Time of a step that the host cannot launch faster than `floor`.

    time : time on the device [s]
    floor : least time [s]

    >>> floored_time(0.03, 0.045), floored_time(0.06, 0.045)
    (0.045, 0.06)
    """
    return maximum(time, floor)


@formula("N_day", "1", source="deepseek-ai/open-infra-index, 202502OpenSourceWeek, day 6: tokens of a day over rates")
def nodes_for_span(tokens: Any, rate: Any, output: Any, output_rate: Any, span: Any) -> Any:
    """Nodes that the prompts and outputs of a span keep busy, prefill and decode on nodes of their own.

    tokens : prompt tokens of the span [1]
    rate : prompt tokens per second of a prefill node [1/s]
    output : output tokens of the span [1]
    output_rate : output tokens per second of a decode node [1/s]
    span : time of the span [s]

    >>> round(nodes_for_span(608e9, 73.7e3, 168e9, 14.8e3, 86400.0))
    227
    """
    return (tokens / rate + output / output_rate) / span


@formula("s_pre", "1", source=_BATCHLLM)
def group_prefix_saving(members: Any, prefix: Any, private: Any) -> Any:
    """Share of a group's prompt tokens that need no prefill when its common prefix is computed once.

    members : requests of the group [1]
    prefix : tokens of the common prefix [1]
    private : other prompt tokens of all members together [1]

    Four requests of 100 common and 100 own tokens each:

    >>> group_prefix_saving(4, 100, 400)
    0.375
    """
    return (members - 1) * prefix / (members * prefix + private)


@formula("X_pre", "1", source=_BATCHLLM + "; vllm PR#9668 measured 1.76 at 49 %")
def prefix_speedup_bound(saving: Any) -> Any:
    """Most that prefill gains when a share of its tokens need no computing.

    saving : share of the prompt tokens found in the cache [1]

    >>> round(prefix_speedup_bound(0.49), 2)
    1.96
    """
    return 1 / (1 - saving)
