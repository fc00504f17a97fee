"""`calibrate collectives`: sweeps inside one fast domain in, constants of a cluster's innermost level out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.calibration import links
from perfplan.calibration.fit import Array, Fit, mape, quantiles
from perfplan.calibration.found import US, Calibration, Fitted, doubts, of_chip, significant, split
from perfplan.calibration.tables import is_custom
from perfplan.errors import OutOfRange

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["calibrate_collectives"]

_SIZES = 3  # fewest message sizes of a sweep


def _inside(table: pd.DataFrame, bandwidth: float, domain: int) -> list[str]:
    """Per row: "" or why it is no collective inside one fast domain, or which limit it beats."""

    def why(op: str, algo: str, software: str, ranks: float, per_node: float, size: float, latency: float) -> str:
        if op not in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
            return f"{op} is not fitted"
        if is_custom(algo, software):
            return "it is a custom kernel, not the collective library's"
        if not (ranks >= 2 and size > 0):
            return "its ranks or bytes are missing"
        if ranks > domain or per_node < ranks:  # NaN, not stated, is not smaller
            return f"it crosses the fast domain of {domain}"
        reached = (ranks - 1) / ranks * size / (latency * US)  # what every rank must send whatever the algorithm
        if reached > bandwidth:
            return f"it beats the links: {reached / 1e9:.4g} of {bandwidth / 1e9:.4g} GB/s"
        return ""

    names = ("op", "algo", "software", "n_ranks", "ranks_per_node", "bytes", "latency_us")
    return [why(*cells) for cells in zip(*(table[name] for name in names), strict=True)]


def calibrate_collectives(table: pd.DataFrame, chip: str, domain: links.Domain, size: int,
                          resolve: Callable[[str], str] = str) -> Calibration:
    """Constants of the innermost level of a cluster from sweeps inside one fast domain.

    table: as `read_collectives` gives it; chip: id; domain: what is known of its links; size: accelerators in it. All
    operations are fitted together (`links`); the left-out error leaves every third message size out. Raises OutOfRange
    when nothing can be fitted.
    """
    table = of_chip(table, resolve, chip)
    good, rejected = split(table, doubts(table))
    good, outside = split(good, _inside(good, domain.bandwidth, size))
    if good["bytes"].nunique() < _SIZES:
        raise OutOfRange(f"no collective of {chip} can be fitted: {len(table)} rows, {len(rejected + outside)} refused,"
                         f" {good['bytes'].nunique()} message sizes are left where {_SIZES} are needed")
    columns = links.columns_of(good["op"], good["n_ranks"].to_numpy(), good["bytes"].to_numpy())
    seconds = good["latency_us"].to_numpy() * US
    found, held = links.fit_level(domain, columns, seconds), links.left_out_sizes(domain, columns, seconds)
    fitted = [_operation(name, good, found, held) for name in dict.fromkeys(links.OPERATIONS.values())
              if (good["op"].map(links.OPERATIONS) == name).any()]
    return Calibration(tuple(fitted), tuple(rejected + outside), _level(found.constants))


def _operation(name: str, rows: pd.DataFrame, found: Fit, held: Array) -> Fitted:
    """The constants that one operation has of a joint fit, with the errors of its own rows."""
    mine = np.asarray(rows["op"].map(links.OPERATIONS) == name)
    constants = {key: significant(found.constants[key]) for key in ("launch", "latency", "fill")}
    constants |= {f"efficiency_{n}": value for n, value in links.efficiencies(found.constants, name).items()}
    if name == "all_reduce" and "reduction" in found.constants:
        constants["reduction"] = significant(found.constants["reduction"])
    left = held[mine & np.isfinite(held)]
    software = ", ".join(sorted({str(one) for one in rows["software"][mine] if one}))
    residuals = found.residuals[mine]
    return Fitted(name, "", software, int(mine.sum()), constants, mape(residuals), mape(left) if len(left) else None,
                  quantiles(residuals))


def _level(constants: Mapping[str, float]) -> dict[str, Any]:
    """Constants of a cluster level; the operation named first stands for those that lack a table of their own."""
    level: dict[str, Any] = {name: significant(constants[name]) for name in ("launch", "latency", "fill")}
    if "reduction" in constants:
        level["reduction"] = significant(constants["reduction"])
    tables = {name: links.efficiencies(constants, name) for name in dict.fromkeys(links.OPERATIONS.values())}
    found = {name: table for name, table in tables.items() if table}
    if first := next(iter(found), ""):
        level["efficiency"] = found.pop(first)
    return level | {"operations": found}
