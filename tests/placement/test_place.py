"""Placements against brute force, known optima, bounds that hold, and labels that do not matter."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from perfplan.errors import Indivisible, Infeasible, OutOfRange, SpecError, Unsupported
from perfplan.placement import bounds
from perfplan.placement.baselines import eplb_pack, greedy_chain, two_stage
from perfplan.placement.bounds import load_bound, lower_bound
from perfplan.placement.chain_bound import kept_by_spectra
from perfplan.placement.descent import linear_costs
from perfplan.placement.exact import assignment_chain, partition_path, states
from perfplan.placement.place import place
from perfplan.placement.program import milp
from perfplan.placement.routing import from_loads
from perfplan.placement.score import Problem
from perfplan.placement.search import search
from perfplan.placement.synthetic import Synthetic, generate


def layer_rows(experts, gpus):
    return [np.array(row) for row in sorted(set(permutations(np.arange(experts) // (experts // gpus))))]


def brute_force(problem):
    rows = layer_rows(problem.routing.experts, problem.gpus)
    return min(problem.objective(np.stack(placed)) for placed in product(rows, repeat=problem.routing.layers))


SMALL = [(4, 3, 2, {}), (4, 3, 2, {"load": 0.7}), (4, 3, 2, {"ceiling": 1.15}), (4, 3, 4, {}), (6, 2, 3, {"load": 0.2}),
         (4, 3, 4, {"per_node": 2, "far": 3.0}), (4, 3, 2, {"limit": 1.05})]  # fmt: skip


def problem_of(small, experts, layers, gpus, changes, seed=0):
    return Problem(small(experts, layers, seed), gpus, **{"per_node": gpus, **changes})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("experts, layers, gpus, changes", SMALL)
def test_exact_methods_and_search_find_what_brute_force_finds(small, experts, layers, gpus, changes, seed):
    problem = problem_of(small, experts, layers, gpus, changes, seed)
    best = brute_force(problem)
    if not np.isfinite(best):
        with pytest.raises(Infeasible):
            place(problem)
        return
    found = place(problem)
    assert found.score.objective == pytest.approx(problem.objective(found.placed))
    assert found.score.objective >= best - 1e-9
    assert found.certificate.bound <= best + 1e-9
    if not np.isfinite(problem.limit):
        assert found.score.objective == pytest.approx(best) and found.certificate.proven
    assert lower_bound(problem, steps=50).value <= best + 1e-9
    assert lower_bound(problem, placed=found.placed).value <= best + 1e-9
    if np.isfinite(problem.objective(searched := search(problem, 60, 20.0).placed)):
        assert best - 1e-9 <= problem.objective(searched) <= 1.02 * best + 1e-9


@pytest.mark.parametrize("changes", [{}, {"load": 0.4}, {"traffic": 0.0, "load": 1.0}, {"load": 0.3, "ceiling": 1.5}])
@pytest.mark.parametrize("room", [4, 5])
def test_experts_within_a_memory_budget_are_what_brute_force_finds(small, room, changes):
    routing = small(4, 2, 3)
    routing = replace(routing, loads=routing.loads * np.array([[8.0, 1, 1, 1], [1, 1, 1, 4]]))
    problem = Problem(routing, 2, 2, capacity=room, **changes)
    best = min(problem.objective(np.array(row).reshape(2, 4)) for row in product(range(2), repeat=8))
    found = place(problem, rounds=100)
    assert found.score.objective == pytest.approx(best) and found.certificate.bound <= best + 1e-12
    assert problem.held(found.placed).max() <= room
    if problem.load:  # without, the linear relaxation of traffic alone takes HiGHS long
        solved = place(problem, "milp", time_limit=30)
        assert solved.score.objective == pytest.approx(best) and solved.certificate.proven
    equal = replace(problem, capacity=0)
    if np.isfinite(equal.ceiling):
        return
    assert best <= place(equal).score.objective + 1e-12


def test_a_budget_too_small_is_refused(small):
    with pytest.raises(Infeasible, match="room for 6 each"):
        Problem(small(4, 3, 0), 2, 2, capacity=5)
    with pytest.raises(Unsupported, match="milp"):
        place(Problem(small(4, 3, 0), 2, 2, capacity=7), "exact")


def test_the_programme_agrees_with_the_shortest_path(small):
    problem = problem_of(small, 4, 3, 2, {"load": 0.5})
    start = problem.contiguous()
    placed, answer = milp(problem, 30, start)
    assert answer.status == "optimal" and problem.objective(placed) == pytest.approx(answer.objective)
    assert answer.objective == pytest.approx(problem.objective(partition_path(problem)))


@pytest.mark.parametrize(
    "name, load, cross, balance",
    [
        ("8x8x4", 0, 0.4838, 1.433),
        ("8x8x4", 1, 0.5282, 1.181),
        ("8x32x4", 0, 0.4513, 1.544),
        ("8x32x4", 1, 0.4888, 1.330),
    ],
)
def test_known_optima_of_the_shipped_instances(shipped, name, load, cross, balance):
    found = place(Problem(shipped(name), 4, 4, load=load))
    assert found.certificate.proven
    assert found.score.cross == pytest.approx(cross, abs=1e-4) and found.score.balance == pytest.approx(
        balance, abs=1e-3
    )


@pytest.mark.parametrize("changes", [{}, {"load": 1.0}, {"traffic": 0.0, "load": 1.0}, {"per_node": 4, "far": 2.0}])
def test_the_search_beats_the_baselines_and_respects_its_bound(shipped, monkeypatch, changes):
    monkeypatch.setattr(bounds, "_STEPS", 0)
    monkeypatch.setattr(bounds, "_TIED", 0)
    problem = Problem(shipped("64x8x8"), 8, **{"per_node": 8, **changes})
    found = place(problem, rounds=6)
    others = [eplb_pack(problem), two_stage(problem), greedy_chain(problem), problem.contiguous()]
    assert problem.objective(found.placed) <= min(map(problem.objective, others)) + 1e-12
    assert found.certificate.bound <= found.score.objective
    assert (np.sort(found.placed, axis=1) == np.sort(problem.contiguous(), axis=1)).all()


def test_joint_placement_of_64_experts_within_a_balance(shipped, monkeypatch):
    monkeypatch.setattr(bounds, "_STEPS", 0)
    monkeypatch.setattr(bounds, "_TIED", 0)
    found = place(Problem(shipped("64x8x8"), 8, 8, limit=1.03), rounds=10)
    assert found.score.balance <= 1.03 and found.score.cross <= 0.726
    assert found.certificate.bound == pytest.approx(0.4078, abs=1e-4)


def test_singular_values_improve_the_bound_of_the_transportation_problem():
    problem = Problem(generate(Synthetic(affinity=1.5, tokens=5000), 16, 3, 1), 4, 4)
    best = problem.objective(search(problem, 50, 20.0).placed)
    plain, better = (lower_bound(problem, steps).value for steps in (0, 200))
    assert 1.02 * plain < better <= best


def test_a_time_limit_stops_search_and_bound_and_both_say_so(shipped):
    problem = Problem(shipped("64x8x8"), 8, 8)
    found = place(problem, time_limit=1e-3)
    assert "0 rounds (stopped by the time limit" in found.certificate.method
    assert found.certificate.bounded_by.endswith("stopped by the time limit")
    assert 0 < found.certificate.bound < problem.objective(found.placed)
    assert problem.objective(found.placed) <= problem.objective(greedy_chain(problem))


def test_no_bound_is_made_where_none_is_wanted(shipped):
    found = place(Problem(shipped("64x8x8"), 8, 8), rounds=2, bounded=False)
    assert found.certificate.bound == -np.inf and found.certificate.gap == 1


def test_linear_costs_are_those_of_the_objective(small):
    problem = Problem(small(6, 3, 2), 3, 3)
    placed = problem.contiguous()
    costs = linear_costs(problem, placed, 1)
    for row in layer_rows(6, 3):
        moved = placed.copy()
        moved[1] = row
        assert problem.objective(moved) == pytest.approx(costs[np.arange(6), row].sum())


def test_paths_bound_what_stays_more_tightly():
    problem = Problem(generate(Synthetic(affinity=1.5, tokens=5000), 12, 5, 1), 4, 4)
    found = search(problem, 100, 20.0).placed
    best, paths = problem.objective(found), lower_bound(problem, placed=found)
    assert "paths" in paths.by and 0.95 * best < paths.value <= best
    assert lower_bound(problem, 100, found).value < 0.85 * best


def test_spectra_of_neighbouring_layers_bound_more_tightly_than_pairs():
    problem = Problem(generate(Synthetic(affinity=1.5, tokens=5000), 16, 4, 1), 2, 2)
    found = search(problem, 100, 20.0).placed
    best, (tied, by) = problem.objective(found), lower_bound(problem, placed=found)
    apart = lower_bound(problem, 300, found).value
    assert by == "spectra of neighbouring layers" and 1.05 * apart < tied <= best


@pytest.mark.parametrize("seed", range(4))
def test_spectra_never_cut_off_the_best(small, seed):
    for experts, layers, gpus in ((4, 3, 2), (6, 2, 3), (6, 3, 2), (4, 3, 4)):
        problem = problem_of(small, experts, layers, gpus, {}, seed)
        kept = float(problem.moves.sum()) - brute_force(problem) if gpus < 4 else 0.0
        assert kept_by_spectra(problem.moves, gpus, kept, 400) >= kept - 1e-9


def test_paths_prove_what_the_shortest_path_proves(shipped):
    problem = Problem(shipped("8x8x4"), 4, 4)
    placed = partition_path(problem)
    bound = lower_bound(problem, placed=placed).value
    assert 0.99 * problem.objective(placed) < bound <= problem.objective(placed) + 1e-5
    tight = replace(problem, ceiling=1.7)
    assert bound - 1e-5 <= lower_bound(tight, placed=placed).value <= tight.objective(partition_path(tight)) + 1e-5


def test_renaming_gpus_changes_nothing(shipped):
    problem = Problem(shipped("8x8x4"), 4, 4, load=0.5)
    placed = partition_path(problem)
    for order in permutations(range(4)):
        assert problem.objective(np.array(order)[placed]) == pytest.approx(problem.objective(placed))


def test_renaming_experts_changes_the_optimum_nowhere(small):
    routing, order = small(6, 4, 1), np.array([3, 1, 5, 0, 4, 2])
    other = replace(routing, loads=routing.loads[:, order], transitions=routing.transitions[:, order][:, :, order])
    costs = [
        problem.objective(partition_path(problem))
        for problem in (Problem(routing, 3, 3, load=0.3), Problem(other, 3, 3, load=0.3))
    ]
    assert costs[0] == pytest.approx(costs[1])


def test_the_generator_has_the_traffic_of_mixtral():
    crosses = []
    for seed in (1, 2):
        routing = generate(Synthetic(seed=seed), 8, 32)
        four, eight = Problem(routing, 4, 4), Problem(routing, 8, 8)
        crosses.append((four.score(partition_path(four)).cross, eight.score(assignment_chain(eight)).cross))
    assert crosses[0] == pytest.approx((0.564, 0.715), abs=0.01)  # the default seed
    assert np.mean(crosses, axis=0) == pytest.approx((0.564, 0.715), abs=0.01)


def test_the_same_seed_routes_the_same_tokens():
    one, same, other = (generate(Synthetic(seed=seed, tokens=200), 8, 4, 2) for seed in (1, 1, 2))
    assert (one.trace == same.trace).all() and (one.trace != other.trace).any()
    assert (one.trace[:, :, 0] != one.trace[:, :, 1]).all()


def test_bounds_of_the_balance_hold():
    draws = np.random.default_rng(3)
    for _ in range(20):
        weights = draws.pareto(1.5, 6) + 0.1
        weights *= 3 / weights.sum()
        best = min(np.bincount(row, weights).max() for row in layer_rows(6, 3))
        assert load_bound(weights, 3) <= best + 1e-12


@pytest.mark.parametrize("act, error, words", [
    (lambda r: Problem(r, 3, 3), Indivisible, "1, 2, 4, 8"),
    (lambda r: place(Problem(r, 4, 4), time_limit=0), OutOfRange, "time limit"),
    (lambda r: place(Problem(r, 4, 4), "magic"), Unsupported, "magic"),
    (lambda r: place(Problem(r, 4, 4, limit=0.9)), OutOfRange, "at least 1"),
    (lambda r: place(Problem(r, 4, 4, ceiling=1.0001)), Infeasible, "at best"),
    (lambda r: place(Problem(r, 4, 4, limit=1.0001)), Infeasible, "least"),
    (lambda r: Problem(from_loads(r.loads, "loads"), 4, 4), SpecError, "loads only"),
])  # fmt: skip
def test_what_cannot_be_placed_is_refused(shipped, act, error, words):
    with pytest.raises(error, match=words):
        act(shipped("8x8x4"))


def test_two_levels_have_three_times_the_states(shipped):
    flat, nodes = Problem(shipped("8x8x4"), 4, 4), Problem(shipped("8x8x4"), 4, 2, far=2.0)
    assert (states(flat), states(nodes)) == (105, 315)
    assert nodes.score(partition_path(nodes)).cross_node < flat.score(partition_path(flat)).cross
