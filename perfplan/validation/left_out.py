"""Errors left out of the link constants: every third message size, or one number of ranks, predicted from the others.

The rows are the collective library's own inside one fast domain (quality A, not suspect); the constants are fitted anew
for each part left out, so that the shipped ones take no part. The null is the data sheet: bytes over the links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perfplan.calibration.fit import Array
from perfplan.calibration.links import OPERATIONS, Domain, columns_of, left_out_ranks, left_out_sizes, steps
from perfplan.calibration.readers import read_collectives
from perfplan.calibration.tables import is_custom
from perfplan.catalog import Catalog
from perfplan.validation.kernels import shipped

if TYPE_CHECKING:
    import pandas as pd

    from perfplan.catalog.specs import Cluster

__all__ = ["LEFT_OUT_FILES", "LeftOut", "left_out_collectives", "row_of"]

LEFT_OUT_FILES = ("ops_collectives.csv",)
_PARTS = {"every third size": left_out_sizes, "one number of ranks": left_out_ranks}
US = 1e-6  # s


@dataclass(frozen=True)
class LeftOut:
    """Errors of rows that the constants have not seen.

    name: chip and operation; left_out: what was left out; rows: how many were predicted; mape, median: absolute error
    relative to the measurement [1]; null: mean absolute error of the data sheet's bandwidth alone [1].
    """

    name: str
    left_out: str
    rows: int
    mape: float
    median: float
    null: float


def row_of(name: str, part: str, ratio: Array, sheet: Array) -> LeftOut:
    """Errors of predicted and of data-sheet times over measured ones."""
    error = np.abs(ratio - 1)
    return LeftOut(name, part, len(ratio), float(error.mean()), float(np.median(error)),
                   float(np.abs(sheet - 1).mean()))


def _usable(path: Path, catalog: Catalog) -> pd.DataFrame:
    table = read_collectives(path)
    custom = [is_custom(algo, software) for algo, software in zip(table["algo"], table["software"], strict=True)]
    inside = ~(table["ranks_per_node"] < table["n_ranks"])  # not stated = inside
    good = table["op"].isin(list(OPERATIONS)) & (table["suspect"] != 1) & table["quality"].isin(["", "A"]) & inside
    good &= (table["hardware_id"] != "") & (table["bytes"] > 0) & (table["latency_us"] > 0) & (table["n_ranks"] >= 2)
    rows = table[good & ~np.array(custom, dtype=bool)]
    return rows.assign(chip=[catalog.hardware(name) for name in rows["hardware_id"]])


def _ratios(rows: pd.DataFrame, cluster: Cluster) -> pd.DataFrame:
    """The rows with predicted over measured time per part left out, and of the data sheet."""
    level = cluster.levels[0]
    domain = Domain(level.bandwidth, cluster.library.exchange, level.reduction_ranks if level.reduction else 0)
    columns = columns_of(rows["op"], rows["n_ranks"].to_numpy(), rows["bytes"].to_numpy())
    seconds = rows["latency_us"].to_numpy() * US
    moved = np.array([float(steps(op, n)) for op, n in zip(rows["op"], columns["ranks"], strict=True)])
    found = {part: np.exp(-errors(domain, columns, seconds)) for part, errors in _PARTS.items()}
    return rows.assign(sheet=moved * columns["bytes"] / level.bandwidth / seconds, **found)


def left_out_collectives(measured: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> tuple[LeftOut, ...]:
    """Errors per operation over all chips, then per chip and operation, for each part left out.

    measured: files in the schema of ops_collectives.csv; the shipped one if none. Chips without a default cluster are
    not fitted. Raises PerfplanError when a file cannot be read or names an unknown accelerator.
    """
    import pandas as pd

    entries = catalog or Catalog()
    paths = [Path(path) for path in measured] or list(shipped(LEFT_OUT_FILES))
    table = pd.concat([_usable(path, entries) for path in paths], ignore_index=True)
    parts = []
    for chip, rows in table.groupby("chip", sort=False):
        if home := entries.accelerator(str(chip)).default_cluster:
            parts.append(_ratios(rows, entries.cluster(home)))
    if not parts:
        return ()
    scored = pd.concat(parts, ignore_index=True)
    found = []
    for part in _PARTS:
        known = scored[np.isfinite(scored[part])]
        found += [row_of(str(op), part, rows[part].to_numpy(), rows["sheet"].to_numpy())
                  for op, rows in known.groupby("op", sort=True)]
        found += [row_of(f"{chip}/{op}", part, rows[part].to_numpy(), rows["sheet"].to_numpy())
                  for (chip, op), rows in known.groupby(["chip", "op"], sort=False)]
    return tuple(found)
