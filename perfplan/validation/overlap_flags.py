"""What overlap flags of measured runs are worth: the same rows by their own flags, and by the software's default."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mean, median

from perfplan.catalog import Catalog
from perfplan.training.estimate import estimate
from perfplan.training.job import Job
from perfplan.validation.jobs import Case, CaseBuilder
from perfplan.validation.rows import Row
from perfplan.validation.training import ROW_FAULTS, measured_step_time, vocabulary

__all__ = ["FlagScore", "flag_scores"]


@dataclass(frozen=True)
class FlagScore:
    """Rows of one source whose overlap flags depart from the software's default. flagged, default: mean of
    |predicted - measured| / measured by the row's own flags and without them; flagged_median, default_median."""

    source: str
    rows: int
    flagged: float
    default: float
    flagged_median: float
    default_median: float


def _departs(job: Job) -> bool:
    return any(value != job.framework.overlap.get(axis, 0.0) for axis, value in job.overlap.items())


def _error(case: Case, job: Job) -> float:
    return abs(float(estimate(job, case.layouts[0]).step_time) / measured_step_time(case) - 1)


def flag_scores(rows: Iterable[Row], catalog: Catalog) -> list[FlagScore]:
    """Errors by source, and last over all rows; empty if no row has such flags."""
    builder, found = CaseBuilder(catalog, vocabulary()), defaultdict[str, list[tuple[float, float]]](list)
    for row in rows:
        if not row.overlap or row.metric in ("oom", "memory_gib_per_accel"):
            continue
        try:
            case = builder.case(row)
            if _departs(case.job):
                found[row.source].append((_error(case, case.job), _error(case, replace(case.job, overlap={}))))
        except ROW_FAULTS:  # a row that cannot be priced is counted by `validate training`
            continue
    whole = {"all rows": [pair for pairs in found.values() for pair in pairs]} if found else {}
    return [_scored(source, pairs) for source, pairs in [*sorted(found.items()), *whole.items()]]


def _scored(source: str, pairs: list[tuple[float, float]]) -> FlagScore:
    flagged, default = zip(*pairs, strict=True)
    return FlagScore(source, len(pairs), mean(flagged), mean(default), median(flagged), median(default))
