"""The solver's traps: never optimal at a time limit, warm starts that are used, bounds in the sense of the problem."""

import math
import subprocess
import sys

import pulp
import pytest

from perfplan.errors import OutOfRange, SpecError
from perfplan.optimize.certificate import Certificate, of_solution
from perfplan.optimize.milp import solve


def quadratic_assignment(size):
    """A small problem whose linear relaxation is so weak that no proof comes in a fraction of a second."""
    problem = pulp.LpProblem("assignment", pulp.LpMinimize)
    x = [[problem.add_variable(f"x_{i}_{j}", cat=pulp.LpBinary) for j in range(size)] for i in range(size)]
    cost = problem.add_variable("cost", 0)
    for i in range(size):
        problem += pulp.lpSum(x[i]) == 1
        problem += pulp.lpSum(row[i] for row in x) == 1
    terms = []
    for i in range(size - 1):
        for j in range(size):
            for k in range(size):
                z = problem.add_variable(f"z_{i}_{j}_{k}", 0)
                problem += z >= x[i][j] + x[i + 1][k] - 1
                terms.append((1 + (7 * i + 3 * j * k + 5 * k) % 11) * z)
    problem += cost == pulp.lpSum(terms)
    problem += cost + 100
    return problem


def test_a_stopped_solver_is_never_optimal():
    answer = solve(quadratic_assignment(12), time_limit=0.3)
    assert answer.status in ("feasible", "no_solution")
    assert answer.bound < answer.objective


def test_a_solver_stopped_by_its_nodes_is_never_optimal_and_answers_the_same_again():
    answers = [solve(quadratic_assignment(8), time_limit=300, nodes=1) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].status in ("feasible", "no_solution") and answers[0].bound < answers[0].objective


def test_the_constant_of_the_objective_counts_in_bound_and_objective():
    answer = solve(quadratic_assignment(4), time_limit=20)
    assert answer.status == "optimal"
    assert answer.objective == pytest.approx(100 + answer.values["cost"]) == pytest.approx(answer.bound)


def test_a_warm_start_is_used():
    problem = quadratic_assignment(12)
    start = {f"x_{i}_{j}": float(i == j) for i in range(12) for j in range(12)}
    cost = sum(1 + (7 * i + 3 * i * (i + 1) + 5 * (i + 1)) % 11 for i in range(11))
    answer = solve(problem, time_limit=0.3, warm_start=start)
    assert answer.status == "feasible" and answer.objective <= 100 + cost + 1e-6


def test_a_warm_start_for_a_variable_that_is_not_there_is_refused():
    with pytest.raises(SpecError, match="y_0"):
        solve(quadratic_assignment(4), time_limit=1, warm_start={"y_0": 1.0})


@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_time_limit_of_nothing_is_refused(limit):
    with pytest.raises(OutOfRange, match="time limit"):
        solve(quadratic_assignment(4), time_limit=limit)


@pytest.mark.parametrize("cat", [pulp.LpContinuous, pulp.LpInteger])
def test_infeasible_and_unbounded_are_told_apart(cat):
    infeasible = pulp.LpProblem("infeasible", pulp.LpMinimize)
    x = infeasible.add_variable("x", 0, 1, cat=cat)
    infeasible += x
    infeasible += x >= 2
    unbounded = pulp.LpProblem("unbounded", pulp.LpMaximize)
    y = unbounded.add_variable("y", 0, cat=cat)
    unbounded += y
    unbounded += y >= 1
    assert solve(infeasible, 5).status == "infeasible"
    assert solve(unbounded, 5).status == "unbounded"


def test_an_answer_that_stops_at_its_gap_is_feasible_with_that_gap():
    answer = solve(quadratic_assignment(7), time_limit=60, gap=0.5)
    assert answer.found and answer.gap <= 0.5
    assert (answer.status == "optimal") == (answer.gap < 1e-6)


def test_certificates_speak_of_what_is_known():
    assert "not known" in Certificate(2.0, -math.inf, "greedy").sentence()
    assert Certificate(2.0, 1.0, "greedy", "mean load").gap == 0.5
    solved = of_solution(solve(quadratic_assignment(4), 20), "MILP")
    assert solved.proven and solved.sentence().endswith("proven optimal by MILP")


def test_the_solver_says_nothing_on_standard_output():
    code = (
        "import pulp; from perfplan.optimize.milp import solve; p = pulp.LpProblem('p', pulp.LpMinimize);"
        "x = [p.add_variable(f'x_{i}', cat=pulp.LpBinary) for i in range(3)]; p += x[0] + 2 * x[1];"
        "p += x[0] + x[1] + x[2] >= 2; print(solve(p, 5, {'x_0': 1.0}).objective)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "1.0\n" and ran.stderr == ""
