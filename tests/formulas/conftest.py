"""Sample arguments for every formula: numbers of a plausible size for the declared unit of each parameter."""

from __future__ import annotations

import random
from typing import Any

import pytest

from perfplan.formulas.core import Formula
from perfplan.symbolic.declared import list_formulas, parameters

ALL = list_formulas()
_SIZES = {
    "B": (1.0, 1e9),
    "s": (1e-6, 1e-2),
    "B/s": (1e9, 1e12),
    "FLOP": (1e6, 1e15),
    "FLOP/s": (1e12, 1e15),
    "1": (1.0, 64.0),
    "J": (1.0, 1e3),
    "W": (100.0, 1e3),
    "$": (0.1, 10.0),
}

_SHARES = {"utilisation", "load", "percentile", "saving", "clock", "correlation"}


def sample(formula: Formula, seed: int) -> dict[str, Any]:
    """Random positive arguments of `formula`, whole numbers where the unit is a count; the first seed is all twos."""
    chance = random.Random(f"{formula.name} {seed}")
    result = {}
    for name, parameter in parameters(formula).items():
        low, high = _SIZES.get(parameter.unit, (0.5, 10.0))
        whole = parameter.unit in ("1", "FLOP", "tokens")
        result[name] = (
            2
            if whole and seed == 0
            else (int(low * (high / low) ** chance.random()) if whole else low * (high / low) ** chance.random())
        )
    for name in _SHARES & set(result):  # one of these at 1 is a pole: a queue that never ends
        result[name] = chance.uniform(0.05, 0.95)
    if "domains" in result:  # a group has at least one rank in each domain that it touches
        result["ranks"] *= result["domains"]
    return result


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for `formula` all registered formulas, one by one."""
    if "formula" in metafunc.fixturenames:
        metafunc.parametrize("formula", ALL, ids=[formula.name for formula in ALL])
