"""PuLP models solved by HiGHS, with the solver's word taken only for what it says.

PuLP's own `HiGHS` class calls a run that stopped at its time limit *Optimal*, ignores `warmStart=True` without a word,
and does not report the dual bound. `solve` therefore builds the model through PuLP, hands the start to HiGHS itself,
and reads status and bound from HiGHS.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from perfplan.errors import OutOfRange, SolverError, SpecError

if TYPE_CHECKING:
    import pulp

__all__ = ["EXACT", "Solution", "Status", "solve"]

Status = Literal["optimal", "feasible", "infeasible", "no_solution", "unbounded"]
EXACT = 1e-6  # relative gap below which a bound proves an answer optimal


@dataclass(frozen=True)
class Solution:
    """The answer of a solver. status: "optimal" only if the bound proves it; objective, bound: in the sense of the
    problem, bound from below if it minimises and from above if it maximises, infinite if there is none; gap: distance
    of the two, relative to the objective; values: of the variables by their names, whole where the variable is."""

    status: Status
    objective: float
    bound: float
    gap: float
    values: Mapping[str, float]

    @property
    def found(self) -> bool:
        """Whether there is an answer to use."""
        return self.status in ("optimal", "feasible")


@contextmanager
def _silent() -> Iterator[None]:
    """Standard output shut while a HiGHS is made: release 1.16 prints its name there before it can be told not to."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _start(model: Any, problem: pulp.LpProblem, values: Mapping[str, float], time_limit: float) -> None:
    """Give HiGHS a start: a value for every variable, or for some, which is completed with these held fast."""
    from highspy import HighsSolution

    variables = problem.variables()
    unknown = sorted(set(values) - {variable.name for variable in variables})
    if unknown:
        raise SpecError(f"the warm start of {problem.name} gives a value to {unknown[0]}, which is no variable of it")
    start = HighsSolution()
    if len(values) == len(variables):
        start.col_value = [values[variable.name] for variable in variables]
    else:
        start.col_value = _completed(model, {i: values[v.name] for i, v in enumerate(variables) if v.name in values},
                                     time_limit)
    if start.col_value:
        model.setSolution(start)


def _completed(model: Any, fixed: Mapping[int, float], time_limit: float) -> list[float]:
    """All columns of the model with some held fast, none if that cannot be; in a run of its own, because HiGHS talks to
    the console when it completes a start itself."""
    from highspy import Highs

    with _silent():
        held: Any = Highs()  # type: ignore[no-untyped-call]
    held.setOptionValue("output_flag", False)
    held.setOptionValue("threads", model.getOptionValue("threads")[1])  # threads are the process', one number for all
    held.setOptionValue("time_limit", time_limit)
    held.passModel(model.getModel())
    for column, value in fixed.items():
        held.changeColBounds(column, value, value)
    held.run()
    return list(held.getSolution().col_value) if held.getInfo().primal_solution_status == 2 else []


def _build(problem: pulp.LpProblem, time_limit: float, gap: float, threads: int, nodes: int | None) -> Any:
    """The HiGHS model of a PuLP problem, constant of the objective included, which PuLP forgets."""
    import pulp

    solver = pulp.HiGHS(msg=False, timeLimit=time_limit, gapRel=gap, threads=threads)
    with _silent():
        solver.createAndConfigureSolver(problem)
    problem.solverModel.resetGlobalScheduler(True)  # else a number of threads other than before is an error
    solver.buildSolverModel(problem)
    constant = float(problem.objective.constant) if problem.objective is not None else 0.0
    problem.solverModel.changeObjectiveOffset(_sign(problem) * constant)
    if nodes is not None:
        problem.solverModel.setOptionValue("mip_max_nodes", nodes)
    return problem.solverModel


def _sign(problem: pulp.LpProblem) -> float:
    """HiGHS minimises: -1 for a problem that maximises."""
    import pulp

    return -1.0 if problem.sense == pulp.LpMaximize else 1.0


def _values(model: Any, problem: pulp.LpProblem) -> dict[str, float]:
    import pulp

    columns = model.getSolution().col_value
    return {
        variable.name: float(round(value)) if variable.cat == pulp.LpInteger else float(value)
        for variable, value in zip(problem.variables(), columns, strict=True)
    }


def _dual_bound(model: Any, whole: bool, done: bool) -> float:
    """Bound of the minimisation: of a MILP the solver's own, of an LP its optimum, else none."""
    if not whole:
        return float(model.getInfo().objective_function_value) if done else -math.inf
    bound = float(model.getInfo().mip_dual_bound)
    return bound if math.isfinite(bound) else -math.inf


def _relative(objective: float, bound: float) -> float:
    if not math.isfinite(bound):
        return math.inf
    difference = abs(objective - bound)
    return difference / abs(objective) if objective else (math.inf if difference else 0.0)


def _answer(model: Any, problem: pulp.LpProblem, done: bool) -> Solution:
    """What a run that found something, or stopped, has to show."""
    sign, info = _sign(problem), model.getInfo()
    bound = sign * _dual_bound(model, problem.isMIP(), done)
    if info.primal_solution_status != 2:  # HiGHS: 2 is a feasible point
        return Solution("no_solution", sign * math.inf, bound, math.inf, {})
    objective = sign * float(info.objective_function_value)
    gap = _relative(objective, bound)
    proven = done and abs(objective - bound) <= EXACT * max(1.0, abs(objective))
    return Solution("optimal" if proven else "feasible", objective, bound, gap, _values(model, problem))


def _verdict(model: Any, problem: pulp.LpProblem) -> Solution:
    from highspy import HighsModelStatus as Said

    said, sign = model.getModelStatus(), _sign(problem)
    if said == Said.kInfeasible:
        return Solution("infeasible", sign * math.inf, sign * math.inf, math.inf, {})
    if said == Said.kUnbounded:
        return Solution("unbounded", -sign * math.inf, -sign * math.inf, math.inf, {})
    stopped = (Said.kTimeLimit, Said.kIterationLimit, Said.kSolutionLimit, Said.kMemoryLimit, Said.kUnknown)
    if said in (Said.kOptimal, Said.kModelEmpty, *stopped):
        return _answer(model, problem, said not in stopped)
    raise SolverError(f"HiGHS failed on {problem.name} with status {said.name.removeprefix('k')}")


def solve(problem: pulp.LpProblem, time_limit: float, warm_start: Mapping[str, float] | None = None,
          gap: float = 0.0, threads: int = 1, nodes: int | None = None) -> Solution:
    """Solve a PuLP problem with HiGHS.

    time_limit: seconds; a run that it stops is "feasible" or "no_solution", never "optimal". warm_start: values by
    names of variables; one that is not feasible is dropped by HiGHS. gap: relative gap at which to stop; an answer that
    stops there is "feasible". threads: with one, an answer that is not stopped by time is the same each time. nodes:
    of the branch-and-bound tree at which to stop, a limit that is the same on every machine; none if None.

    >>> import pulp
    >>> problem = pulp.LpProblem("knapsack", pulp.LpMaximize)
    >>> take = [problem.add_variable(f"take_{i}", cat=pulp.LpBinary) for i in range(3)]
    >>> problem += 5 * take[0] + 4 * take[1] + 3 * take[2] + 10
    >>> problem += 2 * take[0] + 3 * take[1] + take[2] <= 5
    >>> answer = solve(problem, time_limit=10)
    >>> answer.status, answer.objective, answer.bound, answer.values["take_1"]
    ('optimal', 19.0, 19.0, 1.0)
    """
    from highspy import HighsModelStatus

    if not time_limit > 0:
        raise OutOfRange(f"a time limit of {time_limit:g} s leaves no time to solve {problem.name}; give more than 0 s")
    model = _build(problem, time_limit, gap, threads, nodes)
    if warm_start:
        _start(model, problem, warm_start, time_limit)
    model.run()
    if model.getModelStatus() == HighsModelStatus.kUnboundedOrInfeasible:  # presolve cannot tell which
        model.setOptionValue("presolve", "off")
        model.run()
    return _verdict(model, problem)
