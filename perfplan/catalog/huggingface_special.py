"""Architectures whose layers differ in more than their type: how their Hugging Face configurations list mixers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from perfplan.catalog.huggingface_parts import INSTEAD, Config, Mixer, attention, mlp, window_of
from perfplan.catalog.specs import LayerKind, LinearAttention
from perfplan.catalog.values import count, flag, mapping, required, shown
from perfplan.errors import BadQuantity, Unsupported

__all__ = ["MIXERS", "searched_layers"]


def _gemma4(config: Config, hidden: int, number: int) -> list[Mixer]:
    """Full layers have heads of their own width and number, and may use keys as values."""
    window = attention(config, hidden, window=window_of(config))
    width = config.number("global_head_dim") or window.head_dim
    full = replace(window, window=0, head_dim=width, v_head_dim=width, kv_shared=config.flag("kv_shared", False),
                   kv_heads=config.number("global_kv_heads") or window.kv_heads)
    types = config.listed("layer_types", number)
    if strange := set(map(str, types)) - {"full_attention", "sliding_attention"}:
        raise Unsupported(f"{config.where} has layers of type {min(strange)!r}, which are not modelled; {INSTEAD}")
    return [full if name == "full_attention" else window for name in types]


def _deepseek_v4(config: Config, hidden: int, number: int) -> list[Mixer]:
    """A window in every layer, beside a compressed cache of one entry per `ratio` tokens; ratio 4 has the indexer."""
    ratios = config.get("ratios")
    if not isinstance(ratios, list) or len(ratios) < number:
        raise BadQuantity(f"{config.where}, compress_ratios is {shown(ratios)} where one ratio per layer belongs")
    config.notes.append("the compressor and the hyper-connections are counted approximately")
    sparse = replace(attention(config, hidden, window=window_of(config)), kv_shared=True,
                     o_lora_rank=config.needed("o_lora_rank"), o_groups=config.needed("o_groups"))
    plain = replace(sparse, index_heads=0, index_head_dim=0, index_topk=0)
    checked = [count(ratio, f"{config.where}, compress_ratios", zero=True) for ratio in ratios[:number]]
    return [replace(sparse if ratio == 4 else plain, compression=ratio) for ratio in checked]


def _kimi_linear(config: Config, hidden: int, number: int) -> list[Mixer]:
    """Kimi delta attention, with latent attention in the layers listed (from 1) as full."""
    data = mapping(config.data, "linear_attn_config", config.where)
    at = f"{config.where}, linear_attn_config"
    heads, width = (count(required(data, key, at), f"{at}.{key}") for key in ("num_heads", "head_dim"))
    delta = LinearAttention(heads, heads, width, width, count(data.get("short_conv_kernel_size", 4), at),
                            gate_rank=width, output_gate=flag(data.get("use_full_rank_gate", False), at))
    full = required(data, "full_attn_layers", at)
    if not isinstance(full, list) or not all(type(layer) is int and 0 < layer <= number for layer in full):
        raise BadQuantity(f"{at}.full_attn_layers is {shown(full)} where numbers of layers, from 1, belong")
    latent = attention(config, hidden)
    return [latent if layer + 1 in full else delta for layer in range(number)]


def _mimo_v2(config: Config, hidden: int, number: int) -> list[Mixer]:
    """Sliding layers (1 in the list) have key/value heads of their own number and width."""
    full = attention(config, hidden)
    window = replace(full, window=window_of(config), heads=config.number("window_heads") or full.heads,
                     kv_heads=config.number("window_kv_heads") or full.kv_heads,
                     head_dim=config.number("window_head_dim") or full.head_dim,
                     v_head_dim=config.number("window_v_head_dim") or full.v_head_dim)
    return [window if entry else full for entry in config.listed("windowed_layers", number)]


def _minimax_m3(config: Config, hidden: int, number: int) -> list[Mixer]:
    """Layers marked 1 attend to the blocks that an indexer selects."""
    data = mapping(config.data, "sparse_attention_config", config.where)
    at = f"{config.where}, sparse_attention_config"
    heads, width, block, blocks = (count(required(data, key, at), f"{at}.{key}") for key in (
        "sparse_num_index_heads", "sparse_index_dim", "sparse_block_size", "sparse_topk_blocks"))
    marks = required(data, "sparse_attention_freq", at)
    if not isinstance(marks, list) or len(marks) != number:
        raise BadQuantity(f"{at}.sparse_attention_freq is {shown(marks)} where one mark per layer belongs")
    full = attention(config, hidden)
    sparse = replace(full, index_heads=heads, index_head_dim=width, index_topk=block * blocks)
    return [sparse if mark else full for mark in marks]


MIXERS: Mapping[str, Callable[[Config, int, int], list[Mixer]]] = {
    "gemma4_text": _gemma4, "deepseek_v4": _deepseek_v4, "deepseek_ref": _deepseek_v4, "kimi_linear": _kimi_linear,
    "mimo_v2_flash": _mimo_v2, "minimax_m3": _minimax_m3, "minimax_m3_vl": _minimax_m3}
"""`model_type` -> the mixer of each layer, first to last."""


def searched_layers(config: Config, hidden: int) -> list[LayerKind]:
    """Layers found by architecture search (nemotron-nas): each has attention or not, and an MLP of its own width."""
    blocks = config.listed("blocks_nas", config.needed("layers"))
    return [_searched(config, hidden, block) for block in blocks]


def _searched(config: Config, hidden: int, block: Any) -> LayerKind:
    at = f"{config.where}, block_configs"
    if not isinstance(block, Mapping):
        raise BadQuantity(f"{at} holds {shown(block)} where a mapping belongs")
    mixer, ffn = mapping(block, "attention", at), mapping(block, "ffn", at)
    for part in (mixer, ffn):
        if strange := [key for key in ("replace_with_linear", "window_length", "sparsify") if part.get(key)]:
            raise Unsupported(f"{at} sets {strange[0]}, which is not modelled; {INSTEAD}")
    found = None if mixer.get("no_op") else _grouped(config, hidden, mixer, at)
    return LayerKind(found, None if ffn.get("no_op") else replace(
        mlp(config, hidden, _searched_width(hidden, ffn, at)), bias=False))


def _grouped(config: Config, hidden: int, block: Mapping[str, Any], at: str) -> Mixer:
    part = attention(config, hidden)
    group = count(required(block, "n_heads_in_group", at), f"{at}.n_heads_in_group")
    return replace(part, kv_heads=max(1, part.heads // group))


def _searched_width(hidden: int, block: Mapping[str, Any], at: str) -> int:
    """Width of an MLP: two thirds of 4 x hidden x multiplier / 2, rounded up to a multiple of 256."""
    multiplier = required(block, "ffn_mult", at)
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier < 100:
        raise BadQuantity(f"{at}.ffn_mult is {shown(multiplier)} where a positive number belongs")
    return -(-int(2 * multiplier * hidden / 3) // 256) * 256
