"""Better orders of one graph by simulated annealing: urgencies of a list schedule are changed a few at a time, and a
change that makes it longer stays the less often, the later. Draws come from a fixed seed, so that the same graph gets
the same order."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from perfplan.overlap.graph import Graph
from perfplan.overlap.simulate import Engine
from perfplan.overlap.timeline import Timeline

__all__ = ["Search"]

ROOMS = (1.0, 1.2, 1.5, 2.0)
STEP = 0.15  # usual change of an urgency, of the critical path
HEAT = 0.01  # growth that is accepted with a chance of 1/e at the start, of the schedule
OTHER_ROOM = 0.02  # chance that a change is tried under another rule for what runs together
NUDGE = 1e-6  # how far one operation is put before or behind another, of the critical path


@dataclass
class _Found:
    time: float
    engine: Engine
    room: float
    urgent: list[float]


class Search:
    """The shortest list schedule found so far of one graph. kept: kinds that may keep their shares; whether they do is
    part of the search."""

    def __init__(self, graph: Graph, kept: Collection[str] = ()) -> None:
        self.graph, self._draws = graph, random.Random(len(graph.ops))
        tails = [graph.tails[op.name] + op.duration for op in graph.ops]
        early = [tail - 1e-3 * graph.critical_path * max(op.micro, 0)
                 for op, tail in zip(graph.ops, tails, strict=True)]
        engines = [Engine(graph)] + [Engine(graph, kept)] * any(op.kind in kept for op in graph.ops)
        rules = [(engine, room, urgent) for engine in engines for room in ROOMS for urgent in (tails, early)]
        tried = [_Found(self._time(*rule), *rule) for rule in rules]
        self._best = min(tried, key=lambda found: found.time)

    @staticmethod
    def _time(engine: Engine, room: float, urgent: Sequence[float]) -> float:
        return max(engine.run(engine.listed(urgent, room))[1])

    @property
    def time(self) -> float:
        """Length of the shortest schedule found [s]."""
        return self._best.time

    @property
    def kept(self) -> bool:
        """Whether it lets some kinds keep their shares."""
        return bool(self._best.engine.kept)

    def improve(self, tries: int, deadline: float, enough: float) -> None:
        """Try some changes, until a moment of the monotonic clock [s] or until a length is reached [s]."""
        now = self._best
        for n in range(tries):
            if self.time <= enough or time.monotonic() > deadline:
                return
            room = self._draws.choice(ROOMS) if self._draws.random() < OTHER_ROOM else now.room
            urgent = self._changed(now.urgent)
            length = self._time(now.engine, room, urgent)
            heat = HEAT * (1 - n / tries) ** 2 * self.time
            if length <= now.time or self._draws.random() < math.exp((now.time - length) / heat):
                now = _Found(length, now.engine, room, urgent)
                self._best = min(self._best, now, key=lambda found: found.time)

    def _changed(self, urgent: Sequence[float]) -> list[float]:
        """Urgencies with one to three of them moved, at random or right beside another's."""
        changed, draws, scale = list(urgent), self._draws, self.graph.critical_path
        for _ in range(draws.choice((1, 1, 2, 3))):
            one = draws.randrange(len(changed))
            if draws.random() < 0.5:
                changed[one] = changed[draws.randrange(len(changed))] + draws.choice((-1, 1)) * NUDGE * scale
            else:
                changed[one] += draws.gauss(0, STEP) * scale
        return changed

    def timeline(self, title: str = "") -> Timeline:
        """The schedule found."""
        engine, best = self._best.engine, self._best
        return engine.timeline(engine.listed(best.urgent, best.room), title)
