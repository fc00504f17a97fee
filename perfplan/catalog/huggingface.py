"""Hugging Face `config.json` files: the mapping in, a frozen `Model` out.

The file states dimensions under many names (`ALIASES`) and leaves to the code of the architecture what `FAMILIES` says.
A feature that is not modelled is an error that names it; a key that nobody here knows is a note on the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from perfplan.catalog.huggingface_keys import ALIASES, FAMILIES, FLATTENED, IGNORED, NESTED, SPECIAL, UNMODELLED
from perfplan.catalog.huggingface_parts import INSTEAD, Config, Ffn, Mixer, attention, mamba, mlp, moe, window_of
from perfplan.catalog.huggingface_special import MIXERS, searched_layers
from perfplan.catalog.models import check_model
from perfplan.catalog.quantised import published_format
from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Model
from perfplan.catalog.values import count, shown
from perfplan.errors import BadQuantity, CatalogError, OutOfRange, Unsupported

__all__ = ["model_from_config"]

BLOCKS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
FULL = {"full_attention", "deepseek_sparse_attention", "global", "attention"}
WINDOWS = {"sliding_attention", "local_attention", "local"}


def model_from_config(data: Any, where: str) -> Model:
    """The language model that the mapping `data` of a `config.json` describes; `where` names the file in errors."""
    config = _open(data, where)
    _refuse_unmodelled(config)
    hidden = config.needed("hidden")
    if config.get("projection") not in (None, hidden):
        raise Unsupported(f"{where} sets word_embed_proj_dim = {shown(config.data['word_embed_proj_dim'])}, embeddings "
                          "narrower than the model, which is not modelled")
    layers = LAYERS.get(config.kind, _layers)(config, hidden)
    kinds = tuple(dict.fromkeys(layers))
    model = Model(
        id=_slug(data, where), name=str(data.get("_name_or_path") or _slug(data, where)), hidden=hidden,
        dtype=published_format({**config.data, **data}) or "bf16",
        vocab=config.needed("vocab"), tied=config.flag("tied", config.family.tied), kinds=kinds,
        layers=tuple(kinds.index(kind) for kind in layers), max_position=config.number("max_position"),
        norm=config.family.norm, positional=_positional(config),
        residual_streams=config.number("streams") or 1, mtp_layers=config.number("mtp"),
        mtp_block=_mtp_block(config, hidden, kinds),
        sources={"dimensions": where, "confidence": "read"}, notes=())
    return check_model(_with_notes(model, config, data), where)


def _mtp_block(config: Config, hidden: int, kinds: tuple[LayerKind, ...]) -> tuple[int, ...]:
    """Kinds of the layers of a multi-token-prediction module, where a hybrid lists them."""
    pattern = config.get("mtp_pattern")
    if config.kind not in LAYERS or not isinstance(pattern, str | list):
        return ()
    made = [_block(config, hidden, BLOCKS.get(str(block), str(block))) for block in pattern[:64]]
    if strange := [kind for kind in made if kind not in kinds]:
        raise Unsupported(f"{config.where} has a multi-token-prediction module with a layer that the model does not"
                          f" have, {type(strange[0].mixer or strange[0].ffn).__name__}, which is not modelled")
    return tuple(kinds.index(kind) for kind in made)


# ---------------------------------------------------------------- opening the file
def _open(data: Any, where: str) -> Config:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise CatalogError(f"{where} holds {shown(data)} where the configuration of a language model belongs")
    if not (data.get("model_type") or data.get("architectures")):
        raise CatalogError(f"{where} is not the configuration of a language model: it has neither model_type nor "
                           "architectures")
    nested = next((data[key] for key in NESTED if isinstance(data.get(key), Mapping)), None)
    flat: dict[str, Any] = {str(key): value for key, value in (data if nested is None else nested).items()}
    for key in FLATTENED:
        inner = flat.pop(key, None)
        flat |= {} if not isinstance(inner, Mapping) else {str(name): inner[name] for name in inner if name not in flat}
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
    for name, kinds in SPECIAL.items():
        if config.kind not in kinds and config.get(name):
            raise Unsupported(f"{config.where} sets {config.key(name)}, which is only read with {' and '.join(kinds)}, "
                              f"not with {config.kind}; {INSTEAD}")


def _with_notes(model: Model, config: Config, data: Mapping[str, Any]) -> Model:
    notes = list(dict.fromkeys(config.notes))
    known = {key for keys in ALIASES.values() for key in keys} | IGNORED | set(UNMODELLED)
    if strange := sorted(key for key, value in config.data.items() if key not in known and value not in (None, False)):
        notes.append(f"keys not read, because nothing is known about them: {', '.join(strange)}")
    quantization = data.get("quantization_config") or config.data.get("quantization_config")
    if isinstance(quantization, Mapping):
        method = quantization.get("quant_method") or quantization.get("quant_algo") or "unnamed"
        unknown = published_format({"quantization_config": quantization}) is None
        notes.append(f"the weights are published quantised ({method}); " + (
            "that method is not modelled, two bytes a weight are taken" if unknown
            else "what a training run computes in is up to its recipe"))
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
    if config.kind in MIXERS:
        return MIXERS[config.kind](config, hidden, number)
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
    if not window_of(config):
        return ["full_attention"] * number
    period = config.number("window_pattern")
    return ["full_attention" if period and (i + 1) % period == 0 else "sliding_attention" for i in range(number)]


def _chunked_types(config: Config, number: int) -> list[str]:
    """Llama 4: layers without rotary positions attend to everything, the others inside chunks."""
    rotary = config.items("rope_layers", number) if config.get("rope_layers") else []
    interval = config.number("rope_interval") or 4
    full = [not value for value in rotary] or [(i + 1) % interval == 0 for i in range(number)]
    return ["full_attention" if whole else "chunked_attention" for whole in full]


def _mixer_of(config: Config, hidden: int, name: str) -> Mixer:
    if name in FULL:
        return attention(config, hidden)
    if name in WINDOWS:
        return attention(config, hidden, window=window_of(config))
    if name == "mamba":
        return mamba(config)
    if name == "chunked_attention":
        return attention(config, hidden, window=config.needed("chunk"), chunked=True)
    if name == "linear_attention":
        return LinearAttention(config.needed("linear_qk_heads"), config.needed("linear_v_heads"), config.needed(
            "linear_qk_head_dim"), config.needed("linear_v_head_dim"), config.needed("linear_conv"))
    raise Unsupported(f"{config.where} has layers of type {shown(name)}, which are not modelled; {INSTEAD}")


# ---------------------------------------------------------------- feed-forward parts
def _ffns(config: Config, hidden: int, number: int) -> list[Ffn]:
    """The feed-forward part of each layer, first to last."""
    routed = _is_moe(config, number) if config.number("experts") > 1 else [False] * number
    sparse = moe(config) if any(routed) else None
    dense = None if all(routed) else mlp(config, hidden)
    return [sparse if chosen else dense for chosen in routed]


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
        return LayerKind(mamba(config), None)
    if name == "attention":
        return LayerKind(attention(config, hidden), None)
    if name not in ("moe", "mlp"):
        raise Unsupported(f"{config.where} has layers of kind {name!r}, which are not modelled; {INSTEAD}")
    return LayerKind(None, moe(config) if name == "moe" else mlp(config, hidden))


LAYERS = {"nemotron_h": _block_layers, "nemotron-nas": searched_layers}
"""`model_type` -> its layers, where they are not one mixer and one feed-forward part each."""


def _positional(config: Config) -> str:
    if config.family.positional == "alibi" or config.flag("alibi", False):
        return "alibi"
    return "rope" if config.get("learned") is False else config.family.positional
