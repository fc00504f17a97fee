"""Files of routing: traces (CSV, npy, parquet), loads and transition counts, told apart by their columns."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perfplan.errors import CatalogError, OutOfRange, SpecError, Unsupported
from perfplan.placement.routing import Array, Routing, from_loads, from_trace, from_transitions

__all__ = ["read_placement", "read_routing"]

_TRANSITIONS = ("layer", "from_expert", "to_expert", "tokens")
_LOADS = ("layer", "expert", "load")
_LONG = ("token", "layer", "expert")
_PLACED = ("layer", "expert", "gpu")


def read_routing(path: str | Path, experts: int | None = None) -> Routing:
    """The routing that a file holds. experts: experts of a layer; the highest id decides if none is given.

    CSV with columns layer, from_expert, to_expert, tokens: transition counts; layer, expert, load: loads; token, layer,
    expert: a trace; otherwise a trace with a row per token and a column per layer, whose cells hold one expert id, or
    several with blanks between them. npy and parquet hold a trace [token, layer] or [token, layer, pick].
    """
    file = Path(path)
    if not file.is_file():
        raise CatalogError(f"there is no file {file}; name a trace, loads or transition counts")
    match file.suffix.lower():
        case ".npy":
            return _trace(_npy(file), experts, str(file))
        case ".parquet":
            return _trace(_parquet(file), experts, str(file))
        case ".csv":
            return _csv(file, experts)
    raise Unsupported(f"{file}: a file of routing is a .csv, .npy or .parquet")


def _npy(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CatalogError(f"{file} is no array of NumPy: {error}") from error


def _parquet(file: Path) -> Any:
    import pandas as pd

    try:
        return pd.read_parquet(file).to_numpy()
    except ImportError as error:
        raise Unsupported(f"{file}: parquet needs pyarrow, which is not installed; save the trace as .npy") from error
    except (ValueError, OSError) as error:
        raise CatalogError(f"{file} is no parquet table: {error}") from error


def _trace(ids: Any, experts: int | None, source: str) -> Routing:
    if np.issubdtype(ids.dtype, np.floating) and np.isfinite(ids).all() and (ids == np.floor(ids)).all():
        ids = ids.astype(np.int64)
    whole = np.issubdtype(ids.dtype, np.integer) and ids.size
    return from_trace(ids, experts or (int(ids.max()) + 1 if whole else 1), source)


def _lines(file: Path) -> list[list[str]]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CatalogError(f"{file} is no CSV: {error}") from error
    if not rows:
        raise CatalogError(f"{file} is empty; a trace has a row per token")
    return rows


def _csv(file: Path, experts: int | None) -> Routing:
    rows = _lines(file)
    head = [cell.lower() for cell in rows[0]]
    for names, read in ((_TRANSITIONS, _transitions), (_LOADS, _loads), (_LONG, _long)):
        if set(names) <= set(head):
            cells = _numbers(rows, [head.index(name) for name in names], file)
            return read(cells, experts, str(file))
    return _wide(rows, experts, file)


def _numbers(rows: Sequence[Sequence[str]], columns: Sequence[int], file: Path) -> Array:
    """Cells of the named columns as numbers, and a sentence where one is none."""
    found = []
    for line, row in enumerate(rows[1:], start=2):
        try:
            found.append([float(row[column]) for column in columns])
        except (ValueError, IndexError):
            raise SpecError(
                f"{file}, line {line}: {','.join(row)!r} lacks a number in a column of "
                f"{', '.join(rows[0][column] for column in columns)}"
            ) from None
    if not found:
        raise SpecError(f"{file} has a heading and no rows")
    return np.array(found)


def _index(column: Array, limit: int | None, what: str, source: str) -> Any:
    """A column of ids as whole numbers from 0 to limit - 1."""
    bad = (column != np.floor(column)) | (column < 0) | (column >= (limit if limit is not None else np.inf))
    if bad.any():
        most = f"0 to {limit - 1}" if limit is not None else "whole numbers from 0 on"
        raise OutOfRange(f"{source}: {what} {column[bad][0]:g} is out of range; the {what}s are {most}")
    return column.astype(np.int64)


def _every_layer(table: Array, source: str) -> Array:
    empty = np.flatnonzero(table.reshape(len(table), -1).sum(axis=1) <= 0)
    if len(empty):
        raise SpecError(f"{source}: layer {empty[0]} routes no tokens; layers are counted from 0 without gaps")
    return table


def _transitions(cells: Array, experts: int | None, source: str) -> Routing:
    layer = _index(cells[:, 0], None, "layer", source)
    here, there = (_index(cells[:, i], experts, "expert", source) for i in (1, 2))
    if not (np.isfinite(cells[:, 3]).all() and (cells[:, 3] >= 0).all()):
        raise OutOfRange(f"{source}: counts of tokens are finite and not below 0")
    size = experts or int(max(here.max(), there.max())) + 1
    table = np.zeros((layer.max() + 1, size, size))
    np.add.at(table, (layer, here, there), cells[:, 3])
    return from_transitions(_every_layer(table, source), source)


def _loads(cells: Array, experts: int | None, source: str) -> Routing:
    layer, expert = _index(cells[:, 0], None, "layer", source), _index(cells[:, 1], experts, "expert", source)
    table = np.zeros((layer.max() + 1, experts or int(expert.max()) + 1))
    np.add.at(table, (layer, expert), cells[:, 2])
    return from_loads(table, source)


def _long(cells: Array, experts: int | None, source: str) -> Routing:
    token, layer = (_index(cells[:, i], None, name, source) for i, name in enumerate(("token", "layer")))
    _, token = np.unique(token, return_inverse=True)
    expert = _index(cells[:, 2], experts, "expert", source)
    layers = int(layer.max()) + 1
    counts = np.bincount(token * layers + layer, minlength=(int(token.max()) + 1) * layers)
    if (counts != counts[0]).any():
        raise SpecError(
            f"{source}: the trace is ragged: some token has {counts.min()} experts in a layer, another "
            f"{counts.max()}; every token takes the same number of experts in every layer"
        )
    order = np.lexsort((expert, layer, token))
    return _trace(expert[order].reshape(-1, layers, counts[0]), experts, source)


def _wide(rows: Sequence[Sequence[str]], experts: int | None, file: Path) -> Routing:
    def ids(cell: str) -> list[int]:
        return [int(part) for part in cell.split()]

    first = 0 if _reads(ids, rows[0]) else 1
    picks = None
    found = []
    for line, row in enumerate(rows[first:], start=first + 1):
        if not _reads(ids, row):
            raise SpecError(
                f"{file}, line {line}: {','.join(row)[:60]!r} is not a row of expert ids; a trace has a row per"
                f" token and a column per layer, loads the columns {', '.join(_LOADS)}, transition counts "
                f"the columns {', '.join(_TRANSITIONS)}"
            )
        cells = [ids(cell) for cell in row]
        shape = (len(cells), {len(cell) for cell in cells})
        picks = picks or shape
        if shape != picks or len(shape[1]) > 1:
            raise SpecError(
                f"{file}, line {line}: the trace is ragged: this token has {len(cells)} layers and "
                f"{max(shape[1])} experts in one, the first token {picks[0]} layers and {max(picks[1])}"
            )
        found.append(cells)
    if not found:
        raise SpecError(f"{file} has a heading and no tokens")
    return _trace(np.array(found, dtype=np.int64), experts, str(file))


def _reads(ids: Callable[[str], list[int]], row: Sequence[str]) -> bool:
    try:
        return all(ids(cell) for cell in row)
    except ValueError:
        return False


def read_placement(path: str | Path, layers: int, experts: int, gpus: int) -> Any:
    """A placement [layer, expert] -> GPU from a CSV with columns layer, expert, gpu, or JSON as perfplan writes it."""
    file = Path(path)
    if not file.is_file():
        raise CatalogError(f"there is no file {file}; name a placement, a CSV with columns layer, expert, gpu")
    if file.suffix.lower() == ".json":
        return _placed_json(file, layers, experts, gpus)
    rows = _lines(file)
    head = [cell.lower() for cell in rows[0]]
    if not set(_PLACED) <= set(head):
        raise SpecError(f"{file} has the columns {', '.join(head)}; a placement has {', '.join(_PLACED)}")
    cells = _numbers(rows, [head.index(name) for name in _PLACED], file)
    layer, expert, gpu = (
        _index(cells[:, i], limit, name, str(file))
        for i, (name, limit) in enumerate((("layer", layers), ("expert", experts), ("gpu", gpus)))
    )
    placed = np.full((layers, experts), -1)
    placed[layer, expert] = gpu
    if (placed < 0).any() or len(cells) != placed.size:
        raise SpecError(
            f"{file}: a placement has one row for each of {layers} layers x {experts} experts, not {len(cells)}"
        )
    return placed


def _placed_json(file: Path, layers: int, experts: int, gpus: int) -> Any:
    """SGLang's form: physical_to_logical_map [layer, slot], slots of a GPU side by side."""
    import json

    try:
        table = np.array(json.loads(file.read_text(encoding="utf-8"))["physical_to_logical_map"], dtype=np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{file} holds no physical_to_logical_map [layer, slot]") from error
    if table.shape != (layers, experts) or (np.sort(table, axis=1) != np.arange(experts)).any():
        raise SpecError(
            f"{file}: a placement without replicas has every one of {experts} experts once in each of {layers} layers"
        )
    placed = np.empty_like(table)
    np.put_along_axis(placed, table, np.arange(experts)[None, :] // (experts // gpus), axis=1)
    return placed
