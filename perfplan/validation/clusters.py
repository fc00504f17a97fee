"""The cluster of a measured row: the accelerator's default one, with the domain sizes and links that the row states."""

from __future__ import annotations

from dataclasses import replace

from perfplan.catalog.specs import Cluster, Level
from perfplan.validation.dimensions import Assumed
from perfplan.validation.rows import Row

__all__ = ["fitted_cluster", "torus"]

_GBIT = 1e9 / 8  # B/s per Gb/s


def torus(size: int, dims: int) -> tuple[int, ...]:
    """Sides of the most even torus of `size` chips in `dims` dimensions.

    >>> torus(256, 2), torus(128, 2), torus(64, 3), torus(48, 3)
    ((16, 16), (16, 8), (4, 4, 4), (4, 4, 3))
    """
    if dims == 1:
        return (size,)
    side = max(d for d in range(1, round(size ** (1 / dims) + 1e-9) + 1) if size % d == 0)
    return tuple(sorted((*torus(size // side, dims - 1), side), reverse=True))


def fitted_cluster(cluster: Cluster, row: Row, notes: Assumed) -> Cluster:
    """`cluster` with the row's accelerators per node, fast domain and scale-out bandwidth in place of its own."""
    levels = cluster.levels
    if row.fast_domain and row.fast_domain != levels[0].size:
        levels = _domain(levels, row.fast_domain)
    rate = row.internode_gbps_per_accel
    if rate:
        levels = (
            levels[0],
            *(
                replace(level, bandwidth=min(level.bandwidth, rate * _GBIT) if i else rate * _GBIT)
                for i, level in enumerate(levels[1:])
            ),
        )
    elif (row.n_accel or 0) > levels[0].size:
        notes.add(f"network of cluster {cluster.id}")
    return replace(
        cluster, levels=levels, size=None, accelerators_per_node=row.accel_per_node or cluster.accelerators_per_node
    )


def _domain(levels: tuple[Level, ...], size: int) -> tuple[Level, ...]:
    """Levels whose fast domain has `size` accelerators; levels that it swallows are dropped, the last one stays."""
    first = levels[0]
    inner = replace(first, size=size, dims=torus(size, len(first.dims)) if first.dims else ())
    outer = tuple(level for level in levels[1:] if level.size > size)
    return (inner, *(outer or levels[1:][-1:]))
