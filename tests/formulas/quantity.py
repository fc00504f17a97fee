"""A number with a dimension: what the dimension check sends through every formula."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BASES = ("B", "s", "J", "$")  # FLOP, tokens, elements, ranks and other counts have no dimension
_COUNTS = {"1", "FLOP", "OP", "tokens"}
_SECONDS = {"W": {"J": 1, "s": -1}, "Hz": {"s": -1}, "h": {"s": 1}}

Dimension = tuple[int | float, ...]
NONE: Dimension = (0,) * len(BASES)


class DimensionError(AssertionError):
    """Two quantities of different dimension were added, compared or chosen between."""


def dimension(unit: str) -> Dimension:
    """The exponents of B, s, J and $ in `unit`, a product and quotient such as `B/s` or `$/h`."""
    powers = dict.fromkeys(BASES, 0)
    for place, product in enumerate(unit.replace("·", "*").split("/")):
        for factor in product.split("*"):
            name = factor.strip().strip("()")
            parts: Mapping[str, int] = {} if name in _COUNTS else _SECONDS.get(name, {name: 1})
            for base, power in parts.items():
                if base not in powers:
                    raise DimensionError(f"unit {unit!r}: {base!r} is not known to the dimension check")
                powers[base] += power * (-1 if place else 1)
    return tuple(powers.values())


class Quantity:
    """A value with a dimension; arithmetic that mixes dimensions raises. Bare zero goes with every dimension."""

    __array_ufunc__ = None

    def __init__(self, value: float, dimension: Dimension) -> None:
        self.value, self.dimension = float(value), dimension

    def _same(self, other: Any, verb: str) -> float:
        value, dim = (other.value, other.dimension) if isinstance(other, Quantity) else (float(other), NONE)
        if dim != self.dimension and not (value == 0 and not isinstance(other, Quantity)):
            raise DimensionError(f"cannot {verb} {self.dimension} and {dim} (powers of {BASES})")
        return value

    def _times(self, other: Any, sign: int) -> Dimension:
        dim = other.dimension if isinstance(other, Quantity) else NONE
        return tuple(a + sign * b for a, b in zip(self.dimension, dim, strict=True))

    def __add__(self, other: Any) -> Quantity:
        return Quantity(self.value + self._same(other, "add"), self.dimension)

    def __sub__(self, other: Any) -> Quantity:
        return Quantity(self.value - self._same(other, "subtract"), self.dimension)

    def __rsub__(self, other: Any) -> Quantity:
        return Quantity(self._same(other, "subtract") - self.value, self.dimension)

    def __mul__(self, other: Any) -> Quantity:
        return Quantity(self.value * _number(other), self._times(other, 1))

    def __truediv__(self, other: Any) -> Quantity:
        return Quantity(self.value / _number(other), self._times(other, -1))

    def __rtruediv__(self, other: Any) -> Quantity:
        return Quantity(_number(other) / self.value, tuple(-a for a in self.dimension))

    def __pow__(self, power: Any) -> Quantity:
        exponent = _dimensionless(power, "raise to")
        return Quantity(self.value**exponent, tuple(a * exponent for a in self.dimension))

    def __rpow__(self, base: Any) -> Quantity:
        return Quantity(_number(base) ** _dimensionless(self, "raise to"), NONE)

    def __floordiv__(self, other: Any) -> Quantity:
        return Quantity(self.value // _number(other), self._times(other, -1))

    def __mod__(self, other: Any) -> Quantity:
        return Quantity(self.value % self._same(other, "take the remainder of"), self.dimension)

    def __neg__(self) -> Quantity:
        return Quantity(-self.value, self.dimension)

    __radd__, __rmul__ = __add__, __mul__

    def __lt__(self, other: Any) -> bool:
        return self.value < self._same(other, "compare")

    def __le__(self, other: Any) -> bool:
        return self.value <= self._same(other, "compare")

    def __gt__(self, other: Any) -> bool:
        return self.value > self._same(other, "compare")

    def __ge__(self, other: Any) -> bool:
        return self.value >= self._same(other, "compare")

    def __eq__(self, other: object) -> bool:
        return self.value == self._same(other, "compare")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self.value)

    def larger(self, other: Any) -> Quantity:
        return Quantity(max(self.value, self._same(other, "choose between")), self.dimension)

    def smaller(self, other: Any) -> Quantity:
        return Quantity(min(self.value, self._same(other, "choose between")), self.dimension)

    def ceiling(self) -> Quantity:
        return Quantity(math.ceil(_dimensionless(self, "round up")), NONE)

    def logarithm(self) -> Quantity:
        return Quantity(math.log2(_dimensionless(self, "take the logarithm of")), NONE)

    def exponential(self) -> Quantity:
        return Quantity(math.exp(_dimensionless(self, "take the exponential of")), NONE)


def _number(other: Any) -> float:
    return other.value if isinstance(other, Quantity) else float(other)


def _dimensionless(value: Any, verb: str) -> float:
    if isinstance(value, Quantity) and value.dimension != NONE:
        raise DimensionError(f"cannot {verb} a quantity of dimension {value.dimension}")
    return _number(value)
