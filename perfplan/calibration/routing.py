"""Skewed routing as the expert measurements define it: what the most loaded rank gets.

`power_law_a` (a = 1.2 in most; collector code of ai-dynamo/aiconfigurator): every expert draws a weight from a density
proportional to x^-a on [1, 0.8 x tokens] if there are more routed tokens than experts, else on [0.01, 2]; weights are
scaled to the routed tokens and rounded, and an expert takes at most all tokens. What rounding and the limit leave over
is handed out one token at a time, round robin over the ranks, to the rank's least loaded expert (or taken from the most
loaded). The rank that was timed is the most loaded one, and several draws were averaged.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from perfplan.calibration.fit import Array

__all__ = ["exponent_of", "is_routing", "loads"]

_DRAWS = 32  # of the five that a measurement averages there is no record: the mean over more is the best guess
_POWER_LAW = re.compile(r"power_law_(\d+(?:\.\d+)?)")
_SEED = 12


def _weights(draws: np.random.Generator, count: int, low: float, high: float, exponent: float) -> Array:
    """Numbers of a bounded power law, by inversion of its distribution."""
    power = 1 - exponent
    if not power:
        return np.asarray(low * (high / low) ** draws.random(count), dtype=float)
    uniform = draws.random(count)
    return np.asarray((low**power + uniform * (high**power - low**power)) ** (1 / power), dtype=float)


def is_routing(distribution: str) -> bool:
    """Whether a distribution of tokens over experts is known: balanced, or a power law.

    >>> is_routing("balanced"), is_routing("power_law_1.2"), is_routing("zipf")
    (True, True, False)
    """
    return distribution == "balanced" or exponent_of(distribution) > 0


def exponent_of(distribution: str) -> float:
    """The exponent of a power law, 0 for anything else [1]."""
    law = _POWER_LAW.fullmatch(distribution)
    return float(law[1]) if law else 0.0


def _settle(parts: Array, tokens: int, left: int) -> None:
    """Hand out what is left over (or take back, if negative), rank by rank; `parts`: ranks x experts, in place."""
    rank = 0
    while left:
        row = parts[rank % len(parts)]
        rank += 1
        at = int(row.argmin() if left > 0 else row.argmax())
        if (left > 0 and row[at] < tokens) or (left < 0 and row[at] > 0):
            row[at] += np.sign(left)
            left -= int(np.sign(left))


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
        weights = _weights(draws, experts, low, max(high, low), exponent)
        share = np.minimum(np.round(weights / weights.sum() * routed), tokens)
        parts = share[: experts // ranks * ranks].reshape(ranks, -1)
        _settle(parts, tokens, min(routed, parts.size * tokens) - int(parts.sum()))
        most = int(parts.sum(axis=1).argmax())
        found.append((float(parts[most].sum()), float((parts[most] > 0).sum())))
    load, touched = np.mean(found, axis=0)
    return float(load), float(touched)
