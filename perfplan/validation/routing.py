"""Skewed routing as the expert measurements define it: what the most loaded rank gets.

`power_law_a`: every expert draws a weight from a density proportional to x^-a between bounds that depend on the number
of tokens, weights are scaled to the routed tokens and an expert takes at most all tokens; the rank that was
timed is the most loaded one, and several draws were averaged.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from perfplan.calibration.fit import Array

__all__ = ["loads"]

_DRAWS = 32
_SEED = 12


def _weights(draws: np.random.Generator, count: int, low: float, high: float, exponent: float) -> Array:
    """Numbers of a bounded power law, by inversion of its distribution."""
    power = 1 - exponent
    if not power:
        return np.asarray(low * (high / low) ** draws.random(count), dtype=float)
    uniform = draws.random(count)
    return np.asarray((low**power + uniform * (high**power - low**power)) ** (1 / power), dtype=float)


@lru_cache(maxsize=4096)
def loads(tokens: int, top_k: int, experts: int, ranks: int, exponent: float = 1.2) -> tuple[float, float]:
    """Mean over draws of (routed tokens, experts that a token reached) of the most loaded of `ranks` expert ranks [1].

    exponent: of the power law of the experts' weights [1]; 1.2 in most measurements.

    >>> load, touched = loads(4096, 8, 256, 8)
    >>> 1.5 < load / (4096 * 8 / 8) < 2.0
    True
    """
    routed, draws = tokens * top_k, np.random.default_rng(_SEED)
    low, high = (1.0, 0.8 * tokens) if routed > experts else (0.01, 2.0)
    found = []
    for _ in range(_DRAWS):
        weights = _weights(draws, experts, low, max(high, low * 1.001), exponent)
        share = np.minimum(np.round(weights / weights.sum() * routed), tokens)
        parts = share[: experts // ranks * ranks].reshape(ranks, -1)
        most = int(parts.sum(axis=1).argmax())
        found.append((max(float(parts[most].sum()), 1.0), max(float((parts[most] > 0).sum()), 1.0)))
    load, touched = np.mean(found, axis=0)
    return float(load), float(touched)
