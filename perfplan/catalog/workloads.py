"""Workloads: how long prompts and outputs are, and how irregularly requests arrive; from published statistics or a CSV.

A published distribution is known by its mean, its deviation and a few percentiles. `quantile` is the one curve through
the percentiles, bent between them so far that mean and deviation come out too; everything else is read off that curve.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfplan.errors import CatalogError, MissingField, OutOfRange, offer

if TYPE_CHECKING:
    import numpy as np

    from perfplan.catalog.schemas import LengthsFile, WorkloadFile

__all__ = ["COLUMNS", "Lengths", "Workload", "fixed_workload", "stretched", "workload_from_csv", "workload_from_file"]

COLUMNS = {
    "isl": ("ContextTokens", "isl", "input_tokens", "prompt_tokens", "input"),
    "osl": ("GeneratedTokens", "osl", "output_tokens", "generated_tokens", "output"),
    "time": ("TIMESTAMP", "timestamp", "time", "arrived_at"),
}
"""What a column of a trace may be called; the first is the name in the Azure traces."""
_PROBABILITIES = (0.0, 0.5, 0.9, 0.99, 1.0)
_NODES = 24  # points of the quadrature per segment between two percentiles
_GROUPS = 384  # groups of equal weight that a trace is reduced to
_STEEPEST = 4000.0
_CLOSE = 0.01  # relative error allowed of mean and deviation
_LONGEST = 1 << 24  # tokens


@dataclass(frozen=True, eq=False)
class Lengths:
    """Token lengths as weighted points. values: tokens, ascending; weights: shares, which add up to 1."""

    values: np.ndarray
    weights: np.ndarray

    def moment(self, power: int) -> float:
        """Mean of the length to that power."""
        return float((self.weights * self.values**power).sum())

    @cached_property
    def mean(self) -> float:
        """Mean length [tokens]."""
        return self.moment(1)

    @property
    def deviation(self) -> float:
        """Standard deviation [tokens]."""
        return math.sqrt(max(self.moment(2) - self.mean**2, 0.0))

    @cached_property
    def longest(self) -> int:
        """Longest length [tokens]."""
        return int(math.ceil(float(self.values[-1])))

    @cached_property
    def _middles(self) -> np.ndarray:
        middles: np.ndarray = self.weights.cumsum() - self.weights / 2
        return middles

    def percentile(self, share: Any) -> Any:
        """Length that `share` of the requests do not exceed [tokens]."""
        import numpy

        return numpy.interp(share, self._middles, self.values)

    def scaled(self, factor: float) -> Lengths:
        """All lengths longer or shorter by a factor, none below one token."""
        import numpy

        return Lengths(numpy.maximum(self.values * factor, 1.0), self.weights)


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests as a population. arrivals: squared coefficient of variation of the times between arrivals, 1 = Poisson;
    rate: requests per second where published [1/s]; pairs: lengths of a trace, request by request.
    """

    id: str
    name: str
    isl: Lengths
    osl: Lengths
    arrivals: float = 1.0
    rate: float | None = None
    requests: int = 0
    source: str = ""
    notes: tuple[str, ...] = ()
    pairs: np.ndarray | None = None

    def summary(self) -> dict[str, Any]:
        """What a person wants to know: moments and percentiles of both lengths, correlation in a trace, arrivals."""
        found: dict[str, Any] = {"name": self.name, "requests": self.requests or None, "source": self.source}
        for name, lengths in (("input", self.isl), ("output", self.osl)):
            marks = {f"p{100 * share:g}": float(lengths.percentile(share)) for share in (0.5, 0.9, 0.99)}
            found[name] = {
                "mean": lengths.mean,
                "deviation": lengths.deviation,
                "mean_square": lengths.moment(2),
                **marks,
                "max": lengths.longest,
            }
        if self.pairs is not None and len(self.pairs) > 2:
            import numpy

            spread = self.pairs.std(axis=0)
            found["correlation"] = float(numpy.corrcoef(self.pairs.T)[0, 1]) if spread.all() else 0.0
        found |= {"arrival_variation": self.arrivals**0.5, "rate": self.rate, "notes": list(self.notes)}
        return found

    def sample(self, count: int, seed: int) -> np.ndarray:
        """`count` requests as rows of prompt and output tokens: of the trace in its order, else drawn independently."""
        import numpy

        if self.pairs is not None:
            return numpy.resize(self.pairs, (count, 2))
        chance = numpy.random.default_rng(seed)
        drawn = [lengths.percentile(chance.random(count)) for lengths in (self.isl, self.osl)]
        rounded: np.ndarray = numpy.maximum(numpy.rint(numpy.stack(drawn, axis=1)), 1)
        return rounded


# ---------------------------------------------------------------- distributions from published statistics
def _moments(low: float, high: float, bend: float) -> tuple[float, float]:
    """Mean and mean square of low + (high - low) t^bend over t from 0 to 1."""
    d = high - low
    return low + d / (bend + 1), low * low + 2 * low * d / (bend + 1) + d * d / (2 * bend + 1)


def _whole(knots: list[tuple[float, float]], bends: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of the curve through `knots` (probability, tokens), each segment bent by its own."""
    mean = square = 0.0
    for ((p, low), (q, high)), bend in zip(zip(knots, knots[1:], strict=False), bends, strict=True):
        first, second = _moments(low, high, bend)
        mean, square = mean + (q - p) * first, square + (q - p) * second
    return mean, math.sqrt(max(square - mean * mean, 0.0))


def _bisect(value: Callable[[float], float], target: float) -> float:
    """Where the falling `value` reaches the target; one of the ends if it never does."""
    low, high = 1 / _STEEPEST, _STEEPEST
    for _ in range(48):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if value(middle) > target else (low, middle)
    return high


def _bends(knots: list[tuple[float, float]], mean: float, deviation: float, where: str) -> list[float]:
    """How far each segment between percentiles is bent for that mean and deviation: all alike but the last, or, where
    the last percent weighs too little to give the deviation, all but the first."""

    def with_mean(shape: Callable[[float], list[float]]) -> list[float]:
        return shape(_bisect(lambda bend: _whole(knots, shape(bend))[0], mean))

    def tailed(tail: float) -> list[float]:
        return with_mean(lambda body: [body, body, body, tail])

    tail = _bisect(lambda bend: _whole(knots, tailed(bend))[1], deviation)
    found = tailed(tail)
    if abs(_whole(knots, found)[1] / deviation - 1) > _CLOSE:

        def headed(head: float) -> list[float]:
            return with_mean(lambda body: [1 / head, body, body, tail])

        found = headed(_bisect(lambda bend: _whole(knots, headed(bend))[1], deviation))
    got = _whole(knots, found)
    if abs(got[0] / mean - 1) > _CLOSE or abs(got[1] / deviation - 1) > _CLOSE:
        raise CatalogError(
            f"{where}: no distribution through the percentiles has mean {mean:g} and deviation {deviation:g}; nearest"
            f" are {got[0]:.4g} and {got[1]:.4g}"
        )
    return found


def _lengths(file: LengthsFile, where: str) -> Lengths:
    import numpy

    points = (float(min(1.0, file.p50)), file.p50, file.p90, file.p99, file.max)
    if list(points) != sorted(points):
        raise CatalogError(f"{where}: percentiles {points[1:]} do not ascend")
    knots = list(zip(_PROBABILITIES, points, strict=True))
    bends = _bends(knots, file.mean, file.deviation, where)
    nodes, weights = numpy.polynomial.legendre.leggauss(_NODES)
    t, share = (nodes + 1) / 2, weights / 2
    values, shares = [], []
    for ((p, low), (q, high)), bend in zip(zip(knots, knots[1:], strict=False), bends, strict=True):
        values.append(low + (high - low) * t**bend)
        shares.append((q - p) * share)
    return Lengths(numpy.concatenate(values), numpy.concatenate(shares))


def _limited(isl: Lengths, osl: Lengths, limit: int) -> tuple[Lengths, Lengths]:
    """Both distributions without the requests whose tokens exceed the limit, lengths taken as independent."""
    import numpy

    kept = (isl.values[:, None] + osl.values[None, :] <= limit) * isl.weights[:, None] * osl.weights[None, :]
    whole = kept.sum()
    rows, columns = kept.sum(axis=1), kept.sum(axis=0)
    return (
        Lengths(isl.values[rows > 0], rows[rows > 0] / whole),
        Lengths(numpy.asarray(osl.values[columns > 0]), columns[columns > 0] / whole),
    )


def workload_from_file(name: str, file: WorkloadFile, where: str) -> Workload:
    """The workload of a catalog file."""
    isl, osl = _lengths(file.input, f"{where}, input"), _lengths(file.output, f"{where}, output")
    if file.limit:
        isl, osl = _limited(isl, osl, file.limit)
    squared = file.arrival_variation**2
    return Workload(name, file.name, isl, osl, squared, file.rate, file.requests, file.source, file.notes)


def fixed_workload(isl: float, osl: float) -> Workload:
    """Requests that are all alike."""
    import numpy

    one = numpy.ones(1)
    return Workload(f"{isl:g}/{osl:g}", "requests all alike", Lengths(one * isl, one), Lengths(one * osl, one))


def stretched(workload: Workload, isl: float, osl: float) -> Workload:
    """The workload with prompts and outputs longer by these factors."""
    name = f"{workload.id} with isl x{isl:g}, osl x{osl:g}"
    return replace(workload, id=name, isl=workload.isl.scaled(isl), osl=workload.osl.scaled(osl), pairs=None)


# ---------------------------------------------------------------- traces
def _column(header: list[str], kind: str, path: Path) -> int | None:
    for name in COLUMNS[kind]:
        if name in header:
            return header.index(name)
    if kind == "time":
        return None
    raise MissingField(
        f"{path} has no column of {'prompt' if kind == 'isl' else 'output'} tokens{offer(COLUMNS[kind][0], header)}; "
        f"call it {' or '.join(COLUMNS[kind][:2])}"
    )


def _token_count(text: str, where: str) -> float:
    try:
        count = float(text)
    except ValueError:
        raise CatalogError(f"{where} is {text[:40]!r} where a number of tokens belongs") from None
    if not (math.isfinite(count) and 0 <= count <= _LONGEST):
        raise OutOfRange(f"{where} is {text[:40]}, outside 0 to {_LONGEST} tokens")
    return count


def _moment_of(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text.strip()[:26]).timestamp()
    except ValueError:
        raise CatalogError(
            f"{where} is {text[:40]!r} where a time belongs, in seconds or as 2023-11-16 18:15:46"
        ) from None


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from csv.reader(stream)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CatalogError(f"{path}: cannot be read: {reason}; check the path") from error
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: is not a UTF-8 text file") from error
    except csv.Error as error:
        raise CatalogError(f"{path}: is not a CSV file: {error}") from error


def _parsed(path: Path) -> tuple[list[tuple[float, float]], list[float]]:
    rows = _rows(path)
    header = [cell.strip() for cell in next(rows, [])]
    if not any(header):
        raise MissingField(f"{path} is empty; a trace has columns of prompt tokens and output tokens")
    isl, osl, time = (_column(header, kind, path) for kind in ("isl", "osl", "time"))
    assert isl is not None and osl is not None
    pairs, times = [], []
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise CatalogError(f"{where}: has {len(row)} cells, the header has {len(header)}")
        prompt = _token_count(row[isl], f"{where}, {header[isl]}")
        output = _token_count(row[osl], f"{where}, {header[osl]}")
        if prompt and output:  # requests that were refused or cancelled stand in traces with no tokens
            pairs.append((prompt, output))
        if time is not None:
            times.append(_moment_of(row[time], f"{where}, {header[time]}"))
    if not pairs:
        raise CatalogError(f"{path}: has no request with tokens")
    return pairs, times


def _reduced(values: np.ndarray) -> Lengths:
    """A trace's lengths as means of groups of neighbours; the longest percent is kept one by one up to 1000."""
    import numpy

    ordered = numpy.sort(values)
    tail = max(1, min(1000, len(ordered) // 100))
    groups = [*numpy.array_split(ordered[:-tail], min(_GROUPS, max(1, len(ordered) - tail))), *ordered[-tail:, None]]
    groups = [group for group in groups if len(group)]
    return Lengths(
        numpy.array([group.mean() for group in groups]), numpy.array([len(group) / len(ordered) for group in groups])
    )


def workload_from_csv(path: Path) -> Workload:
    """The requests of a trace: columns of prompt and output tokens, with or without one of arrival times."""
    import numpy

    pairs, times = _parsed(path)
    table = numpy.array(pairs)
    gaps = numpy.diff(numpy.sort(numpy.array(times))) if len(times) > 2 else numpy.empty(0)
    spread = float(gaps.std() / gaps.mean()) ** 2 if len(gaps) and gaps.mean() > 0 else 1.0
    rate = 1 / float(gaps.mean()) if len(gaps) and gaps.mean() > 0 else None
    notes = () if times else ("the trace has no arrival times; arrivals are taken to be Poisson",)
    return Workload(
        path.stem,
        f"trace {path.name}",
        _reduced(table[:, 0]),
        _reduced(table[:, 1]),
        spread,
        rate,
        len(pairs),
        str(path),
        notes,
        table,
    )
