"""What the formulas declare about themselves: the list of all, and the parameters of each with meaning and unit."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass

import perfplan.formulas
from perfplan.formulas.core import FORMULAS, Formula

__all__ = ["Parameter", "list_formulas", "parameters", "summary"]

_LINE = re.compile(r"^ *(\w+) : (.+) \[([^\]]+)\]$", re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a formula as its docstring declares it."""

    name: str
    meaning: str
    unit: str


def list_formulas() -> list[Formula]:
    """Every formula of every topic module, sorted by name."""
    for module in pkgutil.iter_modules(perfplan.formulas.__path__):
        importlib.import_module(f"perfplan.formulas.{module.name}")
    return [FORMULAS[name] for name in sorted(FORMULAS)]


def parameters(formula: Formula) -> dict[str, Parameter]:
    """The parameters of `formula` by name, read from the lines `name : meaning [unit]` of its docstring.

    >>> from perfplan.formulas.collectives import point_to_point_time
    >>> [(p.name, p.unit) for p in parameters(point_to_point_time.formula).values()]
    [('size', 'B'), ('latency', 's'), ('bandwidth', 'B/s')]
    """
    return {name: Parameter(name, meaning, unit) for name, meaning, unit in _LINE.findall(formula.body.__doc__ or "")}


def summary(formula: Formula) -> str:
    """The first sentence of the formula's docstring."""
    return " ".join((formula.body.__doc__ or "").strip().split("\n\n")[0].split())
