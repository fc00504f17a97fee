"""Factors of software releases from measured steps: how much longer the steps of one release take on one accelerator.

A factor is the geometric mean of measured over predicted time, drawn towards 1 as if `PRIOR` more rows had shown none.
`left_out` says what such factors are worth: each row is predicted with a factor from the other models alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perfplan.catalog.specs import Release
from perfplan.validation.holdouts import model_name
from perfplan.validation.steps import Step

__all__ = ["FEWEST", "PRIOR", "factors", "left_out", "release_of"]

FEWEST = 3  # rows without which a release has no factor
PRIOR = 2.0  # rows
_EPOCH = re.compile(r"(?:NeMo container |MLPerf Training v)(\d[\d.]*\d)\b")
Key = tuple[str, str, str]


def release_of(epoch: str) -> str:
    """The release that an epoch names: "26.04" of "NeMo container 26.04", "5.1" of "MLPerf Training v5.1"; else "".

    >>> release_of("NeMo container 26.02.01"), release_of("MLPerf Training v5.1 ngc25.09"), release_of("2022")
    ('26.02.01', '5.1', '')
    """
    found = _EPOCH.search(epoch)
    return found[1] if found else ""


def _key(step: Step) -> Key:
    where = f"{step.job.cluster.accelerator.id}/{'moe' if step.moe else 'dense'}"
    return step.job.framework.id, release_of(step.row.epoch), where


def _groups(steps: Sequence[Step]) -> dict[Key, list[int]]:
    groups: dict[Key, list[int]] = defaultdict(list)
    for i, step in enumerate(steps):
        if release_of(step.row.epoch) and step.row.method == "pretrain":
            groups[_key(step)].append(i)
    return groups


def _mean(logs: NDArray[np.float64]) -> float:
    return float(logs.sum() / (len(logs) + PRIOR))


def factors(steps: Sequence[Step], predicted: NDArray[np.float64], source: str) -> dict[Key, Release]:
    """(framework, release, accelerator/class) -> factor, for groups of `FEWEST` rows or more."""
    logs = np.log(np.array([step.time for step in steps]) / predicted)
    return {key: Release(float(f"{np.exp(_mean(logs[rows])):.4g}"), len(rows), source)
            for key, rows in sorted(_groups(steps).items()) if len(rows) >= FEWEST}  # fmt: skip


def left_out(steps: Sequence[Step], predicted: NDArray[np.float64]) -> tuple[int, float, float]:
    """(rows, mean absolute error without factors, the same with factors from the other models of the group alone).

    The errors are NaN where no group has rows of other models.
    """
    logs = np.log(np.array([step.time for step in steps]) / predicted)
    plain, corrected = [], []
    for rows in _groups(steps).values():
        for i in rows:
            others = [j for j in rows if model_name(steps[j]) != model_name(steps[i])]
            if len(others) + 1 >= FEWEST:
                plain.append(abs(float(np.expm1(-logs[i]))))
                corrected.append(abs(float(np.expm1(_mean(logs[others]) - logs[i]))))
    if not plain:
        return 0, float("nan"), float("nan")
    return len(plain), float(np.mean(plain)), float(np.mean(corrected))
