"""Published laws of serving systems: throughput bounds, disaggregated pools, KV transfer, shared prefixes, speculation.

Tokens and requests are counts. `kv` is the bytes of key-value cache per token over all layers and ranks.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, maximum, where

__all__ = [
    "accepted_tokens",
    "bound_share",
    "cache_bytes",
    "decode_efficiency",
    "dense_tokens",
    "distserve_decode_time",
    "distserve_kv_tokens",
    "distserve_prefill_time",
    "exposed_kv_transfer",
    "floored_time",
    "group_prefix_saving",
    "host_offload_decode_rate",
    "host_transfer_rate",
    "knee_over_capacity",
    "kv_blocks",
    "kv_transfer_time",
    "kv_read_rate",
    "mixed_batch_time",
    "nodes_for_span",
    "pool_ratio",
    "prefill_efficiency",
    "prefix_speedup_bound",
    "prompt_kv_bytes",
    "rank_share",
    "residents",
    "sequences_at_context",
    "speculation_speedup",
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


@formula("B_req", "1", source=_NANOFLOW + " [derived]")
def residents(accelerators: Any, memory: Any, usable: Any, weights: Any, kv: Any, context: Any) -> Any:
    """Requests resident at a time when memory binds and each holds `context` tokens on average.

    accelerators : accelerators of the deployment [1]
    memory : memory of one [B]
    usable : fraction of it for weights and cache [1]
    weights : weights of the deployment [B]
    kv : cache per token over all ranks [B]
    context : mean tokens a resident request holds: input plus half the output [1]

    Llama-2-70B on 8 x 80 GB, 512 in, 1024 out:

    >>> round(residents(8, 80e9, 0.9, 140e9, 327680, 512 + 512))
    1299
    """
    return (accelerators * memory * usable - weights) / (kv * context)


@formula("B_dense", "1", source=_NANOFLOW + " [derived]")
def dense_tokens(requests: Any, prompt: Any, output: Any) -> Any:
    """Tokens per iteration in steady state: each decode beside its share of the prefills.

    requests : requests resident [1]
    prompt : input tokens of a request [1]
    output : output tokens of a request [1]

    >>> dense_tokens(1024, 512, 512)
    2048.0
    """
    return requests * (prompt + output) / output


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
    66144.0
    """
    room = accelerators * usable - 12 * layers * hidden**2 * element
    return block * kv_blocks(room, 2 * layers * hidden * element, block)


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


@formula("N_blocks", "1", source="vLLM startup log; serving_power_edge.md section 2")
def kv_blocks(room: Any, kv: Any, block: Any) -> Any:
    """Whole blocks of cache that fit.

    room : memory for the cache [B]
    kv : cache per token [B]
    block : tokens of a block [1]

    Llama-3.1-8B in 3.81 GiB (vllm#10517 reports 1952, of GiB printed to 0.01):

    >>> kv_blocks(3.81 * 2**30, 131072, 16)
    1950.0
    """
    return room // (kv * block)


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


@formula("T_mix", "s", source="splitwise-sim performance_model.py: 1.1 x the prompt time of as many tokens")
def mixed_batch_time(prompt: Any, penalty: Any) -> Any:
    """Iteration time of a batch that mixes prompts and decodes, from the prompt time of as many tokens.

    prompt : prompt time of the same number of tokens [s]
    penalty : factor of mixing [1]

    >>> round(mixed_batch_time(0.2, 1.1), 2)
    0.22
    """
    return prompt * penalty


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


@formula("N_p/N_d", "1", source="serving_power_edge.md section 2 and 4 [derived]")
def pool_ratio(prefill: Any, batch: Any, decode_load: Any, output: Any, token: Any, prefill_load: Any) -> Any:
    """Prefill instances per decode instance at which both pools are equally far from their load.

    prefill : mean prefill time of a request [s]
    batch : sequences that a decode instance steps at once [1]
    decode_load : utilisation aimed at in the decode pool [1]
    output : mean output tokens of a request [1]
    token : time of a decode step [s]
    prefill_load : utilisation aimed at in the prefill pool [1]

    >>> round(pool_ratio(0.2, 32, 0.9, 200, 0.05, 0.6), 2)
    0.96
    """
    return prefill * batch * decode_load / (output * token * prefill_load)


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


@formula("E_acc", "1", source="Leviathan et al. 2023 (arXiv 2211.17192), eq. 1")
def accepted_tokens(acceptance: Any, draft: Any) -> Any:
    """Expected tokens per verification of a draft whose tokens are accepted independently.

    acceptance : probability that a token of the draft is accepted [1]
    draft : tokens of the draft [1]

    >>> round(accepted_tokens(0.8, 4), 2), accepted_tokens(1, 4)
    (3.36, 5)
    """
    rejection = where(acceptance < 1, 1 - acceptance, 1)
    return where(acceptance < 1, (1 - acceptance ** (draft + 1)) / rejection, draft + 1)


@formula("X_spec", "1", source="training_core.md section 7; Leviathan et al. 2023, theorem 3.8")
def speculation_speedup(tokens: Any, verify: Any, draft: Any, decode: Any) -> Any:
    """How much faster decode gets by speculation; below 1 it gets slower.

    tokens : expected tokens per verification [1]
    verify : time to verify one draft [s]
    draft : time to write it [s]
    decode : time of a plain decode step [s]

    >>> round(speculation_speedup(3.36, 0.022, 0.008, 0.02), 2)
    2.24
    """
    return tokens * decode / (verify + draft)


@formula("r_off", "1/s", source="serving_power_edge.md section 2, row 34")
def host_offload_decode_rate(host: Any, host_bandwidth: Any, device: Any, bandwidth: Any) -> Any:
    """Tokens per second of one sequence when part of the active weights sits in host memory.

    host : bytes read per token from host memory [B]
    host_bandwidth : bandwidth of host memory [B/s]
    device : bytes read per token from device memory [B]
    bandwidth : bandwidth of device memory [B/s]

    >>> round(host_offload_decode_rate(1.5e9, 50e9, 0.5e9, 500e9), 1)
    32.3
    """
    return 1 / (host / host_bandwidth + device / bandwidth)
