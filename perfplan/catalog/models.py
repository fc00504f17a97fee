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
from perfplan.errors import BadQuantity, CatalogError, Indivisible, MissingField, OutOfRange, UnknownName, offer

__all__ = ["check_model", "model_from_yaml"]

Part = Attention | Mamba | LinearAttention | Mlp | Moe
PARTS: dict[str, type[Part]] = {"attention": Attention, "mamba": Mamba, "linear_attention": LinearAttention,
                                "mlp": Mlp, "moe": Moe}
KEYS = ("id", "name", "hf_name", "hidden", "vocab", "tied", "max_position", "norm", "positional", "mtp_layers",
        "residual_streams", "parts", "kinds", "layers", "published", "source", "confidence", "notes")
NORMS = ("rms", "layer")
POSITIONS = ("rope", "learned", "alibi", "relative", "none")
CONFIDENCE = ("read", "recalled", "assumed")
LARGEST = 10**8  # no width, vocabulary, position or expert count of a model comes near
MOST_LAYERS = 10_000


def model_from_yaml(data: Any, where: str) -> Model:
    """The model that the mapping `data` of a model file describes; `where` names the file in error messages."""
    if not isinstance(data, Mapping):
        raise CatalogError(f"{where} holds {_shown(data)} where a mapping that describes a model belongs")
    _known(data, KEYS, where)
    parts = {name: _part(entry, f"{where}, parts.{name}") for name, entry in _mapping(data, "parts", where).items()}
    kinds = {str(name): _kind(entry, parts, f"{where}, kinds.{name}")
             for name, entry in _mapping(data, "kinds", where).items()}
    names = list(_names(_required(data, "layers", where), kinds, where))
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    if unused := [name for name in kinds if name not in order]:
        raise CatalogError(f"{where} defines the layer kind {unused[0]} but no layer is of that kind")
    published = _mapping(data, "published", where) if "published" in data else {}
    _known(published, ("total", "active"), f"{where}, published")
    model = Model(
        id=_text(data, "id", where), name=_text(data, "name", where), hf_name=str(data.get("hf_name", "")),
        hidden=_count(_required(data, "hidden", where), f"{where}, hidden"),
        vocab=_count(_required(data, "vocab", where), f"{where}, vocab"),
        tied=_flag(_required(data, "tied", where), f"{where}, tied"),
        kinds=tuple(kinds[name] for name in order), layers=tuple(order[name] for name in names),
        max_position=_count(data.get("max_position", 0), f"{where}, max_position", zero=True),
        norm=_choice(data.get("norm", "rms"), NORMS, f"{where}, norm"),
        positional=_choice(data.get("positional", "rope"), POSITIONS, f"{where}, positional"),
        mtp_layers=_count(data.get("mtp_layers", 0), f"{where}, mtp_layers", zero=True),
        residual_streams=_count(data.get("residual_streams", 1), f"{where}, residual_streams"),
        published_params=_published(published, "total", where),
        published_active=_published(published, "active", where),
        sources={"dimensions": _text(data, "source", where), "confidence": _choice(
            _required(data, "confidence", where), CONFIDENCE, f"{where}, confidence")},
        notes=_notes(data, where))
    return check_model(model, where)


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
        if isinstance(kind.ffn, Moe) and kind.ffn.top_k > kind.ffn.experts:
            raise OutOfRange(f"{where}: a token cannot go to {kind.ffn.top_k} of {kind.ffn.experts} experts")
    return model


def _check_attention(part: Attention, where: str) -> None:
    if part.heads % part.kv_heads:
        raise Indivisible(f"{where}: {part.kv_heads} key/value heads do not divide {part.heads} query heads")
    if part.kv_lora_rank and part.head_dim != part.qk_nope_head_dim + part.qk_rope_head_dim:
        raise OutOfRange(f"{where}: head_dim {part.head_dim} is not the sum of qk_nope_head_dim "
                         f"{part.qk_nope_head_dim} and qk_rope_head_dim {part.qk_rope_head_dim}")
    if part.chunked and not part.window:
        raise MissingField(f"{where}: chunked attention needs the chunk length as its window")


def _part(entry: Any, where: str) -> Part:
    if not isinstance(entry, Mapping):
        raise CatalogError(f"{where} is {_shown(entry)} where a mapping with a type belongs")
    kind = PARTS[_choice(_required(entry, "type", where), tuple(PARTS), f"{where}, type")]
    known = {field.name: field for field in fields(kind)}
    _known(entry, ("type", *known), where)
    values: dict[str, Any] = {}
    for name, field in known.items():
        at = f"{where}, {name}"
        if name not in entry:
            if field.default is MISSING:
                raise MissingField(f"{at} is missing")
        elif field.type == "bool":
            values[name] = _flag(entry[name], at)
        else:
            values[name] = _count(entry[name], at, zero=field.default == 0)
    return kind(**values)


def _kind(entry: Any, parts: Mapping[str, Part], where: str) -> LayerKind:
    if not isinstance(entry, Mapping):
        raise CatalogError(f"{where} is {_shown(entry)} where a mapping with a mixer and an ffn belongs")
    _known(entry, ("mixer", "ffn", "parallel", "post_norm"), where)
    mixer, ffn = (_of(parts, entry.get(role), f"{where}, {role}") for role in ("mixer", "ffn"))
    if isinstance(mixer, Mlp | Moe) or isinstance(ffn, Attention | Mamba | LinearAttention):
        raise CatalogError(f"{where} has a feed-forward part as mixer or a mixer as ffn")
    if mixer is None and ffn is None:
        raise MissingField(f"{where} has neither a mixer nor an ffn")
    return LayerKind(mixer, ffn, _flag(entry.get("parallel", False), f"{where}, parallel"),
                     _flag(entry.get("post_norm", False), f"{where}, post_norm"))


def _of(parts: Mapping[str, Part], name: Any, where: str) -> Part | None:
    if name is None:
        return None
    if str(name) not in parts:
        raise UnknownName(f"{where} names the part {name!r}, which is not under parts{offer(str(name), parts)}")
    return parts[str(name)]


def _names(layers: Any, kinds: Mapping[str, LayerKind], where: str, depth: int = 0) -> Iterable[str]:
    """The kind of each layer, by name, first to last."""
    if not isinstance(layers, list) or not layers or depth > 3:
        raise CatalogError(f"{where}, layers is {_shown(layers)} where a list of runs of layers belongs")
    names: list[str] = []
    for run in layers:
        names += _run(run, kinds, f"{where}, layers", depth)
        if len(names) > MOST_LAYERS:
            raise OutOfRange(f"{where}, layers lists more than {MOST_LAYERS} layers")
    return names


def _run(run: Any, kinds: Mapping[str, LayerKind], where: str, depth: int) -> list[str]:
    """One entry of `layers`: {kind, count}, {pattern} or {repeat, of}."""
    if not isinstance(run, Mapping):
        raise CatalogError(f"{where} holds {_shown(run)} where a run such as {{kind: dense, count: 3}} belongs")
    if "repeat" in run:
        _known(run, ("repeat", "of"), where)
        group = list(_names(_required(run, "of", where), kinds, where, depth + 1))
        return group * min(_count(run["repeat"], f"{where}, repeat"), MOST_LAYERS)
    if "pattern" in run:
        _known(run, ("pattern",), where)
        names = list(str(run["pattern"]))
    else:
        _known(run, ("kind", "count"), where)
        names = [str(_required(run, "kind", where))] * min(_count(run.get("count", 1), f"{where}, count"),
                                                           MOST_LAYERS + 1)
    for name in dict.fromkeys(names):
        if name not in kinds:
            raise UnknownName(f"{where} names the layer kind {name!r}, which is not under kinds{offer(name, kinds)}")
    return names


# ---------------------------------------------------------------- single values
def _known(data: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in keys:
            raise UnknownName(f"{where} has an unknown field {key!r}{offer(str(key), keys)}")


def _required(data: Mapping[str, Any], key: str, where: str) -> Any:
    if data.get(key) is None:
        raise MissingField(f"{where} lacks the field {key}")
    return data[key]


def _mapping(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = _required(data, key, where)
    if not isinstance(value, Mapping):
        raise CatalogError(f"{where}, {key} is {_shown(value)} where a mapping belongs")
    return value


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = _required(data, key, where)
    if not isinstance(value, str) or not value.strip():
        raise CatalogError(f"{where}, {key} is {_shown(value)} where a text belongs")
    return value


def _notes(data: Mapping[str, Any], where: str) -> tuple[str, ...]:
    notes = data.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise CatalogError(f"{where}, notes is {_shown(notes)} where a list of texts belongs")
    return tuple(notes)


def _count(value: Any, where: str, *, zero: bool = False) -> int:
    """A whole number of elements, heads, layers ... within what any model has."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadQuantity(f"{where} is {_shown(value)} where a whole number belongs")
    if not (0 if zero else 1) <= value <= LARGEST:
        raise OutOfRange(f"{where} is {value}, outside {0 if zero else 1} to {LARGEST}")
    return value


def _published(data: Mapping[str, Any], key: str, where: str) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 10**15:
        raise BadQuantity(f"{where}, published.{key} is {_shown(value)} where a number of parameters belongs")
    return float(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise BadQuantity(f"{where} is {_shown(value)} where true or false belongs")
    return value


def _choice(value: Any, choices: tuple[str, ...], where: str) -> str:
    if value not in choices:
        raise UnknownName(f"{where} is {_shown(value)}{offer(str(value), choices)}")
    return str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
