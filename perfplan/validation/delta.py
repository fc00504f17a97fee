"""Delta error: does the model know what a change is worth?

Two measured rows of one source, release, method, sequence length and batch that differ in exactly one of accelerator
count, precision (its recipe included), accelerator and model make a pair; their layouts may differ. Rows that repeat
a configuration, as several submitters of a benchmark do, pair each, or once by the median of their times (`once`).
With r the tokens per second and accelerator, the error of a pair is |d ln r predicted - d ln r measured| [1]; the
same for every metric, because rows of a pair convert alike. For a count, rows with the same batch per accelerator
(weak scaling) pair too.

The null predictor gives every row of a chip and precision one MFU, the median of the source's *other* models; where no
other model was measured on both sides, the same MFU for both (ratios of peaks and FLOPs alone).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from statistics import fmean, median

from perfplan.validation.score import Facts, Outcome

__all__ = ["AXES", "CHANGE", "DeltaScore", "Pair", "delta_scores", "pairs"]

AXES = ("count", "precision", "chip", "model")
CHANGE = 0.05  # |d ln r| above which the sign of a change is scored


@dataclass(frozen=True)
class Pair:
    """Two rows; measured, predicted, null: ln of the second's tokens/s per accelerator over the first's [1]."""

    axis: str
    source: str
    first: str
    second: str
    change: str
    measured: float
    predicted: float
    null: float

    @property
    def error(self) -> float:
        """|d ln predicted - d ln measured| [1]."""
        return abs(self.predicted - self.measured)

    @property
    def null_error(self) -> float:
        """The same of the null predictor [1]."""
        return abs(self.null - self.measured)


@dataclass(frozen=True)
class DeltaScore:
    """Delta errors of one axis in one source, or the mean of the sources. changed: pairs whose measured change exceeds
    `CHANGE`; right_signs: share of those whose direction is predicted; p90: 90th percentile; all [1]."""

    axis: str
    source: str
    pairs: int
    median: float
    p90: float
    null_median: float
    null_mean: float
    changed: int
    right_signs: float | None
    null_right_signs: float | None


def _values(o: Outcome) -> tuple[object, ...]:
    assert o.facts is not None
    f = o.facts
    precision = f"{f.precision} {f.recipe}" if f.recipe not in ("", f.precision) else f.precision
    return (f.gpus, precision, o.hardware, f.model)


def _fixed(o: Outcome) -> tuple[object, ...]:
    assert o.facts is not None
    return (o.source, o.method, o.facts.epoch, o.facts.seq_len)


def _differing(members: Sequence[Outcome]) -> Iterator[tuple[int, int, int]]:
    """(first, second, axis) of the members that differ in exactly one axis, and not in what goes with it."""
    values = [_values(o) for o in members]
    for axis in range(len(AXES)):
        alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for place, mine in enumerate(values):
            alike[mine[:axis] + mine[axis + 1 :]].append(place)
        for places in alike.values():
            for i, j in combinations(places, 2):
                if values[i][axis] != values[j][axis] and _same_batch(members[i], members[j], AXES[axis] == "count"):
                    yield i, j, axis


def _same_batch(a: Outcome, b: Outcome, counted: bool) -> bool:
    """The same global batch or, for a change of count, the same batch per accelerator."""
    assert a.facts is not None and b.facts is not None
    weak = a.facts.global_batch * b.facts.gpus == b.facts.global_batch * a.facts.gpus
    return a.facts.global_batch == b.facts.global_batch or (counted and weak)


def _rate(facts: Facts, time: float) -> float:
    """ln of tokens per second and accelerator."""
    return math.log(facts.global_batch * facts.seq_len / (facts.gpus * time))


class _Null:
    """Constant MFU from other models."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        pools: dict[tuple[object, ...], list[tuple[str, float]]] = defaultdict(list)
        for o in outcomes:
            assert o.facts is not None and o.measured_time is not None
            mfu = o.facts.flops / (o.facts.gpus * o.facts.peak * o.measured_time)
            pools[self._pool(o)].append((o.facts.model, mfu))
        self._mfu = cache(
            lambda pool, without: median([mfu for model, mfu in pools[pool] if model not in without] or [math.nan])
        )

    @staticmethod
    def _pool(o: Outcome) -> tuple[object, ...]:
        assert o.facts is not None
        return (o.slice, o.method, o.hardware, o.facts.precision)

    def delta(self, a: Outcome, b: Outcome) -> float:
        assert a.facts is not None and b.facts is not None
        without = frozenset((a.facts.model, b.facts.model))
        mfus = [self._mfu(self._pool(o), without) for o in (a, b)]
        ratio = mfus[1] / mfus[0] if not any(map(math.isnan, mfus)) else 1.0
        return math.log(ratio * _ceiling(b.facts) / _ceiling(a.facts))


def _ceiling(facts: Facts) -> float:
    """Tokens per second and accelerator at the peak."""
    return facts.peak * facts.global_batch * facts.seq_len / facts.flops


def _distinct(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One outcome per configuration, its measured time the median of the repeats; in their order."""
    repeats: dict[tuple[object, ...], list[Outcome]] = defaultdict(list)
    for o in outcomes:
        assert o.facts is not None
        repeats[*_fixed(o), *_values(o), o.facts.global_batch, o.layout, o.time].append(o)
    return [
        replace(same[0], measured_time=median(o.measured_time or math.nan for o in same)) for same in repeats.values()
    ]


def _paired(members: Sequence[Outcome], null: _Null) -> Iterator[Pair]:
    for first, second, place in sorted(_differing(members)):
        a, b = members[first], members[second]
        assert a.facts is not None and b.facts is not None and a.time and b.time
        assert a.measured_time is not None and b.measured_time is not None
        yield Pair(
            AXES[place],
            a.source,
            a.id,
            b.id,
            f"{_values(a)[place]} to {_values(b)[place]}",
            _rate(b.facts, b.measured_time) - _rate(a.facts, a.measured_time),
            _rate(b.facts, b.time) - _rate(a.facts, a.time),
            null.delta(a, b),
        )


def pairs(outcomes: Iterable[Outcome], once: bool = False) -> list[Pair]:
    """Every pair among the scored outcomes, in their order; once: repeats of a configuration count once."""
    known = [o for o in outcomes if o.facts is not None and o.time and o.measured_time]
    known = _distinct(known) if once else known
    groups: dict[tuple[object, ...], list[Outcome]] = defaultdict(list)
    for o in known:
        groups[_fixed(o)].append(o)
    null = _Null(known)
    return [pair for members in groups.values() for pair in _paired(members, null)]


def _signs(deltas: Iterable[tuple[float, float]]) -> float | None:
    right = [float(guess * truth > 0) for guess, truth in deltas]
    return fmean(right) if right else None


def _score(axis: str, source: str, members: Sequence[Pair]) -> DeltaScore:
    changed = [pair for pair in members if abs(pair.measured) > CHANGE]
    errors = sorted(pair.error for pair in members)
    return DeltaScore(
        axis,
        source,
        len(members),
        median(errors),
        errors[min(len(errors) - 1, math.ceil(0.9 * len(errors)) - 1)],
        median(pair.null_error for pair in members),
        fmean(pair.null_error for pair in members),
        len(changed),
        _signs((pair.predicted, pair.measured) for pair in changed),
        _signs((pair.null, pair.measured) for pair in changed),
    )


def _mean(axis: str, scores: Sequence[DeltaScore]) -> DeltaScore:
    """Sources count equally."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    return DeltaScore(
        axis,
        "all",
        sum(score.pairs for score in scores),
        fmean(score.median for score in scores),
        fmean(score.p90 for score in scores),
        fmean(score.null_median for score in scores),
        fmean(score.null_mean for score in scores),
        sum(score.changed for score in scores),
        mean(score.right_signs for score in scores),
        mean(score.null_right_signs for score in scores),
    )


def delta_scores(found: Sequence[Pair]) -> list[DeltaScore]:
    """Scores per axis and source, and per axis the mean of its sources under the source `all`."""
    groups: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in found:
        groups[pair.axis, pair.source].append(pair)
    scores = [_score(*key, groups[key]) for key in sorted(groups, key=lambda key: (AXES.index(key[0]), key[1]))]
    overall = [_mean(axis, mine) for axis in AXES if (mine := [score for score in scores if score.axis == axis])]
    return [score for axis in AXES for score in (*scores, *overall) if score.axis == axis]
