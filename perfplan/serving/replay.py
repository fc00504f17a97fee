"""Deployments of a plan run through the event simulator, on tables of the step times that the plan was made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from perfplan.catalog.workloads import Workload
from perfplan.serving.curves import Curve
from perfplan.serving.pools import Candidate, Limits
from perfplan.serving.queues import burst_length
from perfplan.serving.simulate import Policy, Request, Run, StepTime, pipeline, poisson, simulate, staged
from perfplan.serving.step import decode_step, network, prompt_step, whole

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Replayed", "policy_of", "replay", "step_times"]

REQUESTS, MOST = 1500, 15_000  # simulated
RUNS = 40  # of arrivals close together
WARM = 0.15  # share of the requests that fill the system and are not counted
_POINTS, _LENGTHS = 24, 12
_AT_ONCE = 1e-9  # s
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Replayed:
    """What the simulation of a deployment gave, beside the closed form's figures elsewhere. requests: simulated;
    seed: of arrivals and lengths; ttft, tpot: at the percentile [s]; quick, smooth, good: shares of the requests within
    the limit on TTFT, on TPOT, and on both [1]; batch: mean decodes of an attention rank."""

    requests: int
    seed: int
    ttft: float
    tpot: float
    quick: float
    smooth: float
    good: float
    batch: float
    preemptions: int

    def holds(self, share: float) -> bool:
        """Whether that share of the requests met each limit."""
        return min(self.quick, self.smooth) >= share


class _Table:
    """A function of two numbers by straight lines between its values on a grid; beyond the grid, along the last
    line."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], values: np.ndarray) -> None:
        self.xs, self.ys, self.values = list(xs), list(ys), values.tolist()

    @staticmethod
    def _place(points: list[float], at: float) -> tuple[int, float]:
        i = min(max(bisect_right(points, at) - 1, 0), len(points) - 2)
        return i, (at - points[i]) / (points[i + 1] - points[i])

    def __call__(self, x: float, y: float) -> float:
        i, u = self._place(self.xs, x)
        j, v = self._place(self.ys, y)
        low, high = self.values[i], self.values[i + 1]
        near = low[j] + (low[j + 1] - low[j]) * v
        return float(near + (high[j] + (high[j + 1] - high[j]) * v - near) * u)


def step_times(curve: Curve, longest: float) -> StepTime:
    """Seconds of any step of an instance: decodes through all stages, and what prompt tokens add to each stage."""
    import numpy

    job, layout, net = curve.job, curve.layout, network(curve.job, curve.layout)
    batch = numpy.unique(numpy.floor(numpy.geomspace(1, max(curve.room, 2.0), _POINTS)))
    contexts = numpy.array([1.0, longest / 4, longest / 2, longest])
    priced = [numpy.broadcast_to(whole(decode_step(job, net, layout, batch, c)), batch.shape) for c in contexts]
    decode = _Table(batch.tolist(), contexts.tolist(), numpy.stack(priced, axis=1))
    tokens = numpy.unique(numpy.floor(numpy.geomspace(1, max(job.engine.token_budget, longest), _POINTS)))
    attended = numpy.geomspace(1, max(longest, 2.0), _LENGTHS)
    beside = numpy.unique(numpy.concatenate(([0.0], batch[::4], batch[-1:]))) if job.engine.mixed else numpy.zeros(1)

    def added(decodes: float) -> _Table:
        alone = whole(decode_step(job, net, layout, decodes, curve.context)) if decodes else 0.0
        made = [whole(prompt_step(job, net, layout, tokens, *_one(tokens, seen), decodes, curve.context)) - alone
                for seen in attended]
        return _Table(tokens.tolist(), attended.tolist(), numpy.stack(made, axis=1) / layout.pp)

    tables, known = [added(float(count)) for count in beside], beside.tolist()

    def prompt(decodes: int, new: float, seen: float) -> float:
        i = min(max(bisect_right(known, decodes) - 1, 0), max(len(known) - 2, 0))
        low: float = tables[i](new, seen)
        if decodes <= known[i] or len(known) == 1:
            return low
        u = min((decodes - known[i]) / (known[i + 1] - known[i]), 1.0)
        return low + (tables[i + 1](new, seen) - low) * float(u)

    def time(decodes: int, context: float, new: float, seen: float) -> float:
        return (decode(decodes, context) if decodes else 0.0) + (prompt(decodes, new, seen) if new else 0.0)

    return time


def _one(tokens: np.ndarray, seen: float) -> tuple[np.ndarray, np.ndarray]:
    """(length of prompts, tokens cached before them) for which each of the `tokens` attends to `seen` on average."""
    import numpy

    length = numpy.minimum(tokens, 2 * seen)
    return length, seen - length / 2


def policy_of(curve: Curve, longest: float) -> Policy:
    """The engine's policy for one attention rank; step times pad batches themselves. longest: tokens of the longest
    request, which the cache was found to hold."""
    engine = curve.job.engine
    room = max(curve.cached, longest + 1)
    return Policy(
        engine.max_batch, engine.token_budget, room, engine.chunked, engine.mixed, preempt=not engine.no_evict
    )


def _split(requests: Sequence[Request], ranks: int, work: Sequence[float] | None = None) -> list[list[int]]:
    """Requests by rank: dealt in turn, or, where their `work` [s] is given, to the rank that is free first."""
    if work is None:
        return [list(range(rank, len(requests), ranks)) for rank in range(ranks)]
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    free = [0.0] * ranks
    for i, (request, own) in enumerate(zip(requests, work, strict=True)):
        rank = min(range(ranks), key=free.__getitem__)
        free[rank] = max(free[rank], request.arrival) + own
        dealt[rank].append(i)
    return dealt


def _ranks(
    curve: Curve, count: int, requests: Sequence[Request], longest: float, run: Callable[..., _Found]
) -> tuple[list[_Found], list[list[int]]]:
    """Requests dealt to the ranks of instances; of a prompt only what the cache does not have is computed."""
    full, policy = step_times(curve, longest), policy_of(curve, longest)
    work = [_prompt(curve, r.isl) / curve.layout.pp for r in requests]
    dealt = [mine for mine in _split(requests, count * curve.layout.adp, work) if mine]
    found = curve.hit * sum(r.isl for r in requests) / len(requests)
    policy = replace(policy, room=max(policy.room * (1 - found / curve.context), longest + 1))

    def time(decodes: int, context: float, new: float, seen: float) -> float:
        return full(decodes, context + found, new, seen + found)

    fresh = [Request(r.arrival, max(1, round(r.isl * (1 - curve.hit))), r.osl) for r in requests]
    return [run(policy, time, [fresh[i] for i in mine]) for mine in dealt], dealt


def _prompt(curve: Curve, isl: float) -> float:
    """Time of a prompt alone [s]."""
    import numpy

    return float(numpy.interp(isl, curve.lengths, curve.prompts))


def _staged(pp: int, policy: Policy, times: StepTime, requests: Sequence[Request]) -> Run:
    """A pipeline whose groups of requests share the cache and the batch limit; `times` are of decodes of all groups
    through all stages."""
    room = max(policy.room / pp, max(r.isl + r.osl for r in requests) + 1.0)
    group = replace(policy, room=room, max_batch=max(policy.max_batch // pp, 1))

    def stage(decodes: int, context: float, new: float, seen: float) -> float:
        alone = times(decodes * pp, context, 0.0, 0.0) if decodes else 0.0
        return alone / pp + (times(decodes * pp, context, new, seen) - alone if new else 0.0)

    return staged(group, stage, requests, pp)


def _merged(columns: Sequence[Sequence[float]], dealt: Sequence[Sequence[int]]) -> np.ndarray:
    """A column of all ranks in the order of the requests."""
    import numpy

    found = numpy.zeros(sum(map(len, dealt)))
    for column, mine in zip(columns, dealt, strict=True):
        found[mine] = column
    return found


def _percentile(values: np.ndarray, share: float) -> float:
    import numpy

    return float(numpy.sort(values)[min(int(share * len(values)), len(values) - 1)]) if len(values) else 0.0


def replay(
    one: Candidate,
    workload: Workload,
    rate: float,
    limits: Limits,
    arrivals: float = 1.0,
    *,
    requests: int = 0,
    seed: int = 0,
) -> Replayed:
    """Simulate a deployment at `rate` requests per second; a request goes to the rank whose prompts are
    done first, a cache to the decode ranks in turn. requests: enough for many runs of irregular arrivals unless
    given."""
    requests = requests or max(REQUESTS, round(min(RUNS * burst_length(arrivals), MOST)))
    lengths = [(int(i), int(o)) for i, o in workload.sample(requests, seed)]
    coming = poisson(lengths, rate, arrivals, seed)
    longest = float(workload.isl.longest + workload.osl.longest)
    ttft, tpot, runs = (_together if one.kind == "aggregated" else _apart)(one, coming, longest)
    busy = sum(run.busy for run in runs)
    warm = int(requests * WARM)
    first, each = ttft[warm:], tpot[warm:]
    decoded = each[each > 0]
    return Replayed(
        requests,
        seed,
        _percentile(first, limits.share),
        _percentile(decoded, limits.share),
        float((first <= limits.ttft).mean()),
        float((decoded <= limits.tpot).mean()) if len(decoded) else 1.0,
        float(((first <= limits.ttft) & (each <= limits.tpot)).mean()),
        sum(run.batch * run.busy for run in runs) / busy if busy else 0.0,
        sum(run.preemptions for run in runs),
    )


def _together(one: Candidate, coming: Sequence[Request], longest: float) -> tuple[np.ndarray, np.ndarray, list[Run]]:
    """(TTFT, TPOT, runs of the decoding ranks) of replicas that compute prompts and decodes."""
    pp = one.decode.layout.pp
    runs, dealt = _ranks(one.decode, one.decodes, coming, longest, partial(_staged, pp) if pp > 1 else simulate)
    ttft, tpot = (_merged([getattr(run, what) for run in runs], dealt) for what in ("ttft", "tpot"))
    return ttft + one.decode.first, tpot, runs


def _apart(one: Candidate, coming: Sequence[Request], longest: float) -> tuple[np.ndarray, np.ndarray, list[Run]]:
    """The same of two pools: a decode begins when the cache of its prompt has come."""
    import numpy

    alone = [Request(r.arrival, r.isl, 1) for r in coming]
    first, first_dealt = _ranks(one.prefill, one.prefills, alone, longest,
                                partial(pipeline, stages=one.prefill.layout.pp))
    sent = _sent(one)
    ttft = _merged(first, first_dealt) + [sent(r.isl) + one.prefill.first for r in coming]
    there = numpy.array([r.arrival for r in coming]) + ttft
    later = numpy.argsort(there, kind="stable")
    moved = [Request(float(there[i]), coming[i].isl, coming[i].osl) for i in later]
    runs, dealt = _decode_ranks(one.decode, one.decodes, moved, longest)
    tpot = numpy.zeros(len(coming))
    tpot[later] = _merged([run.tpot for run in runs], dealt)
    return ttft, tpot, runs


def _sent(one: Candidate) -> Callable[[float], float]:
    import numpy

    times = numpy.broadcast_to(one.transfer, one.prefill.lengths.shape)
    return lambda isl: float(numpy.interp(isl, one.prefill.lengths, times))


def _decode_ranks(
    curve: Curve, count: int, moved: Sequence[Request], longest: float
) -> tuple[list[Run], list[list[int]]]:
    """Decode instances: a request comes with its cache and its first token, which cost room but no computing."""
    full = step_times(curve, longest)
    policy = replace(policy_of(curve, longest), token_budget=1 << 30)
    dealt = [mine for mine in _split(moved, count * curve.layout.adp) if mine]

    def time(decodes: int, context: float, new: float, seen: float) -> float:
        return full(decodes, context, 0.0, 0.0) if decodes else _AT_ONCE

    return [simulate(policy, time, [moved[i] for i in mine]) for mine in dealt], dealt
