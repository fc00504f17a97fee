"""Model files: a YAML mapping in, a frozen `Model` out.

A file names the parts of its layers once (`parts`), puts them together as kinds of layer (`kinds`: a mixer and a
feed-forward part, either may be absent) and lists the layers from the first to the last (`layers`): runs of one kind,
repeated groups of runs, or a pattern with one letter, the name of a kind, per layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Mamba, Mlp, Model, Moe
from perfplan.catalog.values import choice, count, flag, known_keys, mapping, required, shown, text, texts
from perfplan.errors import BadQuantity, CatalogError, Indivisible, MissingField, OutOfRange, UnknownName, offer

__all__ = ["KEYS", "check_model", "hf_names", "model_from_yaml"]

Part = Attention | Mamba | LinearAttention | Mlp | Moe
PARTS: dict[str, type[Part]] = {"attention": Attention, "mamba": Mamba, "linear_attention": LinearAttention,
                                "mlp": Mlp, "moe": Moe}
KEYS = ("id", "name", "hf_name", "hf_aliases", "dtype", "hidden", "vocab", "tied", "max_position", "norm", "positional",
        "mtp_layers", "mtp_shared", "mtp_block", "residual_streams", "parts", "kinds", "layers", "published", "source",
        "confidence", "notes")
NORMS = ("rms", "layer")
POSITIONS = ("rope", "learned", "alibi", "relative", "none")
CONFIDENCE = ("read", "recalled", "assumed")
MOST_LAYERS = 10_000


def model_from_yaml(data: Any, where: str) -> Model:
    """The model that the mapping `data` of a model file describes; `where` names the file in error messages."""
    if not isinstance(data, Mapping):
        raise CatalogError(f"{where} holds {shown(data)} where a mapping that describes a model belongs")
    known_keys(data, KEYS, where)
    parts = {name: _part(entry, f"{where}, parts.{name}") for name, entry in mapping(data, "parts", where).items()}
    kinds = {str(name): _kind(entry, parts, f"{where}, kinds.{name}")
             for name, entry in mapping(data, "kinds", where).items()}
    names = list(_names(required(data, "layers", where), kinds, where))
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    if unused := [name for name in kinds if name not in order]:
        raise CatalogError(f"{where} defines the layer kind {unused[0]} but no layer is of that kind")
    published = mapping(data, "published", where) if "published" in data else {}
    known_keys(published, ("total", "active"), f"{where}, published")
    model = Model(
        id=text(data, "id", where), name=text(data, "name", where), dtype=str(data.get("dtype", "bf16")),
        hidden=count(required(data, "hidden", where), f"{where}, hidden"),
        vocab=count(required(data, "vocab", where), f"{where}, vocab"),
        tied=flag(required(data, "tied", where), f"{where}, tied"),
        kinds=tuple(kinds[name] for name in order), layers=tuple(order[name] for name in names),
        max_position=count(data.get("max_position", 0), f"{where}, max_position", zero=True),
        norm=choice(data.get("norm", "rms"), NORMS, f"{where}, norm"),
        positional=choice(data.get("positional", "rope"), POSITIONS, f"{where}, positional"),
        mtp_layers=count(data.get("mtp_layers", 0), f"{where}, mtp_layers", zero=True),
        mtp_shared=flag(data.get("mtp_shared", False), f"{where}, mtp_shared"),
        mtp_block=_block(data, kinds, order, where),
        residual_streams=count(data.get("residual_streams", 1), f"{where}, residual_streams"),
        published_params=_published(published, "total", where),
        published_active=_published(published, "active", where),
        sources={"dimensions": text(data, "source", where), "confidence": choice(
            required(data, "confidence", where), CONFIDENCE, f"{where}, confidence")},
        notes=texts(data, "notes", where))
    return check_model(model, where)


def _block(data: Mapping[str, Any], kinds: Mapping[str, LayerKind], order: Mapping[str, int], where: str
           ) -> tuple[int, ...]:
    """Kinds of the layers of a multi-token-prediction module."""
    names = texts(data, "mtp_block", where)
    for name in names:
        if name not in order:
            raise UnknownName(f"{where}, mtp_block names the layer kind {name!r}, which no layer is"
                              f"{offer(name, kinds)}")
    return tuple(order[name] for name in names)


def hf_names(data: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Names on the Hugging Face hub of the checkpoints with the architecture in `data`, the main one first."""
    main = (str(data["hf_name"]),) if data.get("hf_name") else ()
    return main + texts(data, "hf_aliases", where)


def check_model(model: Model, where: str) -> Model:
    """`model` itself, or an error that names the first dimension that makes no sense."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", model.id):
        raise CatalogError(f"{where}: the id {model.id!r} is not made of lower-case letters, digits, '.', '-' and '_'")
    if not 0 < len(model.layers) <= MOST_LAYERS:
        raise OutOfRange(f"{where}: a model has 1 to {MOST_LAYERS} layers, not {len(model.layers)}")
    for kind in model.kinds:
        if isinstance(kind.mixer, Attention):
            _check_attention(kind.mixer, where)
        if isinstance(kind.mixer, Mamba) and kind.mixer.heads % kind.mixer.groups:
            raise Indivisible(f"{where}: {kind.mixer.groups} groups do not divide {kind.mixer.heads} Mamba heads")
        if isinstance(kind.ffn, Moe):
            _check_routing(kind.ffn, where)
    return model


def _check_attention(part: Attention, where: str) -> None:
    if part.heads % part.kv_heads:
        raise Indivisible(f"{where}: {part.kv_heads} key/value heads do not divide {part.heads} query heads")
    if part.kv_lora_rank and part.head_dim != part.qk_nope_head_dim + part.qk_rope_head_dim:
        raise OutOfRange(f"{where}: head_dim {part.head_dim} is not the sum of qk_nope_head_dim "
                         f"{part.qk_nope_head_dim} and qk_rope_head_dim {part.qk_rope_head_dim}")
    if part.chunked and not part.window:
        raise MissingField(f"{where}: chunked attention needs the chunk length as its window")


def _check_routing(part: Moe, where: str) -> None:
    if part.top_k > part.experts:
        raise OutOfRange(f"{where}: a token cannot go to {part.top_k} of {part.experts} experts")
    if part.groups < 1 or part.experts % part.groups:
        raise Indivisible(f"{where}: {part.groups} groups do not divide {part.experts} experts")
    if part.group_limit > part.groups:
        raise OutOfRange(f"{where}: a token cannot pick from {part.group_limit} of {part.groups} groups of experts")
    if 0 < part.group_limit * (part.experts // part.groups) < part.top_k:
        raise OutOfRange(f"{where}: {part.group_limit} of {part.groups} groups hold fewer experts than the {part.top_k}"
                         " that a token goes to")


def _part(entry: Any, where: str) -> Part:
    if not isinstance(entry, Mapping):
        raise CatalogError(f"{where} is {shown(entry)} where a mapping with a type belongs")
    kind = PARTS[choice(required(entry, "type", where), tuple(PARTS), f"{where}, type")]
    known = {field.name: field for field in fields(kind)}
    known_keys(entry, ("type", *known), where)
    values: dict[str, Any] = {}
    for name, field in known.items():
        at = f"{where}, {name}"
        if name not in entry:
            if field.default is MISSING:
                raise MissingField(f"{at} is missing")
        elif field.type == "bool":
            values[name] = flag(entry[name], at)
        else:
            values[name] = count(entry[name], at, zero=field.default == 0)
    return kind(**values)


def _kind(entry: Any, parts: Mapping[str, Part], where: str) -> LayerKind:
    if not isinstance(entry, Mapping):
        raise CatalogError(f"{where} is {shown(entry)} where a mapping with a mixer and an ffn belongs")
    known_keys(entry, ("mixer", "ffn", "parallel", "post_norm"), where)
    mixer, ffn = (_of(parts, entry.get(role), f"{where}, {role}") for role in ("mixer", "ffn"))
    if isinstance(mixer, Mlp | Moe) or isinstance(ffn, Attention | Mamba | LinearAttention):
        raise CatalogError(f"{where} has a feed-forward part as mixer or a mixer as ffn")
    if mixer is None and ffn is None:
        raise MissingField(f"{where} has neither a mixer nor an ffn")
    return LayerKind(mixer, ffn, flag(entry.get("parallel", False), f"{where}, parallel"),
                     flag(entry.get("post_norm", False), f"{where}, post_norm"))


def _of(parts: Mapping[str, Part], name: Any, where: str) -> Part | None:
    if name is None:
        return None
    if str(name) not in parts:
        raise UnknownName(f"{where} names the part {name!r}, which is not under parts{offer(str(name), parts)}")
    return parts[str(name)]


def _names(layers: Any, kinds: Mapping[str, LayerKind], where: str, depth: int = 0) -> Iterable[str]:
    """The kind of each layer, by name, first to last."""
    if not isinstance(layers, list) or not layers or depth > 3:
        raise CatalogError(f"{where}, layers is {shown(layers)} where a list of runs of layers belongs")
    names: list[str] = []
    for run in layers:
        names += _run(run, kinds, f"{where}, layers", depth)
        if len(names) > MOST_LAYERS:
            raise OutOfRange(f"{where}, layers lists more than {MOST_LAYERS} layers")
    return names


def _run(run: Any, kinds: Mapping[str, LayerKind], where: str, depth: int) -> list[str]:
    """One entry of `layers`: {kind, count}, {pattern} or {repeat, of}."""
    if not isinstance(run, Mapping):
        raise CatalogError(f"{where} holds {shown(run)} where a run such as {{kind: dense, count: 3}} belongs")
    if "repeat" in run:
        known_keys(run, ("repeat", "of"), where)
        group = list(_names(required(run, "of", where), kinds, where, depth + 1))
        return group * min(count(run["repeat"], f"{where}, repeat"), MOST_LAYERS)
    if "pattern" in run:
        known_keys(run, ("pattern",), where)
        names = list(str(run["pattern"]))
    else:
        known_keys(run, ("kind", "count"), where)
        names = [str(required(run, "kind", where))] * min(count(run.get("count", 1), f"{where}, count"),
                                                           MOST_LAYERS + 1)
    for name in dict.fromkeys(names):
        if name not in kinds:
            raise UnknownName(f"{where} names the layer kind {name!r}, which is not under kinds{offer(name, kinds)}")
    return names


def _published(data: Mapping[str, Any], key: str, where: str) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 10**15:
        raise BadQuantity(f"{where}, published.{key} is {shown(value)} where a number of parameters belongs")
    return float(value)
