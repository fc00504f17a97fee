"""How close measured steps come to what physics allows: a bound that a trusted measurement beats would be wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from perfplan.catalog import Catalog
from perfplan.overlap.physics import physics
from perfplan.validation.jobs import CaseBuilder
from perfplan.validation.rows import Row
from perfplan.validation.training import ROW_FAULTS, measured_step_time, vocabulary

__all__ = ["Tightness", "bounded", "tightness"]


@dataclass(frozen=True)
class Tightness:
    """Bound over measured step time in one source: rows, median, most [1]; beaten: rows faster than the bound."""

    source: str
    rows: int
    median: float
    most: float
    beaten: int


def bounded(rows: Iterable[Row], catalog: Catalog) -> dict[str, list[float]]:
    """Source -> bound over measured step time of its rows that can be priced [1]."""
    builder, found = CaseBuilder(catalog, vocabulary()), defaultdict(list)
    for row in rows:
        if row.metric in ("oom", "memory_gib_per_accel"):
            continue
        try:
            case = builder.case(row)
            found[row.source].append(physics(case.job).time / measured_step_time(case))
        except ROW_FAULTS:  # a row that cannot be priced is counted by `validate training`
            continue
    return dict(found)


def tightness(rows: Iterable[Row], catalog: Catalog) -> list[Tightness]:
    """The bound beside the measurements, per source and over all."""
    found = bounded(rows, catalog)
    whole = [share for shares in found.values() for share in shares]
    return [_row(source, found[source]) for source in sorted(found)] + [_row("all rows", whole)]


def _row(source: str, shares: list[float]) -> Tightness:
    return Tightness(source, len(shares), median(shares), max(shares), sum(share > 1 for share in shares))
