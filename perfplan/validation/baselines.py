"""What a predictor without a model would score: the figures that every accuracy is printed beside.

Two null predictors, both oracles, because they know the median of the rows that they are scored on: (a) one FLOP rate
per accelerator for each source, accelerator, precision, method, and dense or MoE; (b) inside a group of layouts of one
job, the group's median step time for every layout. Two ways to choose a layout without a model: any of them, and the
best rule of thumb (order by a few degrees of parallelism), chosen with hindsight on the same groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from statistics import fmean, median, stdev

from perfplan.validation.score import Facts, Outcome, ranked

__all__ = ["Choice", "Noise", "best_rule", "group_null_errors", "model_choice", "noise", "random_choice", "with_null"]

AXES = ("tp", "pp", "micro_batch")  # what rules of thumb speak of


def with_null(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes with the ratio of null predictor (a) over measured, in the metric of each row [1]."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for o in outcomes:
        if o.facts is not None and o.measured_time is not None:
            groups[_alike(o)].append(_flop_rate(o.facts, o.measured_time))
    typical = {key: median(rates) for key, rates in groups.items()}

    def nulled(o: Outcome) -> Outcome:
        if o.facts is None or o.measured_time is None:
            return o
        slower = _flop_rate(o.facts, o.measured_time) / typical[_alike(o)]
        return replace(o, null_ratio=1 / slower if o.is_rate else slower)

    return [nulled(o) for o in outcomes]


def _flop_rate(facts: Facts, time: float) -> float:
    """Model FLOPs per second and accelerator [FLOP/s]."""
    return facts.flops / (facts.gpus * time)


def _alike(o: Outcome) -> tuple[str, ...]:
    assert o.facts is not None
    return (o.slice, o.hardware, o.facts.precision, o.method)


def group_null_errors(outcomes: Sequence[Outcome], least: int) -> list[float]:
    """Absolute errors of null predictor (b) in groups of at least `least` layouts [1]."""
    groups = _measured(outcomes, least)
    return [abs(median(times) / time - 1) for _, times in groups for time in times]


def _measured(outcomes: Sequence[Outcome], least: int) -> list[tuple[list[Outcome], list[float]]]:
    """Groups of at least `least` layouts: one outcome per layout, and its measured step time [s]."""
    groups = [layouts for _, layouts in ranked(outcomes, least)]
    return [([one for one, _, _ in layouts], [measured for *_, measured in layouts]) for layouts in groups]


@dataclass(frozen=True)
class Choice:
    """How a way to choose layouts fares over groups: mean and worst regret [1], groups, hits (nothing lost)."""

    name: str
    groups: int
    mean: float | None
    worst: float | None
    hits: int


def _choice(name: str, regrets: Sequence[float]) -> Choice:
    hits = sum(regret <= 1e-9 for regret in regrets)
    return Choice(name, len(regrets), fmean(regrets) if regrets else None, max(regrets, default=None), hits)


def model_choice(outcomes: Sequence[Outcome], least: int) -> Choice:
    """The layout that the model prices lowest."""
    groups = [layouts for _, layouts in ranked(outcomes, least)]
    return _choice("perfplan", [_regret([(p, m) for _, p, m in layouts]) for layouts in groups])


def random_choice(outcomes: Sequence[Outcome], least: int) -> Choice:
    """Any layout: the expected regret of each group."""
    return _choice("any layout", [fmean(times) / min(times) - 1 for _, times in _measured(outcomes, least)])


def _regret(layouts: Sequence[tuple[object, float]]) -> float:
    """Mean measured time of the layouts that share the lowest key, over the fastest, minus 1."""
    lowest = min(key for key, _ in layouts)  # type: ignore[type-var]
    return fmean(time for key, time in layouts if key == lowest) / min(time for _, time in layouts) - 1


def _rules() -> Iterator[tuple[str, Callable[[Outcome], tuple[float, ...]]]]:
    """Every order of the axes with every choice of smallest or largest first."""
    for order, signs in product(permutations(range(len(AXES))), product((1, -1), repeat=len(AXES))):
        words = (f"{'min' if signs[i] > 0 else 'max'} {AXES[i].replace('_', '-')}" for i in order)

        def key(o: Outcome, order: tuple[int, ...] = order, signs: tuple[int, ...] = signs) -> tuple[float, ...]:
            assert o.facts is not None
            values = (o.facts.tp, o.facts.pp, o.facts.micro_batch)
            return tuple(signs[i] * (values[i] or 1) for i in order)

        yield ", ".join(words), key


def best_rule(outcomes: Sequence[Outcome], least: int) -> Choice:
    """The rule of thumb with the smallest mean regret on these very groups."""
    groups = _measured([o for o in outcomes if o.facts is not None], least)
    every = [
        _choice(name, [_regret([(key(o), time) for o, time in zip(*group, strict=True)]) for group in groups])
        for name, key in _rules()
    ]
    return min(every, key=lambda choice: (choice.mean or 0.0, choice.name))


@dataclass(frozen=True)
class Noise:
    """Repeats of one configuration in a source, of one release or of any: how many such configurations, and the median
    and largest coefficient of variation of their measured step times [1]."""

    source: str
    one_release: bool
    configurations: int
    median: float
    worst: float


def noise(outcomes: Sequence[Outcome], least: int = 3) -> list[Noise]:
    """The floor under every error: how far measurements of one configuration differ, where there are `least` of it."""
    found = []
    for one_release in (True, False):
        groups: dict[tuple[object, ...], list[float]] = defaultdict(list)
        for o in outcomes:
            if o.facts is not None and o.measured_time is not None:
                f, release = o.facts, o.facts.epoch if one_release else ""
                job = (o.hardware, o.method, f.model, f.precision, f.gpus, f.seq_len, f.global_batch, release)
                groups[o.source, job, o.layout].append(o.measured_time)
        spreads: dict[str, list[float]] = defaultdict(list)
        for key, times in groups.items():
            if len(times) >= least:
                spreads[str(key[0])].append(stdev(times) / fmean(times))
        found += [Noise(s, one_release, len(cv), median(cv), max(cv)) for s, cv in sorted(spreads.items())]
    return found
