"""Files of routing: traces (CSV, npy, parquet), loads and transition counts, told apart by their columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perfplan.errors import CatalogError, OutOfRange, SpecError, Unsupported
from perfplan.placement.routing import Array, Routing, from_loads, from_trace, from_transitions

__all__ = ["cell_rows", "id_column", "load_npy", "number_rows", "read_routing"]

_TRANSITIONS = ("layer", "from_expert", "to_expert", "tokens")
_LOADS = ("layer", "expert", "load")
_LONG = ("token", "layer", "expert")


def read_routing(path: str | Path, experts: int | None = None) -> Routing:
    """The routing that a file holds. experts: experts of a layer; the highest id decides if none is given.

    CSV with columns layer, from_expert, to_expert, tokens: transition counts; layer, expert, load: loads; token, layer,
    expert: a trace; otherwise a trace with a row per token and a column per layer, whose cells hold one expert id, or
    several with blanks between them. npy holds a trace [token, layer] or [token, layer, pick], parquet a table like one
    of the CSV, or a trace whose cells are ids or lists of them. JSON holds `logical_count`, the loads of SGLang.
    """
    file = Path(path)
    if not file.is_file():
        raise CatalogError(f"there is no file {file}; name a trace, loads or transition counts")
    match file.suffix.lower():
        case ".npy":
            return _trace(load_npy(file), experts, str(file))
        case ".parquet":
            return _parquet(file, experts)
        case ".json":
            return _counted(file, experts)
        case ".csv":
            return _csv(file, experts)
    raise Unsupported(f"{file}: a file of routing is a .csv, .npy, .parquet or .json")


def load_npy(file: Path) -> Any:
    """The array of a file, which must hold numbers."""
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        why = "its rows are ragged" if "Object arrays" in str(error) else str(error)
        raise CatalogError(f"{file} is no array of numbers by NumPy: {why}") from error


def _parquet(file: Path, experts: int | None) -> Routing:
    """A table with the columns of one of the CSV forms, or a trace with a column per layer, of ids or lists of ids."""
    import pandas as pd

    try:
        frame = pd.read_parquet(file)
    except ImportError as error:
        raise Unsupported(
            f"{file}: parquet needs pyarrow, which is not installed: pip install 'perfplan[operators]', or save the "
            "trace as .npy"
        ) from error
    except (ValueError, OSError) as error:
        raise CatalogError(f"{file} is no parquet table: {error}") from error
    head = [str(name).lower() for name in frame.columns]
    for names, read in _NAMED:
        if set(names) <= set(head):
            columns = [head.index(name) for name in names]
            return read(_floats(frame.iloc[:, columns], names, file), experts, str(file))
    cells = frame.to_numpy()
    if cells.dtype == object:
        cells = _stacked(cells, file)
    return _trace(cells, experts, str(file))


def _floats(frame: Any, names: Sequence[str], file: Path) -> Array:
    try:
        return np.asarray(frame.to_numpy(dtype=float), dtype=float)
    except (ValueError, TypeError):
        raise SpecError(f"{file}: a column of {', '.join(names)} holds something that is no number") from None


def _stacked(cells: Any, file: Path) -> Any:
    """Lists of ids in cells as an array [token, layer, pick]."""
    rows = [[np.atleast_1d(cell) for cell in row] for row in cells]
    counts = sorted({cell.size for row in rows for cell in row})
    if len(counts) > 1:
        raise SpecError(
            f"{file}: the trace is ragged: some token has {counts[0]} experts in a layer, another {counts[-1]}; every "
            "token takes the same number of experts in every layer"
        )
    return np.array(rows)


def _counted(file: Path, experts: int | None) -> Routing:
    """Loads as SGLang's recorder counts them: logical_count [layer, expert], or [step, layer, expert], in JSON."""
    try:
        counts = np.array(json.loads(file.read_text(encoding="utf-8"))["logical_count"], dtype=float)
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{file} holds no logical_count [layer, expert], the loads that SGLang records") from error
    counts = counts.sum(axis=0) if counts.ndim == 3 else counts
    if counts.ndim != 2 or (experts and counts.shape[1] != experts):
        shape = " x ".join(map(str, counts.shape))
        raise SpecError(f"{file}: logical_count is a table of {shape}; it has a column for each of {experts} experts")
    routed = counts[counts.sum(axis=1) != 0]  # layers without experts count nothing
    return from_loads(routed, str(file))


def _trace(ids: Any, experts: int | None, source: str) -> Routing:
    if np.issubdtype(ids.dtype, np.floating) and np.isfinite(ids).all() and (ids == np.floor(ids)).all():
        ids = ids.astype(np.int64)
    whole = np.issubdtype(ids.dtype, np.integer) and ids.size
    return from_trace(ids, experts or (int(ids.max()) + 1 if whole else 1), source)


def cell_rows(file: Path) -> list[list[str]]:
    """Rows of a CSV without the empty ones."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CatalogError(f"{file} is no CSV: {error}") from error
    if not rows:
        raise CatalogError(f"{file} is empty; it has a row per token, layer or expert")
    return rows


def _csv(file: Path, experts: int | None) -> Routing:
    rows = cell_rows(file)
    head = [cell.lower() for cell in rows[0]]
    for names, read in _NAMED:
        if set(names) <= set(head):
            cells = number_rows(rows, [head.index(name) for name in names], file)
            return read(cells, experts, str(file))
    return _wide(rows, experts, file)


def number_rows(rows: Sequence[Sequence[str]], columns: Sequence[int], file: Path) -> Array:
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


def id_column(column: Array, limit: int | None, what: str, source: str) -> Any:
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
    layer = id_column(cells[:, 0], None, "layer", source)
    here, there = (id_column(cells[:, i], experts, "expert", source) for i in (1, 2))
    if not (np.isfinite(cells[:, 3]).all() and (cells[:, 3] >= 0).all()):
        raise OutOfRange(f"{source}: counts of tokens are finite and not below 0")
    size = experts or int(max(here.max(), there.max())) + 1
    table = np.zeros((layer.max() + 1, size, size))
    np.add.at(table, (layer, here, there), cells[:, 3])
    return from_transitions(_every_layer(table, source), source)


def _loads(cells: Array, experts: int | None, source: str) -> Routing:
    layer, expert = id_column(cells[:, 0], None, "layer", source), id_column(cells[:, 1], experts, "expert", source)
    table = np.zeros((layer.max() + 1, experts or int(expert.max()) + 1))
    np.add.at(table, (layer, expert), cells[:, 2])
    return from_loads(table, source)


def _long(cells: Array, experts: int | None, source: str) -> Routing:
    token, layer = (id_column(cells[:, i], None, name, source) for i, name in enumerate(("token", "layer")))
    _, token = np.unique(token, return_inverse=True)
    expert = id_column(cells[:, 2], experts, "expert", source)
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


_NAMED: tuple[tuple[tuple[str, ...], Callable[[Array, int | None, str], Routing]], ...] = (
    (_TRANSITIONS, _transitions),
    (_LOADS, _loads),
    (_LONG, _long),
)
