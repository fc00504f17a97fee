"""Placements that others made, in the forms of engines and researchers.

CSV with columns layer, expert, gpu (and gpus, where a file holds placements for several groups); a row per layer and a
column per expert of GPUs, as CSV without a heading or npy (ExFlow's arrays); JSON with `physical_to_logical_map`
[layer, slot] (SGLang's `--init-expert-location`, release 0.5.23 read) or `layer_list` (vLLM's Ascend plug-in,
`expert_map_path`, release 0.23.0 read). vLLM itself (0.33.0 read) takes no file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perfplan.errors import CatalogError, OutOfRange, SpecError
from perfplan.placement.read import cell_rows, id_column, load_npy, number_rows
from perfplan.placement.routing import Whole

__all__ = ["read_placement", "read_slots"]

_PLACED = ("layer", "expert", "gpu")


def read_placement(path: str | Path, layers: Sequence[int], experts: int, gpus: int) -> Whole:
    """GPUs [routed layer, expert] of a placement without replicas. layers: where the routed ones stand in the model."""
    file = _existing(path)
    if file.suffix.lower() == ".json":
        table = _slots(file, layers, experts, gpus)
        if table.shape[1] != experts:
            raise SpecError(
                f"{file} has {table.shape[1]} slots a layer for {experts} experts, so replicas; score it with "
                "`perfplan replicate --evaluate`"
            )
        placed = np.empty_like(table)
        np.put_along_axis(placed, table, np.arange(experts)[None, :] // (experts // gpus), axis=1)
        return placed
    if file.suffix.lower() == ".npy":
        return _array(load_npy(file), layers, experts, gpus, str(file))
    return _csv(file, layers, experts, gpus)


def read_slots(path: str | Path, layers: Sequence[int], experts: int, gpus: int) -> Whole:
    """Experts by slot [routed layer, slot], the slots of a GPU side by side; replicas of an expert have several."""
    file = _existing(path)
    if file.suffix.lower() == ".json":
        return _slots(file, layers, experts, gpus)
    placed = read_placement(file, layers, experts, gpus)
    if (np.bincount(placed[0], minlength=gpus) != experts // gpus).any():
        raise SpecError(f"{file}: GPUs hold different numbers of experts, which are no slots")
    return np.argsort(placed, axis=1, kind="stable").astype(np.int64)


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        raise CatalogError(f"there is no file {file}; name a placement, a CSV with columns layer, expert, gpu")
    return file


def _csv(file: Path, layers: Sequence[int], experts: int, gpus: int) -> Whole:
    rows = cell_rows(file)
    head = [cell.lower() for cell in rows[0]]
    if all(cell.lstrip("-").isdigit() for cell in rows[0]):
        try:
            return _array(np.array(rows, dtype=np.int64), layers, experts, gpus, str(file))
        except ValueError:
            raise SpecError(
                f"{file} is no table of GPUs: a row per layer with one of each of {experts} experts"
            ) from None
    if not set(_PLACED) <= set(head):
        found = f"{', '.join(head[:8])}{' ...' * (len(head) > 8)}"
        raise SpecError(f"{file} has the columns {found}; a placement has {', '.join(_PLACED)}")
    cells = number_rows(rows, [head.index(name) for name in _PLACED], file)
    if "gpus" in head:
        cells = cells[number_rows(rows, [head.index("gpus")], file)[:, 0] == gpus]
    layer, expert, gpu = (
        id_column(cells[:, i], limit, name, str(file))
        for i, (name, limit) in enumerate((("layer", len(layers)), ("expert", experts), ("gpu", gpus)))
    )
    placed = np.full((len(layers), experts), -1)
    placed[layer, expert] = gpu
    if (placed < 0).any() or len(cells) != placed.size:
        raise SpecError(
            f"{file}: a placement has one row for each of {len(layers)} layers x {experts} experts, not {len(cells)}"
        )
    return placed


def _array(table: Any, layers: Sequence[int], experts: int, gpus: int, source: str) -> Whole:
    """ExFlow's array of GPUs [layer, expert]."""
    if not np.issubdtype(table.dtype, np.integer):
        raise SpecError(f"{source}: GPUs are whole numbers")
    if table.shape != (len(layers), experts):
        raise SpecError(
            f"{source} is a table of {' x '.join(map(str, table.shape))}; a placement has {len(layers)} layers x "
            f"{experts} experts"
        )
    if table.min() < 0 or table.max() >= gpus:
        bad = table.min() if table.min() < 0 else table.max()
        raise OutOfRange(f"{source}: gpu {bad} is out of range; the gpus are 0 to {gpus - 1}")
    return np.asarray(table, dtype=np.int64)


def _slots(file: Path, layers: Sequence[int], experts: int, gpus: int) -> Whole:
    """Slots of the routed layers from JSON: rows of all layers of the model, or of the routed ones alone."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if "layer_list" in document:
            rows = [
                [e for device in sorted(layer["device_list"], key=_device) for e in device["device_expert"]]
                for layer in document["layer_list"]
            ]
        else:
            rows = document["physical_to_logical_map"]
        table = np.array(rows, dtype=np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{file} holds no physical_to_logical_map [layer, slot] and no layer_list") from error
    if table.ndim == 2 and len(table) > max(layers):
        table = table[list(layers)]
    if table.ndim != 2 or len(table) != len(layers) or table.shape[1] < experts or table.shape[1] % gpus:
        raise SpecError(
            f"{file} is a table of {' x '.join(map(str, table.shape))}; slots have {len(layers)} layers x at least "
            f"{experts} slots, as many on each of {gpus} GPUs"
        )
    id_column(table.ravel().astype(float), experts, "expert", str(file))
    lost = [(i, e) for i, row in enumerate(table) for e in np.setdiff1d(np.arange(experts), row)]
    if lost:
        raise SpecError(f"{file}: layer {lost[0][0]} has no slot of expert {lost[0][1]}; every expert needs one")
    return table


def _device(device: Any) -> int:
    return int(device["device_id"])
