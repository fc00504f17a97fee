"""Elasticities: by how many percent a result moves when an input moves by one percent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from perfplan.errors import OutOfRange

__all__ = ["batch_elasticities", "elasticities", "ranked"]

_STEP = 0.01


def elasticities(
    evaluate: Callable[[dict[str, float]], float], names: Iterable[str], step: float = _STEP
) -> dict[str, float]:
    """d ln(result) / d ln(input) of each name, by central differences of logarithms around factor 1.

    `evaluate` takes a factor for each name that is not to stay as it is and returns a positive result; `step` is the
    relative step. At a kink (a roofline's ridge) the result is the mean of both sides.

    >>> found = elasticities(lambda f: 3 * f.get("bandwidth", 1) ** -0.5, ["bandwidth", "memory"])
    >>> {name: round(value, 6) for name, value in found.items()}
    {'bandwidth': -0.5, 'memory': 0.0}
    """
    up, down = 1 + step, 1 / (1 + step)
    return {name: _slope(evaluate({name: up}), evaluate({name: down}), step, name) for name in names}


def batch_elasticities(
    evaluate: Callable[[Mapping[str, Any]], Any], names: Iterable[str], step: float = _STEP
) -> dict[str, float]:
    """The same from one call: `evaluate` takes a column of factors for every name and returns the column of results.

    >>> found = batch_elasticities(lambda f: f["flops"] / f["peak"], ["flops", "peak"])
    >>> {name: round(value, 6) for name, value in found.items()}
    {'flops': 1.0, 'peak': -1.0}
    """
    import numpy

    order = list(names)
    factors = {name: numpy.ones(2 * len(order)) for name in order}
    for index, name in enumerate(order):
        factors[name][2 * index : 2 * index + 2] = 1 + step, 1 / (1 + step)
    result = evaluate(factors)
    return {name: _slope(float(result[2 * i]), float(result[2 * i + 1]), step, name) for i, name in enumerate(order)}


def _slope(above: float, below: float, step: float, name: str) -> float:
    if not (math.isfinite(above) and math.isfinite(below) and above > 0 and below > 0):
        raise OutOfRange(f"no elasticity with respect to {name}: the result must be positive and finite on both sides")
    return (math.log(above) - math.log(below)) / (2 * math.log1p(step))


def ranked(found: Mapping[str, float], least: float = 0.0) -> list[tuple[str, float]]:
    """Names and elasticities, the strongest first, weaker ones than `least` left out.

    >>> ranked({"a": 0.1, "b": -0.7, "c": 0.0}, least=0.01)
    [('b', -0.7), ('a', 0.1)]
    """
    kept = [(name, value) for name, value in found.items() if abs(value) >= least]
    return sorted(kept, key=lambda item: (-abs(item[1]), item[0]))
