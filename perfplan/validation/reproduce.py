"""`reproduce`: the published figures of a system, predicted again and compared within their stated tolerance."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from statistics import fmean
from typing import Any

import perfplan.formulas
from perfplan.errors import CatalogError, UnknownName, offer
from perfplan.formulas.core import FORMULAS
from perfplan.units import parse
from perfplan.validation.techniques import Published, Technique

__all__ = ["Check", "Prices", "StepTime", "check", "reproduce"]

StepTime = Callable[[Mapping[str, Any]], float]
"""Step time [s] of the job and layout that inputs name: model, cluster, gpus, precision, framework, layout ..."""
Prices = Mapping[str, StepTime]
"""By name, what a whole room computes from inputs: a step time, the moments of a workload ..."""

_MODULES = tuple(module.name for module in iter_modules(perfplan.formulas.__path__))


@dataclass(frozen=True)
class Check:
    """One published figure beside its prediction, both in SI; error is relative, difference absolute in `unit`."""

    system: str
    name: str
    quantity: str
    predicted: float
    published: float
    unit: str
    kind: str
    tolerance: str
    reason: str
    passed: bool

    @property
    def error(self) -> float:
        """(predicted - published) / published [1]; of a published 0, which is relative to nothing, 0 or infinite."""
        return _relative(self.predicted, self.published)


def _relative(predicted: float, published: float) -> float:
    """Relative error, signed [1]; what differs from a published 0 at all is infinitely far from it."""
    difference = predicted - published
    return difference / published if published else math.copysign(math.inf, difference) if difference else 0.0


def _units(body: Callable[..., Any]) -> dict[str, str]:
    """Unit of each argument of a formula, from the lines `name : meaning [unit]` of its docstring."""
    return dict(re.findall(r"^\s*(\w+) : .*\[([^\]]+)\]\s*$", body.__doc__ or "", re.MULTILINE))


def _number(value: Any, unit: str, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if unit != "1":
            raise CatalogError(f"{where}: {value} needs a unit, for example {unit}")
        return value
    return parse(str(value), unit)


def _value(name: str, inputs: Mapping[str, Any], prices: Prices, where: str) -> float:
    """The quantity `name` at `inputs`: one of `prices`, or a formula whose inputs may be quantities themselves."""
    if name in prices:
        return prices[name](inputs)
    if name not in FORMULAS:
        raise UnknownName(f"{where}: there is no formula {name!r}{offer(name, FORMULAS)}")
    body = FORMULAS[name].body
    units = _units(body)
    if set(units) != set(inputs):
        wrong = sorted(set(units) ^ set(inputs))
        raise CatalogError(f"{where}: formula {name} takes {', '.join(units)}; {', '.join(wrong)} does not match")
    values = {key: _input(value, units[key], prices, f"{where}, {key}") for key, value in inputs.items()}
    return float(body(**values))


def _input(value: Any, unit: str, prices: Prices, where: str) -> float:
    """A number, or a mapping {quantity: name, over: divisor, and its own inputs}."""
    if not isinstance(value, Mapping):
        return _number(value, unit, where)
    rest = {key: inner for key, inner in value.items() if key not in ("quantity", "over")}
    return _value(str(value.get("quantity")), rest, prices, where) / _number(value.get("over", 1), "1", where)


def _within(predicted: float, published: float, tolerance: str, unit: str, where: str) -> bool:
    """Relative tolerances are written "0.2 %", absolute ones "0.3 points" (of a percentage) or as a quantity."""
    if tolerance.endswith("points"):
        return abs(predicted - published) <= float(tolerance.removesuffix("points")) / 100
    if tolerance.endswith("%"):
        return abs(_relative(predicted, published)) <= parse(tolerance, "1")
    return abs(predicted - published) <= _number(tolerance, unit, where)


def check(system: str, row: Published, step_time: StepTime, others: Prices | None = None) -> Check:
    """Predict one published figure. `step_time` prices the rows whose quantity is a step time, `others` those that it
    names."""
    where = f"technique {system}, {row.name}"
    for module in _MODULES:
        import_module(f"perfplan.formulas.{module}")
    predicted = _value(row.quantity, row.inputs, {**(others or {}), "step_time": step_time}, where)
    published = _number(row.value, row.unit, where)
    passed = _within(predicted, published, row.tolerance, row.unit, where)
    return Check(
        system, row.name, row.quantity, predicted, published, row.unit, row.kind, row.tolerance, row.reason, passed
    )


def _mean_check(system: str, rows: Sequence[Published], checks: Sequence[Check]) -> Check | None:
    """The mean absolute error of a block, where the block states a tolerance for it."""
    tolerance = rows[0].mean_tolerance
    if not tolerance:
        return None
    mean = fmean(abs(c.error) for c in checks)
    limit = parse(tolerance, "1")
    return Check(
        system,
        f"mean error of {len(checks)} rows",
        rows[0].quantity,
        mean,
        limit,
        "1",
        rows[0].kind,
        f"at most {tolerance}",
        rows[0].reason,
        mean <= limit,
    )


def reproduce(technique: Technique, step_time: StepTime, others: Prices | None = None) -> list[Check]:
    """Every published row of a system, each block followed by its mean error where one is stated."""
    blocks: dict[int, list[Published]] = defaultdict(list)
    for row in technique.published:
        blocks[row.block].append(row)
    return [c for rows in blocks.values() for c in _block(technique.id, rows, step_time, others or {})]


def _block(system: str, rows: Sequence[Published], step_time: StepTime, others: Prices) -> Iterable[Check]:
    checks = [check(system, row, step_time, others) for row in rows]
    mean = _mean_check(system, rows, checks)
    return [*checks, *([mean] if mean else [])]
