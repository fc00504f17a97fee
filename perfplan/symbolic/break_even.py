"""Break-even: at which value of one number two times meet ("from which bandwidth on is this compute-bound")."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from perfplan.errors import OutOfRange
from perfplan.units import show

__all__ = ["BreakEven", "break_even", "crossing"]

_POINTS = 65  # samples of the range, evenly in its logarithm, between which a sign change is looked for


@dataclass(frozen=True)
class BreakEven:
    """Where a difference changes its sign: `value` is None where it does not; `sentence` says so in words."""

    value: float | None
    sentence: str


def crossing(function: Callable[[float], float], low: float, high: float) -> float | None:
    """The lowest x in [low, high] where `function` changes its sign, or None; both ends positive.

    The range is sampled evenly in log x, then Brent's method refines the first sign change to 12 digits (at a jump,
    the place of the jump).

    >>> round(crossing(lambda x: x * x - 2, 1, 100), 9)
    1.414213562
    >>> crossing(lambda x: x + 1, 1, 100) is None
    True
    """
    if not 0 < low < high < math.inf:
        raise OutOfRange(f"a break-even lies between two positive numbers, the smaller first: not {low}..{high}")
    ends = math.log(low), math.log(high)
    points = [ends[0] + (ends[1] - ends[0]) * i / (_POINTS - 1) for i in range(_POINTS)]
    xs = [low, *(math.exp(p) for p in points[1:-1]), high]
    signs = [_sign(function(x)) for x in xs]
    for index, sign in enumerate(signs):
        if sign == 0:
            return xs[index]
        if index + 1 < _POINTS and sign * signs[index + 1] < 0:
            return _refine(function, points[index], points[index + 1])
    return None


def _sign(value: float) -> int:
    if math.isnan(value):
        raise OutOfRange("the difference is not a number inside the range searched")
    return (value > 0) - (value < 0)


def _refine(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return math.exp(float(brentq(lambda p: function(math.exp(p)), low, high, xtol=1e-13, rtol=1e-13)))


def break_even(
    function: Callable[[float], float],
    low: float,
    high: float,
    *,
    name: str = "x",
    unit: str = "1",
    below: str = "negative",
    above: str = "positive",
) -> BreakEven:
    """Where `function` (a difference) crosses zero between `low` and `high`, and a sentence about it.

    `name` and `unit` describe x; `below` and `above` say what a negative and a positive difference mean.

    A GEMM of 137 GFLOP and 101 MB on 989 TFLOP/s waits for its memory below 725 GB/s:

    >>> found = break_even(lambda w: 1.374e11 / 989e12 - 1.007e8 / w, 1e11, 1e13, name="bandwidth", unit="B/s",
    ...                    below="memory-bound", above="compute-bound")
    >>> found.sentence
    'memory-bound below a bandwidth of 725 GB/s, compute-bound above'
    >>> break_even(lambda w: 1.0, 1e11, 1e13, name="bandwidth", unit="B/s", above="compute-bound").sentence
    'compute-bound at every bandwidth from 100 GB/s to 10.0 TB/s'
    """
    value = crossing(function, low, high)
    first, last = function(low), function(high)
    if value is None:
        state = above if first > 0 else below
        return BreakEven(None, f"{state} at every {name} from {show(low, unit)} to {show(high, unit)}")
    falling = first > 0 or (first == 0 and last < 0)
    before, after = (above, below) if falling else (below, above)
    return BreakEven(value, f"{before} below a {name} of {show(value, unit)}, {after} above")
