"""Latencies as distributions: how many requests meet a limit when service varies and arrivals queue.

`Service` is a service time as weighted points, one per length of a workload. Its queue is G/G/k (Allen-Cunneen, exact
for one server with Poisson arrivals); the wait's tail is exponential and independent of the request's own service.
Rates, utilisations and waits may be NumPy columns; a result has the shape of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfplan.formulas.queueing import multi_server_wait, server_utilisation, wait_probability, wait_tail

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FULL", "Service", "attained", "lognormal_quantile", "mean_wait", "mixed_quantile", "normal_quantile",
           "response_percentile"]

FULL = 0.999
"""Utilisation above which a queue counts as never ending."""
_TINY = 1e-12  # s


@dataclass(frozen=True, eq=False)
class Service:
    """times: service times, the last axis one per length [s]; weights: shares of the lengths; busy: time that a
    server is held by each, where it is not all of the service (a pipeline takes the next request before the last has
    left) [s]."""

    times: np.ndarray
    weights: np.ndarray
    busy: np.ndarray

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
    wait = multi_server_wait(load, service.mean, servers, arrivals, service.variation)
    return load, wait_probability(load, servers), wait


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


def response_percentile(
    service: Service, rate: float, percentile: float, servers: int = 1, arrivals: float = 1.0, extra: float = 0.0
) -> float:
    """Wait and service that `percentile` of the requests do not exceed [s]; infinite where the queue never ends."""
    if float(server_utilisation(rate, service.mean, servers)) >= FULL:
        return float("inf")
    low, high = 0.0, extra + float(service.times.max()) + 1.0
    while float(attained(service, rate, high, servers, arrivals, extra)) < percentile and high < 1e9:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        met = float(attained(service, rate, middle, servers, arrivals, extra)) >= percentile
        low, high = (low, middle) if met else (middle, high)
    return high


def lognormal_quantile(mean: Any, variance: Any, share: float) -> Any:
    """Quantile of the log-normal distribution of that mean and variance; columns or numbers, 0 where the mean is.

    >>> float(lognormal_quantile(2.0, 0.0, 0.99)), round(float(lognormal_quantile(1.0, 1.0, 0.5)), 4)
    (2.0, 0.7071)
    """
    import numpy

    log = numpy.log(1 + variance / numpy.maximum(mean, _TINY) ** 2)
    return mean * numpy.exp(normal_quantile(share) * log**0.5 - log / 2)


def mixed_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """Value along the last axis that `share` of the weights do not exceed."""
    import numpy

    order = numpy.argsort(values, axis=-1)
    reached = numpy.take_along_axis(numpy.broadcast_to(weights, values.shape), order, axis=-1).cumsum(axis=-1)
    place = numpy.minimum((reached < share - 1e-9).sum(axis=-1), values.shape[-1] - 1)
    found: np.ndarray = numpy.take_along_axis(values, numpy.take_along_axis(order, place[..., None], -1), -1)[..., 0]
    return found


def normal_quantile(share: float) -> float:
    """Quantile of the standard normal distribution.

    >>> round(normal_quantile(0.9), 3)
    1.282
    """
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
