"""How TTFT and TPOT differ between requests of one load: percentiles of requests that are all alike.

Open arrivals: an engine runs one step after another; the prompts that arrive during one are computed in the next, as
many as its budget of tokens takes. The number of prompts that wait when a step begins is a Markov chain, solved here;
a request sees what is left of the step it arrives in, the steps that are full before it, and its own.
Closed loops: a request comes at a random point of a step, and, if it is of the burst with which a finite test begins,
at a random place of it; both are uniform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfplan.errors import Infeasible
from perfplan.formulas.queueing import closed_loop_percentile, stretched_step_variance
from perfplan.serving.queues import lognormal_quantile

if TYPE_CHECKING:
    import numpy as np

__all__ = ["NEVER", "Percentiles", "closed_first_tokens", "closed_tokens", "open_first_tokens", "open_tokens"]

P50, P99 = 0.5, 0.99
_PIECES = 8  # parts of a prompt, where a step takes fewer than two prompts
_POINTS = 16  # moments of a step at which a request may come
_MOST = 1024  # parts of prompts that may wait at once
_TAIL = 1e-7  # share of the time with more of them that is neglected
_IDLE = 1e-3  # of a prompt: how often an engine with nothing to do looks for one


@dataclass(frozen=True)
class Percentiles:
    """A latency that half, and 99 of 100, of the requests do not exceed [s]."""

    p50: Any
    p99: Any


NEVER = Percentiles(0.0, 0.0)
"""Of a token that is not asked for."""


def closed_first_tokens(mean: Any, step: Any, share: Any, wait: Any) -> Percentiles:
    """TTFT in a closed loop. mean: of all [s]; step: rest of a step that a request meets at most [s]; share: of the
    requests, that come in a burst [1]; wait: for the others of the burst at most [s]."""
    low = mean - (step + share * wait) / 2
    return Percentiles(*(low + closed_loop_percentile(at, step, share, wait) for at in (P50, P99)))


def closed_tokens(mean: Any, burst: Any) -> Percentiles:
    """TPOT in a closed loop: who comes last in a burst meets no prompts of others. burst: difference between the first
    and the last [s]."""
    return Percentiles(mean, mean + (P99 - P50) * burst)


def open_tokens(mean: float, requests: float, prompt: float, slope: float, stretch: float, crowding: float
                ) -> Percentiles:
    """TPOT of random arrivals, taken as log-normal. The parameters are those of `stretched_step_variance`, mean in
    [s]."""
    variance = float(stretched_step_variance(requests, prompt, prompt**2, slope, stretch, crowding))
    return Percentiles(*(float(lognormal_quantile(mean, variance, share)) for share in (P50, P99)))


# ---------------------------------------------------------------- the chain of steps
@dataclass(frozen=True, eq=False)
class _Steps:
    """times: of steps with 0, 1 ... `most` parts of prompts [s]; each: parts of one prompt; rate: prompts [1/s]."""

    times: np.ndarray
    each: int
    most: int
    rate: float


def _steps(rate: float, prompt: float, step: float, group: float, mixed: bool, batch: float) -> _Steps:
    import numpy

    each = 1 if group >= 2 else _PIECES
    most = max(int(group) if each == 1 else round(group * each), 1)
    decodes = max(step * (1 - math.exp(-batch)), _IDLE * prompt)  # often nothing decodes where the batch is below one
    parts = numpy.arange(most + 1)
    return _Steps(prompt / each * parts + decodes * numpy.where(parts > 0, float(mixed), 1.0), each, most, rate)


def _poisson(mean: np.ndarray, count: int) -> np.ndarray:
    """Probabilities of 0, 1 ... count-1 arrivals, along a new last axis."""
    import numpy

    n = numpy.arange(count)
    log = numpy.array([math.lgamma(k + 1.0) for k in range(count)])
    positive = numpy.maximum(mean, 1e-300)[..., None]
    found: np.ndarray = numpy.exp(n * numpy.log(positive) - positive - log)
    return found


def _waiting(steps: _Steps) -> np.ndarray:
    """Shares of the time in steps that begin with 0, 1, 2 ... waiting parts of prompts."""
    import numpy

    size = 64
    while True:
        waiting = numpy.arange(size)
        taken = numpy.minimum(waiting, steps.most)
        arrivals = _poisson(steps.rate * steps.times, size)[taken]
        after = numpy.minimum((waiting - taken)[:, None] + steps.each * waiting, size - 1)
        moves = numpy.zeros((size, size))
        moves[waiting[:, None], after] = arrivals
        moves[:, -1] = 1 - moves[:, :-1].sum(axis=1)
        balance = moves.T - numpy.eye(size)
        balance[-1] = 1.0
        shares = numpy.maximum(numpy.linalg.solve(balance, numpy.eye(size)[-1]), 0.0) * steps.times[taken]
        spent: np.ndarray = shares / shares.sum()
        if spent[-1] < _TAIL or size >= _MOST:
            return spent
        size *= 2


def _arriving(steps: _Steps, spent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(times to the first token, their weights) of a request that comes at any moment."""
    import numpy

    kept = numpy.flatnonzero(spent > _TAIL)
    taken = numpy.minimum(kept, steps.most)
    step = steps.times[taken][:, None, None]
    point = ((numpy.arange(_POINTS) + 0.5) / _POINTS)[:, None]
    before = steps.rate * (step * point)[..., 0]
    arrivals = numpy.arange(int(before.max() + 8 * before.max() ** 0.5 + 10))
    ahead = (kept - taken)[:, None, None] + steps.each * arrivals
    full = numpy.ceil((ahead + steps.each) / steps.most) - 1
    later = steps.rate * ((1 - point) * step + full * steps.times[-1])
    own = numpy.minimum(ahead + steps.each - full * steps.most + steps.each * later, steps.most)
    last = numpy.interp(own, numpy.arange(steps.most + 1), steps.times)
    times = (1 - point) * step + full * steps.times[-1] + last
    weights = _poisson(before, len(arrivals)) * spent[kept, None, None]
    return times.ravel(), numpy.broadcast_to(weights, times.shape).ravel()


def open_first_tokens(rate: float, prompt: float, step: float, group: float, mixed: bool, batch: float
                      ) -> tuple[float, Percentiles]:
    """(mean, percentiles) of the time to the first token on one attention rank with random arrivals.

    rate: prompts of the rank [1/s]; prompt: time that one adds to a step [s]; step: of decodes alone [s]; group:
    prompts that one step takes, below 1 where they are cut [1]; mixed: whether prompts and decodes share steps; batch:
    decodes of the rank. Raises Infeasible where prompts come faster than steps take them up.
    """
    import numpy

    steps = _steps(rate, prompt, step, group, mixed, batch)
    if rate * float(steps.times[-1]) * steps.each >= 0.999 * steps.most:
        raise Infeasible(f"{rate:.3g} prompts/s on each attention rank are more than steps take up, {group:.3g} each of"
                         f" {steps.times[-1]:.3g} s; use more replicas or a larger token budget")
    times, weights = _arriving(steps, _waiting(steps))
    order = numpy.argsort(times)
    reached = weights[order].cumsum() / weights.sum()
    at = (float(times[order][min(int(numpy.searchsorted(reached, share)), len(order) - 1)]) for share in (P50, P99))
    return float((times * weights).sum() / weights.sum()), Percentiles(*at)
