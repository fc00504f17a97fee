"""What one instance of a layout can do, priced once: decode steps over batch sizes, prompts over the workload's
lengths.

A curve is all that planning needs of a layout. Its columns run over the batch of one attention rank: from one sequence
to what cache and engine allow. Rates are of the whole instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from perfplan.catalog.workloads import Lengths, Workload
from perfplan.formulas.core import ceil_div
from perfplan.formulas.queueing import (
    full_pipeline_share,
    shared_step_factor,
    squared_variation,
    step_company,
    wait_probability,
)
from perfplan.formulas.serving import closed_rate, drafted_tokens
from perfplan.serving.estimate import fresh_tokens, loading_time, prompt_time
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout, legal
from perfplan.serving.memory import held_sequences, pool, sequence_cache
from perfplan.serving.queues import Service, burst_share, normal_quantile
from perfplan.serving.step import decode_step, network, whole
from perfplan.training.network import Network

if TYPE_CHECKING:
    import numpy as np

__all__ = ["POINTS", "Curve", "curve", "curves", "curves_of", "level", "resident_context"]

POINTS = 25  # batch sizes priced
_SAME = 1 + 1e-9
_MIXES, _LENGTHS = 5, 16  # batches and lengths at which prompts are priced beside decodes
_STAYS = 6  # shares of the requests by their tokens
_GROUPS = (0.0, 0.5, 2.0, 8.0, 64.0)  # other prompts of a step without decodes
FINE = 121  # batch sizes that a curve has, between them by interpolation


@dataclass(frozen=True, eq=False)
class Curve:
    """One layout. batch: sequences of an attention rank; step: decode step without prompts [s]; lengths: of prompts
    [tokens]; prompts: time of each alone [s]; chunks: steps that it takes; shares: chunks it would take if steps
    were always full; weights: shares of the lengths; steps: decode steps of a mean request; room: sequences that the
    cache holds per rank."""

    job: ServingJob
    layout: ServingLayout
    batch: np.ndarray
    step: np.ndarray
    lengths: np.ndarray
    prompts: np.ndarray
    chunks: np.ndarray
    shares: np.ndarray
    weights: np.ndarray
    steps: float
    room: float
    context: float
    beside: np.ndarray  # time that prompts add to a step with that batch, over their time alone
    cached: float = 0.0  # tokens that the cache of a rank holds
    stays: Any = None  # decode steps of as many equal shares of the requests, short ones first
    grouped: Any = ((0.0, 1.0), (1.0, 1.0))  # other prompts of a step; time of a prompt then, over its time alone
    loading: Any = 0.0  # time by length that cache from host memory comes later than its prompt is computed [s]

    @property
    def gpus(self) -> int:
        """Accelerators of one instance."""
        return self.layout.instance

    @cached_property
    def prompt(self) -> float:
        """Mean time that a prompt keeps one attention rank of the instance [s]."""
        return float((self.weights * self.prompts).sum()) / self.layout.pp

    @property
    def first(self) -> float:
        """Time of the engine before the first token is out [s]."""
        return self.job.engine.first

    @property
    def hit(self) -> float:
        """Share of the prompt tokens whose cache is there already."""
        return self.job.reuse.found

    # ---------------------------------------------------------------- prompts and decodes on the same accelerators
    @cached_property
    def mixed_rate(self) -> np.ndarray:
        """Requests per second of the instance at each batch when it computes the prompts too; in a pipeline all decodes
        wait for a step with prompts, through all stages."""
        added = self.prompt * self.layout.pp * self.beside / self.layout.adp
        rate: np.ndarray = closed_rate(self.batch * self.layout.adp, added, self.steps, self.step)
        return rate

    # ---------------------------------------------------------------- pools apart
    def decode_rate(self) -> np.ndarray:
        """Requests per second of the instance at each batch when others compute the prompts."""
        rate: np.ndarray = self.batch * self.layout.adp / (self.steps * self.step)
        return rate

    def decode_tpot_percentile(self, share: float) -> np.ndarray:
        """Time per output token that `share` of the requests do not exceed there [s]."""
        return _rising(self.step + max(normal_quantile(share), 0.0) * self.swing())

    def prefill_service(self) -> Service:
        """Time to the first token on an empty machine."""
        return Service(self.prompts + self.first + self.loading, self.weights, self.prompts / self.layout.pp)

    def prefill_at(self, load: Any, servers: Any, sent: Any = 0.0, arrivals: float = 1.0) -> tuple[Any, Service]:
        """(requests per second, time to the first token) of `servers` ranks that only compute prompts, at a
        utilisation; prompts that wait are computed together. sent: time of the cache to where it decodes, by length
        [s]; arrivals: squared coefficient of variation of the times between arrivals."""
        import numpy

        pp, mean, alone = self.layout.pp, self.prompt, self.prompts / self.layout.pp
        varied = squared_variation(mean, float((self.weights * alone**2).sum()) - mean**2)
        met = wait_probability(load, servers) / load
        share = numpy.interp(step_company(load, met, varied), *self.grouped)
        busy = numpy.maximum(alone - (mean * (1 - share))[..., None], 0.0)
        rate = load * servers / (busy * self.weights).sum(axis=-1)
        times = self.prompts + self.first + self.loading + sent
        late, more, some = shared_step_factor(load, met), 0.0, 0.0
        if pp > 1:
            full = pp * mean / float((self.weights * self.shares).sum()) * self.grouped[1][-1]
            crowded = load * burst_share(arrivals, rate * mean * pp)
            some = full_pipeline_share(numpy.minimum(crowded, 1.0), pp, varied)
            times = times + some[..., None] * numpy.maximum(full - self.prompts, 0.0)
            late, more = 1.0, some * full / (2 * pp)
        return rate, Service(times, self.weights, busy, late, more, some)

    def prefill_load(self, rate: float, servers: int) -> Any:
        """Utilisation of such ranks at a rate, as a column of one."""
        import numpy

        loads = numpy.linspace(0.0, 1.0, 201)[1:-1]
        rates, _ = self.prefill_at(loads, servers)
        return numpy.interp(numpy.array([rate]), numpy.maximum.accumulate(rates), loads)

    @cached_property
    def slope(self) -> np.ndarray:
        """What one more decode adds to a step, over the range of a random batch [s]."""
        found: np.ndarray = self.swing() / self.batch**0.5
        return found

    def swing(self) -> np.ndarray:
        """What one standard deviation of a random batch adds to a decode step [s]."""
        import numpy

        more = numpy.interp(self.batch + self.batch**0.5, self.batch, self.step)
        last = (self.step[-1] - self.step[-2]) / (self.batch[-1] - self.batch[-2]) if len(self.batch) > 1 else 0.0
        beyond = numpy.maximum(self.batch + self.batch**0.5 - self.batch[-1], 0.0) * last
        found: np.ndarray = numpy.maximum(more + beyond - self.step, 0.0)
        return found

    def at(self, values: Any, batch: float) -> float:
        """One of the columns at a batch between its points."""
        import numpy

        return float(numpy.interp(batch, self.batch, values))

    def batch_at(self, rate: float, mixed: bool) -> float:
        """Batch of a rank at which the instance finishes `rate` requests per second; beyond the last, the last."""
        import numpy

        rates = self.mixed_rate if mixed else self.decode_rate()
        return float(numpy.interp(rate, numpy.maximum.accumulate(rates), self.batch))


def _rising(values: np.ndarray) -> np.ndarray:
    """Values that never fall: what a batch cannot meet, a larger one is not trusted with (padding makes steps)."""
    import numpy

    found: np.ndarray = numpy.maximum.accumulate(values)
    return found


def resident_context(workload: Workload) -> float:
    """Mean tokens that a decoding request has cached: long outputs stay longer and weigh more [tokens]."""
    return workload.isl.mean + workload.osl.moment(2) / (2 * workload.osl.mean)


def _stays(workload: Workload) -> np.ndarray:
    """Decode steps of _STAYS equal shares of the requests that decode, the harmonic mean of each [1]."""
    import numpy

    more = workload.osl.values > 1
    if not more.any():
        return numpy.ones(1)
    steps, weights = workload.osl.values[more] - 1.0, workload.osl.weights[more] / workload.osl.weights[more].sum()
    reached, turns = (numpy.concatenate(([0.0], column.cumsum())) for column in (weights, weights / steps))
    found: np.ndarray = 1 / (_STAYS * numpy.diff(numpy.interp(numpy.linspace(0, 1, _STAYS + 1), reached, turns)))
    stays: np.ndarray = numpy.maximum(found, 1.0)
    return stays


def _batches(room: float) -> np.ndarray:
    import numpy

    if room <= 1:
        return numpy.array([room])
    return numpy.unique(numpy.concatenate(([1.0, room], numpy.floor(numpy.geomspace(1, room, POINTS)))))


# ---------------------------------------------------------------- layouts of one size, priced together
@dataclass(frozen=True, eq=False)
class _Room:
    """What a rank of a layout holds. held: sequences; fullest: those of the fullest rank over the mean [1]; cached:
    tokens; coarse: batches that are priced."""

    layout: ServingLayout
    held: float
    fullest: float
    cached: float
    coarse: np.ndarray


def _room(job: ServingJob, layout: ServingLayout, workload: Workload) -> _Room | None:
    """None where not one of the longest requests of the workload fits."""
    longest = workload.isl.longest + workload.osl.longest
    if job.model.max_position:
        longest = min(longest, job.model.max_position)
    room, context = pool(job, layout, longest), resident_context(workload)
    if room <= 0 or float(sequence_cache(job, layout, longest)) > room:
        return None
    length = workload.isl.mean + workload.osl.mean if job.engine.no_evict else context
    inside = held_sequences(job, layout, room, context, workload.isl.mean)
    held = held_sequences(job, layout, room, max(length, context), workload.isl.mean)
    if held < 1:
        return None
    fullest = job.imbalance if layout.adp > 1 else 1.0  # all ranks step with the fullest, which the cache has to hold
    held = max(min(held, job.engine.max_batch) / fullest, 1.0)
    return _Room(layout, held, fullest, inside * context, _batches(held))


def _columns(rooms: Sequence[_Room], axes: int) -> ServingLayout:
    """The layouts as one whose degrees are columns along the first of `axes` axes."""
    import numpy

    shape = (-1, *[1] * (axes - 1))
    degrees = {f.name: numpy.array([getattr(r.layout, f.name) for r in rooms]) for f in fields(ServingLayout)}
    return ServingLayout(**{name: column.reshape(shape) for name, column in degrees.items()})  # type: ignore[arg-type]


def level(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of different length as an array, the last value of each repeated."""
    import numpy

    longest = max(map(len, rows))
    return numpy.array([numpy.pad(row, (0, longest - len(row)), mode="edge") for row in rows])


def _steps(job: ServingJob, net: Network, rooms: Sequence[_Room], context: float) -> list[np.ndarray]:
    """Time of a decode step of each layout at its coarse batches [s]."""
    import numpy

    fullest = numpy.array([room.fullest for room in rooms])[:, None]
    times = whole(decode_step(job, net, _columns(rooms, 2), level([r.coarse for r in rooms]) * fullest, context))
    return [row[: len(room.coarse)] for row, room in zip(numpy.maximum.accumulate(times, axis=1), rooms, strict=True)]


def _beside(
    job: ServingJob, net: Network, rooms: Sequence[_Room], workload: Workload, context: float, steps: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What prompts add to steps with decodes, over what they take alone: the weights are read once for both, and for
    other prompts of the step, of which a batch that turns over in `steps` brings batch / steps, at random. (batch,
    ratio) of each layout."""
    import numpy

    if not job.engine.mixed:
        return [(room.coarse[:1], numpy.ones(1)) for room in rooms]
    points = [room.coarse[:: max(1, len(room.coarse) // _MIXES)] for room in rooms]
    few, weights = _few(workload.isl)
    layouts = _columns(rooms, 3)
    batch = level(points)[:, :, None]
    others, company = batch / steps, 1 - numpy.exp(-batch / steps)
    added = sum(
        chance * whole(prompt_time(job, net, layouts, few, 1 + tokens / few, batch, context))
        for chance, tokens in ((1 - company, 0.0), (company, workload.isl.mean * others / company))
    )
    alone = whole(prompt_time(job, net, layouts, few))
    share = numpy.clip((added * weights).sum(axis=-1) / (alone * weights).sum(axis=-1), 0.0, 1.0)
    return [(batch, row[: len(batch)]) for batch, row in zip(points, share, strict=True)]


def _grouped(job: ServingJob, net: Network, rooms: Sequence[_Room], workload: Workload) -> np.ndarray:
    """Time of a prompt whose step carries as many others as _GROUPS says, over its time alone, of each layout."""
    import numpy

    few, weights = _few(workload.isl)
    together = 1 + numpy.array(_GROUPS)[:, None] * workload.isl.mean / few
    times = whole(prompt_time(job, net, _columns(rooms, 3), few, together)) @ weights
    found: np.ndarray = numpy.broadcast_to(times, (len(rooms), len(_GROUPS)))
    return numpy.minimum.accumulate(found / found[:, :1], axis=1)


def _few(lengths: Lengths) -> tuple[np.ndarray, np.ndarray]:
    """(lengths, weights) of neighbours taken together so that each group has as many of all tokens."""
    import numpy

    tokens = lengths.values * lengths.weights
    place = numpy.minimum((tokens.cumsum() - tokens / 2) / tokens.sum() * _LENGTHS, _LENGTHS - 1).astype(int)
    weights = numpy.bincount(place, lengths.weights)
    used = weights > 0
    return numpy.bincount(place, tokens)[used] / weights[used], weights[used]


def _alike(
    job: ServingJob, rooms: Sequence[_Room], workload: Workload, twins: Mapping[ServingLayout, Curve]
) -> Iterator[Curve]:
    """Curves of layouts of one size, all columns of one call of the step model each."""
    import numpy

    net, context = network(job, rooms[0].layout), resident_context(workload)
    own = [r for r in rooms if r.layout not in twins or r.held > twins[r.layout].batch[-1] * _SAME]
    decoding: dict[ServingLayout, np.ndarray] = {}
    if own:
        decoding = dict(zip((r.layout for r in own), _steps(job, net, own, context), strict=True))
    lengths, budget = workload.isl.values, job.engine.token_budget
    chunked, fresh = job.engine.chunked, fresh_tokens(job, lengths)
    steps = max(workload.osl.mean - 1, 1e-9) / float(drafted_tokens(job.acceptance, job.drafts))
    stays = _stays(workload) / float(drafted_tokens(job.acceptance, job.drafts))
    mixing = _beside(job, net, rooms, workload, context, max(steps, 1.0))
    alone = numpy.broadcast_to(whole(prompt_time(job, net, _columns(rooms, 2), lengths)), (len(rooms), len(lengths)))
    for room, prompts, priced_beside, together in zip(rooms, alone, mixing, _grouped(job, net, rooms, workload),
                                                      strict=True):
        coarse = room.coarse
        batch = numpy.unique(numpy.concatenate((coarse, numpy.geomspace(coarse[0], coarse[-1], FINE))))
        if room.layout in decoding:
            step = numpy.interp(batch, coarse, decoding[room.layout])
        else:
            step = numpy.interp(batch, twins[room.layout].batch, twins[room.layout].step)
        yield Curve(
            job,
            room.layout,
            batch,
            step,
            lengths,
            prompts,
            ceil_div(fresh, budget) if chunked else numpy.ones_like(lengths),
            fresh / budget if chunked else numpy.ones_like(lengths),
            workload.isl.weights,
            steps,
            room.held,
            context,
            numpy.interp(batch, *priced_beside),
            room.cached,
            stays,
            (_GROUPS, together),
            loading_time(job, room.layout, lengths, prompts),
        )


def curves_of(
    job: ServingJob,
    layouts: Iterable[ServingLayout],
    workload: Workload,
    twins: Mapping[ServingLayout, Curve] = MappingProxyType({}),
) -> dict[ServingLayout, Curve]:
    """The curves of those instances that hold the longest request of the workload. twins: curves of a smaller token
    budget, whose decode steps are the same."""
    rooms = [room for layout in layouts if (room := _room(job, layout, workload)) is not None]
    sizes = groupby(sorted(rooms, key=_size), key=_size)
    return {curve.layout: curve for _, same in sizes for curve in _alike(job, list(same), workload, twins)}


def _size(room: _Room) -> int:
    return room.layout.instance


def curve(job: ServingJob, layout: ServingLayout, workload: Workload) -> Curve | None:
    """The curve of one instance, or None where it does not hold the longest request."""
    return curves_of(job, [layout], workload).get(layout)


def curves(jobs: Sequence[ServingJob], workload: Workload, most: int) -> list[Curve | None]:
    """The curve of every legal instance of at most `most` accelerators; None for one that does not fit."""
    layouts = [one for gpus in range(1, most + 1) for one in legal(jobs[0].model, gpus) if one.dp == 1]
    found: list[dict[ServingLayout, Curve]] = []
    twins: dict[str, dict[ServingLayout, Curve]] = {}
    for job in sorted(jobs, key=lambda one: one.engine.token_budget):
        found.append(curves_of(job, layouts, workload, twins.get(job.kv, {})))
        twins[job.kv] = twins.get(job.kv, {}) | found[-1]
    return [each.get(layout) for layout in layouts for each in found]


def with_budget(job: ServingJob, budget: int) -> ServingJob:
    """The job with another budget of tokens per step."""
    return replace(job, engine=replace(job.engine, token_budget=budget))
