"""The best placement of a problem by the method that suits its size, with its certificate."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from perfplan.errors import Infeasible, OutOfRange, Unsupported, offer
from perfplan.optimize.certificate import Certificate
from perfplan.placement.bounds import lower_bound
from perfplan.placement.exact import STATES, assignment_chain, partition_path, states
from perfplan.placement.program import milp
from perfplan.placement.routing import Whole
from perfplan.placement.score import Problem, Score
from perfplan.placement.search import search

__all__ = ["METHODS", "Placed", "place", "rounds_for"]

METHODS = ("auto", "exact", "search", "milp")
_SEARCH = 0.7  # of the time limit; the rest is for the bound
_SOLVER_START = 0.3  # of the time limit for the search that gives the solver its start
_SOLVER = 0.5  # of the time limit for the solver; what is left is for a bound where it is stopped
_HALVINGS = 12  # of the price of balance, where its mean is limited


@dataclass(frozen=True, eq=False)
class Placed:
    """A placement found, its figures and how good it is known to be."""

    placed: Whole
    score: Score
    certificate: Certificate


def place(
    problem: Problem,
    method: str = "auto",
    rounds: int | None = None,
    time_limit: float = 60.0,
    bounded: bool = True,
) -> Placed:
    """The best placement for the objective of the problem.

    method: auto takes an exact one where there is one, else search; rounds: kicks of the search, by size unless given;
    time_limit: seconds for the whole answer, part of them for the search, the rest for the bound or the solver, which
    stop with what they have; bounded: whether a bound is wanted.
    """
    if method not in METHODS:
        raise Unsupported(f"method {method!r} is unknown{offer(method, METHODS)}")
    if not time_limit > 0:
        raise OutOfRange(f"a time limit of {time_limit:g} s leaves no time to place experts; give more than 0 s")
    if rounds is not None and rounds < 0:
        raise OutOfRange(f"{rounds} rounds of search make no sense; give 0 or more")
    chain = problem.routing.experts == problem.gpus and problem.flat and not (problem.limited or problem.capacity)
    count = 0 if chain else states(problem)
    if method == "exact" and count > STATES:
        why = f"more than {STATES} splits of a layer" if not problem.capacity else "GPUs may differ in experts"
        raise Unsupported(f"{why}: no exact method; use --method search, or milp for few experts")
    if method in ("auto", "exact") and problem.moves.any() and count <= STATES:
        return _exact(problem, chain, count, time_limit)
    end = time.monotonic() + time_limit
    share = _SOLVER_START if method == "milp" else _SEARCH if bounded else 1.0
    found = search(problem, rounds_for(problem) if rounds is None else rounds, share * time_limit)
    if not np.isfinite(problem.objective(found.placed)):
        raise Infeasible(
            f"no placement was found with a balance of {min(problem.limit, problem.ceiling):g}: the best "
            f"packing reaches {problem.score(found.placed).balance:.4g} on average; allow more"
        )
    if method == "milp":
        return _solved(problem, found.placed, _SOLVER * time_limit, end)
    words = f"multi-start search of {found.rounds} rounds"
    if found.rounds < found.planned:
        words += f" (stopped by the time limit; {found.planned} were planned)"
    if bounded:
        return _certified(problem, found.placed, words, end)
    score = problem.score(found.placed)
    return Placed(found.placed, score, Certificate(score.objective, -np.inf, words))


def rounds_for(problem: Problem) -> int:
    """Rounds of a search that take some seconds."""
    return int(min(1000, max(60, 1.6e6 / problem.routing.experts**2)))


def _exact(problem: Problem, chain: bool, count: int, time_limit: float) -> Placed:
    if chain:
        words = f"{problem.routing.layers - 1} assignment problems in a chain"
        return _proven(problem, assignment_chain(problem), words)
    words = f"a shortest path through {count} splits of each layer"
    if np.isfinite(problem.limit):
        return _priced(problem, words, time_limit)
    return _proven(problem, partition_path(problem), words)


def _proven(problem: Problem, placed: Whole, words: str) -> Placed:
    score = problem.score(placed)
    return Placed(placed, score, Certificate(score.objective, score.objective, words))


def _priced(problem: Problem, words: str, time_limit: float) -> Placed:
    """A limit of the mean balance: the price of balance that just keeps it, and the bound which that price proves."""
    free = replace(problem, limit=np.inf)
    first = partition_path(free)
    if np.isfinite(problem.objective(first)):
        return _proven(problem, first, words)
    low, high, kept, bound = 0.0, 64.0, None, -np.inf
    end = time.monotonic() + time_limit
    for _ in range(_HALVINGS):
        if kept is not None and time.monotonic() > end:
            break
        price = high if kept is None else (low * high) ** 0.5 if low else high / 8
        placed = partition_path(replace(free, load=problem.load + price))
        score = free.score(placed)
        bound = max(bound, score.objective + price * (score.balance - problem.limit))
        if score.balance <= problem.limit:
            high = price
            kept = placed if kept is None or score.objective < free.objective(kept) else kept
        elif kept is None:
            break
        else:
            low = price
    if kept is None:
        raise Infeasible(
            f"no placement has a balance of {problem.limit:g} on average; {score.balance:.4g} is the least"
        )
    refined = search(problem, 200, max(end - time.monotonic(), 0.1 * time_limit), [kept]).placed
    best = min((kept, refined), key=problem.objective)
    score = problem.score(best)
    return Placed(
        best,
        score,
        Certificate(score.objective, bound, words + ", with a price on balance", "the same with the limit as a price"),
    )


def _certified(problem: Problem, placed: Whole, words: str, end: float) -> Placed:
    score = problem.score(placed)
    bound, by = lower_bound(problem, placed=placed, end=end)
    by += ", stopped by the time limit" * (time.monotonic() > end)
    return Placed(placed, score, Certificate(score.objective, bound, words, by))


def _solved(problem: Problem, start: Whole, time_limit: float, end: float) -> Placed:
    placed, answer = milp(problem, time_limit, start)
    best = min((start, placed), key=problem.objective)
    score = problem.score(best)
    words = "a mixed-integer programme with cardinality cuts"
    if answer.status == "optimal":
        return Placed(best, score, Certificate(score.objective, min(answer.bound, score.objective), words))
    bound, by = max(lower_bound(problem, placed=best, end=end), (answer.bound, "HiGHS' dual bound"))
    return Placed(best, score, Certificate(score.objective, min(bound, score.objective), words, by))
