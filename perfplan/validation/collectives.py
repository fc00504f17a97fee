"""`validate collectives`: collectives priced on the cluster of a chip, beside measurements.

A row is scored in the slice of its file, chip and operation. The null predictor is the data sheet: the bytes over the
bandwidth of the links, without latency. Dispatch and combine of experts are priced as an all-to-all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perfplan.calibration.links import steps
from perfplan.calibration.tables import is_custom, read_collectives
from perfplan.catalog import Catalog
from perfplan.catalog.specs import Cluster
from perfplan.errors import MissingField, PerfplanError, Unsupported
from perfplan.training.network import Group, Network
from perfplan.validation.kernels import outcome, shipped, summary
from perfplan.validation.score import Outcome
from perfplan.validation.training import Validation

__all__ = ["COLLECTIVE_FILES", "validate_collectives"]

COLLECTIVE_FILES = ("ops_collectives.csv", "collectives_measured.csv")
US = 1e-6  # s
_AS = {"reduce_scatter": "all_gather", "moe_dispatch": "all_to_all", "moe_combine": "all_to_all"}
_PRICED = ("all_reduce", "all_gather", "all_to_all")


def _cluster(catalog: Catalog, hardware: str) -> Cluster:
    if not hardware:
        raise MissingField("the row names no accelerator")
    chip = catalog.accelerator(hardware)
    if not chip.default_cluster:
        raise MissingField(f"{chip.id} has no default cluster")
    return catalog.cluster(chip.default_cluster)


def _refuse(row: Any, cluster: Cluster, op: str) -> None:
    if row.suspect == 1:
        raise Unsupported("marked suspect")
    if row.quality == "C":
        raise Unsupported("quality C is listed, not scored")
    if op not in _PRICED:
        raise Unsupported(f"{row.op or 'an unnamed operation'} is not priced")
    if is_custom(str(row.algo), str(row.software)):
        raise Unsupported("custom kernels have no constants in the catalog")
    if not (row.bytes > 0 and row.latency_us > 0 and row.n_ranks >= 2):
        raise Unsupported("its ranks, bytes or time are missing")
    domain, nodes = cluster.levels[0].size, row.ranks_per_node < row.n_ranks
    if nodes and row.ranks_per_node != domain:
        raise Unsupported(f"{cluster.id} has {domain} accelerators in a fast domain, the row {row.ranks_per_node:g}")
    if row.n_ranks > domain and not nodes:
        raise Unsupported(f"the links beyond {domain} accelerators are not stated")


def _price(row: Any, cluster: Cluster) -> tuple[float, float, float]:
    """Measured, predicted and data-sheet time [us]."""
    op = _AS.get(row.op, row.op)
    _refuse(row, cluster, op)
    ranks = int(row.n_ranks)
    path = Network(cluster, ranks).path(Group(ranks, 1))
    time = {"all_reduce": path.all_reduce, "all_gather": path.all_gather, "all_to_all": path.all_to_all}[op](row.bytes)
    level = cluster.levels[0] if ranks <= cluster.levels[0].size or len(cluster.levels) < 2 else cluster.levels[1]
    sheet = float(steps(op, row.n_ranks)) * row.bytes / level.bandwidth
    return float(row.latency_us), float(time) / US, sheet / US


def _slice(path: Path, hardware: str, op: str, custom: bool) -> str:
    return f"{path.stem}/{hardware or 'unnamed'}/{op}" + "/custom" * custom


def _file(path: Path, catalog: Catalog) -> list[Outcome]:
    found = []
    for row in read_collectives(path).itertuples():
        where = _slice(path, str(row.hardware_id), str(row.op), is_custom(str(row.algo), str(row.software)))
        try:
            found.append(outcome(row, where, "latency_us", _price(row, _cluster(catalog, str(row.hardware_id)))))
        except PerfplanError as error:
            found.append(outcome(row, where, "latency_us", None, str(error)))
    return found


def validate_collectives(measured: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> Validation:
    """Score link constants against files in the schema of collectives_measured.csv; the shipped ones if none."""
    entries = catalog or Catalog()
    paths = [Path(path) for path in measured] or shipped(COLLECTIVE_FILES)
    return summary([one for path in paths for one in _file(path, entries)])
