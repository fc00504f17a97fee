"""Latencies as distributions: how many requests meet a limit when service varies and arrivals queue.

`Service` is a service time as weighted points, one per length of a workload. Its queue is G/G/k (Allen-Cunneen, exact
for one server with Poisson arrivals); the wait's tail is exponential and independent of the request's own service.
Rates, utilisations and waits may be NumPy columns; a result has the shape of the rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from perfplan.formulas.queueing import multi_server_wait, server_utilisation, wait_probability, wait_tail

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FULL", "Service", "attained", "burst_length", "burst_share", "lognormal_quantile", "mean_wait",
           "normal_quantile", "renewal_variation"]

FULL = 0.999
"""Utilisation above which a queue counts as never ending."""
_TINY = 1e-12  # s


@dataclass(frozen=True, eq=False)
class Service:
    """times: service times, the last axis one per length [s]; weights: shares of the lengths; busy: time that a
    server is held by each, where it is not all of the service (a pipeline takes the next request before the last has
    left) [s]; late: what the wait is multiplied by where those that wait are served together; more: further mean wait
    [s], and some: share of the requests that meet it."""

    times: np.ndarray
    weights: np.ndarray
    busy: np.ndarray
    late: Any = 1.0
    more: Any = 0.0
    some: Any = 0.0

    @property
    def mean(self) -> Any:
        """Mean time that a request holds a server [s]."""
        return (self.weights * self.busy).sum(axis=-1)

    @property
    def response(self) -> Any:
        """Mean service time [s]."""
        return (self.weights * self.times).sum(axis=-1)

    @property
    def variation(self) -> Any:
        """Squared coefficient of variation of the time that a request holds a server."""
        return (self.weights * self.busy**2).sum(axis=-1) / self.mean**2 - 1

    def percentile(self, share: float) -> float:
        """Service time that `share` of the requests do not exceed, without any queue [s]."""
        import numpy

        order = numpy.argsort(self.times)
        reached = self.weights[order].cumsum()
        return float(self.times[order][min(int(numpy.searchsorted(reached, share - 1e-9)), len(order) - 1)])


def _queue(service: Service, rate: Any, servers: Any, arrivals: float) -> tuple[Any, Any, Any]:
    """Utilisation (capped below 1), probability of any wait, and mean wait [s]."""
    import numpy

    load = numpy.minimum(server_utilisation(numpy.asarray(rate, float), service.mean, servers), FULL)
    varied = renewal_variation(load, arrivals)
    wait = multi_server_wait(load, service.mean, servers, varied, service.variation) * service.late + service.more
    return load, numpy.maximum(wait_probability(load, servers), service.some), wait


def mean_wait(service: Service, rate: Any, servers: Any, arrivals: float = 1.0) -> Any:
    """Mean wait before service [s], infinite where the queue never ends."""
    import numpy

    load, _, wait = _queue(service, rate, servers, arrivals)
    return numpy.where(load >= FULL, numpy.inf, wait)


def attained(service: Service, rate: Any, limit: Any, servers: Any = 1, arrivals: float = 1.0, extra: Any = 0.0) -> Any:
    """Share of the requests whose wait, service and `extra` time together stay within `limit` [1].

    rate: arrivals at all servers together [1/s]; limit, extra: [s], numbers or columns like the rate; arrivals: squared
    coefficient of variation of the times between arrivals.
    """
    import numpy

    load, chance, wait = _queue(service, rate, servers, arrivals)
    spare = numpy.asarray(limit - extra, float)[..., None] - service.times
    tail = wait_tail(numpy.maximum(spare, 0.0), chance[..., None], numpy.maximum(wait, _TINY)[..., None])
    met = ((spare >= 0) * (1 - tail) * service.weights).sum(axis=-1)
    return numpy.where(load >= FULL, 0.0, met)


def burst_share(arrivals: float, requests: Any) -> Any:
    """Rate at which requests come while others are served, over the mean rate [1].

    Irregular arrivals are those of the simulator: two exponential phases with balanced means, a run of about
    1 / `_rare` requests and then a pause. A run that outlasts a request's stay, during which `requests` come, is all
    that most requests see; of shorter ones they see the mean.
    """
    if arrivals <= 1:
        return 1.0 + 0 * requests
    rare = _rare(arrivals)
    return 1 + (1 - 2 * rare) / (1 + requests * rare)


def burst_length(arrivals: float) -> float:
    """Mean requests of a run of irregular arrivals, 1 where they are regular or random.

    >>> round(burst_length(169.0)), burst_length(1.0)
    (339, 1.0)
    """
    return 1 / _rare(arrivals) if arrivals > 1 else 1.0


def _rare(arrivals: float) -> float:
    """Chance of the longer of two exponential phases with balanced means."""
    return (1 - math.sqrt((arrivals - 1) / (arrivals + 1))) / 2


def renewal_variation(load: Any, arrivals: float) -> Any:
    """Squared coefficient of variation of arrivals that the Allen-Cunneen wait needs to be that of GI/M/1.

    An arrival finds the server busy with probability r, the root of r = A((1 - r) / load), where A is the transform of
    the times between arrivals: gamma below a variation of 1, two exponential phases above; the wait is r / (1 - r)
    services. Bursts that a server copes with do no harm until it no longer does.

    >>> [round(float(renewal_variation(x, 169.0))) for x in (0.2, 0.45, 0.8)]
    [4, 16, 159]
    """
    import numpy

    if arrivals == 1:
        return numpy.ones_like(load)
    loads, roots = _roots(arrivals)
    root = numpy.interp(load, loads, roots)
    return numpy.maximum(2 * root * (1 - load) / (load * (1 - root)) - 1, 0.0)


@lru_cache(maxsize=64)
def _roots(arrivals: float) -> tuple[np.ndarray, np.ndarray]:
    """(utilisations, chance that an arrival waits at one server with exponential service)."""
    import numpy

    loads = numpy.concatenate((numpy.linspace(0.002, 0.98, 490), numpy.linspace(0.982, FULL, 60)))
    low, high = numpy.zeros_like(loads), numpy.full_like(loads, 1 - 1e-9)
    for _ in range(50):
        middle = (low + high) / 2
        late = (1 - middle) / loads
        if arrivals > 1:
            rare = _rare(arrivals)
            reached = sum(2 * share**2 / (2 * share + late) for share in (rare, 1 - rare))
        else:
            reached = (1 + arrivals * late) ** (-1 / arrivals) if arrivals > 0 else numpy.exp(-late)
        below = reached > middle  # the transform is convex: above its line until the root
        low, high = numpy.where(below, middle, low), numpy.where(below, high, middle)
    return loads, high


def lognormal_quantile(mean: Any, variance: Any, share: float) -> Any:
    """Quantile of the log-normal distribution of that mean and variance; columns or numbers, 0 where the mean is.

    >>> float(lognormal_quantile(2.0, 0.0, 0.99)), round(float(lognormal_quantile(1.0, 1.0, 0.5)), 4)
    (2.0, 0.7071)
    """
    import numpy

    log = numpy.log(1 + variance / numpy.maximum(mean, _TINY) ** 2)
    return mean * numpy.exp(normal_quantile(share) * log**0.5 - log / 2)


def normal_quantile(share: float) -> float:
    """Quantile of the standard normal distribution.

    >>> round(normal_quantile(0.9), 3)
    1.282
    """
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
