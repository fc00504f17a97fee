"""Serving: cached keys and values, how many requests they leave room for, and the steps of continuous batching."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import ceil_div, formula, maximum, minimum, where

__all__ = ["attended_tokens", "burst_wait", "cached_bytes", "cached_pages", "closed_rate", "cycle_wait",
           "decode_stall", "drafted_tokens", "kv_head_share", "latent_bytes", "linear_state_bytes", "looped_rate",
           "mamba_state_bytes", "overload_wait", "overtaken", "page_tokens", "paged_cache", "piped_share",
           "pool_of_free", "pool_of_total", "queued_time", "shared_prompts", "touched_experts", "turns_wait"]

_KV = "definition: one key and one value per token, head and layer (serving_power_edge.md section 2)"


@formula("n_kv", "1", source="heads are split over the ranks and repeated where there are more ranks than heads")
def kv_head_share(kv_heads: Any, tp: Any) -> Any:
    """Key-value heads that one tensor-parallel rank keeps.

    kv_heads : key-value heads of the layer [1]
    tp : ranks that split the attention heads [1]

    >>> kv_head_share(8, 4), kv_head_share(4, 8)
    (2, 1)
    """
    return ceil_div(kv_heads, tp)


@formula("b_kv", "B", source=_KV)
def cached_bytes(kv_heads: Any, key_width: Any, value_width: Any, element: Any) -> Any:
    """Cache of one token in one layer on one rank.

    kv_heads : key-value heads on the rank [1]
    key_width : width of a key head [1]
    value_width : width of a value head that is cached beside it, 0 if keys serve as values [1]
    element : bytes per element of the cache [B]

    Qwen2.5-7B (28 layers, 4 heads of 128, fp16) keeps 57344 B per token (vllm-project/vllm#22291):

    >>> 28 * cached_bytes(4, 128, 128, 2)
    57344
    """
    return kv_heads * (key_width + value_width) * element


@formula("b_mla", "B", source="DeepSeek-V2 report: latent and rotary key are cached, on every rank of a tp group")
def latent_bytes(rank: Any, rope: Any, element: Any, shards: Any) -> Any:
    """Cache of one token in one layer of latent attention (MLA).

    rank : width of the compressed latent [1]
    rope : width of the rotary key [1]
    element : bytes per element of the cache [B]
    shards : ranks that share the cache of a sequence; tensor parallelism does not, it repeats it [1]

    DeepSeek-V3 in bf16, 61 layers:

    >>> 61 * latent_bytes(512, 64, 2, 1)
    70272.0
    """
    return (rank + rope) * element / shards


@formula("b_ssm", "B", source="Dao and Gu 2024 (Mamba-2): one state per head, and the last inputs of the convolution")
def mamba_state_bytes(heads: Any, head_dim: Any, state: Any, groups: Any, conv: Any, element: Any, tp: Any) -> Any:
    """State of one sequence in one Mamba-2 layer on one rank, whatever the context.

    heads : heads of the layer [1]
    head_dim : width of a head [1]
    state : state size [1]
    groups : groups that share B and C [1]
    conv : taps of the convolution [1]
    element : bytes per element [B]
    tp : tensor-parallel ranks [1]

    >>> mamba_state_bytes(64, 64, 128, 8, 4, 4, 1)
    2170880.0
    """
    return (heads * head_dim * state + (conv - 1) * (heads * head_dim + 2 * groups * state)) * element / tp


@formula("b_lin", "B", source="Yang et al. 2024 (gated delta networks): a matrix per head, inputs of the convolution")
def linear_state_bytes(heads: Any, key_width: Any, value_width: Any, keys: Any, conv: Any, element: Any,
                       tp: Any) -> Any:
    """State of one sequence in one layer of linear attention on one rank, whatever the context.

    heads : value heads [1]
    key_width : width of a key head [1]
    value_width : width of a value head [1]
    keys : width of all key heads together [1]
    conv : taps of the convolution [1]
    element : bytes per element [B]
    tp : tensor-parallel ranks [1]

    >>> linear_state_bytes(64, 128, 128, 2048, 4, 4, 1)
    4341760.0
    """
    return (heads * key_width * value_width + (conv - 1) * (2 * keys + heads * value_width)) * element / tp


@formula("N_att", "1", source="a window keeps the last tokens only")
def attended_tokens(context: Any, window: Any) -> Any:
    """Tokens that a layer with a sliding window caches and reads.

    context : tokens of the sequence [1]
    window : tokens that one query sees [1]

    >>> attended_tokens(4096, 128), attended_tokens(100, 128)
    (128, 100)
    """
    return minimum(context, window)


@formula("M_pool", "B", source="vLLM and SGLang: a fraction of the whole memory holds weights, activations and cache")
def pool_of_total(memory: Any, fraction: Any, weights: Any, activations: Any, other: Any) -> Any:
    """Memory left for the cache by an engine that takes a fraction of the whole device; 0 if nothing is left.

    memory : device memory [B]
    fraction : fraction of it that the engine may use [1]
    weights : weights of the rank [B]
    activations : peak of activations [B]
    other : memory outside the engine's allocator, the driver context among it [B]

    23.58 GiB at 0.9 with 17.06 GiB in use at the peak and 0.35 GiB beside it (vllm-project/vllm#10517):

    >>> round(pool_of_total(23.58, 0.90, 17.06, 0, 0.35), 2)
    3.81
    """
    return maximum(fraction * memory - weights - activations - other, 0)


@formula("M_pool", "B", source="TensorRT-LLM: a fraction of the memory that is free once the model is loaded")
def pool_of_free(memory: Any, fraction: Any, weights: Any, activations: Any, other: Any) -> Any:
    """Memory left for the cache by an engine that takes a fraction of what is free; 0 if nothing is left.

    memory : device memory [B]
    fraction : fraction of the free memory that the cache takes [1]
    weights : weights of the rank [B]
    activations : peak of activations [B]
    other : driver context and other workspaces [B]

    >>> pool_of_free(80, 0.5, 40, 10, 10)
    10.0
    """
    return maximum(fraction * (memory - weights - activations - other), 0)


@formula("N_blk", "1", source="pages are whole (Kwon et al. 2023, PagedAttention)")
def cached_pages(pool: Any, page: Any, per_token: Any) -> Any:
    """Whole pages that a pool holds.

    pool : memory of the cache [B]
    page : tokens of one page [1]
    per_token : cache of one token, all layers of the rank [B]

    Llama-3.1-8B in 16 bits, 2.89 GiB (vllm-project/vllm#10517 prints 1478):

    >>> cached_pages(2.89 * 2**30, 16, 131072)
    1479
    """
    return -ceil_div(-pool, page * per_token)


@formula("N_page", "1", source="pages are whole (Kwon et al. 2023, PagedAttention)")
def page_tokens(tokens: Any, page: Any) -> Any:
    """Tokens for which a sequence of `tokens` takes pages.

    tokens : tokens of the sequence [1]
    page : tokens of one page [1]

    >>> page_tokens(17, 16)
    32
    """
    return page * ceil_div(tokens, page)


@formula("f_pipe", "1", source="definition of a pipeline: the last of m pieces leaves stage p after m + p - 1 turns")
def piped_share(pieces: Any, stages: Any) -> Any:
    """Share of the time that pieces of a prompt take one after another, if every stage works on another piece.

    pieces : pieces of the prompt [1]
    stages : stages of the pipeline, each with its share of the layers [1]

    >>> piped_share(2, 4), piped_share(1, 4), piped_share(3, 1)
    (0.625, 1.0, 1.0)
    """
    return (pieces + stages - 1) / (pieces * stages)


@formula("N_seq", "1", source="definition; a sequence also keeps states that do not grow")
def paged_cache(pool: Any, sequence: Any) -> Any:
    """Sequences that a pool holds, as a real number: less than 1 means that not even one fits.

    pool : memory of the cache [B]
    sequence : cache of one sequence at the length in question [B]

    1952 pages of 16 tokens hold 1.56 sequences of 20000 tokens, 1478 hold 0.82 of 29000 (vllm-project/vllm#10517):

    >>> round(paged_cache(1952 * 16, 20000), 2), round(paged_cache(1478 * 16, 29000), 2)
    (1.56, 0.82)
    """
    return pool / sequence


@formula("E_hit", "1", source="derived: an expert stays idle if every token leaves it out; gamma popularity")
def touched_experts(experts: Any, picks: Any, tokens: Any, evenness: Any) -> Any:
    """Experts that at least one of the tokens meets: those whose weights are read.

    Tokens of a step resemble each other, so some experts are popular and others stay idle longer than by chance. With
    the popularity of an expert drawn from a gamma distribution, the chance that n tokens leave it out is
    (1 + n p / shape) ** -shape, where p is the mean chance of a pick; the first token meets exactly its picks.

    experts : experts of the layer [1]
    picks : experts per token [1]
    tokens : tokens of the whole expert-parallel group [1]
    evenness : shape of the distribution, 1 over the squared coefficient of variation of popularity [1]

    >>> touched_experts(256, 8, 1, 0.5), round(touched_experts(256, 8, 64, 0.5), 1)
    (8.0, 144.4)
    >>> round(touched_experts(256, 8, 64, 1e6), 1)
    221.4
    """
    chance = picks / experts
    missed = (1 - chance * minimum(tokens, 1)) * (1 + maximum(tokens - 1, 0) * chance / evenness) ** -evenness
    return experts * (1 - missed)


@formula("T_stall", "s", source="derived: in a cycle every other request computes its prompt once, some before mine")
def decode_stall(others: Any, prompt: Any, steps: Any, together: Any, beside: Any) -> Any:
    """Time that the prompts of other requests add to each decode step of mine.

    others : other requests in flight [1]
    prompt : time of one prompt, beside the decodes that share its step [s]
    steps : decode steps of a request [1]
    together : share of the requests whose prompts run before any of them decodes, half of them before mine [1]
    beside : other prompts computed in the step of mine, which do not stall me if we came together [1]

    >>> decode_stall(15, 0.1, 100, 0, 0), decode_stall(15, 0.1, 100, 1, 0), decode_stall(15, 0.1, 100, 1, 7)
    (0.015, 0.0075, 0.004)
    """
    return (others - together / 2 * (others + minimum(beside, others))) * prompt / steps


@formula("n_share", "1", source="derived: requests that begin in one step end in one step, and so do their successors")
def shared_prompts(arrivals: Any, gather: Any, joined: Any, prompt: Any) -> Any:
    """Prompts of a closed loop that share a step, at least one.

    Where one step lets in several requests on average, their prompts share it. Below that, short prompts keep company:
    those that one step took in together end together, and so do the requests that take their places.

    arrivals : requests that one step lets in on average [1]
    gather : prompts that share a step, per such request [1]
    joined : prompt tokens that share a step where prompts are short [1]
    prompt : tokens of one prompt [1]

    >>> shared_prompts(0.5, 1, 800, 4096), shared_prompts(3, 1, 800, 4096), shared_prompts(0.5, 1, 800, 200)
    (1.0, 3, 4.0)
    """
    return maximum(maximum(gather * arrivals, joined / prompt), 1.0)


@formula("W_burst", "s", source="derived: of requests that arrive together the mean one waits for half of the others")
def burst_wait(others: Any, prompt: Any, burst: Any) -> Any:
    """Time that a prompt waits for prompts that arrived with it.

    others : other requests in flight [1]
    prompt : time of one prompt [s]
    burst : share of the requests that arrive together [1]

    >>> burst_wait(15, 0.1, 1)
    0.75
    """
    return burst * others * prompt / 2


@formula("W_turn", "s", source="derived: requests that end one after another are replaced one after another")
def turns_wait(ahead: Any, shared: Any, most: Any, others: Any, prompt: Any) -> Any:
    """Time that a prompt of a closed loop waits for steps that carry its neighbours' prompts.

    Requests that began in successive steps end in successive steps, and so do the requests that take their places:
    each finds the prompts of its neighbours under way, and more where the scheduler launches a step ahead; all of them
    no more than one step takes.

    ahead : steps with prompts of neighbours before its own [1]
    shared : prompts that share a step [1]
    most : prompts that a step takes, at least the one under way [1]
    others : other requests in flight [1]
    prompt : time that one prompt adds to a step [s]

    >>> turns_wait(1.2, 1, 8, 15, 0.1), turns_wait(1.2, 1, 8, 0, 0.1), turns_wait(1.2, 1, 1, 15, 0.1)
    (0.12, 0.0, 0.1)
    """
    return minimum(ahead * shared, most) * minimum(others, 1) * prompt


@formula("W_cycle", "s", source="derived: one cycle of a loop of prompts alone computes the prompt of every request")
def cycle_wait(requests: Any, prompt: Any, known: Any) -> Any:
    """Time that a request of a closed loop without decodes waits for the prompts of the others, beyond what is known.

    requests : of the loop [1]
    prompt : time of one prompt [s]
    known : time of a cycle by all other causes [s]

    >>> cycle_wait(10, 0.1, 0.4), cycle_wait(1, 0.1, 0.4)
    (0.6, 0)
    """
    return maximum(requests * prompt - known, 0)


@formula("X_loop", "1/s", source="Little 1961; the users of a closed loop are all in the system, all the time")
def looped_rate(users: Any, first: Any, later: Any, token: Any) -> Any:
    """Requests per second of a closed loop whose users ask again as soon as they are answered.

    users : users, one request each [1]
    first : mean time to the first token [s]
    later : tokens after the first [1]
    token : mean time of each of them [s]

    >>> looped_rate(10, 0.2, 90, 0.02)
    5.0
    """
    return users / (first + later * token)


@formula("X", "1/s", source="derived: work of one cycle, every request one prompt and its decode steps (Little's law)")
def closed_rate(requests: Any, prompt: Any, steps: Any, step: Any) -> Any:
    """Requests per second with so many in flight and others at the door, who take each place that comes free at once.

    requests : requests in flight [1]
    prompt : time of one prompt, beside the decodes that share its step [s]
    steps : decode steps of a request [1]
    step : time of a step without prompts [s]

    >>> closed_rate(10, 0.1, 100, 0.01)
    5.0
    """
    return requests / (requests * prompt + steps * step)


@formula("W_slot", "s", source="Little's law: requests that wait over the rate at which requests finish")
def queued_time(waiting: Any, rate: Any) -> Any:
    """Time that a request waits for a place in the batch.

    waiting : requests that wait on average [1]
    rate : requests that finish per second [1/s]

    >>> queued_time(2, 4.0)
    0.5
    """
    return waiting / rate


@formula("W_over", "s", source="derived: request i comes after i/rate, is served after i services; mean over i")
def overload_wait(requests: Any, service: Any, rate: Any) -> Any:
    """Mean wait of finitely many requests that arrive faster than one server takes them, inf: all at once.

    requests : in all [1]
    service : time of one request [s]
    rate : arrivals [1/s]

    >>> overload_wait(100, 0.5, 4.0), overload_wait(100, 0.5, float("inf"))
    (12.375, 24.75)
    """
    return (requests - 1) * maximum(service - 1 / rate, 0.0) / 2


@formula("T_dec", "s", source="derived: x = w + busy * min(x, left) with `left` even over the span; mean over it")
def overtaken(work: Any, busy: Any, span: Any) -> Any:
    """Mean time of decodes of `work` that start evenly over `span`, while prompts take a share of the time until its
    end.

    A decode that ends within the span is stretched by 1 / (1 - busy); one that outlasts it meets the prompts that are
    left, half of the span on average.

    work : time of the decodes without prompts [s]
    busy : share of the span that prompts take, at most 1 [1]
    span : time until the last prompt is done, above 0 [s]

    >>> overtaken(2.0, 0.5, 8.0), overtaken(30.0, 1.0, 10.0), overtaken(3.0, 0.0, 10.0)
    (3.5, 35.0, 3.0)
    """
    stretched = minimum(work / maximum(1 - busy, 2**-40), span)
    return where(stretched < span, stretched - busy * stretched**2 / (2 * span), work + busy * span / 2)


@formula("N_acc", "1", source="Leviathan et al. 2023, equation 1: tokens of a verification, each draft accepted alike")
def drafted_tokens(acceptance: Any, drafts: Any) -> Any:
    """Tokens that one step of speculative decoding yields on average.

    acceptance : chance that one draft token is accepted, counted as 0.998 at most [1]
    drafts : draft tokens per step [1]

    >>> drafted_tokens(0.5, 1), drafted_tokens(0, 3)
    (1.5, 1.0)
    """
    chance = minimum(1.0 * acceptance, 1 - 2**-9)
    return (1 - chance ** (drafts + 1)) / (1 - chance)
