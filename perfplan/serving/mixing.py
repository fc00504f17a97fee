"""Prompts and decodes in the same steps: how late first tokens and further tokens of a replica are.

A step computes the prompts that came during the step before it, as many as its budget of tokens takes, beside a decode
of every request. So work comes in steps: a request sees the rest of the step it comes in, which is likely a long one,
its own step with the prompts of others in it, and then decodes in steps that carry what came meanwhile. Where an engine
does not mix, prompts go first and decodes stand still. Columns have a row for each number of replicas; lengths, or
kinds of requests, are along the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from perfplan.formulas.core import exp
from perfplan.formulas.queueing import (
    arrival_dispersion,
    carrying_share,
    gathered_wait,
    own_step_wait,
    seen_step,
    step_sum_variance,
    stretched_step_variance,
    wait_probability,
    wait_tail,
)
from perfplan.serving.curves import Curve, level
from perfplan.serving.queues import FULL, burst_share, renewal_variation

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FirstTokens", "Ranks", "Replicas", "Tokens", "first_tokens", "one_rank", "quantile", "tokens"]

_REST = ((0.1127, 5 / 18), (0.5, 8 / 18), (0.8873, 5 / 18))  # of a step in progress, Gauss-Legendre
_CERTAIN = 0.5  # share of the prompts of others in one's own step that is always there (set by the simulation)
_FULLEST = 0.98  # utilisation by prompts beyond which all steps are full
_MOST = 0.15  # by which a crowded batch at most lengthens the mean step (set by the simulation)
_TINY = 1e-12  # s
_ENDLESS = 1e6  # mean prompts of a step without a budget


@dataclass(frozen=True, eq=False)
class Ranks:
    """Replicas under a load, one row each, of one job and workload. like: any curve of them; prompts: time of each
    alone, by length, through all stages of a pipeline, for which every group of its decodes waits [s]; later: what
    follows until its token is out [s]; prompt: their mean [s]; least: decode step of one sequence [s]; batch: decodes
    of a rank; rate: prompts of a rank [1/s]; step: decode step [s]; beside: time that prompts add over their time
    alone; slope: what one more decode adds to a step [s]; servers: ranks of a row."""

    like: Curve
    prompts: Any
    later: Any
    prompt: Any
    least: Any
    batch: Any
    rate: Any
    step: Any
    beside: Any
    slope: Any
    servers: Any


def _later(curve: Curve) -> np.ndarray:
    found: np.ndarray = curve.first + curve.loading + 0 * curve.prompts
    return found


def one_rank(curve: Curve, batch: float, rate: float, servers: int) -> Ranks:
    """One row, at any batch."""
    import numpy

    step, beside, slope = (curve.at(column, batch) for column in (curve.step, curve.beside, curve.slope))
    own = (curve.prompt * curve.layout.pp, float(curve.step[0]), batch, rate, step, beside, slope, float(servers))
    return Ranks(curve, curve.prompts[None], _later(curve)[None], *(numpy.array([value]) for value in own))


@dataclass(frozen=True, eq=False)
class Replicas:
    """Numbers of replicas of curves of one job, one row each. curves; which: of them a row is of; counts: replicas."""

    curves: Sequence[Curve]
    which: np.ndarray
    counts: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """Batches of the curve of each row."""
        import numpy

        found: np.ndarray = numpy.array([len(c.batch) for c in self.curves])[self.which]
        return found

    @cached_property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return tuple(level([getattr(c, name) for c in self.curves])
                     for name in ("batch", "mixed_rate", "step", "beside", "slope"))

    @cached_property
    def _own(self) -> tuple[np.ndarray, ...]:
        import numpy

        found = [[c.prompts, _later(c), c.prompt * c.layout.pp, c.step[0], c.layout.adp] for c in self.curves]
        return tuple(numpy.array(column)[self.which] for column in zip(*found, strict=True))

    def column(self, name: str, place: np.ndarray) -> np.ndarray:
        """Column `batch` or `rate` (of one replica) at a place of each row."""
        found: np.ndarray = self._columns[("batch", "rate").index(name)][self.which, place]
        return found

    def at(self, place: np.ndarray) -> Ranks:
        """Each row at one batch of its curve."""
        prompts, later, prompt, least, ranks = self._own
        batch, rate, step, beside, slope = (column[self.which, place] for column in self._columns)
        return Ranks(self.curves[0], prompts, later, prompt, least, batch, rate / ranks, step, beside, slope,
                     self.counts * ranks)


@dataclass(frozen=True, eq=False)
class _Flow:
    """What a rank of each row sees. prompts: time that a prompt adds, by length [s]; mean, square: of them [s, s s];
    budget: prompt time of a full step [s]; load: utilisation with the decodes of full steps; met: arrivals while the
    rank works, over all."""

    prompts: Any
    mean: Any
    square: Any
    budget: Any
    load: Any
    met: Any


def _flow(ranks: Ranks, rate: Any, arrivals: float) -> _Flow:
    import numpy

    like = ranks.like
    engine, weights, batch = like.job.engine, like.weights, ranks.batch
    mean = ranks.prompt * ranks.beside
    prompts = numpy.maximum(ranks.prompts - (ranks.prompt - mean)[:, None], 0.0)
    prompts = prompts * (mean / (prompts @ weights))[:, None]
    share = float((like.shares * weights).sum())
    budget = mean / share * numpy.maximum(1 - batch / engine.token_budget, 0.1) if engine.chunked else mean * _ENDLESS
    held = mean + share * ranks.step * (1 - exp(-batch)) * engine.mixed
    load = numpy.minimum(rate * held, FULL)
    square = prompts**2 @ weights + (renewal_variation(load, arrivals) - 1) * mean**2
    return _Flow(prompts, mean, numpy.maximum(square, 0.0), budget, load, wait_probability(load, ranks.servers) / load)


# ---------------------------------------------------------------- first tokens
@dataclass(frozen=True, eq=False)
class FirstTokens:
    """TTFT. times: without what is random, by length [s]; weights: of the lengths; rest: longest rest of a step [s];
    chance: of a wait; wait: its mean [s]; full: whether the queue never ends."""

    times: Any
    weights: Any
    rest: Any
    chance: Any
    wait: Any
    full: Any

    @property
    def mean(self) -> Any:
        """Mean TTFT [s]."""
        import numpy

        return numpy.where(self.full, numpy.inf, self.times @ self.weights + self.rest / 2 + self.wait)

    def met(self, limit: float) -> Any:
        """Share of the requests whose first token comes within `limit` [1]."""
        import numpy

        chance, wait = self.chance[:, None], numpy.maximum(self.wait, _TINY)[:, None]
        found = 0.0
        for point, share in _REST:
            spare = limit - self.times - (self.rest * point)[:, None]
            tail = wait_tail(numpy.maximum(spare, 0.0), chance, wait)
            found = found + share * (((spare >= 0) * (1 - tail)) @ self.weights)
        return numpy.where(self.full, 0.0, found)


def first_tokens(ranks: Ranks, arrivals: float) -> FirstTokens:
    """TTFT of replicas. arrivals: squared coefficient of variation of the times between arrivals."""
    import numpy

    flow, mixed = _flow(ranks, ranks.rate, arrivals), ranks.like.job.engine.mixed
    used = ranks.rate * flow.mean
    step = ranks.step * (1 - exp(-ranks.batch))  # often nothing decodes where the batch is below one
    busy = flow.met * flow.load
    queued = gathered_wait(flow.load, used, ranks.rate, flow.square) * flow.met / ranks.servers
    others = own_step_wait(used, step) * flow.met * mixed
    some = numpy.maximum(wait_probability(carrying_share(used, ranks.rate, step), ranks.servers), busy)
    varied = (1 - _CERTAIN) * others
    wait = queued + varied
    chance = (queued * busy + varied * some) / numpy.maximum(wait, _TINY)
    own = (ranks.like.chunks * mixed) * step[:, None] + (_CERTAIN * others)[:, None]
    return FirstTokens(flow.prompts + ranks.later + own, ranks.like.weights, step, chance, wait, flow.load >= FULL)


# ---------------------------------------------------------------- further tokens
@dataclass(frozen=True, eq=False)
class Tokens:
    """TPOT as a mixture of log-normal parts. low, high: no step is shorter or longer [s]; means, variances: of the
    parts [s, s s]; shares: of the requests."""

    low: Any
    high: Any
    means: Any
    variances: Any
    shares: Any

    @property
    def mean(self) -> Any:
        """Mean TPOT over the requests [s]."""
        return (self.means * self.shares).sum(axis=-1)

    def met(self, limit: float) -> Any:
        """Share of the requests whose TPOT is within `limit` [1]."""
        import numpy

        above = self.means - self.low
        square = numpy.log(1 + self.variances / above**2) + 1e-9
        at = (numpy.log(numpy.maximum(limit - self.low, _TINY) / above) + square / 2) / square**0.5
        normal = 1 / (1 + numpy.exp(-numpy.clip(1.5976 * at + 0.07056 * at**3, -50.0, 50.0)))  # within 2e-4
        return (numpy.where(limit >= self.high, 1.0, normal) * self.shares).sum(axis=-1)


def tokens(ranks: Ranks, arrivals: float) -> Tokens:
    """TPOT of replicas. Requests differ in their decode steps, and in whether other prompts came during the step of
    their own: those are computed in their first decode steps."""
    import numpy

    like, mixed = ranks.like, ranks.like.job.engine.mixed
    rate = ranks.rate * burst_share(arrivals, ranks.rate * ranks.servers * like.steps * ranks.step)
    flow = _flow(ranks, rate, min(arrivals, 1.0))
    used, steps = numpy.minimum(rate * flow.mean, _FULLEST), like.stays
    turns = (1 - used[:, None] ** steps) / (1 - used[:, None]) if mixed else 0.0 * steps
    after = turns if mixed else (1 / (1 - used))[:, None] + 0.0 * steps
    step, high, base = _mean_step(ranks, flow, rate, used)
    calm, left, varied = _left_behind(ranks, flow, rate, used, step, high)
    quiet = (step / (1 - used))[:, None] * (1 - used[:, None] * turns / steps)
    means = numpy.concatenate((quiet, quiet + left[:, None] * after / steps), axis=1)
    variance = step_sum_variance(*(x[:, None] for x in (used, step, rate, flow.square)), steps, turns)
    variance = (variance + base[:, None]) / ranks.servers[:, None]
    variances = numpy.concatenate((variance, variance + varied[:, None] * (after / steps) ** 2), axis=1)
    low = numpy.maximum(ranks.step - 2 * ranks.slope * ranks.batch**0.5, ranks.least)[:, None]
    shares = numpy.repeat(numpy.stack((calm, 1 - calm), axis=1), len(steps), axis=1) / len(steps)
    means = numpy.minimum(means, _FULLEST * high[:, None])
    return Tokens(numpy.minimum(low, 0.99 * means), high[:, None], means, variances, shares)


def _mean_step(ranks: Ranks, flow: _Flow, rate: Any, used: Any) -> tuple[Any, Any, Any]:
    """(mean decode step as requests see it, a full step, variance by the batch): a crowded batch has slow steps, and
    most requests are in it [s, s, s s]."""
    import numpy

    crowding = 1 / (1 - numpy.minimum(ranks.batch * ranks.slope / ranks.step, 0.9))
    spread = arrival_dispersion(used, rate**2 * numpy.maximum(flow.square - flow.mean**2, 0.0), crowding)
    longer = numpy.minimum(ranks.slope * spread * crowding / (ranks.step * ranks.servers), _MOST)
    own = flow.mean / ranks.like.steps
    varied = stretched_step_variance(ranks.batch, own, 0.0, ranks.slope, 1 / (1 - used), crowding)
    high = ranks.step + flow.budget if ranks.like.job.engine.mixed else ranks.step * _ENDLESS
    return ranks.step * (1 + longer), high, varied


def _left_behind(ranks: Ranks, flow: _Flow, rate: Any, used: Any, step: Any, high: Any) -> tuple[Any, Any, Any]:
    """What came while a request's own prompt was computed: (chance of nothing, mean time of its prompts and variance
    where something came [s, s s])."""
    import numpy

    weights = ranks.like.weights
    seen = seen_step(used, step, rate, flow.square / ranks.servers)
    seen = seen / (1 + (seen / high) ** 2) ** 0.5  # no step is longer than a full one
    own = numpy.minimum(flow.prompts + (used * flow.met * seen)[:, None], high[:, None])
    came = (rate * flow.met)[:, None] * (own + (ranks.step * ranks.like.job.engine.mixed)[:, None])
    calm = exp(-came) @ weights
    some = numpy.maximum(1 - calm, _TINY)
    count, square = came @ weights, came**2 @ weights
    left = count * flow.mean / some
    varied = (count * flow.square + square * flow.mean**2) / some - left**2
    return calm, left, numpy.maximum(varied, 0.0)


def quantile(met: Callable[[float], Any], share: float) -> float:
    """Time within which `share` of the requests are, of a share that rises with the time [s]; infinite where it never
    gets there."""
    low, high = 0.0, 1e-3
    while met(high) < share:
        low, high = high, 2 * high
        if high > 1e9:
            return float("inf")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if met(middle) >= share else (middle, high)
    return high
