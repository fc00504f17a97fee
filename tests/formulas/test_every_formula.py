"""What every formula owes: dimensions, documentation, and one body that is the same for floats, columns and symbols."""

from __future__ import annotations

import doctest
import inspect
import sys
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import sympy

import perfplan.formulas
from perfplan.formulas.core import Formula, maximum
from perfplan.formulas.core import formula as declare
from perfplan.symbolic.declared import list_formulas, parameters, summary
from perfplan.symbolic.expressions import expression, latex_name, to_latex, to_text

from .conftest import sample
from .quantity import NONE, DimensionError, Quantity, dimension


def _with_units(formula: Formula, seed: int) -> dict[str, Quantity]:
    units = {name: parameter.unit for name, parameter in parameters(formula).items()}
    return {name: Quantity(value, dimension(units[name])) for name, value in sample(formula, seed).items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_result_has_the_declared_dimension(formula: Formula, seed: int) -> None:
    given = _with_units(formula, seed)
    result = formula.body(**given)
    found = result.dimension if isinstance(result, Quantity) else NONE
    expected = dimension(formula.unit)
    if formula.unit == "B" and all(value.dimension == NONE for value in given.values()):
        expected = NONE  # a count of bytes made of counts alone: its factors are the bytes (34 per token and channel)
    assert found == expected, f"{formula.name} declares {formula.unit}"


def test_every_parameter_is_documented_with_a_unit(formula: Formula) -> None:
    assert list(parameters(formula)) == list(inspect.signature(formula.body).parameters)


def test_it_says_what_it_is_and_where_it_comes_from(formula: Formula) -> None:
    assert summary(formula).endswith((".", ":")) or summary(formula)[0].isupper()
    assert len(formula.source) > 8
    assert formula.symbol


def test_it_has_a_worked_example(formula: Formula) -> None:
    module = sys.modules[formula.body.__module__]
    examples = doctest.DocTestFinder().find(formula.body, formula.name, module=module)
    lines = [example for found in examples for example in found.examples]
    assert lines, f"{formula.name} has no example that runs"
    assert any(formula.name in example.source for example in lines)


@pytest.mark.parametrize("seed", range(3))
def test_columns_agree_with_floats(formula: Formula, seed: int) -> None:
    rows = [sample(formula, 10 * seed + i) for i in range(4)]
    columns = {name: numpy.array([row[name] for row in rows]) for name in rows[0]}
    single = [float(formula.body(**row)) for row in rows]
    together = numpy.broadcast_to(formula.body(**columns), (len(rows),))
    numpy.testing.assert_allclose(together, single, rtol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_symbols_agree_with_floats(formula: Formula, seed: int) -> None:
    given = sample(formula, seed)
    symbols = {name: sympy.Symbol(name, nonnegative=True) for name in given}
    body = sympy.sympify(formula.body(**symbols))  # inner formulas written out
    numbers = {
        symbols[name]: sympy.Integer(value) if isinstance(value, int) else sympy.Float(value, 30)
        for name, value in given.items()
    }
    assert body.free_symbols <= set(numbers)
    assert float(body.subs(numbers)) == pytest.approx(float(formula.body(**given)), rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("seed", range(3))
def test_faster_hardware_is_never_slower(formula: Formula, seed: int) -> None:
    if formula.unit != "s":
        return
    given = sample(formula, seed)
    before = formula.body(**given)
    for name, parameter in parameters(formula).items():
        if parameter.unit in ("B/s", "FLOP/s"):
            assert formula.body(**given | {name: 2 * given[name]}) <= before, f"{formula.name}: {name}"


def test_it_prints(formula: Formula) -> None:
    body = expression(formula, parameters(formula)).body
    assert to_text(body)
    assert to_latex(body).count("{") == to_latex(body).count("}")
    assert latex_name(formula.symbol)


def test_no_two_formulas_share_a_name() -> None:
    folder = Path(perfplan.formulas.__file__).parent
    declared = [
        line.partition("def ")[2].partition("(")[0]
        for path in folder.glob("*.py")
        for before, line in pairwise(path.read_text(encoding="utf-8").splitlines())
        if line.startswith("def ") and (before.startswith("@formula(") or before == ")")
    ]
    assert len(declared) == len(set(declared)) > 60
    assert set(declared) == {formula.name for formula in list_formulas()}


@pytest.mark.parametrize(
    "broken",
    [
        lambda size, time: size + time,
        maximum,
        lambda size, time: size > time,
        lambda size, time: 2**size,
        lambda size, time: size + 1,
        lambda size, time: time.ceiling(),
        lambda size, time: size.logarithm(),
    ],
)
def test_the_dimension_check_catches(broken) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DimensionError):
        broken(Quantity(2, dimension("B")), Quantity(3, dimension("s")))


def test_units_are_read() -> None:
    assert dimension("W") == dimension("J/s") and dimension("FLOP/s") == dimension("Hz")
    assert dimension("$/h") == dimension("$/s") != dimension("$")
    with pytest.raises(DimensionError):
        dimension("furlong")


def test_the_decorator_registers() -> None:
    assert callable(declare("x", "1", source="nowhere"))
