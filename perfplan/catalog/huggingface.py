"""Hugging Face `config.json` files: the mapping in, a frozen `Model` out.

The file states dimensions under many names (`ALIASES`) and leaves to the code of the architecture what `FAMILIES` says.
A feature that is not modelled is an error that names it; a key that nobody here knows is a note on the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from perfplan.catalog.huggingface_keys import ALIASES, FAMILIES, FLATTENED, IGNORED, NESTED, UNMODELLED, Family
from perfplan.catalog.models import check_model
from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Mamba, Mlp, Model, Moe
from perfplan.catalog.values import count, flag, shown
from perfplan.errors import BadQuantity, CatalogError, MissingField, OutOfRange, Unsupported

__all__ = ["model_from_config"]

Mixer = Attention | Mamba | LinearAttention | None
Ffn = Mlp | Moe | None
INSTEAD = "describe the model in a file like catalogs/models/llama-3-8b.yaml instead"
BLOCKS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
FULL = {"full_attention", "deepseek_sparse_attention", "global"}
WINDOWS = {"sliding_attention", "local_attention", "local"}


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

    def key(self, name: str) -> str:
        """The key under which the file states `name`."""
        return next((key for key in ALIASES[name] if self.data.get(key) is not None), ALIASES[name][0])


def model_from_config(data: Any, where: str) -> Model:
    """The language model that the mapping `data` of a `config.json` describes; `where` names the file in errors."""
    config = _open(data, where)
    _refuse_unmodelled(config)
    hidden = config.needed("hidden")
    if config.get("projection") not in (None, hidden):
        raise Unsupported(f"{where} sets word_embed_proj_dim = {shown(config.data['word_embed_proj_dim'])}, embeddings "
                          "narrower than the model, which is not modelled")
    layers = _block_layers(config, hidden) if config.kind == "nemotron_h" else _layers(config, hidden)
    kinds = tuple(dict.fromkeys(layers))
    model = Model(
        id=_slug(data, where), name=str(data.get("_name_or_path") or _slug(data, where)), hidden=hidden,
        vocab=config.needed("vocab"), tied=config.flag("tied", config.family.tied), kinds=kinds,
        layers=tuple(kinds.index(kind) for kind in layers), max_position=config.number("max_position"),
        norm=config.family.norm, positional=_positional(config), mtp_layers=config.number("mtp"),
        sources={"dimensions": where, "confidence": "read"}, notes=())
    return check_model(_with_notes(model, config, data), where)


# ---------------------------------------------------------------- opening the file
def _open(data: Any, where: str) -> Config:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise CatalogError(f"{where} holds {shown(data)} where the configuration of a language model belongs")
    if not (data.get("model_type") or data.get("architectures")):
        raise CatalogError(f"{where} is not the configuration of a language model: it has neither model_type nor "
                           "architectures")
    nested = next((data[key] for key in NESTED if isinstance(data.get(key), Mapping)), None)
    flat: dict[str, Any] = dict(data if nested is None else nested)
    for key in FLATTENED:
        inner = flat.pop(key, None)
        flat |= {} if not isinstance(inner, Mapping) else {name: inner[name] for name in inner if name not in flat}
    if nested is not None and flat.get("tie_word_embeddings") is None:
        flat["tie_word_embeddings"] = data.get("tie_word_embeddings")
    kind = _architecture(flat, data)
    if kind not in FAMILIES:
        raise Unsupported(_unknown(kind, flat, where))
    return Config(flat, kind, FAMILIES[kind], where)


def _architecture(flat: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The model_type, or the family that the class in `architectures` is named after, or what the file says."""
    classes = data.get("architectures")
    first = str(classes[0]) if isinstance(classes, list) and classes else ""
    stem = re.sub(r"(For|LMHead|Model).*", "", first).lower()
    by_class = next((name for name in FAMILIES if name.replace("_", "") == stem), "")
    said = [str(place.get("model_type") or "") for place in (flat, data)]
    return next((name for name in (*said, by_class) if name in FAMILIES), said[0] or said[1] or first)


def _unknown(kind: str, flat: Mapping[str, Any], where: str) -> str:
    """One sentence on an architecture that is not in the table."""
    if flat.get("is_encoder_decoder"):
        return f"{where} describes {kind}, an encoder with a decoder, which is not modelled"
    known = {key for keys in ALIASES.values() for key in keys} | IGNORED
    strange = sorted(key for key in flat if key not in known)
    listed = f", nor are its keys {', '.join(strange[:12])}{' ...' if len(strange) > 12 else ''}" if strange else ""
    return f"{where}: the architecture {kind} is not known{listed}; {INSTEAD}"


def _refuse_unmodelled(config: Config) -> None:
    for key, feature in UNMODELLED.items():
        if config.data.get(key):
            raise Unsupported(f"{config.where} sets {key}, that is {feature}, which is not read from a config.json; "
                              f"{INSTEAD}")


def _with_notes(model: Model, config: Config, data: Mapping[str, Any]) -> Model:
    notes = list(dict.fromkeys(config.notes))
    known = {key for keys in ALIASES.values() for key in keys} | IGNORED | set(UNMODELLED)
    if strange := sorted(key for key, value in config.data.items() if key not in known and value not in (None, False)):
        notes.append(f"keys not read, because nothing is known about them: {', '.join(strange)}")
    quantization = data.get("quantization_config") or config.data.get("quantization_config")
    if isinstance(quantization, Mapping):
        method = quantization.get("quant_method") or quantization.get("quant_algo") or "unnamed"
        notes.append(f"the weights are published quantised ({method}); what a run computes in is up to its recipe")
    if data.get("vision_config") or data.get("audio_config"):
        notes.append("the parts that read images or sound are not counted")
    return replace(model, notes=tuple(notes))


def _slug(data: Mapping[str, Any], where: str) -> str:
    """An id made from the name in the file, the folder of a config.json, or the name of the file."""
    path = PurePath(where)
    name = PurePath(str(data.get("_name_or_path") or "")).name or (
        path.parent.name if path.name == "config.json" else path.stem)
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-") or str(data.get("model_type") or "model").lower()


# ---------------------------------------------------------------- layers
def _layers(config: Config, hidden: int) -> list[LayerKind]:
    number = config.needed("layers")
    if number > 10_000:
        raise OutOfRange(f"{config.where}, {config.key('layers')} is {number}, more layers than any model has")
    parallel = config.family.parallel or (config.flag("parallel", False) if "parallel" in config.family.defaults
                                          else False)
    return [LayerKind(mixer, ffn, parallel, config.family.post_norm)
            for mixer, ffn in zip(_mixers(config, hidden, number), _ffns(config, hidden, number), strict=True)]


def _mixers(config: Config, hidden: int, number: int) -> list[Mixer]:
    """The mixer of each layer, first to last."""
    types = [str(name) for name in config.items("layer_types", number)] or _unlisted_types(config, number)
    made: dict[str, Mixer] = {name: _mixer_of(config, hidden, name) for name in dict.fromkeys(types)}
    reuses = [entry == "shared" for entry in config.items("indexers", number)] or [False] * number
    return [_without_indexer(made[name]) if reuse else made[name] for name, reuse in zip(types, reuses, strict=True)]


def _without_indexer(mixer: Mixer) -> Mixer:
    """The same mixer, reading the tokens that a layer below has selected."""
    return replace(mixer, index_heads=0, index_head_dim=0) if isinstance(mixer, Attention) else mixer


def _unlisted_types(config: Config, number: int) -> list[str]:
    """Types of the layers where the file has no list of them."""
    if interval := config.number("full_interval"):
        return ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(number)]
    if config.number("chunk"):
        return _chunked_types(config, number)
    if any(kind != 1 for kind in config.items("attention_types", number)):
        raise Unsupported(f"{config.where} has layers of lightning attention (attn_type_list), which is not modelled")
    if not _window(config):
        return ["full_attention"] * number
    period = config.number("window_pattern")
    return ["full_attention" if period and (i + 1) % period == 0 else "sliding_attention" for i in range(number)]


def _chunked_types(config: Config, number: int) -> list[str]:
    """Llama 4: layers without rotary positions attend to everything, the others inside chunks."""
    rotary = config.items("rope_layers", number) if config.get("rope_layers") else []
    interval = config.number("rope_interval") or 4
    full = [not value for value in rotary] or [(i + 1) % interval == 0 for i in range(number)]
    return ["full_attention" if whole else "chunked_attention" for whole in full]


def _window(config: Config) -> int:
    """Window of the sliding layers, 0 if there is none or it is switched off [tokens]."""
    value = config.get("window")
    if value is None or value is False or value == -1 or not config.flag("use_window", True):
        return 0
    return count(value, f"{config.where}, {config.key('window')}", zero=True)


def _mixer_of(config: Config, hidden: int, name: str) -> Mixer:
    if name in FULL:
        return _attention(config, hidden)
    if name in WINDOWS:
        return _attention(config, hidden, window=_window(config))
    if name == "chunked_attention":
        return _attention(config, hidden, window=config.needed("chunk"), chunked=True)
    if name == "linear_attention":
        return LinearAttention(config.needed("linear_qk_heads"), config.needed("linear_v_heads"), config.needed(
            "linear_qk_head_dim"), config.needed("linear_v_head_dim"), config.needed("linear_conv"))
    raise Unsupported(f"{config.where} has layers of type {shown(name)}, which are not modelled; {INSTEAD}")


def _attention(config: Config, hidden: int, window: int = 0, chunked: bool = False) -> Attention:
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


# ---------------------------------------------------------------- feed-forward parts
def _ffns(config: Config, hidden: int, number: int) -> list[Ffn]:
    """The feed-forward part of each layer, first to last."""
    routed = _is_moe(config, number) if config.number("experts") > 1 else [False] * number
    moe = _moe(config) if any(routed) else None
    dense = None if all(routed) else _mlp(config, hidden)
    return [moe if chosen else dense for chosen in routed]


def _is_moe(config: Config, number: int) -> list[bool]:
    first, step = config.number("dense_first"), config.number("moe_step") or 1
    excepted = config.get("dense_layers") or []
    frequency = config.get("moe_frequency")
    if named := config.items("moe_types", number):
        return [entry in ("sparse", "moe") for entry in named]
    if isinstance(frequency, list):
        chosen = [bool(entry) for entry in config.items("moe_frequency", number)]
    else:
        every = 1 if frequency is None else count(frequency, f"{config.where}, moe_layer_freq")
        chosen = [i % every == 0 for i in range(number)]
    if not isinstance(excepted, list):
        raise BadQuantity(f"{config.where}, mlp_only_layers is {shown(excepted)} where a list of layers belongs")
    return [chosen[i] and i >= first and i not in excepted and (i + 1) % step == 0 for i in range(number)]


def _mlp(config: Config, hidden: int) -> Mlp:
    width = config.number("dense_width") or config.number("width")
    if not width and config.family.gated:
        config.needed("width")
    bias = False if config.flag("no_bias", False) else config.family.mlp_bias
    return Mlp(width or hidden * (config.number("expansion") or 4), config.family.gated, config.flag("mlp_bias", bias))


def _moe(config: Config) -> Moe:
    """The MoE part; shared experts are stated as one width, as a number of experts, or fixed by the architecture."""
    shares = config.family.experts_share_width and not config.number("expert_width")
    width = config.needed("width" if shares else "expert_width")
    each = config.number("shared_each") or width
    shared = config.number("shared_width") or each * (config.number("shared") or config.family.shared)
    return Moe(config.needed("experts"), config.needed("top_k"), width, config.family.gated, shared,
               config.number("latent"))


def _block_layers(config: Config, hidden: int) -> list[LayerKind]:
    """Hybrids of single-mixer blocks, listed by letter or by name: M mamba, * attention, E moe, - mlp."""
    pattern = config.get("pattern") or config.get("blocks")
    if not isinstance(pattern, str | list) or not 0 < len(pattern) <= 10_000:
        raise BadQuantity(f"{config.where}, {config.key('pattern')} is {shown(pattern)} where one letter per layer "
                          "belongs")
    names = [BLOCKS.get(str(block), str(block)) for block in pattern]
    if config.number("layers") not in (0, len(names)):
        raise BadQuantity(f"{config.where} has {config.number('layers')} layers but {len(names)} in its pattern")
    made = {name: _block(config, hidden, name) for name in dict.fromkeys(names)}
    return [made[name] for name in names]


def _block(config: Config, hidden: int, name: str) -> LayerKind:
    if name == "mamba":
        return LayerKind(_mamba(config), None)
    if name == "attention":
        return LayerKind(_attention(config, hidden), None)
    if name not in ("moe", "mlp"):
        raise Unsupported(f"{config.where} has layers of kind {name!r}, which are not modelled; {INSTEAD}")
    return LayerKind(None, _moe(config) if name == "moe" else _mlp(config, hidden))


def _mamba(config: Config) -> Mamba:
    return Mamba(config.needed("mamba_heads"), config.needed("mamba_head_dim"), config.needed("mamba_state"),
                 config.needed("mamba_groups"), config.number("mamba_conv") or 4, config.number("mamba_chunk") or 256)


def _positional(config: Config) -> str:
    if config.family.positional == "alibi" or config.flag("alibi", False):
        return "alibi"
    return "rope" if config.get("learned") is False else config.family.positional
