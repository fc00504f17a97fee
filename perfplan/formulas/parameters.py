"""Parameter counts of the parts of a decoder-only language model.

Every formula counts weights of one part of one layer (or one matrix of the model). Biases and norms have formulas of
their own, so that published conventions with and without them can both be met.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula

__all__ = ["attention_bias_parameters", "attention_gate_parameters", "delta_attention_parameters",
           "embedding_parameters", "grouped_output_parameters", "indexer_parameters", "key_value_parameters",
           "kv_compressor_parameters", "latent_projection_parameters", "linear_attention_parameters",
           "linear_attention_small_parameters", "low_rank_gate_parameters", "low_rank_query_parameters",
           "mamba2_parameters", "mamba2_small_parameters", "mla_kv_output_parameters", "mlp_bias_parameters",
           "mlp_parameters", "prediction_parameters", "query_parameters", "residual_stream_parameters",
           "routed_expert_parameters", "router_parameters"]

CORE = "training_core.md 2.1, table row "


@formula("N_emb", "1", source=CORE + "embedding, head")
def embedding_parameters(vocab: Any, hidden: Any) -> Any:
    """Weights of one vocabulary matrix (embedding or LM head), or of learned positions.

    vocab : rows, tokens of the vocabulary or positions [1]
    hidden : model width [1]

    >>> embedding_parameters(128256, 4096)
    525336576
    """
    return vocab * hidden


@formula("N_kv", "1", source=CORE + "attention, the terms of the key/value heads")
def key_value_parameters(hidden: Any, kv_heads: Any, head_dim: Any, v_head_dim: Any) -> Any:
    """Weights of the key and value projections of one softmax-attention layer (MHA, GQA, MQA).

    hidden : model width [1]
    kv_heads : key/value heads [1]
    head_dim : width of a key head [1]
    v_head_dim : width of a value head, 0 if keys serve as values [1]

    >>> key_value_parameters(4096, 8, 128, 128)  # Llama-3-8B
    8388608
    """
    return hidden * kv_heads * (head_dim + v_head_dim)


@formula("N_q", "1", source=CORE + "attention, and MLA without q rank")
def query_parameters(hidden: Any, heads: Any, head_dim: Any) -> Any:
    """Weights of a full-rank query projection, or of an output projection from value heads of width `head_dim`.

    hidden : model width [1]
    heads : query heads [1]
    head_dim : width of a query head [1]

    >>> query_parameters(2048, 16, 192)  # DeepSeek-V2-Lite
    6291456
    """
    return hidden * heads * head_dim


@formula("N_q", "1", source=CORE + "MLA")
def low_rank_query_parameters(hidden: Any, heads: Any, head_dim: Any, q_rank: Any) -> Any:
    """Weights of a query projection through a bottleneck.

    hidden : model width [1]
    heads : query heads [1]
    head_dim : width of a query head [1]
    q_rank : width of the bottleneck [1]

    >>> low_rank_query_parameters(7168, 128, 192, 1536)  # DeepSeek-V3
    48758784
    """
    return hidden * q_rank + q_rank * heads * head_dim


@formula("N_kvo", "1", source=CORE + "MLA; DeepSeek-V2 2024, section 2.1")
def mla_kv_output_parameters(hidden: Any, heads: Any, kv_rank: Any, nope: Any, rope: Any, v_head_dim: Any) -> Any:
    """Weights of everything in multi-head latent attention except the queries.

    hidden : model width [1]
    heads : query heads [1]
    kv_rank : width of the compressed key/value [1]
    nope : width of a key head without position [1]
    rope : width of the shared rotary key [1]
    v_head_dim : width of a value head [1]

    >>> mla_kv_output_parameters(7168, 128, 512, 128, 64, 128)  # DeepSeek-V3
    138346496
    """
    return hidden * (kv_rank + rope) + kv_rank * heads * (nope + v_head_dim) + heads * v_head_dim * hidden


@formula("N_gate", "1", source="Qwen3-Next model code: the query projection is twice as wide, the second half gates")
def attention_gate_parameters(hidden: Any, heads: Any, v_head_dim: Any) -> Any:
    """Weights of a per-element output gate on softmax attention.

    hidden : model width [1]
    heads : query heads [1]
    v_head_dim : width of a value head [1]

    >>> attention_gate_parameters(2048, 16, 256)
    8388608
    """
    return hidden * heads * v_head_dim


@formula("N_attn,b", "1", source="the biases of the projections in training_core.md 2.1, table row attention")
def attention_bias_parameters(heads: Any, kv_heads: Any, head_dim: Any, v_head_dim: Any, output: Any) -> Any:
    """Biases of the query, key and value projections and of `output` elements of the output projection.

    heads : query heads [1]
    kv_heads : key/value heads [1]
    head_dim : width of a query or key head [1]
    v_head_dim : width of a value head [1]
    output : width of the output projection's bias, 0 if it has none [1]

    >>> attention_bias_parameters(28, 4, 128, 128, 0)  # Qwen2.5-7B
    4608
    """
    return heads * head_dim + kv_heads * (head_dim + v_head_dim) + output


@formula("N_out", "1", source="DeepSeek-V4 configuration (o_lora_rank, o_groups); model_architectures.csv note")
def grouped_output_parameters(hidden: Any, heads: Any, v_head_dim: Any, rank: Any, groups: Any) -> Any:
    """Weights of an output projection that is low-rank inside each of several groups of heads.

    hidden : model width [1]
    heads : query heads [1]
    v_head_dim : width of a value head [1]
    rank : bottleneck of one group [1]
    groups : groups of heads [1]

    >>> grouped_output_parameters(4096, 64, 512, 1024, 8)
    67108864
    """
    return heads * v_head_dim * rank + groups * rank * hidden


@formula("N_idx", "1", source="DeepSeek-V3.2 model code; training_core.md 8")
def indexer_parameters(hidden: Any, query_width: Any, heads: Any, head_dim: Any) -> Any:
    """Weights of a sparse-attention indexer: its queries, its one shared key and its head weights.

    hidden : model width [1]
    query_width : width that the indexer's queries are projected from (the query bottleneck, else `hidden`) [1]
    heads : indexer heads [1]
    head_dim : width of an indexer head [1]

    >>> indexer_parameters(7168, 1536, 64, 128)  # DeepSeek-V3.2
    13959168
    """
    return query_width * heads * head_dim + hidden * head_dim + hidden * heads


@formula("N_cmp", "1", source="DeepSeek-V4 configuration (compress_ratios): projection and gate; an approximation")
def kv_compressor_parameters(hidden: Any, head_dim: Any, overlap: Any) -> Any:
    """Weights of a key/value compressor: value and gate projections, each `overlap` times the head width.

    hidden : model width [1]
    head_dim : width of the one key/value head [1]
    overlap : windows that overlap at each position [1]

    >>> kv_compressor_parameters(4096, 512, 1)
    4194304
    """
    return 2 * hidden * head_dim * overlap


@formula("N_hc", "1", source="Zhu et al. 2024 (hyper-connections), per sub-layer; matrices only")
def residual_stream_parameters(hidden: Any, streams: Any) -> Any:
    """Weights that mix several residual streams before and after one sub-layer.

    hidden : model width [1]
    streams : residual streams [1]

    >>> residual_stream_parameters(4096, 4)
    393216
    """
    return streams * hidden * (streams * streams + 2 * streams)


@formula("N_ssm", "1", source="Dao, Gu 2024 (Mamba-2); evidence README, formulas of model_architectures.csv")
def mamba2_parameters(hidden: Any, heads: Any, head_dim: Any, state: Any, groups: Any, conv: Any) -> Any:
    """Weights of the input projection, the convolution and the output projection of one Mamba-2 mixer.

    hidden : model width [1]
    heads : heads [1]
    head_dim : width of a head, the inner width is heads * head_dim [1]
    state : state size per head [1]
    groups : groups that share B and C [1]
    conv : kernel width of the convolution [1]

    >>> mamba2_parameters(4096, 128, 64, 128, 8, 4)  # Nemotron-H-8B
    109617152
    """
    inner = heads * head_dim
    return hidden * (2 * inner + 2 * groups * state + heads) + conv * (inner + 2 * groups * state) + inner * hidden


@formula("N_ssm,b", "1", source="Dao, Gu 2024 (Mamba-2) model code: conv bias, A, D, dt bias, gated norm")
def mamba2_small_parameters(heads: Any, head_dim: Any, state: Any, groups: Any) -> Any:
    """Vectors of one Mamba-2 mixer: convolution bias, A, D, dt bias and the gated norm.

    heads : heads [1]
    head_dim : width of a head [1]
    state : state size per head [1]
    groups : groups that share B and C [1]

    >>> mamba2_small_parameters(128, 64, 128, 8)
    18816
    """
    return heads * head_dim + 2 * groups * state + 3 * heads + heads * head_dim


@formula("N_lin", "1", source="Yang et al. 2024 (gated DeltaNet); Qwen3-Next model code")
def linear_attention_parameters(hidden: Any, qk_width: Any, v_width: Any, v_heads: Any, conv: Any) -> Any:
    """Weights of one gated DeltaNet mixer: q, k, v, z, two scalar gates per head, convolution and output.

    hidden : model width [1]
    qk_width : all query (or key) heads together [1]
    v_width : all value heads together [1]
    v_heads : value heads [1]
    conv : kernel width of the convolution [1]

    >>> linear_attention_parameters(2048, 2048, 4096, 32, 4)  # Qwen3-Next
    33718272
    """
    return hidden * (2 * qk_width + 2 * v_width + 2 * v_heads) + conv * (2 * qk_width + v_width) + v_width * hidden


@formula("N_lin", "1", source="Kimi Linear 2025 (Kimi Delta Attention), model code")
def delta_attention_parameters(hidden: Any, qk_width: Any, v_width: Any, v_heads: Any, conv: Any, rank: Any) -> Any:
    """Weights of one Kimi Delta Attention mixer: q, k, v, decay gate, beta, convolution, output; not the output gate.

    hidden : model width [1]
    qk_width : all query (or key) heads together [1]
    v_width : all value heads together [1]
    v_heads : value heads [1]
    conv : kernel width of the convolution [1]
    rank : bottleneck of the decay gate [1]

    >>> delta_attention_parameters(2304, 4096, 4096, 32, 4, 128)  # Kimi-Linear-48B-A3B
    38690816
    """
    width = 2 * qk_width + v_width
    return (hidden + conv) * width + rank * (hidden + qk_width) + hidden * v_heads + v_width * hidden


@formula("N_gate", "1", source="Kimi Linear 2025 (Kimi Delta Attention), model code")
def low_rank_gate_parameters(hidden: Any, width: Any, rank: Any) -> Any:
    """Weights of an output gate through a bottleneck.

    hidden : model width [1]
    width : width of what is gated [1]
    rank : bottleneck [1]

    >>> low_rank_gate_parameters(2304, 4096, 128)
    819200
    """
    return rank * (hidden + width)


@formula("N_lin,b", "1", source="Qwen3-Next model code: A, dt bias, norm")
def linear_attention_small_parameters(v_heads: Any, v_head_dim: Any) -> Any:
    """Vectors of one linear-attention mixer: A, dt bias and the gated norm.

    v_heads : value heads [1]
    v_head_dim : width of a value head [1]

    >>> linear_attention_small_parameters(32, 128)
    192
    """
    return 2 * v_heads + v_head_dim


@formula("N_mlp", "1", source=CORE + "MLP, shared experts")
def mlp_parameters(hidden: Any, width: Any, matrices: Any) -> Any:
    """Weights of an MLP (or of all shared experts together).

    hidden : model width [1]
    width : inner width [1]
    matrices : 3 if gated, else 2 [1]

    >>> mlp_parameters(4096, 14336, 3)  # Llama-3-8B
    176160768
    """
    return matrices * hidden * width


@formula("N_mlp,b", "1", source="the biases of the matrices in training_core.md 2.1, table row MLP")
def mlp_bias_parameters(hidden: Any, width: Any, matrices: Any) -> Any:
    """Biases of an MLP.

    hidden : model width [1]
    width : inner width [1]
    matrices : 3 if gated, else 2 [1]

    >>> mlp_bias_parameters(768, 3072, 2)  # GPT-2
    3840
    """
    return hidden + (matrices - 1) * width


@formula("N_exp", "1", source=CORE + "routed experts")
def routed_expert_parameters(hidden: Any, width: Any, matrices: Any, experts: Any) -> Any:
    """Weights of `experts` routed experts of one layer.

    hidden : width that the experts see, the model's or the latent one [1]
    width : inner width of one expert [1]
    matrices : 3 if gated, else 2 [1]
    experts : experts counted, all or the top-k of a token [1]

    >>> routed_expert_parameters(4096, 14336, 3, 8)  # Mixtral-8x7B
    1409286144
    """
    return matrices * hidden * width * experts


@formula("N_rtr", "1", source=CORE + "router")
def router_parameters(hidden: Any, experts: Any) -> Any:
    """Weights of the router of one MoE layer.

    hidden : model width [1]
    experts : routed experts [1]

    >>> router_parameters(7168, 256)
    1835008
    """
    return hidden * experts


@formula("N_lat", "1", source="Nemotron 3 Super model card (latent MoE); training_core.md 2.1, latent projections")
def latent_projection_parameters(hidden: Any, latent: Any) -> Any:
    """Weights of the projections into and out of the latent width of one MoE layer.

    hidden : model width [1]
    latent : width that the routed experts see [1]

    >>> latent_projection_parameters(4096, 1024)
    8388608
    """
    return 2 * hidden * latent


@formula("N_mtp", "1", source="DeepSeek-V3 report, section 2.2; training_core.md 1.1, table row MTP module")
def prediction_parameters(hidden: Any, ranks: Any) -> Any:
    """Weights of a multi-token-prediction module beside its layers: projection and norms, on one tensor-parallel rank.

    hidden : model width [1]
    ranks : tensor-parallel ranks [1]

    >>> prediction_parameters(7168, 1)
    102781952.0
    """
    return 2 * hidden * hidden / ranks + 3 * hidden
