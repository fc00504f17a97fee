"""Published techniques as rules on one window, and the best schedule of it with a proven gap.

A technique is a recipe for the graph (how the batch, products and collectives are cut) and a rule for what may run
together. `best` looks over the recipes that leave the model as it is and any order, and says how much could be left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from perfplan.errors import UnknownName, offer
from perfplan.optimize.certificate import Certificate
from perfplan.overlap.blocks import Recipe, Window, build
from perfplan.overlap.graph import Graph, lower_bound
from perfplan.overlap.order_milp import improved
from perfplan.overlap.simulate import list_schedule, simulate
from perfplan.overlap.timeline import Timeline

__all__ = ["TECHNIQUES", "Scheduled", "Technique", "best", "scheduled"]

CHUNKS = (1, 2, 4, 8)
STREAMS = 1.5  # asked of a resource together at most: a collective, or a memory-bound kernel, beside a product
SPLITS = ((0.5, 0.5), (0.3125, 0.6875), (0.4, 0.6))
TILES = 16  # waves of tiles of a large product: what a fused kernel cannot overlap is one of them


@dataclass(frozen=True)
class Technique:
    """A published way to overlap. recipes: those it may take, the fastest counts; room: how much of a resource may be
    asked for together, 0 = one operation at a time; changes: what it changes in the
    model, empty if nothing; ideal: hardware that does not exist."""

    name: str
    recipes: tuple[Recipe, ...]
    room: float
    says: str
    changes: str = ""
    ideal: bool = False


_NANO = tuple(Recipe(parts=split, chunks=chunks) for split in SPLITS for chunks in (1, 2))
TECHNIQUES: dict[str, Technique] = {
    t.name: t
    for t in (
        Technique("blocking", (Recipe(),), 0.0, "one operation after another"),
        Technique("async", tuple(Recipe(chunks=n) for n in CHUNKS), STREAMS,
                  "the last product of a block and its collective in chunks, the best number of them"),
        Technique("fused", (Recipe(tiles=TILES),), STREAMS,
                  f"product and collective in one kernel, tile by tile, {TILES} waves (Flux, Comet)"),
        Technique("t3", (Recipe(tiles=TILES, free=True),), STREAMS,
                  "the same with collectives that take no SMs: hypothetical hardware (T3)", ideal=True),
        Technique("fsdp", tuple(Recipe(prefetch=n) for n in (1, 0, 2)), STREAMS,
                  "sharded weights gathered, and their gradients reduced, behind compute; the best of 0 to 2 units"
                  " gathered ahead, which are held in memory"),
        Technique("two-batch", (Recipe(parts=(0.5, 0.5)),), STREAMS,
                  "two halves of the batch, collectives of one behind the products of the other"),
        Technique("nanoflow", _NANO, 2.0,
                  "nano-batches of several sizes; products, attention and collectives side by side (NanoFlow)"),
        Technique("ladder", (Recipe(stale=True),), STREAMS,
                  "a block starts without the sum of the block before (Ladder-residual)",
                  "the model must be trained with ladder residuals"),
        Technique("parallel", (Recipe(pairs=True),), STREAMS,
                  "attention and MLP from one norm, summed once; the one reduction priced at its size",
                  "the model must be trained with parallel blocks"),
    )
}


@dataclass(frozen=True)
class Scheduled:
    """A technique on a window. timeline; recipe: the one taken; certificate: how far any schedule of the recipes may
    be below; alone: time of everything one after another [s]."""

    technique: Technique
    timeline: Timeline
    recipe: Recipe
    graph: Graph
    certificate: Certificate

    @property
    def time(self) -> float:
        """Length of the window [s]."""
        return self.timeline.time


def _one_by_one(graph: Graph, title: str) -> Timeline:
    return simulate(graph, {"all": [op.name for op in graph.ops]}, title)


def _run(graph: Graph, room: float, title: str) -> Timeline:
    if room == 0.0:
        return _one_by_one(graph, title)
    return list_schedule(graph, room=room, title=title)


def scheduled(window: Window, name: str) -> Scheduled:
    """A named technique on a window."""
    if name not in TECHNIQUES:
        raise UnknownName(f"there is no technique {name!r}{offer(name, [*TECHNIQUES, 'best'])}")
    technique = TECHNIQUES[name]
    runs = []
    for recipe in technique.recipes:
        graph = build(window, recipe)
        runs.append((_run(graph, technique.room, name), recipe, graph))
    timeline, recipe, graph = min(runs, key=lambda run: run[0].time)
    bound = lower_bound(graph)
    certificate = Certificate(timeline.time, min(bound.time, timeline.time), f"the rule of {name}, {recipe}",
                              bound.reason, "s")
    return Scheduled(technique, timeline, recipe, graph, certificate)


# ---------------------------------------------------------------- the best
def _recipes(window: Window) -> list[Recipe]:
    """Every recipe that leaves the model as it is and needs no other hardware, plain ones first."""
    plain = [Recipe(chunks=n) for n in CHUNKS]
    plain += [Recipe(prefetch=2)] if any(block.gather for block in window.blocks()) else []
    more = tuple((1 / n,) * n for n in (3, 4))
    return [*plain, Recipe(tiles=TILES), *(Recipe(parts=s, chunks=n) for s in SPLITS for n in (1, 2)),
            *(Recipe(parts=split, tiles=TILES) for split in SPLITS), *(Recipe(parts=split) for split in more)]


def _listed(graph: Graph) -> Timeline:
    """The shortest of what list scheduling makes of a graph under several rules."""
    rules: list[Callable[[], Timeline]] = [
        lambda: simulate(graph, {}, "best"),
        *(lambda room=room: list_schedule(graph, room=room, title="best") for room in (1.0, 1.2, 1.5, 2.0)),
        lambda: list_schedule(graph, _first_first(graph), 1.5, "best"),
    ]
    return min((rule() for rule in rules), key=lambda timeline: timeline.time)


def _first_first(graph: Graph) -> dict[str, float]:
    """Priorities that push the first nano-batch ahead of the second, and keep work that nobody waits for to the end."""
    return {op.name: graph.tails[op.name] + op.duration - 1e-3 * graph.critical_path * max(op.micro, 0)
            for op in graph.ops}


def best(window: Window, time_limit: float = 20.0, named: Sequence[Scheduled] = ()) -> Scheduled:
    """The shortest schedule found over all recipes and orders, never longer than the named ones given that leave the
    model and the hardware as they are, with a bound that holds for all recipes."""
    graphs = [(recipe, build(window, recipe)) for recipe in _recipes(window)]
    runs = [(_listed(graph), recipe, graph) for recipe, graph in graphs]
    runs += [(s.timeline, s.recipe, s.graph) for s in named if not s.technique.changes and not s.technique.ideal]
    timeline, recipe, graph = min(runs, key=lambda run: run[0].time)
    bounds = [lower_bound(graph) for _, graph in graphs]
    floor = min(bounds, key=lambda bound: bound.time)
    end = time.monotonic() + time_limit
    open_ones = sorted((bound.time, i) for i, bound in enumerate(bounds) if bound.time < timeline.time * 0.995)
    for _, i in open_ones:
        left = end - time.monotonic()
        if left < 1.0:
            break
        found = improved(graphs[i][1], min(left, time_limit / min(len(open_ones), 4)))
        if found is not None and found.time < timeline.time:
            timeline, (recipe, graph) = found, graphs[i]
    titled = replace(timeline, title="best")
    certificate = Certificate(titled.time, min(floor.time, titled.time),
                              f"list scheduling and MILP over {len(graphs)} recipes, {recipe}", floor.reason, "s")
    technique = Technique("best", (recipe,), math.inf, str(recipe))
    return Scheduled(technique, titled, recipe, graph, certificate)
