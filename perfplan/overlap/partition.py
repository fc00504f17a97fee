"""Which layers go to which pipeline rank, and what each of them recomputes or offloads: least time of the busiest rank.

With one chunk per rank the answer is exact, by dynamic programming over where each stage begins; the best settings of
a stage's layers under its rank's memory are an integer program small enough to enumerate. With several chunks per rank
a MILP chooses the cuts, and its dual bound says how far from the best its answer may be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from perfplan.errors import Infeasible
from perfplan.formulas.pipeline import in_flight_chunks
from perfplan.optimize.certificate import Certificate
from perfplan.overlap.stages import Chosen, Pipeline, even_chunks
from perfplan.training.estimate import layer_sequence, pieces
from perfplan.training.layers import Away, Cost
from perfplan.training.stages import Stage
from perfplan.training.step import Pieces, stage_memory
from perfplan.units import show

__all__ = ["Choice", "Partition", "RankCosts", "Setting", "even", "held", "kind_counts", "layout_string", "settings"]

_TIMES = ("forward", "backward", "recompute", "tp", "cp", "ep", "host", "offload")


@dataclass(frozen=True)
class Setting:
    """What a layer does with its activations: keep them, recompute modules, or copy them to the host."""

    name: str
    recompute: tuple[str, ...] = ()
    away: Away = ()


def settings(pipeline: Pipeline) -> tuple[Setting, ...]:
    """The settings a layer may have: the layout's own, none, whole recompute, and offload where the host's link and
    the copies are known."""
    own = Setting(f"rc={','.join(pipeline.layout.recompute)}", pipeline.layout.recompute)
    found = [Setting("keep"), Setting("recompute", ("full",))]
    chip, framework = pipeline.job.cluster.accelerator, pipeline.job.framework
    if chip.host_bandwidth is not None and framework.host_link is not None:
        found.append(Setting("offload", (), (("acts", 0),)))
    return tuple(found if own.recompute in ((), ("full",)) else [*found, own])


def _time(cost: Cost) -> float:
    return sum((float(getattr(cost, name)) for name in _TIMES), 0.0)


@dataclass(frozen=True)
class Choice:
    """A stage: its layers by kind, and of those, layers by setting; time [s]; memory [B]."""

    counts: tuple[tuple[int, ...], ...]
    time: float
    memory: float


class RankCosts:
    """Time and memory of a rank as sums over its layers, as the step model has them.

    kinds of layers x settings; ends: time of embedding and head; what a rank holds without any layer, and what each
    layer adds, from the step model itself.
    """

    def __init__(self, pipeline: Pipeline, chosen: Sequence[Setting]) -> None:
        """Price each kind of layer under each setting."""
        self.pipeline, self.settings = pipeline, tuple(chosen)
        job, at = pipeline.job, pipeline.layout
        tables = [
            pieces(job, pipeline.net, pipeline.shape, at.cp_kind, setting.recompute, setting.away) for setting in chosen
        ]
        self.kinds = layer_sequence(job)[1]
        self.costs = [[table.kinds[kind] for table in tables] for kind in range(self.kinds)]
        self.ends, ahead = (tables[0].first, tables[0].last), tables[0].ahead
        self.times = [[_time(cost) for cost in row] for row in self.costs]
        self.end_times = (_time(self.ends[0]), _time(self.ends[1]) + (_time(ahead) if ahead else 0.0))
        self.last_buffer = max(float(ahead.whole - ahead.saved), 0.0) if ahead else 0.0  # of multi-token prediction
        self.pieces = Pieces([cost for row in self.costs for cost in row], *self.ends, ahead)
        self.buffers = [[max(float(cost.whole - cost.saved), 0.0) for cost in row] for row in self.costs]
        self.limit = job.cluster.accelerator.memory

    def memory(self, rank: int, first: bool, last: bool, counts: Sequence[Sequence[int]]) -> float:
        """Memory of a rank with so many layers of each kind and setting, by the step model [B]."""
        layers = tuple(n for row in counts for n in row)
        held = Stage(layers, first, last, 1, rank)
        bare = replace(self.pipeline.layout, offload=())
        return sum(float(v) for v in stage_memory(self.pipeline.job, bare, self.pieces, held).values())

    def light(self, kind: int) -> list[int]:
        """Settings of a kind of layer, those that keep least for the backward pass first."""
        return sorted(range(len(self.settings)), key=lambda setting: float(self.costs[kind][setting].saved))

    @cached_property
    def _slopes(self) -> list[list[tuple[float, float]]]:
        """(memory that one layer adds whatever the rank, what it adds per pass in flight) by kind and setting [B]."""
        keeps = 1 + self.pipeline.job.framework.fragmentation
        return [
            [(self._fixed(kind, index), keeps * float(cost.saved) / self.pipeline.layout.vpp)
             for index, cost in enumerate(row)]
            for kind, row in enumerate(self.costs)
        ]

    def _fixed(self, kind: int, setting: int) -> float:
        """State of one layer [B], without its activations and the buffers that are taken once."""
        none = [[0] * len(self.settings) for _ in range(self.kinds)]
        two, one = ([row[:] for row in none] for _ in range(2))
        one[kind][setting], two[kind][setting] = 1, 2
        rank = 1 if self.pipeline.layout.pp > 1 else 0
        cost = self.costs[kind][setting]
        held = self._flight(rank) * (1 + float(self.pipeline.job.framework.fragmentation)) * float(cost.saved)
        step = self.memory(rank, False, False, two) - self.memory(rank, False, False, one)
        return step - held / int(self.pipeline.layout.vpp)

    def _flight(self, rank: int) -> float:
        at = self.pipeline.layout
        return float(in_flight_chunks(at.pp, at.vpp, rank, self.pipeline.micro_batches))

    def bare(self, rank: int, first: bool, last: bool) -> float:
        """Memory of a rank without layers and without buffers [B]."""
        none = [[0] * len(self.settings) for _ in range(self.kinds)]
        return self.memory(rank, first, last, none) - (self.last_buffer if last else 0.0)

    def per_layer(self, rank: int) -> list[list[float]]:
        """Memory that one more layer of each kind and setting takes on a rank, buffers aside [B]."""
        flight = self._flight(rank)
        return [[fixed + flight * held for fixed, held in row] for row in self._slopes]

    def best(self, rank: int, first: bool, last: bool, counts: Sequence[int]) -> Choice | None:
        """The fastest settings of a rank's layers that fit into its memory, or None if none do.

        For each size that the buffer may have: sums over kinds of layers, those that are both slower and larger than
        another dropped after each kind.
        """
        base, room = self.last_buffer if last else 0.0, self.limit - self.bare(rank, first, last)
        layer = self.per_layer(rank)
        sizes = {base, *(max(base, b) for kind, row in enumerate(self.buffers) if counts[kind] for b in row)}
        found: Choice | None = None
        for buffer in sorted(sizes):
            for time, size, split in self._front(counts, layer, buffer, room - buffer):
                if found is None or time < found.time:
                    found = Choice(split, time, size + buffer + self.limit - room)
        if found is None:
            return None
        ends = first * self.end_times[0] + last * self.end_times[1]
        return replace(found, time=found.time + ends)

    def _front(
        self, counts: Sequence[int], layer: Sequence[Sequence[float]], buffer: float, room: float
    ) -> list[tuple[float, float, tuple[tuple[int, ...], ...]]]:
        """(time, memory, layers by kind and setting) of all choices worth making that need no larger buffer."""
        front: list[tuple[float, float, tuple[tuple[int, ...], ...]]] = [(0.0, 0.0, ())]
        for kind, count in enumerate(counts):
            able = [s for s, size in enumerate(self.buffers[kind]) if size <= buffer or not count]
            grown = [
                (time + sum(n * self.times[kind][s] for s, n in enumerate(way)),
                 size + sum(n * layer[kind][s] for s, n in enumerate(way)), (*split, way))
                for way in _ways_of(count, len(self.settings), tuple(able))
                for time, size, split in front
            ]
            front = _undominated([each for each in grown if each[1] <= room])
        return front


def _undominated(points: list[tuple[float, float, Any]]) -> list[tuple[float, float, Any]]:
    """Points that no other beats in both numbers, the fastest first."""
    kept: list[tuple[float, float, Any]] = []
    for point in sorted(points):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


@cache
def _ways_of(count: int, settings_: int, able: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Ways to give `count` layers settings of those that are able."""
    if not able:
        return ()
    spread = []
    for way in _ways(count, len(able)):
        row = [0] * settings_
        for place, n in zip(able, way, strict=True):
            row[place] = n
        spread.append(tuple(row))
    return tuple(spread)


def _ways(count: int, settings_: int) -> Iterator[tuple[int, ...]]:
    """Ways to give `count` layers one of so many settings each.

    >>> list(_ways(2, 2))
    [(2, 0), (1, 1), (0, 2)]
    """
    if settings_ == 1:
        yield (count,)
        return
    for first in range(count, -1, -1):
        for rest in _ways(count - first, settings_ - 1):
            yield (first, *rest)


def _take(left: list[int], count: int, first: Sequence[int] = ()) -> list[int]:
    """`count` layers of what is left of each setting, which they are taken from: in the proportion of what is left, or
    the settings of `first` as long as there are any.

    >>> left = [4, 4]
    >>> _take(left, 3), _take(left, 3), _take(left, 1, [1, 0]), left
    ([2, 1], [1, 2], [0, 1], [1, 0])
    """
    quotas = [have * count / max(sum(left), 1) for have in left]
    taken = [0 if first else int(quota) for quota in quotas]
    order = first or sorted(range(len(left)), key=lambda place: (taken[place] - quotas[place], place))
    for place in order:
        more = min(left[place] - taken[place], count - sum(taken), count if first else 1)
        taken[place] += more
    left[:] = [have - n for have, n in zip(left, taken, strict=True)]
    return taken


@dataclass(frozen=True)
class Partition:
    """Layers of every chunk in order; choices: what each rank holds; certificate: on the time of the busiest rank."""

    pipeline: Pipeline
    sizes: tuple[int, ...]
    choices: tuple[Choice, ...]
    settings: tuple[Setting, ...]
    certificate: Certificate

    def applied(self, costs: RankCosts, light_first: bool = False) -> Pipeline:
        """The pipeline with these stages and settings instead of its own; the settings of a rank spread over its
        chunks, or those that keep least in the first chunks, which have most micro-batches in flight.
        """
        sequence, kinds = layer_sequence(self.pipeline.job)
        at, start, chunks = self.pipeline.layout, 0, []
        left = [[list(row) for row in choice.counts] for choice in self.choices]
        for index, size in enumerate(self.sizes):
            needed = kind_counts(sequence, kinds, start, size)
            taken = tuple(
                n for kind, count in enumerate(needed)
                for n in _take(left[index % at.pp][kind], count, costs.light(kind) if light_first else ())
            )
            chunks.append(Stage(taken, index == 0, index == len(self.sizes) - 1, 1, index % at.pp))
            start += size
        return replace(self.pipeline, chosen=Chosen(costs.pieces, len(self.settings), tuple(chunks)))

    @property
    def busiest(self) -> float:
        """Time of one micro-batch on the busiest rank [s]."""
        return max(choice.time for choice in self.choices)


def kind_counts(sequence: Sequence[int], kinds: int, start: int, size: int) -> tuple[int, ...]:
    """Layers of each kind among the `size` layers from `start` on."""
    part = sequence[start : start + size]
    return tuple(part.count(kind) for kind in range(kinds))


def even(costs: RankCosts) -> Partition:
    """The even slot rule, each rank with its own best settings; Infeasible if some rank has none that fit."""
    pipeline = costs.pipeline
    at = pipeline.layout
    sizes = even_chunks(pipeline.job, at.pp * at.vpp)
    choices = []
    for rank, counts in enumerate(held(costs, sizes)):
        choice = costs.best(rank, rank == 0, rank == at.pp - 1, counts)
        if choice is None:
            raise Infeasible(f"rank {rank} of {at.pp} does not fit its {sum(counts)} layers into "
                             f"{show(costs.limit, 'B')} under any setting; give more stages, tp or memory")
        choices.append(choice)
    time = max(choice.time for choice in choices)
    return Partition(pipeline, sizes, tuple(choices), costs.settings, Certificate(time, -math.inf, "the even slot rule",
                                                                                 unit="s"))


def held(costs: RankCosts, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Layers of each kind on every rank."""
    sequence, kinds = layer_sequence(costs.pipeline.job)
    pp, start = costs.pipeline.layout.pp, 0
    held = [[0] * kinds for _ in range(pp)]
    for chunk, size in enumerate(sizes):
        for kind, n in enumerate(kind_counts(sequence, kinds, start, size)):
            held[chunk % pp][kind] += n
        start += size
    return [tuple(row) for row in held]


# ---------------------------------------------------------------- in Megatron's words
def layout_string(sizes: Sequence[int], mtp: int = 0) -> str:
    """The chunks as --pipeline-model-parallel-layout has them: E embedding, t layer, m prediction layer, L loss.

    >>> layout_string((3, 4, 4, 2), 1)
    'Et*3|(t*4|)*2t*2mL'
    """
    words = ["t" if n == 1 else f"t*{n}" if n else "" for n in sizes]
    words[0] = "E" + words[0]
    words[-1] += "m" * mtp + "L"
    runs: list[tuple[str, int]] = []
    for word in words[:-1]:
        runs = [*runs[:-1], (word, runs[-1][1] + 1)] if runs and runs[-1][0] == word else [*runs, (word, 1)]
    return "".join(f"({word}|)*{n}" if n > 1 else f"{word}|" for word, n in runs) + words[-1]
