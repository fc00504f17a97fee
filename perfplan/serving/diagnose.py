"""A measured throughput against the bound and the estimate, with the likely cause of the difference named.

Each cause is a change of one assumption with the throughput that it would give; the cause whose throughput is
nearest to the measured one is the likely one. The in-flight requests follow from the measured number itself by
Little's law. """

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perfplan.catalog.parameters import parameters
from perfplan.errors import BadQuantity, Infeasible, OutOfRange
from perfplan.formulas.core import minimum
from perfplan.formulas.queueing import in_flight
from perfplan.formulas.serving_bounds import throughput_bound
from perfplan.serving.estimate import Steady, capacity, steady
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout, check
from perfplan.serving.memory import check_context, per_token, weights
from perfplan.serving.step import whole
from perfplan.units import parse, show

if TYPE_CHECKING:
    from perfplan.catalog import Catalog

__all__ = ["Cause", "Diagnosis", "diagnose", "kv_mistake", "rate_measured"]

CLOSE = 0.3
"""Relative difference below which a measurement is as estimated: what closed forms of serving err by."""
_FULL = 0.8  # of the requests offered: fewer in flight are too few
_SLOW_HOST = 5.0  # times the usual host time that a slow or busy CPU is believed to take
_CLOSER = 0.05  # by how much, in logarithms, a cause has to come nearer to the measurement than the estimate does
_HOST, _WIRES = 0.35, 0.3
"""Shares of a decode step from which the host, or the all-reduces, are named as what binds."""


@dataclass(frozen=True)
class Cause:
    """One explanation. name: short; tokens_per_s: what would be measured were it true, None where it is no change of
    the throughput; words: what to look at."""

    name: str
    tokens_per_s: float | None
    words: str


@dataclass(frozen=True)
class Diagnosis:
    """measured, estimate, bound: generated tokens per second of the deployment; in_flight: requests that the measured
    number implies by Little's law; room: that the cache holds; causes: likely one first."""

    job: ServingJob
    layout: ServingLayout
    isl: int
    osl: int
    concurrency: int | None
    measured: float
    estimate: float
    bound: float
    bound_words: str
    in_flight: float | None
    room: float
    steady: Steady
    causes: tuple[Cause, ...]

    @property
    def ratio(self) -> float:
        """Measured over estimated."""
        return self.measured / self.estimate

    @property
    def as_expected(self) -> bool:
        """Whether the measurement is within what the estimate errs by."""
        return abs(math.log(self.ratio)) < math.log(1 + CLOSE)


def rate_measured(text: str, gpus: int, users: float | None, option: str = "--measured") -> float:
    """Generated tokens per second of a deployment from "7100 tok/s", "900 tok/s/gpu" or "30 tok/s/user". option: the
    one that gives it, for errors.

    >>> rate_measured("7100 tok/s", 1, None), rate_measured("30 tok/s/user", 8, 16)
    (7100.0, 480.0)
    """
    found = re.fullmatch(r"(.*?)\s*/\s*(gpu|user)s?", text.strip(), re.IGNORECASE)
    number = parse(found[1] if found else text, "tokens/s", option)
    if number <= 0:
        raise BadQuantity(f"{option} {text!r} explains nothing; give more than 0 tok/s")
    if found and found[2].lower() == "user":
        if not users:
            raise OutOfRange(f"{option} {text!r} is per user; give --concurrency, or the tok/s of all users together")
        return number * users
    return number * (gpus if found else 1)


def _bound(
    job: ServingJob, layout: ServingLayout, isl: int, osl: int, room: float, slots: float | None
) -> tuple[float, str]:
    """Most generated tokens per second: matrix units at the dense peak, and memory read at full bandwidth."""
    chip = job.cluster.accelerator
    counted = parameters(job.model)
    active = counted.active
    peak = job.peak(job.weights.units)
    compute = float(throughput_bound(peak, active)) * layout.world * osl / (isl + osl)
    batch = min(room, slots / (layout.dp * layout.adp)) if slots else room
    least = weights(job, layout) * min(active / counted.total, 1.0)  # of a mixture of experts, what one token reads
    read = least + batch * (isl + osl / 2) * per_token(job, layout)
    memory = batch * layout.adp * layout.dp * chip.memory_bandwidth / read / layout.pp
    return float(minimum(compute, memory)), (
        f"{show(peak, 'FLOP/s')} dense" if compute < memory else f"{show(chip.memory_bandwidth, 'B/s')} of memory reads"
    )


def _in_flight(
    job: ServingJob, layout: ServingLayout, isl: int, osl: int, measured: float, room: float
) -> float | None:
    """Requests in flight at which the estimate is the measured throughput; None beyond what the cache holds."""
    low, high = 1.0, room * layout.adp * layout.dp

    def gives(count: float) -> float:
        return float(steady(job, layout, isl, osl, count, room).tokens_per_s)

    if gives(high) < measured:
        return None
    if gives(low) > measured:
        return low
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gives(middle) < measured else (low, middle)
    return high


def _siblings(job: ServingJob, catalog: Catalog) -> Iterator[str]:
    """Accelerators of one name in another form: h100-pcie of h100-sxm, rtx-3090-ti of rtx-3090."""
    own = job.cluster.accelerator.id
    yield from (name for name in catalog.ids("accelerator") if _stem(name) == _stem(own) and name != own)


def _stem(name: str) -> str:
    """The name up to its first number.

    >>> _stem("h100-sxm"), _stem("rtx-3090-ti")
    ('h100', 'rtx-3090')
    """
    found = re.match(r"[a-z-]*[a-z0-9]*\d[a-z0-9]*", name)
    return found[0] if found else name


def _on_sibling(
    job: ServingJob,
    catalog: Catalog,
    layout: ServingLayout,
    isl: int,
    osl: int,
    slots: float | None,
) -> Iterator[Cause]:
    for name in _siblings(job, catalog):
        chip = catalog.accelerator(name)
        if not chip.default_cluster:
            continue
        try:
            other = replace(job, cluster=catalog.cluster(name))
            room = capacity(other, layout, isl, osl)
            load = slots or room * layout.adp * layout.dp
            given = float(steady(other, layout, isl, osl, load, room).tokens_per_s)
        except (Infeasible, OutOfRange):
            continue
        yield Cause(
            "another form of the chip", given, f"{name} would give {given:.0f} tok/s: is the number of that card?"
        )


def _shares(found: Steady) -> dict[str, float]:
    step = float(whole(found.decode))
    return {name: float(time) / step for name, time in found.decode.items()}


def _bound_by(job: ServingJob, found: Steady, estimate: float, measured: float) -> Iterator[Cause]:
    shares = _shares(found)
    if (host := shares.get("host", 0.0)) > _HOST:
        times = 1 + (estimate / measured - 1) / host
        fits = 1 < times <= _SLOW_HOST
        slower = measured if fits else estimate / (1 + host)
        yield Cause(
            "host-bound decode",
            slower,
            f"the host takes {100 * host:.0f} % of a decode step; {f'{times:.2g}' if fits else 'twice'}"
            f" {'times ' if fits else ''}its usual time would give {slower:.0f} tok/s: are graphs captured, is"
            " scheduling asynchronous, is the CPU free?",
        )
    if shares.get("tp", 0.0) > _WIRES:
        yield Cause(
            "all-reduces over a slow link",
            estimate / (1 - shares["tp"]),
            f"all-reduces take {100 * shares['tp']:.0f} % of a decode step over {job.cluster.levels[0].name}; without"
            " them the decode steps would give this: use pipeline stages or replicas instead of tensor parallelism",
        )


def _causes(
    job: ServingJob,
    catalog: Catalog,
    layout: ServingLayout,
    isl: int,
    osl: int,
    concurrency: int | None,
    measured: float,
    found: Steady,
    estimate: float,
    room: float,
    flying: float | None,
) -> Iterator[Cause]:
    held = room * layout.adp * layout.dp
    offered = float(concurrency) if concurrency else held
    most = f"{concurrency} offered" if concurrency else f"{show(held, '1')} that the cache holds"
    if flying is not None and measured * (1 + CLOSE) < estimate and flying < _FULL * min(offered, held):
        yield Cause(
            "too few requests in flight",
            measured,
            f"by Little's law {flying:.0f} requests were in flight, of {most}: the load generator, the batch"
            " limit or the length of the test starved the engine",
        )
    if concurrency and concurrency > held:
        yield Cause(
            "batch capped by the cache",
            estimate,
            f"the cache holds {show(held, '1')} of the {concurrency} requests; the others wait (narrower cache, more"
            " memory or shorter contexts)",
        )
    yield from _bound_by(job, found, estimate, measured)
    yield from _on_sibling(job, catalog, layout, isl, osl, float(concurrency) if concurrency else None)
    if isl:
        both = estimate * (isl + osl) / osl
        yield Cause("prompt tokens counted too", both, f"with the prompts the estimate is {both:.0f} tok/s")
    if layout.world > 1:
        one = estimate / layout.world
        yield Cause("number of one accelerator", one, f"the estimate is {one:.0f} tok/s per accelerator")


_FACTS = ("batch capped by the cache", "host-bound decode", "all-reduces over a slow link")
"""Causes that the estimate has in it: they hold whatever was measured."""


def _ranked(causes: Sequence[Cause], measured: float, estimate: float) -> tuple[Cause, ...]:
    """Nearest to the measured number first, without those that explain it no better than the estimate; that few were
    in flight fits any number and comes first only where no other cause fits it closely."""

    def distance(cause: Cause) -> float:
        if cause.name == "too few requests in flight":
            return 0.1
        return abs(math.log(measured / cause.tokens_per_s)) if cause.tokens_per_s else 10.0

    nearer = abs(math.log(measured / estimate)) - _CLOSER
    return tuple(sorted((c for c in causes if c.name in _FACTS or distance(c) < nearer), key=distance))


def diagnose(
    job: ServingJob,
    layout: ServingLayout,
    isl: int,
    osl: int,
    measured: str,
    catalog: Catalog,
    *,
    concurrency: int | None = None,
    expected: str = "",
    peak: str = "",
    kv: str = "",
    per_user: str = "",
) -> Diagnosis:
    """Explain a measured throughput. per_user: what one user saw of it, which with it gives the requests in flight by
    Little's law alone; expected: what was hoped for; peak: the FLOP/s that was reckoned with; kv:
    bytes of cache per token that were reckoned with."""
    check(job.model, layout)
    check_context(job, isl + osl)
    if isl < 1 or osl < 1 or (concurrency is not None and concurrency < 1):
        raise OutOfRange("lengths and concurrency must be at least 1")
    room = capacity(job, layout, isl, osl)
    load = float(concurrency) if concurrency else room * layout.adp * layout.dp
    found = steady(job, layout, isl, osl, load, room)
    estimate = float(found.tokens_per_s)
    rate = rate_measured(measured, layout.world, concurrency)
    bound, words = _bound(job, layout, isl, osl, room, float(concurrency) if concurrency else None)
    flying = _in_flight(job, layout, isl, osl, rate, room)
    if per_user:
        flying = float(in_flight(rate / osl, osl / rate_measured(per_user, 1, None, "--per-user")))
    causes = list(_causes(job, catalog, layout, isl, osl, concurrency, rate, found, estimate, room, flying))
    told = _told(job, layout, bound, estimate, expected, peak, kv, causes, concurrency)
    return Diagnosis(
        job,
        layout,
        isl,
        osl,
        concurrency,
        rate,
        estimate,
        bound,
        words,
        flying,
        room,
        found,
        (*told, *_ranked(causes, rate, estimate)),
    )


def _told(
    job: ServingJob,
    layout: ServingLayout,
    bound: float,
    estimate: float,
    expected: str,
    peak: str,
    kv: str,
    causes: Sequence[Cause],
    concurrency: int | None,
) -> Iterator[Cause]:
    """Mistakes in what the user reckoned with."""
    if peak:
        given, dense = parse(peak, "FLOP/s", "--peak"), job.peak(job.weights.units) / job.clock(job.weights.units)
        if abs(given / dense / 2 - 1) < 0.03:
            yield Cause(
                "sparse peak taken for dense",
                None,
                f"{show(given, 'FLOP/s')} is the peak with 2:4 sparsity; dense matrices reach at most"
                f" {show(dense, 'FLOP/s')} on {job.cluster.accelerator.id}",
            )
    if kv:
        yield Cause("wrong cache per token", None, kv_mistake(job, layout, parse(kv, "B", "--kv-per-token")))
    if expected:
        wanted = rate_measured(expected, layout.world, concurrency, "--expected")
        close = [
            c
            for c in causes
            if c.tokens_per_s
            and c.name == "another form of the chip"
            and abs(math.log(wanted / c.tokens_per_s)) < math.log(1 + CLOSE)
        ]
        if close and wanted > estimate * (1 + CLOSE):
            others = ", ".join(c.words.partition(":")[0] for c in close)
            yield Cause(
                "number of another form of the chip",
                None,
                f"{wanted:.0f} tok/s is more than {job.cluster.accelerator.id} gives ({estimate:.0f}); {others}",
            )
        elif wanted > bound:
            yield Cause(
                "hoped for more than the bound",
                None,
                f"{wanted:.0f} tok/s is above the bound of {bound:.0f} tok/s, which no software passes",
            )


def kv_mistake(job: ServingJob, layout: ServingLayout, given: float) -> str:
    """What makes the bytes per token that someone reckoned with out of the right ones, in words."""
    right = per_token(job, ServingLayout())
    factors = {
        "attention heads taken for key-value heads": _head_ratio(job),
        "bits taken for bytes": 8.0,
        "bits of an 8-bit cache taken for bytes": 4.0,
        "32 bits taken for 16": 2.0,
        "keys or values alone, or 8 bits for 16": 0.5,
        "one layer alone": 1 / len(job.model.layers),
        "the share of one tensor-parallel rank": per_token(job, layout) / right,
    }
    useful = {words: factor for words, factor in factors.items() if abs(factor - 1) > 0.01}
    for size in (0, 1, 2):
        for chosen in itertools.combinations(useful, size):
            if abs(given / right / math.prod(useful[w] for w in chosen) - 1) < 0.06:
                why = " and ".join(f"{w} (x{useful[w]:.3g})" for w in chosen)
                return (
                    f"{given:.0f} B per token is right"
                    if not chosen
                    else (f"{given:.0f} B per token is {given / right:.3g} times the right {right:.0f} B: {why}")
                )
    return f"{given:.0f} B per token is {given / right:.3g} times the right {right:.0f} B of {job.model.id}"


def _head_ratio(job: ServingJob) -> float:
    from perfplan.catalog.specs import Attention

    mixers = [kind.mixer for kind in job.model.kinds if isinstance(kind.mixer, Attention)]
    return mixers[0].heads / mixers[0].kv_heads if mixers and not mixers[0].kv_lora_rank else 1.0
