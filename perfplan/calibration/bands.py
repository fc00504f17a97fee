"""Error bands: how far measurements lie from predictions of their kind, and how far *ratios* of two do.

A log residual is log(measured / predicted) [1]. A band is the interval of log residuals that holds the middle 80 % of
the measurements of a slice, so a prediction t stands for t*exp(low) .. t*exp(high). The paired band decides ties
between layouts of one job, in which common errors cancel: -high .. high holds the predicted log ratios of two layouts
that are too close for the model to tell which is faster in 80 % of cases.

File format (`bands.yaml`), log residuals as plain numbers; a slice is `phase/dense|moe/family`, or a prefix of it:

    widening:                # factor on the half-width when a slice stands in for another
      family: {value: 1.5, source: ...}     # phase/dense|moe used for a family without its own rows
      kind: {value: 2, source: ...}         # phase used for an unknown phase/dense|moe
      borrowed: {value: 1.5, source: ...}   # constants of the accelerator were fitted on another chip
    bands:
      training/dense/ampere: {low: -0.08, high: 0.11, n: 41, source: ...}
    paired:
      training/dense/ampere: {low: -0.06, high: 0.06, n: 500, source: ...,
        jobs: 40, median_regret: 0.03, worst_regret: 0.2}  # of the slowest layout tied with the first, as measured
    memory:                  # headroom below which the error of the memory model decides whether a layout fits
      {margin: 0.07, n: 7, source: ...}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfplan.errors import BadQuantity, MissingField

__all__ = ["Band", "Bands", "band", "bands_from", "coverage", "fit_bands", "load_bands", "paired_band",
           "tie_regrets", "write_bands"]

LOW, HIGH = 0.1, 0.9  # the band holds the middle 80 % (definition of a band, not a fitted number)


def band(residuals: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """10th and 90th percentile of log residuals [1], weighted if `weights` [1] are given.

    Without weights this is the usual linear interpolation between order statistics. With weights, a row stands at the
    middle of its share of the total weight, with linear interpolation between rows (equal weights: Hazen's rule).

    >>> band([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    (0.1, 0.9)
    """
    values = np.asarray(residuals, dtype=float)
    if values.size == 0:
        raise ValueError("a band needs at least one residual")
    if weights is None:
        low, high = np.quantile(values, (LOW, HIGH))
        return float(low), float(high)
    order = np.argsort(values, kind="stable")
    share = np.asarray(weights, dtype=float)[order]
    position = (np.cumsum(share) - share / 2) / share.sum()
    low, high = np.interp((LOW, HIGH), position, values[order])
    return float(low), float(high)


Jobs = Sequence[tuple[ArrayLike, ArrayLike]]  # per job: log predicted times [ln s] of its layouts, log residuals [1]


def _pairs(predicted: ArrayLike, residuals: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of every two layouts of a job: predicted |log ratio| [1]; 1 if the order is right, 0 if wrong, 1/2 if equal."""
    guess = np.asarray(predicted, dtype=float)
    truth = guess + np.asarray(residuals, dtype=float)
    first, second = np.triu_indices(len(guess), 1)
    gap, change = guess[second] - guess[first], truth[second] - truth[first]
    return np.abs(gap), (np.sign(gap) * np.sign(change) + 1) / 2


def _rising(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The non-decreasing sequence closest to the values: neighbours that fall are pooled."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        mean, mass, count = float(value), float(weight), 1
        while pools and pools[-1][0] >= mean:
            before, share, size = pools.pop()
            mean, mass, count = (before * share + mean * mass) / (share + mass), share + mass, size + count
        pools.append((mean, mass, count))
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])


def paired_band(jobs: Jobs) -> float:
    """Predicted |log ratio| of two layouts of a job from which on the model orders them rightly in 80 % of cases [1].

    The share of right orders is taken to rise with the predicted ratio; jobs count equally.

    >>> paired_band([([0.0, 0.1, 0.3], [0.0, -0.2, 0.0])])  # 0.1 is ordered wrongly, 0.2 and 0.3 rightly
    0.2
    """
    parts = [_pairs(*job) for job in jobs]
    if not sum(len(gaps) for gaps, _ in parts):
        raise ValueError("a paired band needs a job of at least two layouts")
    gaps = np.concatenate([gaps for gaps, _ in parts])
    right = np.concatenate([right for _, right in parts])
    weights = np.concatenate([np.full(len(gaps), 1 / max(len(gaps), 1)) for gaps, _ in parts])
    order = np.lexsort((right, gaps))
    sure = _rising(right[order], weights[order]) >= HIGH - LOW
    return round(float(gaps[order][np.argmax(sure)] if sure.any() else gaps.max()), 12)


def tie_regrets(jobs: Jobs, high: float, least: int = 4) -> list[float]:
    """Per job of at least `least` layouts: measured time of the slowest layout tied with the predicted best, over the
    fastest, minus 1."""
    found = []
    for predicted, residuals in jobs:
        guess = np.asarray(predicted, dtype=float)
        truth = guess + np.asarray(residuals, dtype=float)
        if len(guess) >= least:
            found.append(float(np.expm1(truth[guess <= guess.min() + high].max() - truth.min())))
    return found


def coverage(low: float, high: float, residuals: ArrayLike) -> float:
    """Fraction of log residuals inside low .. high [1]."""
    values = np.asarray(residuals, dtype=float)
    return float(np.mean((values >= low) & (values <= high)))


# ---------------------------------------------------------------- reading
@dataclass(frozen=True)
class Band:
    """Interval of log residuals [1] of slice `used`, asked for as `asked`; `widened`: factor on its half-width [1].

    Of a paired band: median_regret, worst_regret: measured time of the slowest layout tied with the predicted best over
    the fastest, minus 1, over `jobs` measured jobs [1]."""

    low: float
    high: float
    n: int
    source: str
    used: str
    asked: str
    widened: float = 1.0
    jobs: int = 0
    median_regret: float | None = None
    worst_regret: float | None = None

    @property
    def caveat(self) -> str:
        """One sentence if the band is not that of the slice asked for, else an empty text."""
        if self.used == self.asked and self.widened == 1:
            return ""
        if self.used == self.asked:
            return f"error band widened by {self.widened:g}, as constants are borrowed or no run like this was measured"
        return f"error band of {self.asked} taken from {self.used} ({self.n} rows), widened by {self.widened:g}"

    def around(self, value: float) -> tuple[float, float]:
        """Lower and upper end of the band around a predicted value, in the unit of the value."""
        return value * math.exp(self.low), value * math.exp(self.high)

    def widen(self, factor: float) -> Band:
        """The same band with its half-width multiplied by `factor` >= 1 about its middle."""
        if factor == 1:
            return self
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2 * factor
        return replace(self, low=middle - half, high=middle + half, widened=self.widened * factor)


def _slices(phase: str, moe: bool, family: str) -> tuple[str, str, str]:
    kind = f"{phase}/{'moe' if moe else 'dense'}"
    return f"{kind}/{family}", kind, phase


@dataclass(frozen=True)
class Bands:
    """All bands of a catalog: slice -> band, slice -> paired band, and the widening factors [1]."""

    absolute: Mapping[str, Band]
    paired: Mapping[str, Band]
    widening: Mapping[str, float]
    margin: float = 0.0  # fraction of a memory within which the memory model may err

    def find(self, phase: str, moe: bool, family: str, *, borrowed: bool = False, paired: bool = False) -> Band:
        """The band of `phase/dense|moe/family`, else of `phase/dense|moe`, else of `phase`, saying which was used.

        A stand-in is widened by `widening["family"]` or `widening["kind"]`, and any band by `widening["borrowed"]` if
        the constants of the accelerator were fitted on another chip. Raises MissingField if no slice has a band.
        """
        table = self.paired if paired else self.absolute
        asked = _slices(phase, moe, family)
        factors = {asked[0]: 1.0, asked[1]: self.widening["family"], asked[2]: self.widening["kind"]}
        for name, factor in factors.items():
            if name in table:
                found = replace(table[name], asked=asked[0])
                return found.widen(factor * (self.widening["borrowed"] if borrowed else 1.0))
        raise MissingField(f"no {'paired ' if paired else ''}error band for {asked[0]}, {asked[1]} or {asked[2]}")

    def excess(self, phase: str, moe: bool) -> float:
        """Share by which one measurement in ten of dense or MoE models, else of the phase, exceeds its prediction,
        never below 0 [1]."""
        for name in _slices(phase, moe, "")[1:]:
            if name in self.absolute:
                return max(math.expm1(self.absolute[name].high), 0.0)
        raise MissingField(f"no error band for {phase}")


def _read(name: str, entry: Mapping[str, Any]) -> Band:
    absent = [key for key in ("low", "high", "n", "source") if key not in entry]
    if absent:
        raise MissingField(f"error band {name} lacks {', '.join(absent)}")
    low, high = float(entry["low"]), float(entry["high"])
    if not low <= high:
        raise BadQuantity(f"error band {name} has low {low:g} above high {high:g}")
    regrets = {key: float(entry[key]) for key in ("median_regret", "worst_regret") if key in entry}
    found = Band(low, high, int(entry["n"]), str(entry["source"]), name, name, jobs=int(entry.get("jobs", 0)))
    return replace(found, **regrets)  # type: ignore[arg-type]


def bands_from(data: Mapping[str, Any]) -> Bands:
    """Bands from the parsed content of a band file (see the module's text for the format)."""
    absent = [key for key in ("family", "kind", "borrowed") if key not in data.get("widening", {})]
    if absent:
        raise MissingField(f"the band file lacks the widening factor of {', '.join(absent)}")
    return Bands({name: _read(name, entry) for name, entry in (data.get("bands") or {}).items()},
                 {name: _read(name, entry) for name, entry in (data.get("paired") or {}).items()},
                 {name: float(entry["value"]) for name, entry in data["widening"].items()},
                 float((data.get("memory") or {}).get("margin", 0.0)))


def load_bands(path: Path) -> Bands:
    """Read a band file."""
    import yaml

    return bands_from(yaml.safe_load(path.read_text(encoding="utf-8")))


# ---------------------------------------------------------------- fitting
def _equal_sources(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Weight of each row so that every source counts the same [1]."""
    sources = [str(row["source"]) for row in rows]
    return [1 / sources.count(source) for source in sources]


def _entry(interval: tuple[float, float], n: int, sources: Iterable[str]) -> dict[str, Any]:
    low, high = interval
    source = "residuals of " + ", ".join(sorted(set(sources)))
    return {"low": round(low, 4), "high": round(high, 4), "n": n, "source": source}


def _paired_entry(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    jobs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["group"]:
            pair = float(row["log_predicted"]), float(row["log_residual"])
            jobs.setdefault((str(row["source"]), str(row["group"])), []).append(pair)
    jobs = {job: values for job, values in jobs.items() if len(values) > 1}
    if not jobs:
        return None
    columns = [([p for p, _ in values], [r for _, r in values]) for values in jobs.values()]
    high, pairs = paired_band(columns), sum(len(values) * (len(values) - 1) // 2 for values in jobs.values())
    entry, regrets = _entry((-high, high), pairs, (source for source, _ in jobs)), tie_regrets(columns, high)
    if not regrets:
        return entry
    found = {"median_regret": round(float(np.median(regrets)), 4), "worst_regret": round(max(regrets), 4)}
    return entry | {"jobs": len(regrets)} | found


def fit_bands(rows: Sequence[Mapping[str, Any]], phase: str = "training", minimum: int = 8) -> dict[str, Any]:
    """Bands and paired bands of every slice, ready to be written under `bands:` and `paired:` of a band file.

    rows: mappings with source (text), family (text), moe (bool), log_predicted [ln s], log_residual =
    log(measured/predicted) [1] and group (label of the job, empty = none). Sources count equally in a slice, groups
    equally in a paired slice. A slice with fewer than `minimum` rows (pairs) gets no entry of its own; the wider slice
    then stands in for it.
    """
    members: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for name in _slices(phase, bool(row["moe"]), str(row["family"])):
            members.setdefault(name, []).append(row)
    result: dict[str, Any] = {"bands": {}, "paired": {}}
    for name, chosen in sorted(members.items()):
        values = [float(row["log_residual"]) for row in chosen]
        if len(values) >= minimum:
            interval = band(values, _equal_sources(chosen))
            result["bands"][name] = _entry(interval, len(values), (str(row["source"]) for row in chosen))
        pairs = _paired_entry(chosen)
        if pairs is not None and pairs["n"] >= minimum:
            result["paired"][name] = pairs
    return result


def write_bands(path: Path, fitted: Iterable[Mapping[str, Any]], widening: Mapping[str, Mapping[str, Any]],
                memory: Mapping[str, Any] | None = None) -> None:
    """Write a band file from results of `fit_bands` (one per phase), the widening factors and the memory margin."""
    import yaml

    factors = {name: dict(entry) for name, entry in widening.items()}
    data: dict[str, Any] = {"widening": factors, "memory": dict(memory or {}), "bands": {}, "paired": {}}
    for part in fitted:
        for table in ("bands", "paired"):
            data[table].update(part[table])
    bands_from(data)  # refuse to write what could not be read
    path.write_text(yaml.safe_dump(data, sort_keys=False, width=120), encoding="utf-8")
