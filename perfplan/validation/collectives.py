"""`validate collectives`: collectives priced on the cluster of a chip, beside measurements.

A row is scored in the slice of its file, chip and operation. The null predictor is the data sheet: the bytes over the
bandwidth of the links, without latency. The label of its software says whose kernels a row measured: those of a library
with constants of its own (small all-reduces of engines, dispatch and combine of experts), else the cluster's library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perfplan.calibration.links import steps
from perfplan.calibration.readers import read_collectives
from perfplan.calibration.tables import is_custom
from perfplan.catalog import Catalog
from perfplan.catalog.specs import Cluster, Level, Library
from perfplan.errors import MissingField, PerfplanError, Unsupported
from perfplan.training import network
from perfplan.training.exchange import deduplicated, engine_all_reduce, low_latency, one_sided
from perfplan.validation.kernels import outcome, shipped, summary
from perfplan.validation.score import Outcome
from perfplan.validation.training import Validation

__all__ = ["COLLECTIVE_FILES", "validate_collectives"]

COLLECTIVE_FILES = ("ops_collectives.csv", "collectives_measured.csv")
US = 1e-6  # s
_AS = {"reduce_scatter": "all_gather", "moe_dispatch": "all_to_all", "moe_combine": "all_to_all"}
_PRICED = ("all_reduce", "all_gather", "all_to_all", "p2p")
_EXPERTS: dict[str, Callable[[network.Path, Library, str, Any], Any]] = {
    "one_sided": one_sided, "low_latency": low_latency}
_LARGE = 2.0**34  # B, a message whose latency does not count

Priced = tuple[str, float, float, float]  # metric; measured, predicted and data-sheet value in it


def _cluster(catalog: Catalog, hardware: str) -> Cluster:
    if not hardware:
        raise MissingField("the row names no accelerator")
    chip = catalog.accelerator(hardware)
    if not chip.default_cluster:
        raise MissingField(f"{chip.id} has no default cluster")
    return catalog.cluster(chip.default_cluster)


def _has_rate(row: Any) -> bool:
    """Whether a bandwidth was published in place of a time."""
    return (row.op == "p2p" or row.algo == "normal") and row.busbw_gb_per_s > 0 and not row.latency_us > 0


def _refuse(row: Any, cluster: Cluster, op: str) -> None:
    if row.suspect == 1:
        raise Unsupported("marked suspect")
    if row.quality == "C":
        raise Unsupported("quality C is listed, not scored")
    if op not in _PRICED:
        raise Unsupported(f"{row.op or 'an unnamed operation'} is not priced")
    if not (_has_rate(row) or (row.bytes > 0 and row.latency_us > 0 and op != "p2p")) or not row.n_ranks >= 2:
        raise Unsupported("its ranks, bytes or time are missing")
    domain, nodes = cluster.levels[0].size, row.ranks_per_node < row.n_ranks
    if nodes and row.ranks_per_node != domain:
        raise Unsupported(f"{cluster.id} has {domain} accelerators in a fast domain, the row {row.ranks_per_node:g}")
    if row.n_ranks > domain and not nodes:
        raise Unsupported(f"the links beyond {domain} accelerators are not stated")


def _level(cluster: Cluster, crosses: bool) -> Level:
    return cluster.levels[1] if crosses and len(cluster.levels) > 1 else cluster.levels[0]


def _rated(row: Any, cluster: Cluster, path: network.Path, library: Library | None) -> Priced:
    """Rows that publish a bandwidth: of one peer, or of the link that limits a dispatch [GB/s]."""
    crosses = row.n_ranks > cluster.levels[0].size
    sheet = _level(cluster, crosses).bandwidth
    if row.op == "p2p":
        reached = _LARGE / path.send(_LARGE)
    elif library is None:
        raise Unsupported(f"no library has constants of {row.software or 'unnamed'} kernels")
    else:
        ranks, domains = int(row.n_ranks), float(path.domains)
        near, far = (0.0, _LARGE) if crosses else (_LARGE, 0.0)
        share = (domains - 1) / domains if crosses else (ranks - 1) / ranks
        reached = share * _LARGE / deduplicated(path, library, row.op, near, far)
    return "busbw_gb_per_s", float(row.busbw_gb_per_s), float(reached) / 1e9, sheet / 1e9


def _timed(row: Any, path: network.Path, library: Library | None) -> float:
    op = _AS.get(row.op, row.op)
    if is_custom(str(row.algo), str(row.software)):
        if library is None:
            raise Unsupported("no library has constants of these custom kernels")
        return float(engine_all_reduce(path, library, row.bytes))
    if library and row.algo in _EXPERTS:
        return float(_EXPERTS[row.algo](path, library, row.op, row.bytes))
    own = path.net.cluster.library
    if row.software and own.software and not any(name in row.software.lower() for name in own.software):
        raise Unsupported(f"{row.software} is not {own.id}, the library of {path.net.cluster.id}")
    time = {"all_reduce": path.all_reduce, "all_gather": path.all_gather, "all_to_all": path.all_to_all}[op](row.bytes)
    return float(time) + own.called(row.software)


def _price(row: Any, cluster: Cluster, library: Library | None) -> Priced:
    """Metric, measured, predicted and data-sheet value; times in us."""
    op = _AS.get(row.op, row.op)
    _refuse(row, cluster, op)
    ranks = int(row.n_ranks)
    path = network.Network(cluster, ranks).path(network.Group(ranks, 1))
    if _has_rate(row):
        return _rated(row, cluster, path, library)
    crosses = ranks > cluster.levels[0].size or row.algo == "low_latency"
    sheet = float(steps(op, row.n_ranks)) * row.bytes / _level(cluster, crosses).bandwidth
    return "latency_us", float(row.latency_us), _timed(row, path, library) / US, sheet / US


def _slice(path: Path, hardware: str, op: str, custom: bool) -> str:
    return f"{path.stem}/{hardware or 'unnamed'}/{op}" + "/custom" * custom


def _library(libraries: Sequence[Library], software: str) -> Library | None:
    """The library with kernels of its own that a software label names; of several the one that says more of it."""
    said = {len(name): one for one in libraries if one.kernels for name in one.software if software.startswith(name)}
    return said[max(said)] if said else None


def _file(path: Path, catalog: Catalog) -> list[Outcome]:
    found = []
    libraries = [catalog.library(name) for name in catalog.ids("library")]
    for row in read_collectives(path).itertuples():
        where = _slice(path, str(row.hardware_id), str(row.op), is_custom(str(row.algo), str(row.software)))
        library = _library(libraries, str(row.software))
        try:
            metric, *values = _price(row, _cluster(catalog, str(row.hardware_id)), library)
            found.append(outcome(row, where, metric, (values[0], values[1], values[2])))
        except PerfplanError as error:
            found.append(outcome(row, where, "latency_us", None, str(error)))
    return found


def validate_collectives(measured: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> Validation:
    """Score link constants against files in the schema of collectives_measured.csv; the shipped ones if none."""
    entries = catalog or Catalog()
    paths = [Path(path) for path in measured] or shipped(COLLECTIVE_FILES)
    return summary([one for path in paths for one in _file(path, entries)])
