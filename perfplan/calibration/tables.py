"""Measured kernels and collectives in: perfplan's CSV schemas, and what nccl-tests prints (text table, or JSON of -J).

Columns of kernels: kernel, hardware_id, dtype, m, n, k, groups, batch, seq_len_q, seq_len_kv, heads, kv_heads,
head_dim, causal, latency_us, software, quality, suspect. Columns of collectives: op, algo, software, n_ranks,
ranks_per_node, hardware_id, bytes, latency_us, quality, suspect. Columns that a reader does not need may be absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfplan.errors import CatalogError, MissingField, OutOfRange

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLLECTIVE_COLUMNS", "EXPERT_COLUMNS", "KERNEL_COLUMNS", "coarse", "file_date", "is_custom",
           "read_collectives", "read_experts", "read_kernels", "typed"]

KERNEL_COLUMNS = {
    "id": "", "kernel": "", "hardware_id": "", "dtype": "", "kv_dtype": "", "m": 0.0, "n": 0.0, "k": 0.0,
    "groups": 0.0, "batch": 0.0, "seq_len_q": 0.0, "seq_len_kv": 0.0, "heads": 0.0, "kv_heads": 0.0, "head_dim": 0.0,
    "causal": 0.0, "bytes": 0.0, "latency_us": 0.0, "tflops": 0.0, "gb_per_s": 0.0, "software": "", "quality": "",
    "source": "", "suspect": 0.0, "note": "",
}  # fmt: skip
COLLECTIVE_COLUMNS = {
    "id": "", "op": "", "algo": "", "software": "", "n_ranks": 0.0, "ranks_per_node": 0.0, "hardware_id": "",
    "link": "", "bytes": 0.0, "latency_us": 0.0, "busbw_gb_per_s": 0.0, "quality": "", "source": "", "suspect": 0.0,
    "note": "",
}  # fmt: skip
EXPERT_COLUMNS = {
    "id": "", "hardware_id": "", "engine": "", "dtype": "", "tokens": 0.0, "hidden_size": 0.0,
    "moe_ffn_hidden_size": 0.0, "experts_per_token": 0.0, "experts": 0.0, "moe_tp": 0.0, "moe_ep": 0.0,
    "distribution": "", "latency_us": 0.0, "source": "", "note": "",
}  # fmt: skip
_EXTENTS = {"m", "n", "k", "groups", "batch", "seq_len_q", "seq_len_kv", "heads", "kv_heads", "head_dim", "n_ranks",
            "ranks_per_node", "tokens", "hidden_size", "moe_ffn_hidden_size", "experts_per_token", "experts", "moe_tp",
            "moe_ep"}  # a zero says nothing
_OPERATIONS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
               "alltoall": "all_to_all", "sendrecv": "p2p"}  # fmt: skip
_PROGRAM = re.compile(r"(all_reduce|all_gather|reduce_scatter|alltoall|sendrecv)_perf")
_RANK = re.compile(r"^#\s+Rank\s+\d+.*?\bon\s+(\S+)\s+device", re.M)
_LINE = re.compile(r"^\s*\d+\s+\d+\s+[a-z]\w*\s+.*$", re.M)
_TOLD = 20  # whole times of one software that are no accident
_SHORT = 20.0  # us
_TEXT_ROW = 9  # size, count, type, redop, root, then time, algbw, busbw, #wrong out of place


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise CatalogError(f"{path} is not a UTF-8 text file") from None


def file_date(path: str | Path) -> str:
    """Day on which a file was last changed, UTC, as YYYY-MM-DD."""
    try:
        return datetime.fromtimestamp(Path(path).stat().st_mtime, tz=UTC).date().isoformat()
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None


def _frame(path: Path, columns: dict[str, Any], needed: Iterable[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CatalogError(f"{path} cannot be read as a CSV table: {reason.lower()}") from None
    if missing := [name for name in needed if name not in raw]:
        raise MissingField(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    return typed(raw, columns, path)


def typed(raw: pd.DataFrame, columns: dict[str, Any], path: Path) -> pd.DataFrame:
    """The known columns, numbers as floats (empty, or no extent = NaN), and `row`: what a report calls the row."""
    import pandas as pd

    table = pd.DataFrame(index=range(len(raw)))
    for name, kind in columns.items():
        cells = raw[name].str.strip() if name in raw else pd.Series([""] * len(raw))
        if isinstance(kind, str):
            table[name] = cells.to_numpy()
            continue
        numbers = pd.to_numeric(cells.replace("", None), errors="coerce")
        wrong = (numbers.isna() | ~numbers.abs().lt(float("inf")) | numbers.lt(0)) & (cells != "")
        if bool(wrong.any()):
            at = int(wrong.to_numpy().argmax())
            raise CatalogError(f"{path}, line {at + 2}: column {name} holds {cells.iloc[at]!r}, which is no number that"
                               " a measurement can have")
        table[name] = numbers.mask(numbers == 0).to_numpy(dtype=float) if name in _EXTENTS else numbers.to_numpy(float)
    lines = [f"line {number}" for number in range(2, len(raw) + 2)]
    table["row"] = [id_ or line for id_, line in zip(table["id"], lines, strict=True)]
    table["file"] = path.name
    return table


def is_custom(algo: str, software: str) -> bool:
    """Whether a collective is an engine's own kernel instead of the collective library's.

    >>> is_custom("unknown", "trtllm custom_allreduce"), is_custom("ring", "nccl 2.29.2")
    (True, False)
    """
    return "custom" in algo or "custom" in software


def coarse(table: pd.DataFrame) -> list[bool]:
    """Which times are too short for the whole microseconds that their software was published in.

    A software counts as published so if all its times are whole; below 20 us the rounding alone is more than 2.5 %.
    """
    whole = table["latency_us"].isna() | (table["latency_us"] % 1 == 0)
    rounded = whole.groupby(table["software"]).transform("all") & (
        table["latency_us"].groupby(table["software"]).transform("count") >= _TOLD)
    return [bool(one) for one in rounded & (table["latency_us"] < _SHORT)]


def read_kernels(path: str | Path) -> pd.DataFrame:
    """Measured kernels of one CSV file in the schema of kernels_measured.csv; absent columns are empty."""
    return _frame(Path(path), KERNEL_COLUMNS, ("kernel", "dtype", "latency_us"))


def read_experts(path: str | Path) -> pd.DataFrame:
    """Measured expert layers of one CSV file in the schema of ops_moe.csv; every column but the last two is needed."""
    return _frame(Path(path), EXPERT_COLUMNS, list(EXPERT_COLUMNS)[:-2])


def read_collectives(path: str | Path, op: str = "", ranks: int = 0) -> pd.DataFrame:
    """Measured collectives of one file: a CSV table, or the text or JSON output of nccl-tests.

    op, ranks: operation and number of ranks of an nccl-tests output that does not say; times are out of place.
    """
    path = Path(path)
    text = _text(path)
    if text.lstrip().startswith("{"):
        return _collective_rows(path, *_from_json(path, text), op, ranks)
    if _LINE.search(text) and "," not in text.splitlines()[0]:
        return _collective_rows(path, *_from_text(path, text), op, ranks)
    return _frame(path, COLLECTIVE_COLUMNS, ("op", "n_ranks", "bytes", "latency_us"))


def _collective_rows(path: Path, found: str, hosts: Sequence[str], software: str, sweep: Sequence[tuple[float, float]],
                     op: str, ranks: int) -> pd.DataFrame:
    import pandas as pd

    operation, count = op or found, ranks or len(hosts)
    if not operation:
        raise MissingField(f"{path} does not say which collective it measured; name it with --op, such as all_reduce")
    if count < 2:
        raise MissingField(f"{path} does not say how many ranks took part; give them with --ranks")
    if not sweep:
        raise CatalogError(f"{path} holds no measured size with a time")
    if operation not in _OPERATIONS.values():
        raise OutOfRange(f"--op {operation!r} is not known; write one of {', '.join(_OPERATIONS.values())}")
    per_node = count if len(set(hosts)) < 2 else -(-count // len(set(hosts)))
    fixed = {"op": operation, "algo": "unknown", "software": software, "n_ranks": str(count),
             "ranks_per_node": str(per_node), "quality": "A", "suspect": "0"}
    raw = pd.DataFrame([fixed | {"bytes": repr(size), "latency_us": repr(time)} for size, time in sweep])
    table = typed(raw, COLLECTIVE_COLUMNS, path)
    table["row"] = [f"{operation} of {int(size)} B" for size in table["bytes"]]
    return table


def _from_text(path: Path, text: str) -> tuple[str, list[str], str, list[tuple[float, float]]]:
    program = _PROGRAM.search(text)
    version = re.search(r"nccl[- ]?(?:tests)? version:?\s*([\w.]+)", text, re.I)
    sweep = []
    for line in _LINE.findall(text):
        cells = line.split()
        if len(cells) < _TEXT_ROW:
            raise CatalogError(f"{path}: the line {line.strip()!r} is no row of an nccl-tests table")
        try:
            sweep.append((float(cells[0]), float(cells[5])))
        except ValueError:
            raise CatalogError(f"{path}: the line {line.strip()!r} is no row of an nccl-tests table") from None
    software = f"nccl-tests {version[1]}" if version else "nccl-tests"
    return _OPERATIONS[program[1]] if program else "", _RANK.findall(text), software, _timed(sweep)


def _timed(sweep: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(size, time) for size, time in sweep if size > 0 and 0 < time < float("inf")]


def _from_json(path: Path, text: str) -> tuple[str, list[str], str, list[tuple[float, float]]]:
    try:
        data = json.loads(text)
        rows = data["results"]
        sweep = [(float(row["size"]), float(row["out_of_place"]["time"])) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CatalogError(f"{path} is not the JSON that nccl-tests writes with -J: results with size and"
                           " out_of_place.time are expected") from None
    words = " ".join(str(data.get(name, "")) for name in ("args", "program", "collective", "config"))
    program = _PROGRAM.search(words)
    config = data.get("config")
    devices = (config.get("devices") if isinstance(config, dict) else None) or data.get("devices") or []
    hosts = [str(device.get("hostname", "")) for device in devices if isinstance(device, dict)]
    version = str(data.get("nccl_version") or data.get("version") or "")
    software = f"nccl {version}" if data.get("nccl_version") else f"nccl-tests {version}".strip()
    return _OPERATIONS[program[1]] if program else "", hosts, software, _timed(sweep)
