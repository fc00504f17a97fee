"""What one instance of a layout can do, priced once: decode steps over batch sizes, prompts over the workload's
lengths.

A curve is all that planning needs of a layout. Its columns run over the batch of one attention rank: from one sequence
to what cache and engine allow. Rates are of the whole instance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perfplan.catalog.workloads import Workload
from perfplan.formulas.core import ceil_div, exp
from perfplan.formulas.serving import closed_rate, drafted_tokens
from perfplan.serving.estimate import fresh_tokens, loading_time, prompt_time
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout, legal
from perfplan.serving.memory import held_sequences, pool, sequence_cache
from perfplan.serving.queues import Service, normal_quantile
from perfplan.serving.step import decode_step, network, whole
from perfplan.training.network import Network

if TYPE_CHECKING:
    import numpy as np

__all__ = ["POINTS", "Curve", "curve", "curves", "resident_context"]

POINTS = 25  # batch sizes priced
_SAME = 1 + 1e-9
_MIXES, _LENGTHS = 5, 16  # batches and lengths at which prompts are priced beside decodes
FINE = 121  # batch sizes that a curve has, between them by interpolation
HALF = 0.5  # of the step in progress is left, on average, when a request arrives


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
    loading: Any = 0.0  # time by length that cache from host memory comes later than its prompt is computed [s]

    @property
    def gpus(self) -> int:
        """Accelerators of one instance."""
        return self.layout.instance

    @property
    def prompt(self) -> float:
        """Mean time that a prompt keeps one attention rank of the instance [s]."""
        return float((self.weights * self.prompts).sum()) / self.layout.pp

    @property
    def prompt_square(self) -> float:
        """Mean square of that time [s s]."""
        return float((self.weights * self.prompts**2).sum()) / self.layout.pp**2

    @property
    def first(self) -> float:
        """Time of the engine before the first token is out [s]."""
        return self.job.engine.first

    @property
    def hit(self) -> float:
        """Share of the prompt tokens whose cache is there already."""
        return self.job.reuse.found

    # ---------------------------------------------------------------- prompts and decodes on the same accelerators
    def mixed_rate(self) -> np.ndarray:
        """Requests per second of the instance at each batch when it computes the prompts too."""
        added = self.prompt * self.beside / self.layout.adp
        rate: np.ndarray = closed_rate(self.batch * self.layout.adp, added, self.steps, self.step)
        return rate

    def mixed_tpot(self) -> np.ndarray:
        """Mean time per output token there: prompts of others stretch the decode steps [s]."""
        stretched: np.ndarray = self.batch * self.layout.adp / (self.mixed_rate() * self.steps)
        return stretched

    def mixed_tpot_percentile(self, share: float) -> np.ndarray:
        """The same, not exceeded by `share` of the requests: batch and arrivals fluctuate as random arrivals do [s]."""
        mean, rank_rate = self.mixed_tpot(), self.mixed_rate() / self.layout.adp
        batch = self._swing() * mean / self.step
        prompts = (rank_rate * mean * self.prompt_square / self.steps) ** 0.5 * self.beside
        found = mean + max(normal_quantile(share), 0.0) * (batch**2 + prompts**2) ** 0.5
        return _rising(found)

    def mixed_service(self) -> Service:
        """Time to the first token at each batch: the prompt's steps carry the decodes too."""
        return self.mixed_service_at(self.batch[:, None], self.step[:, None], self.beside[:, None])

    def mixed_service_at(self, batch: Any, step: Any, beside: Any) -> Service:
        """The same at one batch of a rank; where that is below one, often nothing decodes when a prompt comes."""
        prompts = self.prompts * beside
        step = step * (1 - exp(-batch))
        return Service(
            prompts + (self.chunks + HALF) * step + self.first + self.loading,
            self.weights,
            (prompts + self.shares * step) / self.layout.pp,
        )

    # ---------------------------------------------------------------- pools apart
    def decode_rate(self) -> np.ndarray:
        """Requests per second of the instance at each batch when others compute the prompts."""
        rate: np.ndarray = self.batch * self.layout.adp / (self.steps * self.step)
        return rate

    def decode_tpot_percentile(self, share: float) -> np.ndarray:
        """Time per output token that `share` of the requests do not exceed there [s]."""
        return _rising(self.step + max(normal_quantile(share), 0.0) * self._swing())

    def prefill_service(self) -> Service:
        """Time to the first token where nothing decodes."""
        return Service(self.prompts + self.first + self.loading, self.weights, self.prompts / self.layout.pp)

    def _swing(self) -> np.ndarray:
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

        rates = self.mixed_rate() if mixed else self.decode_rate()
        return float(numpy.interp(rate, numpy.maximum.accumulate(rates), self.batch))


def _rising(values: np.ndarray) -> np.ndarray:
    """Values that never fall: what a batch cannot meet, a larger one is not trusted with (padding makes steps)."""
    import numpy

    found: np.ndarray = numpy.maximum.accumulate(values)
    return found


def resident_context(workload: Workload) -> float:
    """Mean tokens that a decoding request has cached: long outputs stay longer and weigh more [tokens]."""
    return workload.isl.mean + workload.osl.moment(2) / (2 * workload.osl.mean)


def _batches(room: float) -> np.ndarray:
    import numpy

    if room <= 1:
        return numpy.array([room])
    return numpy.unique(numpy.concatenate(([1.0, room], numpy.floor(numpy.geomspace(1, room, POINTS)))))


def _beside(
    job: ServingJob,
    net: Network,
    layout: ServingLayout,
    workload: Workload,
    coarse: np.ndarray,
    batch: np.ndarray,
    context: float,
) -> np.ndarray:
    """What prompts add to steps with decodes, over what they take alone: the weights are read once for both."""
    import numpy

    if not job.engine.mixed:
        return numpy.ones_like(batch)
    points = coarse[:: max(1, len(coarse) // _MIXES)]
    few = workload.isl.values[:: max(1, len(workload.isl.values) // _LENGTHS)]
    added = whole(prompt_time(job, net, layout, few, 1.0, points[:, None], context))
    alone = whole(prompt_time(job, net, layout, few))
    weights = numpy.interp(few, workload.isl.values, workload.isl.weights)
    share = (added * weights).sum(axis=-1) / (alone * weights).sum()
    found: np.ndarray = numpy.interp(batch, points, numpy.clip(share, 0.0, 1.0))
    return found


def curve(job: ServingJob, layout: ServingLayout, workload: Workload, twin: Curve | None = None) -> Curve | None:
    """The curve of one instance, or None where not one of the longest requests of the workload fits. twin: the curve of
    a smaller token budget, whose decode steps are the same."""
    import numpy

    longest = workload.isl.longest + workload.osl.longest
    if job.model.max_position:
        longest = min(longest, job.model.max_position)
    room, context = pool(job, layout, longest), resident_context(workload)
    if room <= 0 or float(sequence_cache(job, layout, longest)) > room:
        return None
    whole_length = workload.isl.mean + workload.osl.mean if job.engine.no_evict else context
    inside = held_sequences(job, layout, room, context, workload.isl.mean)
    held = held_sequences(job, layout, room, max(whole_length, context), workload.isl.mean)
    if held < 1:
        return None
    held = min(held, job.engine.max_batch)
    fullest = job.imbalance if layout.adp > 1 else 1.0  # all ranks step with the fullest, which the cache has to hold
    held = max(held / fullest, 1.0)
    coarse, net = _batches(held), network(job, layout)
    batch = numpy.unique(numpy.concatenate((coarse, numpy.geomspace(coarse[0], coarse[-1], FINE))))
    if twin is not None and held <= twin.batch[-1] * _SAME:
        step, beside = (numpy.interp(batch, twin.batch, column) for column in (twin.step, twin.beside))
    else:
        priced = whole(decode_step(job, net, layout, coarse * fullest, context))
        step = numpy.interp(batch, coarse, numpy.maximum.accumulate(priced))
        beside = _beside(job, net, layout, workload, coarse, batch, context)
    lengths, budget = workload.isl.values, job.engine.token_budget
    chunked, fresh = job.engine.chunked, fresh_tokens(job, lengths)
    prompts = numpy.broadcast_to(whole(prompt_time(job, net, layout, lengths)), lengths.shape)
    return Curve(
        job,
        layout,
        batch,
        step,
        lengths,
        prompts,
        ceil_div(fresh, budget) if chunked else numpy.ones_like(lengths),
        fresh / budget if chunked else numpy.ones_like(lengths),
        workload.isl.weights,
        max(workload.osl.mean - 1, 1e-9) / float(drafted_tokens(job.acceptance, job.drafts)),
        held,
        context,
        beside,
        inside * context,
        loading_time(job, layout, lengths, prompts),
    )


def curves(jobs: list[ServingJob], workload: Workload, most: int) -> Iterator[Curve | None]:
    """The curve of every legal instance of at most `most` accelerators; None for one that does not fit."""
    for gpus in range(1, most + 1):
        for layout in legal(jobs[0].model, gpus):
            if layout.dp > 1:
                continue
            twins: dict[str, Curve] = {}
            for job in sorted(jobs, key=lambda one: one.engine.token_budget):
                found = curve(job, layout, workload, twins.get(job.kv))
                if found is not None:
                    twins[job.kv] = found
                yield found


def with_budget(job: ServingJob, budget: int) -> ServingJob:
    """The job with another budget of tokens per step."""
    return replace(job, engine=replace(job.engine, token_budget=budget))
