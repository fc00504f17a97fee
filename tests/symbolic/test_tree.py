"""The tree of quantities: what it says must be what was computed."""

from __future__ import annotations

import pytest
import sympy

from perfplan.errors import OutOfRange, UnknownName
from perfplan.formulas.collectives import hierarchical_all_reduce_time, ring_all_reduce_time
from perfplan.formulas.core import FORMULAS, Node, standing_in, total, tracing
from perfplan.symbolic.break_even import break_even, crossing
from perfplan.symbolic.declared import list_formulas, parameters
from perfplan.symbolic.explain import find, quantities, rows, to_latex_lines, to_lines
from perfplan.symbolic.expressions import expression, latex_name, to_text
from perfplan.symbolic.sensitivity import elasticities

HIERARCHY = (32, 4, 1e9, 1e-5, 1e-6, 5e-6, 400e9, 50e9)


def _step() -> tuple[Node, float]:
    """A small estimate: two collectives, one of them used twice, and a plain number."""
    with tracing() as root:
        reduce = hierarchical_all_reduce_time(*HIERARCHY)
        other = ring_all_reduce_time(8, 1, 1e6, 1e-5, 1e-6, 0, 400e9, 0)
        step = total("T_step", "s", {"dp communication": reduce, "tp": other, "tp again": other, "rest": 0.25})
    return root, step


def test_tracing_does_not_change_values() -> None:
    root, step = _step()
    assert hierarchical_all_reduce_time(*HIERARCHY) == find(root, "T_AR,hier").value
    assert step == pytest.approx(sum(float(v) for v in find(root, "T_step").arguments.values()))


def test_every_expression_gives_its_value_when_the_values_below_are_put_in() -> None:
    _, step = _step()
    tree = rows(step)
    for index, row in enumerate(tree):
        if row.name == "total" or row.repeated:
            continue
        known = {given.name: given.value for given in row.given}
        for below in tree[index + 1 :]:
            if below.depth <= row.depth:
                break
            if below.depth == row.depth + 1 and not below.label:
                known[below.symbol] = below.value
        body = expression(FORMULAS[row.name], [given.name for given in row.given]).body
        value = body.subs({sympy.Symbol(name, nonnegative=True): number for name, number in known.items()})
        assert float(value) == pytest.approx(row.value), row


def test_a_repeated_quantity_is_printed_once() -> None:
    _, step = _step()
    tree = rows(step)
    assert [(row.label, row.symbol) for row in tree if row.repeated] == [("", "t_launch"), ("tp again", "T_AR,ring")]
    again = tree[-1]
    assert to_lines(tree).splitlines()[-1] == f"  tp again: T_AR,ring = 28.4 us, see [{again.number}]"
    assert sum(row.number == again.number for row in tree) == 2


def test_depth_cuts_the_tree() -> None:
    _, step = _step()
    assert {row.depth for row in rows(step, 0)} == {0}
    assert {row.depth for row in rows(step, 1)} == {0, 1}
    assert max(row.depth for row in rows(step)) == 4


def test_two_calls_of_one_formula_get_two_symbols() -> None:
    inner = ring_all_reduce_time.formula  # type: ignore[attr-defined]
    names = []
    with standing_in(lambda formula, arguments: names.append(formula.symbol) or sympy.Symbol(formula.symbol)):
        inner.body(8, 1, 1e6, 0, 0, 0, 1e9, 0)
    assert names == ["t_ring", "t_fill"]
    found = expression(FORMULAS["two_level_all_to_all_time"], parameters(FORMULAS["two_level_all_to_all_time"]))
    assert found.calls == ("T_A2A", "T_A2A'")
    assert to_text(found.body) == "T_A2A + T_A2A'"


def test_standing_in_ends_with_its_block() -> None:
    with standing_in(lambda formula, arguments: 0.0):
        assert ring_all_reduce_time(8, 1, 1e6, 0, 0, 0, 1e9, 0) == 0
    assert ring_all_reduce_time(8, 1, 1e6, 0, 0, 0, 1e9, 0) > 0


@pytest.mark.parametrize(
    "name", ["T_AR,hier", "hierarchical_all_reduce_time", "dp communication", "dp-communication", "DP_Communication"]
)
def test_a_quantity_is_found_by_symbol_formula_or_part(name: str) -> None:
    root, _ = _step()
    assert find(root, name).formula.name == "hierarchical_all_reduce_time"


def test_an_unknown_quantity_is_one_sentence_with_the_nearest() -> None:
    root, _ = _step()
    with pytest.raises(UnknownName, match="did you mean .*dp communication"):
        find(root, "dp comunication")
    with pytest.raises(UnknownName):
        rows(1.5)
    assert "T_step" in quantities(root)


def test_latex_is_balanced_and_escaped() -> None:
    _, step = _step()
    text = to_latex_lines(rows(step))
    assert text.count("{") == text.count("}")
    assert text.startswith("\\begin{align*}") and text.endswith("\\end{align*}")
    assert "net\\_hop" in text and "T_{\\mathrm{AR,hier}}" in text
    assert latex_name("T_A2A'") == "T_{\\mathrm{A2A}}'"


def test_the_list_knows_every_formula() -> None:
    names = [formula.name for formula in list_formulas()]
    assert names == sorted(names)
    assert {"ring_all_reduce_time", "kernel_time", "bubble_time"} <= set(names)


# ---------------------------------------------------------------- sensitivity and break-even
def test_elasticities_of_a_roofline() -> None:
    def time(f: dict[str, float]) -> float:
        return max(2.0 / f.get("peak", 1), 1.0 / f.get("memory", 1))

    found = elasticities(time, ["peak", "memory"])
    assert found["peak"] == pytest.approx(-1) and found["memory"] == 0
    balanced = elasticities(lambda f: max(1 / f.get("peak", 1), 1 / f.get("memory", 1)), ["peak", "memory"])
    assert balanced == pytest.approx({"peak": -0.5, "memory": -0.5})


def test_no_elasticity_of_an_infeasible_result() -> None:
    with pytest.raises(OutOfRange, match="bandwidth"):
        elasticities(lambda f: float("inf"), ["bandwidth"])


def test_break_even_of_a_gemm_is_at_its_intensity() -> None:
    flops, size, peak = 1.374e11, 1.007e8, 989e12
    found = break_even(
        lambda w: flops / peak - size / w,
        1e9,
        1e14,
        name="bandwidth",
        unit="B/s",
        below="memory-bound",
        above="compute-bound",
    )
    assert found.value == pytest.approx(size * peak / flops, rel=1e-10)
    assert found.sentence.startswith("memory-bound below a bandwidth of 725 GB/s")


def test_no_crossing_is_a_sentence() -> None:
    found = break_even(lambda w: -1.0, 1, 10, below="memory-bound")
    assert found.value is None and found.sentence == "memory-bound at every x from 1.00 to 10.0"
    with pytest.raises(OutOfRange):
        crossing(lambda x: x, 0, 1)
    with pytest.raises(OutOfRange):
        crossing(lambda x: float("nan"), 1, 2)


def test_a_jump_is_found_where_it_is() -> None:
    assert crossing(lambda x: 1.0 if x > 3 else -1.0, 1, 10) == pytest.approx(3)
    assert crossing(lambda x: x - 1, 1, 10) == 1
