"""`place` in one call: routing in; placements of others and the best one, a step with each, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perfplan.errors import Indivisible, OutOfRange, SpecError, Unsupported, offer
from perfplan.optimize.certificate import Certificate
from perfplan.placement.baselines import eplb_pack, greedy_chain, two_stage
from perfplan.placement.dispatch import reached
from perfplan.placement.given import read_placement
from perfplan.placement.latency import quickest
from perfplan.placement.place import Placed, place
from perfplan.placement.read import read_routing
from perfplan.placement.routing import Routing, Whole
from perfplan.placement.score import OBJECTIVES, Problem, Score
from perfplan.placement.step import EXCHANGES, Step, Timed, moe_of, routed_layers
from perfplan.placement.synthetic import generate, synthetic_of
from perfplan.serving.job import ServingJob
from perfplan.training.network import Group
from perfplan.units import parse, show

__all__ = ["Option", "Request", "Study", "Verdict", "experts_within", "fetch", "study"]

WORTH = 0.01  # of a step: gains below are not worth a change
_JUDGED = 0.4  # of the time limit, for the placement by the first window of a trace that the verdict judges
_BLOCKS = 8  # of the next window, for the error of the gain
_SIGMAS = 2.0


@dataclass(frozen=True)
class Request:
    """What is asked. objective: of OBJECTIVES; weight: of the balance in the joint one; balance, ceiling: largest mean
    balance and largest balance of a layer; exchange: of EXCHANGES; method, rounds: of the solver; time_limit: of
    search, bound and verdict together [s]; evaluate: file of a placement to score instead of searching; current: file
    of the placement in use, else contiguous; capacity: experts of all layers that a GPU may hold, 0 = equal numbers."""

    objective: str = "joint"
    weight: float = 1.0
    balance: float = np.inf
    ceiling: float = np.inf
    exchange: str = EXCHANGES[0]
    method: str = "auto"
    rounds: int | None = None
    time_limit: float = 60.0
    evaluate: str = ""
    current: str = ""
    capacity: int = 0


@dataclass(frozen=True, eq=False)
class Option:
    """One placement: who made it, its figures, and its step where tokens go out and back, and where they stay.

    reached: (GPUs, nodes) that a token is sent to in a layer, mean, where a trace has all its picks."""

    name: str
    placed: Whole
    score: Score
    time: Timed
    coherent: Timed | None
    reached: tuple[float, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """worth it | not now | too little evidence. gain: of a step on the next window of the trace, error: two standard
    errors of it, None where there is no next window; moving: time to move the weights [s]; why: one sentence."""

    word: str
    gain: float | None
    error: float | None
    moving: float
    why: str


@dataclass(frozen=True, eq=False)
class Study:
    """The answer. options: contiguous first, the one chosen last."""

    step: Step
    problem: Problem
    request: Request
    options: tuple[Option, ...]
    certificate: Certificate | None
    verdict: Verdict

    @property
    def best(self) -> Option:
        """The placement found, or the one evaluated."""
        return self.options[-1]


def fetch(job: ServingJob, trace: str = "", synthetic: str = "") -> Routing:
    """The routing of a file, or made up: one of the two."""
    moe, layers = moe_of(job), len(routed_layers(job))
    if bool(trace) == bool(synthetic):
        raise SpecError("give the routing as one of --trace FILE and --synthetic 'zipf=0.8,affinity=0.9,seed=1'")
    if synthetic:
        return generate(synthetic_of(moe, synthetic), moe.experts, layers, moe.top_k)
    routing = read_routing(trace, moe.experts)
    if routing.layers != layers:
        raise SpecError(f"{trace} has {routing.layers} layers, but {job.model.id} routes tokens in {layers}")
    return routing


def _problem(step: Step, routing: Routing, request: Request) -> Problem:
    """The problem of an objective on the cluster: hops between nodes weigh what their links are slower."""
    if request.objective not in OBJECTIVES:
        raise Unsupported(f"objective {request.objective!r} is unknown{offer(request.objective, OBJECTIVES)}")
    net = step.pricing.net
    domain = net.inner.size or step.gpus
    if step.gpus > domain and step.gpus % domain:
        raise Indivisible(f"ep={step.gpus} does not fill whole fast domains of {domain} accelerators")
    path = net.path(Group(step.gpus, 1))
    near = net.inner_bandwidth(path.group, min(domain, step.gpus), "all_to_all")
    far = float(near / net.reach(path.group, path.domains, near))
    traffic = 0.0 if request.objective == "load" else 1.0
    load = {"traffic": 0.0, "load": 1.0}.get(request.objective, request.weight)
    return Problem(
        routing,
        step.gpus,
        min(domain, step.gpus),
        max(far, 1.0),
        traffic,
        load,
        request.balance,
        request.ceiling,
        request.capacity,
    )


def _solve(step: Step, problem: Problem, request: Request, seconds_left: float, bounded: bool = True) -> Placed:
    """The best placement found in so many seconds, with a bound if one is wanted."""
    if request.objective == "latency":
        return quickest(step, problem, request.exchange, request.method, request.rounds, seconds_left)
    return place(problem, request.method, request.rounds, seconds_left, bounded)


def _option(step: Step, problem: Problem, name: str, placed: Whole) -> Option:
    routing = problem.routing
    stay = None if routing.transitions is None else step.time(routing, placed, "coherent", problem.per_node)
    sent = None
    if routing.trace is not None and routing.trace.shape[2] == step.moe.top_k:
        node = placed * step.nodes // step.gpus
        every = ((placed, step.gpus), (node, step.nodes))
        near, far = (float(reached(routing.trace, where, n).sum(axis=1).mean()) for where, n in every)
        sent = near, far
    return Option(name, placed, problem.score(placed), step.time(routing, placed), stay, sent)


def study(step: Step, routing: Routing, request: Request, tick: Callable[[str], None] = lambda _: None) -> Study:
    """Place the experts, price a step before and after, and say whether it is worth it."""
    if request.exchange not in EXCHANGES:
        raise Unsupported(f"exchange {request.exchange!r} is unknown{offer(request.exchange, EXCHANGES)}")
    known = (
        replace(request, objective="load")
        if routing.transitions is None and request.objective == "latency"
        else request
    )
    problem = _problem(step, routing, known)
    shape = (routed_layers(step.job), routing.experts, step.gpus)
    now = read_placement(request.current, *shape) if request.current else problem.contiguous()
    options = [_option(step, problem, Path(request.current).name or "contiguous", now)]
    if request.evaluate:
        given = read_placement(request.evaluate, *shape)
        _check_counts(given, problem, request.evaluate)
        options.append(_option(step, problem, Path(request.evaluate).name, given))
        return Study(
            step, problem, request, tuple(options), None, _verdict(step, routing, request, now, lambda _: given)
        )
    others = [("EPLB pack", eplb_pack), ("two-stage", two_stage)]
    options += [_option(step, problem, name, make(problem)) for name, make in others]
    if routing.transitions is not None:
        options.append(_option(step, problem, "greedy", greedy_chain(replace(problem, traffic=1.0))))
    tick("placing")
    end = time.monotonic() + request.time_limit
    found = _solve(step, problem, request, request.time_limit * (1 - _JUDGED if routing.trace is not None else 1))
    options.append(_option(step, problem, request.objective, found.placed))
    tick("judging")

    def again(window: Routing) -> Whole:
        left = max(end - time.monotonic(), 0.1 * request.time_limit)
        return _solve(step, replace(problem, routing=window), request, left, bounded=False).placed

    return Study(
        step, problem, request, tuple(options), found.certificate, _verdict(step, routing, request, now, again)
    )


def experts_within(step: Step, budget: str) -> int:
    """Experts of all layers whose weights fit into a budget such as 30GiB on a GPU; 0 for none given."""
    if not budget:
        return 0
    room = int(parse(budget, "B", "--memory-budget") // step.expert_bytes())
    if not room:
        raise OutOfRange(f"--memory-budget {budget} holds no expert of {show(step.expert_bytes(), 'B')}")
    return room


def _check_counts(placed: Whole, problem: Problem, source: str) -> None:
    if problem.capacity:
        if (most := int(problem.held(placed).max())) > problem.capacity:
            raise SpecError(f"{source} puts {most} experts on one GPU, which has room for {problem.capacity}")
        return
    for layer, row in enumerate(placed):
        counts = np.bincount(row, minlength=problem.gpus)
        if counts.max() != counts.min():
            raise SpecError(
                f"{source}: layer {layer} has {counts.max()} experts on one GPU and {counts.min()} on another; "
                f"every GPU holds {problem.size}"
            )


def _verdict(step: Step, routing: Routing, request: Request, now: Whole, again: Callable[[Routing], Whole]) -> Verdict:
    """The gain on the second half of a trace of a placement made from the first half, with its error."""
    windows = routing.windows()
    if windows is None:
        return Verdict(
            "too little evidence",
            None,
            None,
            0.0,
            f"{routing.source} has counts of one window; a trace would show whether the next one is alike",
        )
    first, second = windows
    placed = again(first)
    moving = step.moving_time(now, placed)
    per_node = min(step.pricing.net.inner.size or step.gpus, step.gpus)

    def seconds(window: Routing, where: Whole) -> float:
        return step.time(window, where, request.exchange, per_node).step

    gains = np.array([1 - seconds(block, placed) / seconds(block, now) for block in second.blocks(_BLOCKS)])
    before, after = seconds(second, now), seconds(second, placed)
    gain, error = (
        1 - after / before,
        _SIGMAS * float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else np.inf,
    )
    why = (
        f"on the next window, placed from the one before, a step gains {100 * gain:.3g} % +- {100 * error:.2g} %; "
        f"less than {100 * WORTH:.3g} % is not worth a change"
    )
    if gain - error >= WORTH:
        steps = int(np.ceil(moving / (before - after)))
        why = (
            f"on the next window, placed from the one before, a step gains {100 * gain:.3g} % +- {100 * error:.2g} %; "
            f"moving the weights is repaid after {steps} steps"
        )
        return Verdict("worth it", gain, error, moving, why)
    return Verdict("not now" if gain + error < WORTH else "too little evidence", gain, error, moving, why)
