"""Replicas by mixed-integer programmes: the published example, brute force, plans by node, and the command."""

import json
from itertools import product

import numpy as np
import pytest

from perfplan.catalog.files import packaged_root
from perfplan.cli.main import run
from perfplan.errors import Unsupported
from perfplan.placement.read import read_routing
from perfplan.placement.replicate import eplb, equal_split, fractional_split, max_loads, plans, shared
from perfplan.placement.replicate_milp import solved_layer

EXAMPLE = packaged_root() / "measurements" / "placement" / "moe_eplb_example.csv"


def tables(experts, gpus, size):
    """All ways to fill the slots with every expert somewhere, the slots of a GPU in order."""
    rows = (np.array(row) for row in product(range(experts), repeat=gpus * size))
    return [row for row in rows if len(set(row)) == experts and (np.diff(row.reshape(gpus, size), axis=1) >= 0).all()]


def best_equal(loads, gpus, size):
    def shares(row):
        return 1 / np.bincount(row)[row]

    return min(max_loads(loads, row, shares(row), gpus) for row in tables(len(loads), gpus, size))


def best_unequal(loads, gpus, size):
    return min(max_loads(loads, *shared(loads, row, gpus), gpus) for row in tables(len(loads), gpus, size))


@pytest.mark.parametrize("seed", range(3))
def test_the_programmes_find_what_brute_force_finds(seed):
    loads = np.random.default_rng(seed).pareto(1.0, 4) + 0.2
    table = eplb(loads[None, :], 6, 2)[0]
    start = table, 1 / np.bincount(table)[table]
    for even, best in ((True, best_equal(loads, 2, 3)), (False, best_unequal(loads, 2, 3))):
        (slots, shares), bound, proven = solved_layer(loads, start, 2, even, 60)
        assert proven and bound == pytest.approx(best, rel=1e-6)
        assert max_loads(loads, slots, shares, 2) == pytest.approx(best, rel=1e-6)
        assert np.bincount(slots, shares, 4) == pytest.approx(np.ones(4)) and set(slots) == {0, 1, 2, 3}


@pytest.mark.parametrize("even", [True, False])
def test_plans_by_node_are_what_brute_force_finds_node_by_node(even):
    loads = np.array([5.0, 1.0, 3.0, 2.5])
    solve = best_equal if even else best_unequal
    pairs = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    best = max(solve(loads[list(node)], 2, 2) for node in pairs[0])
    start = np.array([0, 1, 0, 1, 2, 3, 2, 3]), np.full(8, 0.5)
    (slots, shares), bound, proven = solved_layer(loads, start, 4, even, 60, nodes=2, groups=2)
    assert proven and bound == pytest.approx(best) == max_loads(loads, slots, shares, 4)
    free = min(max(solve(loads[list(node)], 2, 2) for node in pair) for pair in pairs)
    (slots, _), bound, proven = solved_layer(loads, start, 4, even, 60, nodes=2, groups=4)
    assert proven and bound == pytest.approx(free)
    assert len(set(slots[:4])) == 2 and not set(slots[:4]) & set(slots[4:])


def test_the_published_example_by_node_is_proven():
    loads = read_routing(EXAMPLE).loads
    found = {plan.name: plan for plan in plans(loads, 16, 8, 2, 4)}
    for name, even, best in (("equal split by node", True, (151.0, 179.5)),
                             ("fractional split by node", False, (147.0, 172.5))):  # fmt: skip
        for layer, most in enumerate(best):
            start = found[name].slots[layer], found[name].shares[layer]
            plan, bound, proven = solved_layer(loads[layer], start, 8, even, 60, 2, 4)
            assert proven and bound == pytest.approx(most) == max_loads(loads[layer], *plan, 8)


def test_a_stopped_solver_gives_the_plan_it_was_given_and_a_bound():
    loads = read_routing(EXAMPLE).loads[0]
    for even, best in ((True, 136.0), (False, 129.25)):
        start = equal_split(loads, 16, 8)[:2] if even else fractional_split(loads, 16, 8)
        (slots, shares), bound, proven = solved_layer(loads, start, 8, even, 0.5)
        assert not proven and loads.sum() / 8 - 1e-9 <= bound < best
        assert max_loads(loads, slots, shares, 8) <= best + 1e-9
    with pytest.raises(Unsupported, match="certify"):
        solved_layer(np.ones(256), (np.arange(256), np.ones(256)), 64, False, 1)


def test_the_command(capsys):
    arguments = ["replicate", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "tokens=300",
                 "--redundant", "4", "--json"]  # fmt: skip
    assert run(arguments) == 0
    plain = {row["policy"]: row for row in json.loads(capsys.readouterr().out)["policies"]}
    assert run([*arguments, "--certify", "--time-limit", "4"]) == 0
    better = {row["policy"]: row for row in json.loads(capsys.readouterr().out)["policies"]}
    for name in ("EPLB global", "equal split", "fractional split"):
        assert better[name]["balance"] <= plain[name]["balance"] + 1e-9
        assert better[name]["bound"] >= plain[name]["bound"] - 1e-9
    assert run([*arguments, "--certify", "--time-limit", "0"]) == 2 and "time limit" in capsys.readouterr().err
    assert run([*arguments, "--time-limit", "4"]) == 2 and "without --certify" in capsys.readouterr().err
