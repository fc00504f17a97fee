"""Scores of predictions against measurements: error, ranking, memory and feasibility, per slice and overall.

The protocol is that of published validation sets: an error is taken in the metric of the row; a model must beat the
null predictor, which knows the median of its own group; sources count equally in the overall figures, rows do not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from math import isfinite
from typing import Any

import numpy as np

__all__ = [
    "MIN_LAYOUTS",
    "RATES",
    "TIE",
    "Facts",
    "Outcome",
    "Score",
    "kendall_tau_b",
    "overall",
    "ranked",
    "score",
    "spearman",
]

MIN_LAYOUTS = 4  # distinct layouts that make a group worth ranking
TIE = 0.02  # measured step times this close count as equal: repeated runs differ by as much


RATES = frozenset({"tokens_per_s_per_accel", "samples_per_s_total", "tflops_per_accel", "mfu_pct"})


@dataclass(frozen=True)
class Facts:
    """What a training row says of its job. flops: FLOPs of a step as the source counts them, of the model with
    causal attention where it does not say [FLOP]; peak: of the chip in the row's precision [FLOP/s]; recipe: id of the
    precision recipe; the rest as in `Row`."""

    epoch: str
    model: str
    precision: str
    gpus: int
    seq_len: int
    global_batch: int
    flops: float
    peak: float
    tp: int | None = None
    pp: int | None = None
    micro_batch: int | None = None
    recipe: str = ""


@dataclass(frozen=True)
class Outcome:
    """One measured row beside its prediction.

    measured, predicted: in the metric of the row; ratio, null_ratio: predicted over measured in that metric, of the
    model and of the null predictor; time, measured_time [s]: the step; band: (low, high) of `time` [s]; memory_ratio:
    predicted over measured memory, state_ratio: of weights, gradients and optimizer state alone; component: which part
    of the memory, if the row holds a part only; fits: the model says so; oom: the row ran out of memory; unsupported:
    why there is no prediction; method: pretrain, sft or lora; facts: of the job, for training rows that were priced.
    """

    id: str
    source: str
    slice: str
    group: str
    layout: tuple[object, ...]
    metric: str
    measured: float
    predicted: float | None = None
    ratio: float | None = None
    null_ratio: float | None = None
    time: float | None = None
    measured_time: float | None = None
    band: tuple[float, float] | None = None
    memory_ratio: float | None = None
    fits: bool | None = None
    oom: bool = False
    unsupported: str = ""
    hardware: str = ""
    method: str = "pretrain"
    layout_text: str = ""
    assumptions: tuple[str, ...] = ()
    facts: Facts | None = None
    state_ratio: float | None = None
    component: str = ""

    @property
    def is_rate(self) -> bool:
        """Whether more is better in the row's metric."""
        return self.metric in RATES


@dataclass(frozen=True)
class Score:
    """Figures of one slice, or overall; errors, rates and half widths are fractions, None where nothing was scored."""

    name: str
    rows: int = 0
    scored: int = 0
    unsupported: Mapping[str, int] = field(default_factory=dict)
    mape: float | None = None
    median_ape: float | None = None
    p90_ape: float | None = None
    bias: float | None = None
    null_median_ape: float | None = None
    null_mape: float | None = None
    band_coverage: float | None = None
    band_half_width: float | None = None
    groups: int = 0
    kendall_tau: float | None = None
    spearman: float | None = None
    mean_regret: float | None = None
    max_regret: float | None = None
    top1_hits: int | None = None
    memory_median_ape: float | None = None
    fits_rate: float | None = None
    oom_rate: float | None = None
    oom_rows: int = 0


def _sign(a: float, b: float, tie: float) -> int:
    if abs(a - b) <= tie * min(a, b):
        return 0
    return 1 if a > b else -1


def kendall_tau_b(predicted: Sequence[float], measured: Sequence[float], tie: float = TIE) -> float | None:
    """Kendall's tau-b of two sets of positive numbers; measured pairs within the fraction `tie` count as ties [1].

    >>> kendall_tau_b([1, 2, 3, 4], [10, 20, 30, 40])
    1.0
    >>> kendall_tau_b([1, 2, 3], [10.0, 10.1, 20.0])  # the first pair is a tie: 2 / sqrt(3 * 2)
    0.8164965809277261
    """
    pairs = [
        (_sign(predicted[i], predicted[j], 0.0), _sign(measured[i], measured[j], tie))
        for i, j in combinations(range(len(measured)), 2)
    ]
    agreement = sum(p * m for p, m in pairs)
    untied = sum(p != 0 for p, _ in pairs) * sum(m != 0 for _, m in pairs)
    return float(agreement / untied**0.5) if untied else None


def _ranks(values: Sequence[float]) -> Any:
    """Ranks from 0, tied values sharing their mean rank."""
    column = np.asarray(values, dtype=float)
    return (column[:, None] > column).sum(axis=1) + ((column[:, None] == column).sum(axis=1) - 1) / 2


def spearman(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Spearman's rank correlation [1], None if one side is constant.

    >>> round(spearman([1, 2, 3, 4], [1, 2, 4, 3]), 3)
    0.8
    """
    a, b = _ranks(predicted), _ranks(measured)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True)
class _Ranking:
    tau: float | None
    rho: float | None
    regret: float
    hit: bool


def ranked(
    outcomes: Sequence[Outcome], least: int = MIN_LAYOUTS
) -> list[tuple[str, list[tuple[Outcome, float, float]]]]:
    """Groups of at least `least` distinct layouts: per layout an outcome, predicted and measured step time [s], repeats
    of a layout by their median."""
    groups: dict[str, dict[tuple[object, ...], list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for o in outcomes:
        if o.ratio is not None and o.time is not None and o.measured_time is not None:
            groups[o.group][o.layout].append(o)
    return [
        (name, [(same[0], *_medians(same)) for same in layouts.values()])
        for name, layouts in groups.items()
        if len(layouts) >= least
    ]


def _medians(same: Sequence[Outcome]) -> tuple[float, float]:
    return float(np.median([o.time for o in same])), float(np.median([o.measured_time for o in same]))


def _rank(layouts: Sequence[tuple[Outcome, float, float]]) -> _Ranking:
    """Ranking of one group's layouts."""
    _, predicted, measured = (list(column) for column in zip(*layouts, strict=True))
    chosen = [m for p, m in zip(predicted, measured, strict=True) if p == min(predicted)]
    regret = float(np.mean(chosen)) / min(measured) - 1
    return _Ranking(kendall_tau_b(predicted, measured), spearman(predicted, measured), regret, regret <= TIE)


def _stat(values: Iterable[float | None], statistic: Callable[[Any], Any]) -> float | None:
    known = [value for value in values if value is not None and isfinite(value)]
    return float(statistic(known)) if known else None


def _inside(o: Outcome) -> float | None:
    if o.band is None or o.measured_time is None:
        return None
    return float(o.band[0] <= o.measured_time <= o.band[1])


def _half_width(o: Outcome) -> float | None:
    if o.band is None or not o.time:
        return None
    return (o.band[1] - o.band[0]) / (2 * o.time)


def _error(ratio: float | None) -> float | None:
    return None if ratio is None else abs(ratio - 1)


def score(name: str, outcomes: Sequence[Outcome]) -> Score:
    """Figures of the given rows taken as one slice."""
    done = [o for o in outcomes if not o.unsupported]
    timed = [o for o in done if o.ratio is not None]
    errors = [_error(o.ratio) for o in timed]
    rankings = [_rank(layouts) for _, layouts in ranked(timed)]
    regrets = [r.regret for r in rankings]
    return Score(
        name=name,
        rows=len(outcomes),
        scored=len(done),
        unsupported=dict(Counter(o.unsupported for o in outcomes if o.unsupported).most_common()),
        mape=_stat(errors, np.mean),
        median_ape=_stat(errors, np.median),
        p90_ape=_stat(errors, lambda e: np.percentile(e, 90)),
        bias=_stat((o.ratio - 1 for o in timed if o.ratio is not None), np.mean),
        null_median_ape=_stat((_error(o.null_ratio) for o in timed), np.median),
        null_mape=_stat((_error(o.null_ratio) for o in timed), np.mean),
        band_coverage=_stat(map(_inside, timed), np.mean),
        band_half_width=_stat(map(_half_width, timed), np.median),
        groups=len(rankings),
        kendall_tau=_stat((r.tau for r in rankings), np.mean),
        spearman=_stat((r.rho for r in rankings), np.mean),
        mean_regret=_stat(regrets, np.mean),
        max_regret=_stat(regrets, max),
        top1_hits=sum(r.hit for r in rankings) if rankings else None,
        memory_median_ape=_stat((_error(o.memory_ratio) for o in done if not o.component), np.median),
        fits_rate=_stat((float(o.fits) for o in timed if o.fits is not None), np.mean),
        oom_rate=_stat((float(not o.fits) for o in done if o.oom and o.fits is not None), np.mean),
        oom_rows=sum(o.oom and o.fits is not None for o in done),
    )


_SUMS = ("rows", "scored", "groups", "top1_hits", "oom_rows")


def overall(outcomes: Sequence[Outcome]) -> Score:
    """Figures over all rows: counts are sums, max_regret is the worst, everything else the mean over the sources."""
    sources: dict[str, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        sources[o.source].append(o)
    scores = [score(source, members) for source, members in sources.items()]
    figures: dict[str, Any] = {}
    for item in fields(Score):
        if item.name in ("name", "unsupported"):
            continue
        statistic = sum if item.name in _SUMS else max if item.name == "max_regret" else np.mean
        value = _stat((getattr(s, item.name) for s in scores), statistic)
        figures[item.name] = int(value or 0) if item.name in _SUMS and (value or item.name != "top1_hits") else value
    reasons = Counter(o.unsupported for o in outcomes if o.unsupported)
    return Score(name="overall", unsupported=dict(reasons.most_common()), **figures)
