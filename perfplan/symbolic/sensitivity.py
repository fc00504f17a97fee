"""Elasticities: by how many percent a result moves when an input moves by one percent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from perfplan.errors import OutOfRange

__all__ = ["elasticities", "ranked"]

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
