"""A bound from spectra of neighbouring layers that share what they say of the layer between them.

Z [GPU, expert] is the placement of two neighbouring layers, one after the other; X = Z' Z tells which experts share a
GPU: experts of one layer (C), and of the two (S). Its entries are 0 or 1, its diagonal is 1, each row has k ones in C
and k in S, and beyond its mean it is 2 k times a projection of rank G - 1. The transitions that stay are the product of
a table with S. That table is written as a part bounded by the largest eigenvalues, and a rest bounded by the entries;
the rest of C is bounded once for both pairs that a layer is in, which ties the pairs together. The best parts are found
by subgradients (Donath and Hoffman 1973 bound graph partitions by eigenvalues so).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from perfplan.placement.routing import Array

__all__ = ["kept_by_spectra"]

_PATIENCE = 25  # steps without a better bound until they get shorter


class Duals(NamedTuple):
    """What is chosen. tables: bounded by eigenvalues [pair, expert of both, expert of both]; own: prices of a row of C
    [layer, expert]; rows, columns: of a row and a column of S [pair, expert]."""

    tables: Array
    own: Array
    rows: Array
    columns: Array

    def moved(self, slope: Duals, length: float) -> Duals:
        """These less a step along the slope."""
        return Duals(*(value - length * way for value, way in zip(self, slope, strict=True)))


def kept_by_spectra(moves: Array, count: int, reached: float, steps: int, end: float = np.inf) -> float:
    """Upper bound on the transitions that stay inside `count` equal groups of experts, over all layers.

    moves: [layer, expert, expert]; reached: what some placement keeps, the target of the steps; end: time
    (`time.monotonic`) at which they stop.
    """
    pairs, experts = moves.shape[:2]
    last = max(experts - experts // count - 1, 0)  # of each row, the largest entry beyond those that fit
    rows = np.partition(moves, last, axis=2)[:, :, last] / 2
    tables = np.zeros((pairs, 2 * experts, 2 * experts))
    duals = Duals(tables, np.zeros((pairs + 1, experts)), rows, np.zeros_like(rows))
    best, scale, stalled = float(moves.sum()), 1.0, 0
    for _ in range(steps if count > 1 else 0):
        value, slope = _bound(moves, count, duals)
        stalled = 0 if value < best - 1e-7 else stalled + 1
        best = min(best, value)
        if time.monotonic() > end or value <= reached:
            break
        if stalled > _PATIENCE:
            scale, stalled = 0.75 * scale, 0
        norm = sum(float((way**2).sum()) for way in slope)
        duals = duals.moved(slope, scale * (value - reached) / norm)
    return best


def _bound(moves: Array, count: int, duals: Duals) -> tuple[float, Duals]:
    """(the bound, its slope) at some duals."""
    experts = moves.shape[1]
    size = experts // count
    near, far = slice(0, experts), slice(experts, 2 * experts)
    inside = np.zeros((len(moves) + 1, experts, experts))
    slope = Duals(*(np.zeros_like(value) for value in duals))
    total = float(duals.tables.sum()) / count
    for pair, table in enumerate(duals.tables):
        spectrum, isometry = _largest(table, experts, count)
        total += 2 * size * spectrum
        slope.tables[pair] = 2 * size * isometry + 1 / count
        inside[pair] -= table[near, near]
        inside[pair + 1] -= table[far, far]
    slack = moves / 2 - duals.tables[:, near, far] - duals.rows[:, :, None] - duals.columns[:, None, :]
    ones = (slack > 0).astype(float)
    total += 2 * float(np.maximum(slack, 0).sum()) + 2 * size * float(duals.rows.sum() + duals.columns.sum())
    slope.tables[:, near, far] -= ones
    slope.tables[:, far, near] -= ones.transpose(0, 2, 1)
    slope.rows[:] = 2 * size - 2 * ones.sum(axis=2)
    slope.columns[:] = 2 * size - 2 * ones.sum(axis=1)
    apart = 1 - np.eye(experts)
    slack = inside - (duals.own[:, :, None] + duals.own[:, None, :]) / 2
    ones = (slack > 0) * apart
    total += float(np.trace(inside, axis1=1, axis2=2).sum() + (np.maximum(slack, 0) * apart).sum())
    total += (size - 1) * float(duals.own.sum())
    slope.own[:] = size - 1 - ones.sum(axis=2)
    ones += np.eye(experts)
    slope.tables[:, near, near] -= ones[:-1]
    slope.tables[:, far, far] -= ones[1:]
    return total, slope


def _largest(table: Array, experts: int, count: int) -> tuple[float, Array]:
    """(sum of the count - 1 largest eigenvalues, the projection on their vectors) of a table whose four blocks lose
    the means of their rows and columns."""
    from scipy.linalg import eigh

    blocks = table.reshape(2, experts, 2, experts)
    inner = blocks - blocks.mean(axis=1, keepdims=True)
    inner = (inner - inner.mean(axis=3, keepdims=True)).reshape(table.shape)
    last = len(table) - 1
    values, vectors = eigh(inner, subset_by_index=[last - count + 2, last], check_finite=False)
    return float(values.sum()), vectors @ vectors.T
