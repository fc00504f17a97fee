"""How many parameters a model has: formulas of `perfplan.formulas.parameters` summed over its kinds of layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Mamba, Mlp, Model, Moe
from perfplan.formulas import parameters as count

__all__ = ["MATRIX_PARTS", "ParameterCount", "layer_parameters", "norm_elements",
           "parameters"]

MATRIX_PARTS = ("embedding", "head", "position", "attention", "indexer", "mamba", "linear_attention", "mlp", "shared",
                "experts", "router", "latent", "streams")
"""Parts that are matrices; the others are norms, biases and other vectors."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model without its multi-token-prediction modules and without towers for images or sound.

    total: all parameters [1]; active: those that one token meets (top-k and shared experts, both vocabulary
    matrices) [1]; by_part: part -> parameters, adding up to `total` [1]; layers: parameters of one layer of each kind,
    in the order of `Model.kinds` [1].
    """

    total: int
    active: int
    by_part: Mapping[str, int]
    layers: tuple[int, ...]

    @property
    def matrices(self) -> int:
        """Parameters in matrices only: `total` without norms, biases and other vectors [1]."""
        return sum(number for part, number in self.by_part.items() if part in MATRIX_PARTS)


def parameters(model: Model) -> ParameterCount:
    """Count the parameters of `model`; formulas and their sources are in `perfplan.formulas.parameters`."""
    layers = [layer_parameters(model, kind) for kind in model.kinds]
    parts: Counter[str] = Counter(_outside_layers(model))
    idle = 0
    for index, number in Counter(model.layers).items():
        for part, size in layers[index].items():
            parts[part] += size * number
        idle += _idle(model, model.kinds[index].ffn) * number
    total = sum(parts.values())
    return ParameterCount(total, total - idle, {part: size for part, size in parts.items() if size},
                          tuple(sum(layer.values()) for layer in layers))


def layer_parameters(model: Model, kind: LayerKind) -> dict[str, int]:
    """Parameters of one layer of `kind` by part [1]."""
    parts: Counter[str] = Counter(_mixer(model, kind.mixer))
    parts.update(_ffn(model, kind.ffn))
    present = (kind.mixer is not None) + (kind.ffn is not None)
    norms = (1 if kind.parallel else present) * (2 if kind.post_norm else 1)
    parts["norm"] += norms * norm_elements(model)
    if model.residual_streams > 1:
        parts["streams"] = present * count.residual_stream_parameters(model.hidden, model.residual_streams)
    return {part: int(size) for part, size in parts.items()}


def _outside_layers(model: Model) -> dict[str, int]:
    table = count.embedding_parameters(model.vocab, model.hidden)
    return {"embedding": table, "head": 0 if model.tied else table, "norm": norm_elements(model),
            "position": count.embedding_parameters(model.max_position, model.hidden)
            if model.positional == "learned" else 0}


def norm_elements(model: Model) -> int:
    """Elements of one norm: a scale, with LayerNorm also a shift [1]."""
    return model.hidden * (2 if model.norm == "layer" else 1)


def _matrices(part: Mlp | Moe) -> int:
    return 3 if part.gated else 2


def _mixer(model: Model, part: Attention | Mamba | LinearAttention | None) -> dict[str, Any]:
    if isinstance(part, Attention):
        return _attention(model, part)
    if isinstance(part, Mamba):
        sizes = (part.heads, part.head_dim, part.state, part.groups)
        return {"mamba": count.mamba2_parameters(model.hidden, *sizes, part.conv),
                "vector": count.mamba2_small_parameters(*sizes)}
    return {} if part is None else _linear_attention(model, part)


def _linear_attention(model: Model, part: LinearAttention) -> dict[str, Any]:
    qk, v = part.qk_heads * part.qk_head_dim, part.v_heads * part.v_head_dim
    if part.gate_rank:
        gate = (count.attention_gate_parameters(model.hidden, part.v_heads, part.v_head_dim) if part.output_gate else
                count.low_rank_gate_parameters(model.hidden, v, part.gate_rank))
        return {"linear_attention": gate + count.delta_attention_parameters(
                    model.hidden, qk, v, part.v_heads, part.conv, part.gate_rank),
                "vector": part.v_heads + qk + part.v_head_dim}
    return {"linear_attention": count.linear_attention_parameters(model.hidden, qk, v, part.v_heads, part.conv),
            "vector": count.linear_attention_small_parameters(part.v_heads, part.v_head_dim)}


def _attention(model: Model, part: Attention) -> dict[str, Any]:
    h, n, d, d_v = model.hidden, part.heads, part.head_dim, part.v_head_dim
    weights = _query(model, part) + _key_value_output(model, part)
    if part.output_gate:
        weights += count.attention_gate_parameters(h, n, d_v)
    if part.compression:
        weights += count.kv_compressor_parameters(h, d, 2 if part.index_topk else 1)
    parts = {"attention": weights, "indexer": 0, "norm": part.q_lora_rank + part.kv_lora_rank}
    if part.index_heads:
        parts["indexer"] = count.indexer_parameters(h, part.q_lora_rank or h, part.index_heads, part.index_head_dim)
    if part.qk_norm:
        parts["norm"] += 2 * d
    if part.bias:
        parts["bias"] = count.attention_bias_parameters(n, part.kv_heads, d, d_v, h if part.output_bias else 0)
    return parts


def _query(model: Model, part: Attention) -> Any:
    if part.q_lora_rank:
        return count.low_rank_query_parameters(model.hidden, part.heads, part.head_dim, part.q_lora_rank)
    return count.query_parameters(model.hidden, part.heads, part.head_dim)


def _key_value_output(model: Model, part: Attention) -> Any:
    h, n, d_v = model.hidden, part.heads, part.v_head_dim
    if part.kv_lora_rank:
        return count.mla_kv_output_parameters(h, n, part.kv_lora_rank, part.qk_nope_head_dim, part.qk_rope_head_dim,
                                              d_v)
    output = count.grouped_output_parameters(h, n, d_v, part.o_lora_rank, part.o_groups) if part.o_lora_rank else (
        count.query_parameters(h, n, d_v))
    return output + count.key_value_parameters(h, part.kv_heads, part.head_dim, 0 if part.kv_shared else d_v)


def _ffn(model: Model, part: Mlp | Moe | None) -> dict[str, Any]:
    h = model.hidden
    if part is None:
        return {}
    matrices = _matrices(part)
    if isinstance(part, Mlp):
        return {"mlp": count.mlp_parameters(h, part.width, matrices),
                "bias": count.mlp_bias_parameters(h, part.width, matrices) if part.bias else 0}
    return {"experts": count.routed_expert_parameters(part.latent or h, part.width, matrices, part.experts),
            "shared": count.mlp_parameters(h, part.shared_width, matrices),
            "router": count.router_parameters(h, part.experts),
            "latent": count.latent_projection_parameters(h, part.latent)}


def _idle(model: Model, part: Mlp | Moe | None) -> int:
    """Parameters of the experts of one layer that a token does not meet [1]."""
    if not isinstance(part, Moe):
        return 0
    return int(count.routed_expert_parameters(part.latent or model.hidden, part.width, _matrices(part),
                                              part.experts - part.top_k))
