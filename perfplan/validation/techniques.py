"""Techniques and published systems as data: what a file in `catalogs/techniques/` says, and how it changes a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from perfplan.errors import CatalogError, UnknownName, offer

__all__ = ["KINDS", "Published", "Technique", "apply", "technique_from_yaml"]

KINDS = ("exact", "calibrated", "trend")
_KEYS = ("id", "name", "source", "summary", "changes", "layout", "requires", "published", "contradicted", "notes")
_BLOCK = ("quantity", "inputs", "rows", "unit", "kind", "tolerance", "reason", "mean_tolerance")
_TARGETS = ("model", "recipe", "framework", "attention", "overlap", "cluster")


@dataclass(frozen=True)
class Published:
    """One published figure. quantity: a formula's name or `step_time`; tolerance: "3.5 %", "0.3 points" or a quantity;
    mean_tolerance: limit of the mean absolute error of the rows of the same `block`, "" = none.
    """

    name: str
    quantity: str
    inputs: Mapping[str, Any]
    value: Any
    unit: str
    kind: str
    tolerance: str
    reason: str
    block: int
    mean_tolerance: str = ""


@dataclass(frozen=True)
class Technique:
    """A technique or system. changes: dotted fields of a job and their values; layout: tokens that it fixes; requires:
    conditions in words; contradicted: figures of the source that contradict each other, recorded and not tested.
    """

    id: str
    name: str
    source: str
    summary: str
    changes: Mapping[str, Any]
    layout: str
    requires: tuple[str, ...]
    published: tuple[Published, ...]
    contradicted: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def technique_from_yaml(data: Mapping[str, Any], where: str) -> Technique:
    """The technique that the mapping `data` describes; `where` names the file in messages."""
    _check_keys(data, _KEYS, where)
    for key in ("id", "name", "source", "summary"):
        if not isinstance(data.get(key), str):
            raise CatalogError(f"{where}: {key} is missing or not a text")
    changes = data.get("changes") or {}
    blocks = data.get("published") or []
    if not isinstance(changes, Mapping) or not isinstance(blocks, list):
        raise CatalogError(f"{where}: changes is a mapping and published a list")
    rows = [row for i, block in enumerate(blocks) for row in _published(block, i, f"{where}: published[{i}]")]
    words = {key: tuple(map(str, data.get(key) or ())) for key in ("requires", "notes")}
    return Technique(
        data["id"],
        data["name"],
        data["source"],
        data["summary"],
        dict(changes),
        str(data.get("layout", "")),
        words["requires"],
        tuple(rows),
        tuple(data.get("contradicted") or ()),
        words["notes"],
    )


def _check_keys(data: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(data, Mapping):
        raise CatalogError(f"{where}: holds no mapping")
    for key in data:
        if key not in known:
            raise CatalogError(f"{where}: unknown field {key!r}{offer(str(key), known)}")


def _published(block: Any, index: int, where: str) -> list[Published]:
    """The rows of one block: they share quantity, unit, kind, tolerance and the inputs that `inputs` names."""
    _check_keys(block, _BLOCK, where)
    missing = [key for key in ("quantity", "rows", "unit", "kind", "tolerance", "reason") if key not in block]
    if missing:
        raise CatalogError(f"{where}: lacks {', '.join(missing)}")
    if block["kind"] not in KINDS:
        raise CatalogError(f"{where}: kind {block['kind']!r} is none of {', '.join(KINDS)}")
    shared = block.get("inputs") or {}
    found = []
    for row in block["rows"]:
        if not isinstance(row, Mapping) or not {"name", "value"} <= set(row):
            raise CatalogError(f"{where}: every row needs a name and a value")
        own = {key: value for key, value in row.items() if key not in ("name", "value")}
        found.append(
            Published(
                str(row["name"]),
                block["quantity"],
                {**shared, **own},
                row["value"],
                str(block["unit"]),
                block["kind"],
                str(block["tolerance"]),
                block["reason"],
                index,
                str(block.get("mean_tolerance", "")),
            )
        )
    return found


def apply(technique: Technique | Mapping[str, Any], job: Any) -> Any:
    """`job` (a frozen dataclass) with every field changed that the technique, or the mapping of its file, names.

    A path such as `framework.overlap.tp` walks fields and mappings; `model.kinds.*.parallel` reaches every entry of a
    tuple.
    """
    if not isinstance(technique, Technique):
        technique = technique_from_yaml(technique, f"technique {technique.get('id', '')}")
    for path, value in technique.changes.items():
        parts = str(path).split(".")
        if parts[0] not in _TARGETS:
            raise UnknownName(f"technique {technique.id}: a change cannot reach {path!r}{offer(parts[0], _TARGETS)}")
        job = _changed(job, parts, value, f"technique {technique.id}: {path}")
    return job


def _changed(spec: Any, path: list[str], value: Any, where: str) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if isinstance(spec, tuple) and name == "*":
        return tuple(_changed(entry, rest, value, where) for entry in spec)
    if isinstance(spec, Mapping):
        return {**spec, name: _changed(spec.get(name), rest, value, where)}
    if is_dataclass(spec) and not isinstance(spec, type):
        names = [field.name for field in fields(spec)]
        if name not in names:
            raise UnknownName(f"{where}: there is no field {name!r}{offer(name, names)}")
        return replace(spec, **{name: _changed(getattr(spec, name), rest, value, where)})
    raise UnknownName(f"{where}: there is nothing at {name!r}")
