"""What is read from one Hugging Face configuration: its values by perfplan's names, and the parts of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perfplan.catalog.huggingface_keys import ALIASES, Family
from perfplan.catalog.specs import Attention, LinearAttention, Mamba, Mlp, Moe
from perfplan.catalog.values import count, flag, shown
from perfplan.errors import BadQuantity, MissingField

__all__ = ["INSTEAD", "Config", "Ffn", "Mixer", "attention", "mamba", "mlp", "moe", "window_of"]

Mixer = Attention | Mamba | LinearAttention | None
Ffn = Mlp | Moe | None
INSTEAD = "describe the model in a file like catalogs/models/llama-3-8b.yaml instead"


@dataclass
class Config:
    """A configuration as one flat mapping, the family it belongs to and the keys that have been read from it."""

    data: Mapping[str, Any]
    kind: str
    family: Family
    where: str
    used: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def get(self, name: str) -> Any:
        """The value of the dimension `name` as the file or the architecture's defaults give it, else None."""
        for key in ALIASES[name]:
            if self.data.get(key) is not None:
                self.used.add(key)
                return self.data[key]
        value = self.family.defaults.get(name)
        if value is not None:
            self.notes.append(f"{ALIASES[name][0]} = {value} is the default of {self.kind}, the file does not state it")
        return value

    def number(self, name: str) -> int:
        """The dimension `name` as a whole number, 0 if absent."""
        value = self.get(name)
        return 0 if value is None else count(value, f"{self.where}, {self.key(name)}", zero=True)

    def needed(self, name: str) -> int:
        """The dimension `name` as a positive whole number; an error if absent."""
        value = self.get(name)
        if value is None:
            raise MissingField(f"{self.where} lacks {ALIASES[name][0]}, which {self.kind} needs")
        return count(value, f"{self.where}, {self.key(name)}")

    def flag(self, name: str, default: bool) -> bool:
        """The switch `name`, `default` if absent."""
        value = self.get(name)
        return default if value is None else flag(value, f"{self.where}, {self.key(name)}")

    def items(self, name: str, length: int) -> list[Any]:
        """The list `name`, one entry per layer; empty if absent."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) != length:
            raise BadQuantity(f"{self.where}, {self.key(name)} is {shown(value)} where a list of {length} entries, one "
                              "per layer, belongs")
        return value

    def listed(self, name: str, length: int) -> list[Any]:
        """The list `name`, one entry per layer; an error if absent."""
        if self.get(name) is None:
            raise MissingField(f"{self.where} lacks {ALIASES[name][0]}, which {self.kind} needs")
        return self.items(name, length)

    def key(self, name: str) -> str:
        """The key under which the file states `name`."""
        return next((key for key in ALIASES[name] if self.data.get(key) is not None), ALIASES[name][0])


def window_of(config: Config) -> int:
    """Window of the sliding layers, 0 if there is none or it is switched off [tokens]."""
    value = config.get("window")
    if value is None or value is False or value == -1 or not config.flag("use_window", True):
        return 0
    return count(value, f"{config.where}, {config.key('window')}", zero=True)


def attention(config: Config, hidden: int, window: int = 0, chunked: bool = False) -> Attention:
    """Softmax attention as the configuration states it: plain, grouped or latent; biases, norms, indexer."""
    heads, family = config.needed("heads"), config.family
    bias = False if config.flag("no_bias", False) else config.flag("attention_bias", family.bias)
    shared: dict[str, Any] = {
        "window": window, "chunked": chunked, "bias": bias, "output_bias": bias and family.output_bias,
        "qk_norm": config.flag("qk_norm", family.qk_norm) and not family.weightless_qk_norm,
        "output_gate": config.flag("output_gate", family.output_gate),
        "q_lora_rank": config.number("q_lora_rank"), "index_heads": config.number("index_heads"),
        "index_head_dim": config.number("index_head_dim"), "index_topk": config.number("index_topk")}
    if config.number("kv_lora_rank"):
        nope, rope = config.needed("nope"), config.needed("rope")
        return Attention(heads, heads, nope + rope, config.needed("v_head_dim"), qk_nope_head_dim=nope,
                         qk_rope_head_dim=rope, kv_lora_rank=config.needed("kv_lora_rank"), **shared)
    width = config.number("head_dim") or _head_width(config, hidden, heads)
    return Attention(heads, _kv_heads(config, heads), width, config.number("v_head_dim") or width, **shared)


def _head_width(config: Config, hidden: int, heads: int) -> int:
    if hidden % heads:
        raise MissingField(f"{config.where} lacks head_dim, and {heads} heads do not divide a width of {hidden}")
    return hidden // heads


def _kv_heads(config: Config, heads: int) -> int:
    if config.flag("multi_query", False) and not config.flag("new_decoder", False):
        return 1
    return config.number("kv_heads") or heads


def mlp(config: Config, hidden: int, stated: int = 0) -> Mlp:
    """The dense MLP; architectures without a gate leave out a width of four times the model's."""
    width = stated or config.number("dense_width") or config.number("width")
    if not width and config.family.gated:
        config.needed("width")
    bias = False if config.flag("no_bias", False) else config.family.mlp_bias
    return Mlp(width or hidden * (config.number("expansion") or 4), config.family.gated, config.flag("mlp_bias", bias))


def moe(config: Config) -> Moe:
    """The MoE part; shared experts are stated as one width, as a number of experts, or fixed by the architecture."""
    shares = config.family.experts_share_width and not config.number("expert_width")
    width = config.needed("width" if shares else "expert_width")
    each = config.number("shared_each") or width
    shared = config.number("shared_width") or each * (config.number("shared") or config.family.shared)
    if config.flag("dense_beside", False):
        shared += config.needed("width")
    return Moe(config.needed("experts"), config.needed("top_k"), width, config.family.gated, shared,
               config.number("latent"), config.number("groups") or 1, config.number("group_limit"))


def mamba(config: Config) -> Mamba:
    """The Mamba-2 mixer."""
    return Mamba(config.needed("mamba_heads"), config.needed("mamba_head_dim"), config.needed("mamba_state"),
                 config.needed("mamba_groups"), config.number("mamba_conv") or 4, config.number("mamba_chunk") or 256)
