"""Measurements in, typed rows out: the schema of `training_measured.csv`, one frozen `Row` per line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import isnan, nan
from pathlib import Path

from perfplan.errors import CatalogError
from perfplan.validation.score import RATES

__all__ = ["METRICS", "Row", "read_rows"]

METRICS = RATES | {"step_time_s", "memory_gib_per_accel", "oom"}


@dataclass(frozen=True)
class Row:
    """One measured configuration, columns as in the CSV; None or "" = the source does not say.

    internode_gbps_per_accel [1e9 bit/s, one direction]; seq_len [tokens]; micro_batch, global_batch [sequences];
    also_memory_gib [GiB]; value in the unit that `metric` names.
    """

    id: str
    group: str
    epoch: str
    method: str
    model_id: str
    hidden_size: int | None
    layers: int | None
    attention_heads: int | None
    kv_heads: int | None
    head_dim: int | None
    ffn_hidden_size: int | None
    gated_mlp: int | None
    vocab_size: int | None
    tied_embeddings: int | None
    experts: int | None
    experts_per_token: int | None
    shared_experts: int | None
    moe_ffn_hidden_size: int | None
    first_dense_layers: int | None
    attention_kind: str
    hardware_id: str
    n_accel: int | None
    accel_per_node: int | None
    fast_domain: int | None
    internode_gbps_per_accel: float | None
    precision: str
    params_dtype: str
    seq_len: int | None
    micro_batch: int | None
    global_batch: int | None
    tp: int | None
    sp: int | None
    pp: int | None
    vpp: int | None
    cp: int | None
    ep: int | None
    etp: int | None
    dp: int | None
    sharding: str
    sharding_degree: int | None
    recompute: str
    recompute_modules: str
    offload: str
    overlap: str
    attention_kernel: str
    metric: str
    value: float
    also_memory_gib: float | None
    also_memory_gb_printed: float | None
    flop_convention: str
    gold: int | None
    confidence: str
    note: str

    @property
    def stated(self) -> bool:
        """Whether a figure is stated; its value is NaN if not."""
        return not isnan(self.value)

    @property
    def source(self) -> str:
        """The source: the part of the id before the first hyphen."""
        return self.id.split("-", 1)[0]

    @property
    def layout_key(self) -> tuple[object, ...]:
        """What makes two rows of one group different layouts."""
        return (
            self.tp,
            self.sp,
            self.pp,
            self.vpp,
            self.cp,
            self.ep,
            self.etp,
            self.dp,
            self.micro_batch,
            self.sharding,
            self.sharding_degree,
            self.recompute,
            self.recompute_modules,
            self.overlap,
        )


_TYPES = {field.name: str(field.type) for field in fields(Row)}


def _whole(text: str) -> int:
    number = float(text)
    if number != int(number):
        raise ValueError(text)
    return int(number)


def _cell(name: str, text: str) -> str | int | float | None:
    kind = _TYPES[name]
    if kind == "str":
        return text
    if not text and "None" in kind:
        return None
    if not text and name == "value":
        return nan
    return _whole(text) if kind.startswith("int") else float(text)


def _row(record: Mapping[str, str | None], where: str) -> Row:
    values: dict[str, str | int | float | None] = {}
    for name in _TYPES:
        text = (record[name] or "").strip()
        try:
            values[name] = _cell(name, text)
        except (ValueError, OverflowError):
            raise CatalogError(f"{where}: column {name} holds {text!r}, which is not a number") from None
    row = Row(**values)  # type: ignore[arg-type]
    if row.stated and not 0 < row.value < float("inf"):
        raise CatalogError(f"{where}: value {row.value} is not a positive number")
    return row


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in _TYPES if name not in (reader.fieldnames or ())]
            if missing:
                shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
                raise CatalogError(f"{path} lacks the column{'s' * (len(missing) > 1)} {shown}")
            for record in reader:
                yield f"{path}, line {reader.line_num}", record
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CatalogError(f"{path} cannot be read as a CSV table: {reason.lower()}") from None


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """All rows of the CSV files at `paths`, in order; ids are unique over all files."""
    rows: dict[str, Row] = {}
    for path in paths:
        for where, record in _records(path):
            row = _row(record, where)
            if row.id in rows:
                raise CatalogError(f"{where}: id {row.id!r} is used twice")
            rows[row.id] = row
    return list(rows.values())
