"""Event simulation of pipeline schedules: time, bubble and memory of every rank.

An operation starts when its rank is free and what it needs has arrived; a send takes `hop` and occupies nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfplan.errors import SpecError
from perfplan.overlap.passes import Order, Part, Task
from perfplan.overlap.timeline import Span, Timeline

__all__ = ["Passes", "Run", "run"]


@dataclass(frozen=True)
class Passes:
    """What the passes of each stage take. forward, inputs, weights: gradient of the inputs and of the weights [s];
    saved: activations that a micro-batch keeps, from its forward to its weight gradient [B]; hop: send between ranks
    [s]; fused: time of a forward and a backward that run together, over their sum [1]; ready: earliest start of the
    forward passes of each stage [s]."""

    forward: Sequence[float]
    inputs: Sequence[float]
    weights: Sequence[float]
    saved: Sequence[float] = ()
    hop: float = 0.0
    fused: float = 1.0
    ready: Sequence[float] = ()

    def time(self, task: Task) -> float:
        """Time of a task [s]."""
        return self._pass(task[0]) if len(task) == 1 else sum(map(self._pass, task)) * self.fused

    def _pass(self, part: Part) -> float:
        stage = part.stage
        match part.kind:
            case "F":
                return self.forward[stage]
            case "B":
                return self.inputs[stage]
            case "W":
                return self.weights[stage]
        return self.inputs[stage] + self.weights[stage]


@dataclass(frozen=True)
class Run:
    """A schedule as it ran. starts, ends: of the tasks of each rank [s]; in_flight: most passes of stages held for
    their weight gradient, by rank; held: the bytes of those [B]."""

    order: Order
    starts: tuple[tuple[float, ...], ...]
    ends: tuple[tuple[float, ...], ...]
    in_flight: tuple[int, ...]
    held: tuple[float, ...]

    @property
    def time(self) -> float:
        """From the first start to the last end [s]."""
        return max(ends[-1] for ends in self.ends)

    @property
    def busy(self) -> tuple[float, ...]:
        """Working time of each rank [s]."""
        return tuple(
            sum(end - start for start, end in zip(starts, ends, strict=True))
            for starts, ends in zip(self.starts, self.ends, strict=True)
        )

    @property
    def bubble(self) -> float:
        """Idle time of the busiest rank, all ranks meeting at the end of the step [s]."""
        return self.time - max(self.busy)

    @property
    def most_idle(self) -> float:
        """Idle time of the rank that idles most, all ranks meeting at the end of the step [s]."""
        return self.time - min(self.busy)

    @property
    def idle_inside(self) -> float:
        """Most idle time of a rank between its own first start and last end: the bubble if ranks need not meet [s]."""
        spans = [ends[-1] - starts[0] for starts, ends in zip(self.starts, self.ends, strict=True)]
        return max(span - busy for span, busy in zip(spans, self.busy, strict=True))

    def timeline(self, title: str = "") -> Timeline:
        """The run as spans, one lane per rank."""
        spans = [
            Span(_name(task), start, end, rank, "sm", _kind(task), {"sm": 1.0}, task[0].micro)
            for rank, tasks in enumerate(self.order.orders)
            for task, start, end in zip(tasks, self.starts[rank], self.ends[rank], strict=True)
        ]
        return Timeline(title or self.order.name, tuple(spans))


_KINDS = {"F": "forward", "B": "input gradient", "W": "weight gradient", "D": "backward"}


def _kind(task: Task) -> str:
    return " and ".join(_KINDS[part.kind] for part in task)


def _name(task: Task) -> str:
    return "+".join(f"{part.kind}{part.micro}.{part.stage}" for part in task)


class _Chains:
    """Which pass waits for which."""

    def __init__(self, order: Order) -> None:
        self.first = order.starts
        self.last = {start - 1 for start in order.starts if start} | {len(order.place) - 1}

    def needs(self, part: Part) -> tuple[tuple[str, int, int], ...]:
        """What must be there before a pass; both gradients in one give the input gradient at their end."""
        kind, micro, stage = part
        if kind == "F":
            return () if stage in self.first else (("F", micro, stage - 1),)
        if kind == "W":
            return (("B", micro, stage),)
        return (("F", micro, stage),) if stage in self.last else (("F", micro, stage), ("B", micro, stage + 1))


def _arrival(
    order: Order, chains: _Chains, passes: Passes, rank: int, task: Task, done: dict[tuple[str, int, int], float]
) -> float | None:
    """When all that a task needs is on the rank, or None if some of it has not run."""
    at = max((passes.ready[part.stage] for part in task if part.kind == "F"), default=0.0) if passes.ready else 0.0
    for part in task:
        for need in chains.needs(part):
            ended = done.get(need)
            if ended is None:
                return None
            at = max(at, ended + (passes.hop if order.place[need[2]] != rank else 0.0))
    return at


def run(order: Order, passes: Passes) -> Run:
    """Run the tasks of each rank in their order, each as early as it can."""
    chains, done = _Chains(order), dict[tuple[str, int, int], float]()
    starts: list[list[float]] = [[] for _ in order.orders]
    ends: list[list[float]] = [[] for _ in order.orders]
    moved = True
    while moved:
        moved = False
        for rank, tasks in enumerate(order.orders):
            while len(ends[rank]) < len(tasks):
                task = tasks[len(ends[rank])]
                at = _arrival(order, chains, passes, rank, task, done)
                if at is None:
                    break
                start = max(at, ends[rank][-1] if ends[rank] else 0.0)
                end = start + passes.time(task)
                starts[rank].append(start)
                ends[rank].append(end)
                for part in task:
                    done["B" if part.kind == "D" else part.kind, part.micro, part.stage] = end
                moved = True
    if any(len(ended) < len(tasks) for ended, tasks in zip(ends, order.orders, strict=True)):
        raise SpecError(f"schedule {order.name} stops: its ranks wait for each other")
    saved = passes.saved or [0.0] * len(order.place)
    peaks = [_peak(tasks, saved) for tasks in order.orders]
    return Run(order, tuple(map(tuple, starts)), tuple(map(tuple, ends)), *map(tuple, zip(*peaks, strict=True)))


def _peak(tasks: Sequence[Task], saved: Sequence[float]) -> tuple[int, float]:
    """(most passes held, most bytes held) by a rank; a forward that runs with a backward is held beside it."""
    count, size, most, largest = 0, 0.0, 0, 0.0
    for task in tasks:
        for part in task:  # a forward stands first
            if part.kind == "F":
                count, size = count + 1, size + saved[part.stage]
                most, largest = max(most, count), max(largest, size)
            elif part.kind != "B":
                count, size = count - 1, size - saved[part.stage]
    return most, largest
