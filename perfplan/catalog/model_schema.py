"""The JSON Schema of model files, made from the fields of the specs, for completion in editors."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from perfplan.catalog.models import CONFIDENCE, KEYS, NORMS, PARTS, POSITIONS, Part
from perfplan.catalog.values import LARGEST

__all__ = ["model_schema"]

TEXTS = {"type": "array", "items": {"type": "string"}}
REQUIRED = ["id", "name", "hidden", "vocab", "tied", "parts", "kinds", "layers", "source", "confidence"]


def model_schema() -> dict[str, Any]:
    """The JSON Schema of `catalogs/models/*.yaml`; `perfplan.catalog.models` checks more than it can say."""
    special: dict[str, Any] = {
        "tied": {"type": "boolean"}, "mtp_shared": {"type": "boolean"}, "mtp_block": TEXTS,
        "hf_aliases": TEXTS, "notes": TEXTS, "norm": {"enum": list(NORMS)},
        "positional": {"enum": list(POSITIONS)}, "confidence": {"enum": list(CONFIDENCE)},
        "parts": {"type": "object", "additionalProperties": {"oneOf": [
            _part(name, kind) for name, kind in PARTS.items()]}},
        "kinds": {"type": "object", "additionalProperties": _closed({
            "mixer": {"type": "string"}, "ffn": {"type": "string"}, "parallel": {"type": "boolean"},
            "post_norm": {"type": "boolean"}})},
        "layers": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/run"}},
        "published": _closed({"total": _count(1, 10**15), "active": _count(1, 10**15)})}
    texts = dict.fromkeys(("id", "name", "hf_name", "dtype", "source"), {"type": "string"})
    counts = {key: _count(1 if key in REQUIRED else 0) for key in KEYS if key not in texts and key not in special}
    return {"title": "Model", "$defs": {"run": _run()}, **_closed({**texts, **counts, **special}, REQUIRED)}


def _run() -> dict[str, Any]:
    """One entry of `layers`."""
    group = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/run"}}
    return {"oneOf": [_closed({"kind": {"type": "string"}, "count": _count(1)}, ["kind"]),
                      _closed({"pattern": {"type": "string"}}, ["pattern"]),
                      _closed({"repeat": _count(1), "of": group}, ["repeat", "of"])]}


def _part(name: str, kind: type[Part]) -> dict[str, Any]:
    """A part of the type `name`: the fields of its spec."""
    sizes = {field.name: {"type": "boolean"} if field.type == "bool" else _count(0 if field.default == 0 else 1)
             for field in fields(kind)}
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    return _closed({"type": {"const": name}, **sizes}, ["type", *needed])


def _count(low: int, high: int = LARGEST) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}
