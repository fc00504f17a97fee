"""Deployments of one or two pools: how many requests per second each meets the latency limits with (its goodput).

Aggregated: replicas that compute prompts and decodes together, in mixed steps. Disaggregated: one pool computes prompts
and sends the cache to another that decodes. Each pool has a layout of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfplan.formulas.core import minimum
from perfplan.formulas.queueing import closed_loop_response_bound, closed_loop_users_at_knee
from perfplan.formulas.serving_bounds import exposed_kv_transfer
from perfplan.serving.curves import Curve
from perfplan.serving.layout import ServingLayout
from perfplan.serving.memory import sequence_cache
from perfplan.serving.mixing import Replicas, first_tokens, one_rank, quantile, tokens
from perfplan.serving.queues import FULL, attained, mean_wait

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Candidate",
    "Knee",
    "Limits",
    "Operating",
    "Traffic",
    "aggregated",
    "disaggregated",
    "knee",
    "link_bandwidth",
    "mixed_goodput",
    "moved",
    "operating",
    "prefill_goodput",
]

LOADS = 24  # utilisations of a prefill pool that are tried
KEPT = 12  # candidates kept of each group of pairs
SPARSE = 31  # batches that are priced where users give the rate
_NEVER = 1e30  # s


@dataclass(frozen=True)
class Limits:
    """What requests must meet. ttft, tpot: [s]; share: of the requests that meets each [1]; margin: share by which the
    predicted TPOT stays below its limit, for predictions err [1]."""

    ttft: float
    tpot: float
    share: float
    margin: float = 0.0

    @property
    def planned(self) -> float:
        """Most that TPOT may be predicted to be [s]."""
        return self.tpot / (1 + self.margin)


@dataclass(frozen=True)
class Traffic:
    """What arrives: `rate` requests per second [1/s], or, if that is 0, `users` who think for `think` [s] between
    requests; arrivals: squared coefficient of variation of the times between arrivals."""

    rate: float = 0.0
    users: float = 0.0
    think: float = 0.0
    arrivals: float = 1.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """One deployment. prefill, decode: curve and number of instances, the same where aggregated; goodput: requests per
    second that meet both limits [1/s]; batch: sequences per attention rank at that rate; limit: what ends it; needed:
    requests per second that it has to serve [1/s]; transfer: time of the cache between the pools, by length [s]."""

    kind: str
    prefill: Curve
    prefills: int
    decode: Curve
    decodes: int
    goodput: float
    batch: float
    limit: str
    needed: float
    transfer: Any = 0.0

    @property
    def gpus(self) -> int:
        """Accelerators of all instances."""
        apart = self.kind == "disaggregated"
        return self.decodes * self.decode.gpus + apart * self.prefills * self.prefill.gpus

    @property
    def feasible(self) -> bool:
        """Whether the goodput is what is needed."""
        return 0 < self.needed <= self.goodput

    @property
    def layout(self) -> str:
        """The pools in words: "3 x tp4", or "1 x tp4 prefill + 2 x tp2 decode"."""
        decode = f"{self.decodes} x {self.decode.layout}"
        if self.kind == "aggregated":
            return decode
        return f"{self.prefills} x {self.prefill.layout} prefill + {decode} decode"


@dataclass(frozen=True)
class Knee:
    """Asymptotes of a closed loop of users. alone: time of a request on an empty machine [s]; turn: of it at the
    busiest resource, the inverse of the highest rate [s]; users: at the knee, beyond which everyone waits [1]; least:
    response that no schedule betters with the users asked for [s]."""

    alone: float
    turn: float
    users: float
    least: float


@dataclass(frozen=True)
class Operating:
    """What a deployment gives at one rate. rate: [1/s]; means and percentiles: [s]; batch: sequences per attention
    rank; load: rate over goodput."""

    rate: float
    ttft: float
    ttft_percentile: float
    tpot: float
    tpot_percentile: float
    batch: float
    load: float


# ---------------------------------------------------------------- one pool for both
def _closed(traffic: Traffic, population: Iterable[np.ndarray], rates: Iterable[np.ndarray]) -> np.ndarray:
    """Rate of each row at which its population is that of the users; _NEVER where it cannot hold them."""
    import numpy

    found = [
        numpy.interp(traffic.users, numpy.append(0.0, numpy.maximum.accumulate(p)), numpy.append(0.0, r), right=_NEVER)
        for p, r in zip(population, rates, strict=True)
    ]
    return numpy.array(found)


def _mixed_needed(rows: Replicas, traffic: Traffic) -> np.ndarray:
    import numpy

    if traffic.rate:
        return numpy.full(len(rows.counts), traffic.rate)
    inside, rates = [], []
    for i in range(SPARSE):
        place = (rows.sizes - 1) * i // (SPARSE - 1)
        at, rate = rows.at(place), rows.counts * rows.column("rate", place)
        wait = numpy.minimum(first_tokens(at, 1.0).mean, _NEVER)
        inside.append(at.servers * at.batch + rate * (traffic.think + wait))
        rates.append(rate)
    return _closed(traffic, numpy.stack(inside, axis=1), numpy.stack(rates, axis=1))


def _mixed(rows: Replicas, limits: Limits, traffic: Traffic) -> list[Candidate]:
    """Each number of replicas with the largest batch at which both limits are met, found by bisection: in a larger
    batch both are later."""
    import numpy

    arrivals = traffic.arrivals if traffic.rate else 1.0

    def meets(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = rows.at(place)
        return (first_tokens(at, arrivals).met(limits.ttft) >= limits.share,
                tokens(at, arrivals).met(limits.planned) >= limits.share)

    last, over = numpy.full(len(rows.counts), -1), rows.sizes
    while (over - last > 1).any():
        middle = numpy.clip((last + over) // 2, 0, rows.sizes - 1)
        good = numpy.logical_and(*meets(middle))
        last, over = numpy.where(good, middle, last), numpy.where(good | (over - last <= 1), over, middle)
    quick, smooth = meets(numpy.minimum(last + 1, rows.sizes - 1))
    needed, place = _mixed_needed(rows, traffic), numpy.maximum(last, 0)
    rates, batches = ((last >= 0) * rows.column(name, place) for name in ("rate", "batch"))
    found = []
    for i, (which, count) in enumerate(zip(rows.which.tolist(), rows.counts.tolist(), strict=True)):
        curve = rows.curves[which]
        limit = _limit(last[i] + 1 < len(curve.batch), quick[i], smooth[i], curve)
        found.append(Candidate("aggregated", curve, count, curve, count, float(count * rates[i]), float(batches[i]),
                               limit, float(needed[i])))
    return found


def _limit(larger: bool, quick: bool, smooth: bool, curve: Curve) -> str:
    """What a larger batch, if there is one, would break."""
    if larger:
        return "TTFT" if smooth and not quick else "TPOT" if quick else "TTFT and TPOT"
    return "cache memory" if curve.room < curve.job.engine.max_batch else "batch limit of the engine"


def aggregated(found: Iterable[Curve], gpus: int, limits: Limits, traffic: Traffic) -> list[Candidate]:
    """Every number of replicas of every curve on up to `gpus` accelerators."""
    import numpy

    jobs: dict[int, list[Curve]] = {}
    for curve in found:
        if curve.gpus <= gpus:
            jobs.setdefault(id(curve.job), []).append(curve)
    every = []
    for same in jobs.values():
        counts = [numpy.arange(1, gpus // curve.gpus + 1) for curve in same]
        which = numpy.repeat(numpy.arange(len(same)), [len(each) for each in counts])
        every += _mixed(Replicas(same, which, numpy.concatenate(counts)), limits, traffic)
    return every


# ---------------------------------------------------------------- two pools
def link_bandwidth(curve: Curve, gpus: int) -> float:
    """Bandwidth per accelerator between the pools of a deployment of `gpus` accelerators [B/s]."""
    cluster = curve.job.cluster
    inside = gpus <= cluster.fast_domain or len(cluster.levels) < 2
    level = cluster.levels[0] if inside else cluster.levels[1]
    return float(level.bandwidth * level.efficiency[0][1] / level.oversubscription)


def transfer_time(curve: Curve, receivers: Any, gpus: int, size: np.ndarray) -> np.ndarray:
    """Part of the cache's way from a prefill to a decode instance that outlasts the prefill, by length [s]; size: of
    the cache of a prompt over all ranks [B]."""
    bandwidth = link_bandwidth(curve, gpus) * minimum(curve.gpus, receivers)
    exposed: np.ndarray = exposed_kv_transfer(size, len(curve.job.model.layers), bandwidth, curve.prompts)
    return exposed


@dataclass(frozen=True, eq=False)
class _Side:
    """Pools of one kind as columns: curve and count of each, accelerators, goodput."""

    curves: list[Curve]
    index: np.ndarray
    count: np.ndarray
    gpus: np.ndarray
    rate: np.ndarray


def _prefill_rates(
    curve: Curve,
    gpus: int,
    receivers: np.ndarray,
    limits: Limits,
    traffic: Traffic,
    sizes: np.ndarray,
) -> np.ndarray:
    """Goodput of a prefill pool of 1, 2 ... instances, one row for each size of the instances that receive [1/s]."""
    import numpy

    sent = transfer_time(curve, receivers[:, None, None, None], gpus, sizes)
    servers = numpy.arange(1, gpus // curve.gpus + 1)[:, None] * curve.layout.adp
    arrivals = traffic.arrivals if traffic.rate else 1.0
    rates, service = curve.prefill_at(numpy.linspace(0.04, 0.995, LOADS), servers, sent, arrivals)
    met = attained(service, rates, limits.ttft, servers, arrivals)
    best: np.ndarray = (rates * (met >= limits.share)).max(axis=-1)
    return best


def _prefills(found: Sequence[Curve], whole: int, receivers: int, rates: Sequence[np.ndarray]) -> _Side:
    import numpy

    index: list[int] = []
    count: list[int] = []
    rate: list[float] = []
    for i, curve in enumerate(found):
        counts = numpy.arange(1, (whole - receivers) // curve.gpus + 1)
        index += [i] * len(counts)
        count += list(counts)
        rate += list(rates[i][: len(counts)])
    columns = numpy.array(index, int), numpy.array(count, int)
    used = columns[1] * numpy.array([found[i].gpus for i in index], int)
    return _Side(list(found), *columns, used, numpy.array(rate))


def _decodes(found: Sequence[Curve], gpus: int, limits: Limits) -> _Side:
    import numpy

    index: list[int] = []
    count: list[int] = []
    rate: list[float] = []
    for i, curve in enumerate(found):
        smooth = curve.decode_tpot_percentile(limits.share) <= limits.planned
        best = float(curve.decode_rate()[smooth].max()) if smooth.any() else 0.0
        counts = range(1, gpus // curve.gpus + 1)
        index += [i] * len(counts)
        count += counts
        rate += [best * n for n in counts]
    columns = numpy.array(index, int), numpy.array(count, int)
    used = columns[1] * numpy.array([found[i].gpus for i in index], int)
    return _Side(list(found), *columns, used, numpy.array(rate))


def _decode_needed(side: _Side, traffic: Traffic) -> np.ndarray:
    import numpy

    if traffic.rate:
        return numpy.full(len(side.index), traffic.rate)
    populations, rates = [], []
    for i, count in zip(side.index, side.count, strict=True):
        curve = side.curves[i]
        rate = count * curve.decode_rate()
        populations.append(count * curve.layout.adp * curve.batch + rate * (traffic.think + curve.prompt))
        rates.append(rate)
    return _closed(traffic, populations, rates)


def disaggregated(
    found: Sequence[Curve],
    gpus: int,
    limits: Limits,
    traffic: Traffic,
    lengths: np.ndarray,
) -> tuple[list[Candidate], int]:
    """The best pairs of pools on up to `gpus` accelerators, and how many pairs there are; decodes run with the largest
    token budget, which does not matter to them."""
    import numpy

    kept: list[Candidate] = []
    pairs = 0
    budget = max((curve.job.engine.token_budget for curve in found), default=0)
    for kv in sorted({curve.job.kv for curve in found}):
        same = [curve for curve in found if curve.job.kv == kv and curve.gpus < gpus]
        decoding = [curve for curve in same if curve.job.engine.token_budget == budget]
        sizes = sequence_cache(same[0].job, ServingLayout(), lengths) if same else lengths
        pools = numpy.unique([curve.gpus for curve in same])
        rates = [_prefill_rates(curve, gpus, pools[pools <= curve.gpus], limits, traffic, sizes) for curve in same]
        for place, receivers in enumerate(pools.tolist()):
            prefill = _prefills(same, gpus, receivers, [rows[min(place, len(rows) - 1)] for rows in rates])
            decode = _decodes([curve for curve in decoding if curve.gpus == receivers], gpus - 1, limits)
            chosen, counted = _pairs(prefill, decode, gpus, limits, traffic, sizes)
            kept += chosen
            pairs += counted
    return kept, pairs


def _pairs(
    prefill: _Side,
    decode: _Side,
    gpus: int,
    limits: Limits,
    traffic: Traffic,
    sizes: np.ndarray,
) -> tuple[list[Candidate], int]:
    import numpy

    used = prefill.gpus[:, None] + decode.gpus
    goodput = numpy.minimum(prefill.rate[:, None], decode.rate)
    needed = _decode_needed(decode, traffic)
    fitting = used <= gpus
    meets = fitting & (goodput >= needed) & (goodput > 0)
    order = numpy.lexsort((-goodput.ravel(), used.ravel(), ~meets.ravel()))[:KEPT]
    best = numpy.argsort(-(goodput * fitting).ravel(), kind="stable")[:2]
    found = []
    for flat in dict.fromkeys((*order.tolist(), *best.tolist())):
        p, d = divmod(flat, used.shape[1])
        if fitting[p, d] and goodput[p, d] > 0:
            found.append(_pair(prefill, int(p), decode, int(d), gpus, limits, float(needed[d]), sizes))
    return found, int(fitting.sum())


def _pair(
    prefill: _Side, p: int, decode: _Side, d: int, gpus: int, limits: Limits, needed: float, sizes: np.ndarray
) -> Candidate:
    first, second = prefill.curves[prefill.index[p]], decode.curves[decode.index[d]]
    goodput = float(min(prefill.rate[p], decode.rate[d]))
    count = int(decode.count[d])
    smooth = second.decode_tpot_percentile(limits.share) <= limits.planned
    ends = (
        "TPOT"
        if not smooth.all()
        else "cache memory"
        if second.room < second.job.engine.max_batch
        else ("batch limit of the engine")
    )
    limit = f"decode pool, {ends}" if decode.rate[d] <= prefill.rate[p] else "prefill pool, TTFT"
    batch = second.batch_at(goodput / count, mixed=False)
    sent = transfer_time(first, second.gpus, gpus, sizes)
    return Candidate("disaggregated", first, int(prefill.count[p]), second, count, goodput, batch, limit, needed, sent)


def mixed_goodput(curve: Curve, count: int, limits: Limits, traffic: Traffic) -> float:
    """Requests per second that `count` replicas meet both limits with [1/s]."""
    import numpy

    return _mixed(Replicas([curve], numpy.zeros(1, int), numpy.array([count])), limits, traffic)[0].goodput


def prefill_goodput(curve: Curve, count: int, gpus: int, limits: Limits, traffic: Traffic, sizes: np.ndarray) -> float:
    """Requests per second whose first token `count` prefill instances deliver in time [1/s]."""
    import numpy

    sent, servers = transfer_time(curve, curve.gpus, gpus, sizes), count * curve.layout.adp
    rates, service = curve.prefill_at(numpy.linspace(0.02, 0.995, 2 * LOADS), servers, sent, traffic.arrivals)
    met = attained(service, rates, limits.ttft, servers, traffic.arrivals)
    return float((rates * (met >= limits.share)).max())


# ---------------------------------------------------------------- one deployment
def moved(
    one: Candidate,
    prefill: Curve,
    decode: Curve,
    gpus: int,
    limits: Limits,
    traffic: Traffic,
    lengths: np.ndarray,
) -> float:
    """Goodput of a deployment whose curves have changed, with another workload perhaps [1/s]."""
    import numpy

    if one.kind == "aggregated":
        return mixed_goodput(decode, one.decodes, limits, traffic)
    sizes = sequence_cache(prefill.job, ServingLayout(), lengths)
    pool, receivers = max(gpus, one.prefills * prefill.gpus), numpy.array([decode.gpus])
    first = _prefill_rates(prefill, pool, receivers, limits, traffic, sizes)[0]
    smooth = decode.decode_tpot_percentile(limits.share) <= limits.planned
    second = float(decode.decode_rate()[smooth].max()) if smooth.any() else 0.0
    return min(float(first[one.prefills - 1]), one.decodes * second)


def knee(one: Candidate, traffic: Traffic) -> Knee:
    """Where users of a deployment begin to wait for each other."""
    import numpy

    first = one.prefill.prefill_service().response + float((one.prefill.weights * one.transfer).sum())
    alone = float(first) + one.decode.steps * float(one.decode.step[0])
    if one.kind == "aggregated":
        most = one.decodes * float(one.decode.mixed_rate.max())
    else:
        rates, _ = one.prefill.prefill_at(numpy.array([FULL]), one.prefills * one.prefill.layout.adp)
        most = min(float(rates[0]), one.decodes * float(one.decode.decode_rate().max()))
    users = float(closed_loop_users_at_knee(traffic.think, alone, 1 / most))
    least = float(closed_loop_response_bound(traffic.users, traffic.think, alone, 1 / most))
    return Knee(alone, 1 / most, users, least)


def operating(one: Candidate, rate: float, share: float, arrivals: float = 1.0) -> Operating:
    """Latencies of a deployment at `rate` requests per second."""
    mixed = one.kind == "aggregated"
    curve, servers = one.decode, one.prefills * one.prefill.layout.adp
    batch = curve.batch_at(rate / one.decodes, mixed)
    load = rate / one.goodput if one.goodput else float("inf")
    if mixed:
        rank = one_rank(curve, batch, rate / servers, servers)
        first, each = first_tokens(rank, arrivals), tokens(rank, arrivals)
        late = quantile(first.met, share), quantile(each.met, share)
        return Operating(rate, float(first.mean[0]), late[0], float(each.mean[0]), late[1], batch, load)
    used = one.prefill.prefill_load(rate, servers)
    _, service = one.prefill.prefill_at(used, servers, one.transfer, arrivals)
    mean = float((service.response + mean_wait(service, rate, servers, arrivals))[0])
    ttft = quantile(lambda limit: attained(service, rate, limit, servers, arrivals), share)
    tpot = curve.at(curve.step, batch), curve.at(curve.decode_tpot_percentile(share), batch)
    return Operating(rate, mean, ttft, *tpot, batch, load)
