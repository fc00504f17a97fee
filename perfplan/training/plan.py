"""The plan: the best layouts with bands, ties, certificate, what binds, what matters, and what a run of them costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perfplan.calibration.bands import Band, Bands
from perfplan.catalog.specs import Cluster, Level
from perfplan.errors import Infeasible, OutOfRange
from perfplan.formulas.accounting import energy_used, money_spent, run_time
from perfplan.symbolic.sensitivity import elasticities
from perfplan.training.estimate import Estimate, estimate
from perfplan.training.job import Job, kernel
from perfplan.training.layout import Layout
from perfplan.training.search import NEAR, SCORES, Found, search
from perfplan.training.space import Axes, declare, restrict
from perfplan.units import show

if TYPE_CHECKING:
    import pandas as pd

Searches = Sequence[tuple[int, Axes, Found]]

__all__ = [
    "HARDWARE",
    "OBJECTIVES",
    "Plan",
    "Run",
    "Ties",
    "band_of",
    "banded",
    "gpu_counts",
    "plan",
    "run_of",
    "scaled",
    "sensitivity",
    "unlike",
]

OBJECTIVES = tuple(SCORES)
HARDWARE = (
    "peak FLOP/s",
    "memory bandwidth",
    "fast-domain bandwidth",
    "network bandwidth",
    "latencies",
    "kernel overheads",
)


@dataclass(frozen=True)
class Run:
    """A whole run of one layout over `tokens` tokens, no interruptions. time [s], accelerator_hours [h], cost [$] or
    None if the accelerator has no price, energy at the meter [J] or None if its power is unknown."""

    tokens: float
    time: float
    accelerator_hours: float
    cost: float | None
    energy: float | None


@dataclass(frozen=True)
class Ties:
    """Layouts that the model cannot tell from the first. band: the paired band; count: how many of those that fit;
    pick: of those shown or on the Pareto front, one whose headroom exceeds the error of the memory model (`margin`,
    fraction of the memory), with the fewest parallel dimensions, then the fastest."""

    band: Band
    count: int
    margin: float
    pick: Estimate


@dataclass(frozen=True)
class Plan:
    """The answer. estimates: best first; tied: whether each cannot be told from the first by the paired band; ties:
    what is known of that; searches: what was searched at each accelerator count; sensitivities: hardware number ->
    elasticity of the best step time."""

    job: Job
    objective: str
    estimates: tuple[Estimate, ...]
    tied: tuple[bool, ...]
    ties: Ties
    searches: tuple[tuple[int, Axes, Found], ...]
    sensitivities: Mapping[str, float]
    tokens: float | None = None

    @property
    def best(self) -> Estimate:
        """The first layout."""
        return self.estimates[0]

    @property
    def certificate(self) -> str:
        """What was searched and why the rest was rejected, all accelerator counts together; the counts add up."""
        return _certificate(self.searches)

    @property
    def run(self) -> Run | None:
        """The whole run of the best layout, if tokens were given."""
        return run_of(self.best, self.tokens) if self.tokens else None

    def layouts(self) -> pd.DataFrame:
        """The best layouts, one row each, SI units in the column names."""
        import pandas as pd

        return pd.DataFrame([_row(e, tie) for e, tie in zip(self.estimates, self.tied, strict=True)])

    def breakdown(self) -> pd.DataFrame:
        """Step time of each layout by part [s]; rows add up to `step_time_s`."""
        import pandas as pd

        return pd.DataFrame(
            [{"layout": str(e.layout)} | e.breakdown | {"step_time_s": float(e.step_time)} for e in self.estimates]
        )

    def memory(self) -> pd.DataFrame:
        """Memory of the fullest rank of each layout by part [B]."""
        import pandas as pd

        return pd.DataFrame(
            [{"layout": str(e.layout)} | e.memory | {"memory_bytes": e.memory_total} for e in self.estimates]
        )

    def rejected(self) -> pd.DataFrame:
        """Layouts rejected per reason and accelerator count."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"gpus": gpus, "reason": reason, "layouts": count}
                for gpus, _, found in self.searches
                for reason, count in found.rejected.items()
                if count
            ]
        )

    def front(self) -> pd.DataFrame:
        """Pareto front of step time, memory and accelerators."""
        import pandas as pd

        return pd.DataFrame(self.front_rows())

    def front_rows(self) -> list[dict[str, Any]]:
        """The rows of `front`."""
        points = [(gpus, p) for gpus, _, found in self.searches for p in found.front]
        return [
            {"gpus": p.layout.world, "layout": str(p.layout), "step_time_s": p.step_time, "memory_bytes": p.memory}
            for gpus, p in points
            if not any(_dominates((n, q), (gpus, p)) for n, q in points)
        ]


def _dominates(one: Any, other: Any) -> bool:
    a, b = ((p.step_time, p.memory, p.layout.world) for p in (one[1], other[1]))
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _row(e: Estimate, tie: bool) -> dict[str, Any]:
    return {
        "layout": str(e.layout),
        "gpus": e.layout.world,
        "step_time_s": float(e.step_time),
        "band_low_s": e.band[0],
        "band_high_s": e.band[1],
        "tied": tie,
        "tokens_per_s_per_gpu": e.tokens_per_s_per_gpu,
        "mfu": e.mfu,
        "memory_bytes": e.memory_total,
        "headroom_bytes": e.headroom,
        "binds": e.binding,
    }


def _certificate(searches: Searches) -> str:
    rejected = sum((found.rejected for _, _, found in searches), Counter[str]())
    reasons = ", ".join(f"{count:,} for {reason}" for reason, count in rejected.most_common() if count)
    counts = [str(gpus) for gpus, _, _ in searches]
    where = f"{', '.join(counts[:-1])} and {counts[-1]}" if len(counts) > 1 else counts[0]
    most, widest, _ = max(searches, key=lambda searched: searched[2].size)
    axes = f"values per axis{f' on {most}' if len(counts) > 1 else ''} {widest}"
    size, fit = (sum(getattr(found, name) for _, _, found in searches) for name in ("size", "feasible"))
    noun = "accelerator" if where == "1" else "accelerators"
    seen = f"exhaustive on {where} {noun}: {size:,} layouts ({axes}); {fit:,} fit"
    return f"{seen}; rejected: {reasons or 'none'}"


# ---------------------------------------------------------------- bands and ties
def unlike(job: Job, offload: bool = False) -> bool:
    """Whether the bands, which are those of pretraining on the device, do not speak of such a job: its constants are
    borrowed, something is offloaded, or it is fine-tuning."""
    borrowed = any(kernel(job, "gemm", dtype).borrowed for dtype in {*job.recipe.gemm.values(), job.recipe.head})
    return borrowed or job.method != "pretrain" or offload


def band_of(job: Job, bands: Bands, paired: bool = False, offload: bool = False) -> Band:
    """The error band of predictions for this job: absolute, or of the ratio of two layouts; wider with offload."""
    moe = job.model.routed
    family = job.cluster.accelerator.family
    return bands.find("training", moe, family, borrowed=unlike(job, offload), paired=paired)


def banded(e: Estimate, bands: Bands) -> Estimate:
    """The estimate with its error band, and a caveat if the band is another slice's."""
    band = band_of(e.job, bands, offload=bool(e.layout.offload))
    return replace(e, band=band.around(float(e.step_time)), caveats=e.caveats + ((band.caveat,) if band.caveat else ()))


def _score(e: Estimate, objective: str, slower: float = 1.0) -> float:
    return float(SCORES[objective](float(e.step_time) * slower, e.layout.world))


def _dimensions(layout: Layout) -> int:
    """Parallel dimensions in use."""
    return sum(degree > 1 for degree in (layout.tp, layout.cp, layout.pp, layout.vpp, layout.ep, layout.etp, layout.dp))


def _ties(estimates: Sequence[Estimate], searches: Searches, bands: Bands, objective: str) -> Ties:
    """What cannot be told from the first, in all that was searched."""
    first, band = estimates[0], band_of(estimates[0].job, bands, paired=True)
    limit = min(_score(first, objective, math.exp(band.high)), NEAR * _score(first, objective))
    shown = {str(e.layout): e for e in estimates}
    front = {
        str(p.layout): estimate(replace(first.job, gpus=count), p.layout)
        for count, _, found in searches
        for p in found.front
        if p.score <= limit and str(p.layout) not in shown
    }
    able = [e for e in {**shown, **front}.values() if _score(e, objective) <= limit * (1 + 1e-9)]

    def order(e: Estimate) -> tuple[bool, int, float, str]:
        memory = e.job.cluster.accelerator.memory
        return (e.headroom < bands.margin * memory, _dimensions(e.layout), _score(e, objective), str(e.layout))

    count = max(sum(found.within(limit) for _, _, found in searches), len(able))
    return Ties(band, count, bands.margin, banded(min(able, key=order), bands))


# ---------------------------------------------------------------- what matters
def scaled(cluster: Cluster, factors: Mapping[str, float]) -> Cluster:
    """The cluster with the hardware numbers of `HARDWARE` multiplied."""
    f = {name: factors.get(name, 1.0) for name in HARDWARE}
    chip = cluster.accelerator
    kernels = {
        kind: {dtype: replace(k, overhead=k.overhead * f["kernel overheads"]) for dtype, k in table.items()}
        for kind, table in chip.kernels.items()
    }
    chip = replace(
        chip,
        peak={d: p * f["peak FLOP/s"] for d, p in chip.peak.items()},
        kernels=kernels,
        memory_bandwidth=chip.memory_bandwidth * f["memory bandwidth"],
    )
    names = ["fast-domain bandwidth"] + ["network bandwidth"] * (len(cluster.levels) - 1)
    levels = tuple(_faster(level, f[name], f["latencies"]) for level, name in zip(cluster.levels, names, strict=True))
    return replace(cluster, accelerator=chip, levels=levels)


def _faster(level: Level, bandwidth: float, latency: float) -> Level:
    return replace(
        level,
        bandwidth=level.bandwidth * bandwidth,
        peer=level.peer and level.peer * bandwidth,
        latency=level.latency * latency,
        launch=level.launch * latency,
    )


def sensitivity(e: Estimate) -> dict[str, float]:
    """Elasticity of the step time with respect to each hardware number: -0.6 means 1 % more makes it 0.6 % faster."""

    def step(factors: dict[str, float]) -> float:
        return float(estimate(replace(e.job, cluster=scaled(e.job.cluster, factors)), e.layout).step_time)

    return elasticities(step, HARDWARE)


# ---------------------------------------------------------------- a whole run
def run_of(e: Estimate, tokens: float) -> Run:
    """Days, accelerator-hours, money and energy of training on `tokens` tokens with this layout."""
    job, chip = e.job, e.job.cluster.accelerator
    time = run_time(tokens, e.tokens_per_s_per_gpu * e.layout.world)
    cost = None if chip.price_per_hour is None else money_spent(chip.price_per_hour, e.layout.world, time)
    energy = (
        None
        if chip.tdp is None
        else energy_used(chip.tdp + job.cluster.overhead_power, e.layout.world, time, job.cluster.pue)
    )
    return Run(tokens, float(time), float(time) * e.layout.world / 3600, cost, energy)


# ---------------------------------------------------------------- the plan
def gpu_counts(low: int, high: int) -> tuple[int, ...]:
    """Accelerator counts tried for a range: `low` doubled while it fits, and `high`.

    >>> gpu_counts(256, 2048), gpu_counts(72, 200)
    ((256, 512, 1024, 2048), (72, 144, 200))
    """
    if not 1 <= low <= high:
        raise OutOfRange(f"the range of accelerators {low}..{high} must rise from at least 1")
    counts = []
    while low < high:
        counts.append(low)
        low *= 2
    return (*counts, high)


def plan(
    job: Job,
    bands: Bands,
    *,
    counts: Sequence[int] = (),
    objective: str = "time",
    top: int = 10,
    fix: str = "",
    forbid: str = "",
    tokens: float | None = None,
    deadline: float | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Plan:
    """Search the declared space at each accelerator count (default: the job's) and choose.

    tokens: length of the run; deadline: longest run allowed [s]. Raises Infeasible with the smallest changes that
    would help.
    """
    if objective not in OBJECTIVES:
        raise OutOfRange(f"objective {objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}")
    if top < 1:
        raise OutOfRange(f"top is {top}, but a plan needs at least one layout; give 1 or more")
    if tokens is not None and not tokens > 0:
        raise OutOfRange("a run needs at least one token; give more --tokens, such as 15T")
    if deadline is not None and tokens is None:
        raise OutOfRange("a deadline needs the length of the run; give --tokens")
    longest = deadline * job.global_batch * job.seq_len / tokens if deadline and tokens else math.inf
    searches = []
    for count in counts or _tried(job.gpus, objective):
        mine = replace(job, gpus=count)
        axes = restrict(declare(mine), fix, forbid)
        searches.append((count, axes, search(mine, axes, top, tick, objective, longest)))
    found = [
        estimate(replace(job, gpus=count), priced.layout) for count, _, result in searches for priced in result.best
    ]
    if not found:
        raise Infeasible(_nothing_fits(job, searches, tokens, fix, forbid))
    chosen = sorted(found, key=lambda e: SCORES[objective](float(e.step_time), e.layout.world))[:top]
    chosen = [banded(e, bands) for e in chosen]
    ties = _ties(chosen, searches, bands, objective)
    limit = _score(chosen[0], objective, math.exp(ties.band.high))
    tied = tuple(_score(e, objective) <= limit for e in chosen)
    return Plan(job, objective, tuple(chosen), tied, ties, tuple(searches), sensitivity(chosen[0]), tokens)


def _tried(gpus: int, objective: str) -> tuple[int, ...]:
    """Accelerator counts searched for one count given: itself, and its halves where fewer may be the answer."""
    if objective not in ("cost", "min-gpus"):
        return (gpus,)
    return tuple(sorted({gpus >> halves for halves in range(gpus.bit_length())}))


def _nothing_fits(
    job: Job, searches: Searches, tokens: float | None, fix: str, forbid: str
) -> str:
    """Why nothing is feasible, and the smallest changes that would make it so."""
    fastest = min(found.fastest for _, _, found in searches)
    if tokens is not None and math.isfinite(fastest):
        days = show(tokens / (job.global_batch * job.seq_len) * fastest, "s")
        return (
            f"no layout meets the deadline; the fastest run takes {days}, so allow that long or give more accelerators"
        )
    least = min((f.least_memory for _, _, f in searches if f.least_memory), key=lambda p: p.memory, default=None)
    capacity = job.cluster.accelerator.memory
    if least is None:
        reasons = searches[-1][2].rejected.most_common(2)
        said = ", ".join(f"{reason} ({count:,} layouts)" for reason, count in reasons)
        return (
            f"no layout is possible at all: rejected for {said}; change the batch, the accelerators or what was fixed"
        )
    changes = [
        f"{show(least.memory, 'B')} per accelerator ({least.layout})",
        *_more_accelerators(job, fix, forbid),
    ]
    return (
        f"no layout of {job.model.id} fits {show(capacity, 'B')} on {job.gpus} x {job.cluster.accelerator.id};"
        " it would fit with " + ", or ".join(changes)
    )


def _more_accelerators(job: Job, fix: str, forbid: str) -> list[str]:
    for factor in (2, 4, 8, 16, 32, 64):
        count = job.gpus * factor
        if job.cluster.size is not None and count > job.cluster.size:
            break
        wider = replace(job, gpus=count)
        if search(wider, restrict(declare(wider), fix, forbid), 1).feasible:
            return [f"{count} accelerators"]
    return []
