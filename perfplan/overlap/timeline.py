"""When each operation ran: what a schedule comes to, and how busy that keeps every resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Span", "Timeline", "Usage", "covered", "difference", "usage"]

COMPUTE = ("sm",)


@dataclass(frozen=True)
class Span:
    """One operation on the timeline. start, end [s]; resources: share of each that it takes alone; lane: what it is
    drawn on; kind: its class."""

    name: str
    start: float
    end: float
    rank: int = 0
    lane: str = ""
    kind: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    micro: int = -1

    @property
    def duration(self) -> float:
        """Time from start to end [s]."""
        return self.end - self.start


@dataclass(frozen=True)
class Timeline:
    """A schedule as it runs. alone: operation -> its time with nothing beside it, where that differs from the span."""

    title: str
    spans: tuple[Span, ...]
    notes: tuple[str, ...] = ()

    @property
    def time(self) -> float:
        """End of the last operation [s]."""
        return max((span.end for span in self.spans), default=0.0)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that run something."""
        return tuple(sorted({span.rank for span in self.spans}))

    @property
    def lanes(self) -> tuple[tuple[int, str], ...]:
        """(rank, lane) pairs in the order in which they first appear, rank by rank."""
        seen = dict.fromkeys((span.rank, span.lane) for span in sorted(self.spans, key=lambda s: (s.rank, s.start)))
        return tuple(seen)


def covered(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of intervals, ascending.

    >>> covered([(2, 3), (0, 1), (0.5, 1.5)])
    [(0, 1.5), (2, 3)]
    """
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _length(intervals: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in intervals)


def _outside(intervals: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]) -> float:
    """Length of the first intervals (a union) that the second (a union) do not cover."""
    inside = sum(
        max(min(end, stop) - max(start, begin), 0.0) for start, end in intervals for begin, stop in others
    )
    return _length(intervals) - inside


@dataclass(frozen=True)
class Usage:
    """One resource of one rank. busy: time with some operation on it; exposed: busy while the SMs are not; idle: the
    rest of the timeline; all [s]."""

    rank: int
    resource: str
    busy: float
    exposed: float
    idle: float


def usage(timeline: Timeline) -> list[Usage]:
    """Busy, exposed and idle time of every resource of every rank."""
    rows = []
    for rank in timeline.ranks:
        mine = [span for span in timeline.spans if span.rank == rank]
        working = covered([(s.start, s.end) for s in mine if s.resources.get("sm", 0) >= 0.5])
        for resource in dict.fromkeys(name for span in mine for name, share in span.resources.items() if share > 0):
            least = 0.5 if resource == "sm" else 1e-9
            on = covered([(s.start, s.end) for s in mine if s.resources.get(resource, 0) >= least])
            busy = _length(on)
            exposed = 0.0 if resource in COMPUTE else _outside(on, working)
            rows.append(Usage(rank, resource, busy, exposed, timeline.time - busy))
    return rows


def difference(one: Timeline, other: Timeline) -> list[dict[str, object]]:
    """Time by class of operation on the mean rank of two timelines, largest change first; last, the whole [s]."""
    sums = [_by_kind(timeline) for timeline in (one, other)]
    kinds = sorted({*sums[0], *sums[1]}, key=lambda kind: -abs(sums[0].get(kind, 0.0) - sums[1].get(kind, 0.0)))
    rows = [_compared(kind, sums[0].get(kind, 0.0), sums[1].get(kind, 0.0)) for kind in kinds]
    return [*rows, _compared("whole timeline", one.time, other.time)]


def _compared(kind: str, first: float, second: float) -> dict[str, object]:
    return {"kind": kind, "first": first, "second": second, "difference": second - first}


def _by_kind(timeline: Timeline) -> dict[str, float]:
    total: dict[str, float] = {}
    for span in timeline.spans:
        total[span.kind or span.name] = total.get(span.kind or span.name, 0.0) + span.duration / len(timeline.ranks)
    return total
