"""Published techniques as rules on one window, and the best schedule of it with a proven gap.

A technique is a recipe for the graph (how the batch, products and collectives are cut) and a rule for what may run
together. `best` looks over the recipes that leave the model as it is and any order, and says how much could be left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from perfplan.errors import UnknownName, offer
from perfplan.optimize.certificate import Certificate
from perfplan.overlap.blocks import COLLECTIVES, Recipe, Window, build
from perfplan.overlap.graph import Bound, Graph, lower_bound
from perfplan.overlap.interval_bound import interval_bound
from perfplan.overlap.order_milp import improved
from perfplan.overlap.order_search import Search
from perfplan.overlap.simulate import list_schedule, simulate
from perfplan.overlap.timeline import Timeline

__all__ = ["ALIASES", "SECONDS", "TECHNIQUES", "Scheduled", "Technique", "best", "scheduled"]

SECONDS = 120.0  # of the search for the best order, unless given
CHUNKS = (1, 2, 4, 8)
STREAMS = 1.5  # asked of a resource together at most: a collective, or a memory-bound kernel, beside a product
SPLITS = ((0.5, 0.5), (0.3125, 0.6875), (0.4, 0.6))
ROUNDS = ((99, 100), (6, 400), (3, 1500), (3, 1500))  # annealing: the so many best recipes, the changes tried on each
ENOUGH = 0.005  # a gap that nobody needs smaller
SMALL = 32  # operations of a graph that the MILP orders in a second; larger ones take it 10 s, and it finds nothing
TILES = 16  # waves of tiles of a large product: what a fused kernel cannot overlap is one of them


@dataclass(frozen=True)
class Technique:
    """A published way to overlap. recipes: those it may take, the fastest counts; rooms: how much of a resource may
    be asked for together, the fastest counts, none = one operation at a time; changes: what it changes in the
    model, empty if nothing; ideal: hardware that does not exist."""

    name: str
    recipes: tuple[Recipe, ...]
    rooms: tuple[float, ...]
    says: str
    changes: str = ""
    ideal: bool = False


_NANO = tuple(Recipe(parts=split, chunks=chunks) for split in SPLITS for chunks in (1, 2))
TECHNIQUES: dict[str, Technique] = {
    t.name: t
    for t in (
        Technique("blocking", (Recipe(),), (), "one operation after another"),
        Technique("async", tuple(Recipe(chunks=n) for n in CHUNKS), (STREAMS,),
                  "the last product of a block and its collective in chunks, the best number of them"),
        Technique("fused", (Recipe(tiles=TILES),), (STREAMS,),
                  f"product and collective in one kernel, tile by tile, {TILES} waves (Flux between ranks of one"
                  " product, Comet between experts)"),
        Technique("t3", (Recipe(tiles=TILES, free=True),), (STREAMS,),
                  "the same with collectives that take no SMs: hypothetical hardware (T3)", ideal=True),
        Technique("fsmoe", tuple(Recipe(pieces=n, joined=True) for n in CHUNKS), (STREAMS,),
                  "dispatch, experts and combine in chunks, those of one behind those of another, the best number of"
                  " them (FSMoE)"),
        Technique("shared-expert", (Recipe(joined=True),), (STREAMS,),
                  "shared experts beside the exchange between experts; nothing else moves"),
        Technique("delayed-wgrad", (Recipe(),), (STREAMS,),
                  "gradients of weights when the links would leave the SMs idle, shared experts beside the exchange"),
        Technique("fsdp", tuple(Recipe(prefetch=n) for n in (1, 0, 2)), (STREAMS,),
                  "sharded weights gathered, and their gradients reduced, behind compute; the best of 0 to 2 units"
                  " gathered ahead, which are held in memory"),
        Technique("two-batch", (Recipe(parts=(0.5, 0.5)),), (STREAMS,),
                  "two halves of the batch, collectives of one behind the products of the other"),
        Technique("nanoflow", _NANO, (STREAMS, 2.0),
                  "nano-batches of several sizes; products, attention and collectives side by side (NanoFlow)"),
        Technique("ladder", (Recipe(stale=True),), (STREAMS,),
                  "a block starts without the sum of the block before (Ladder-residual)",
                  "the model must be trained with ladder residuals"),
        Technique("parallel", (Recipe(pairs=True),), (STREAMS,),
                  "attention and MLP from one norm, summed once; the one reduction priced at its size",
                  "the model must be trained with parallel blocks"),
    )
}

ALIASES = {"flux": "fused", "comet": "fused", "ladder-residual": "ladder", "tbo": "two-batch"}


@dataclass(frozen=True)
class Scheduled:
    """A technique on a window. timeline; recipe: the one taken; certificate: how far any schedule of the recipes may
    be below; kept: whether collectives keep their SMs, and what they leave is shared, rather than all in proportion."""

    technique: Technique
    timeline: Timeline
    recipe: Recipe
    graph: Graph
    certificate: Certificate
    kept: bool = False

    @property
    def time(self) -> float:
        """Length of the window [s]."""
        return self.timeline.time


def _run(graph: Graph, rooms: Sequence[float], title: str) -> tuple[Timeline, bool]:
    """(the schedule of a rule, whether collectives keep their SMs in it)."""
    if not rooms:
        return simulate(graph, {"all": [op.name for op in graph.ops]}, title), False
    runs = [(list_schedule(graph, room=room, title=title, kept=kept), bool(kept))
            for room in rooms for kept in ((), COLLECTIVES)]
    return min(runs, key=lambda run: run[0].time)


def scheduled(window: Window, name: str) -> Scheduled:
    """A named technique on a window."""
    if name not in TECHNIQUES:
        raise UnknownName(f"there is no technique {name!r}{offer(name, [*TECHNIQUES, 'best'])}")
    technique = TECHNIQUES[name]
    runs = []
    for recipe in technique.recipes:
        graph = build(window, recipe)
        runs.append((*_run(graph, technique.rooms, name), recipe, graph))
    timeline, kept, recipe, graph = min(runs, key=lambda run: run[0].time)
    bound = lower_bound(graph)
    certificate = Certificate(timeline.time, min(bound.time, timeline.time), f"the rule of {name}, {recipe}",
                              bound.reason, "s")
    return Scheduled(technique, timeline, recipe, graph, certificate, kept)


# ---------------------------------------------------------------- the best
def _recipes(window: Window) -> list[Recipe]:
    """Every recipe that leaves the model as it is and needs no other hardware, plain ones first."""
    plain = [Recipe(chunks=n) for n in CHUNKS]
    plain += [Recipe(prefetch=2)] if any(block.gather for block in window.blocks()) else []
    more = tuple((1 / n,) * n for n in (3, 4))
    return [*plain, Recipe(tiles=TILES), *(Recipe(parts=s, chunks=n) for s in SPLITS for n in (1, 2)),
            *(Recipe(parts=split, tiles=TILES) for split in (*SPLITS, more[0])),
            *(Recipe(parts=split) for split in more),
            *(Recipe(pieces=n) for n in CHUNKS[1:]), Recipe(parts=SPLITS[0], pieces=2)]


def _graphs(window: Window) -> list[tuple[Recipe, Graph]]:
    """The graphs of all recipes, each once."""
    found: list[tuple[Recipe, Graph]] = []
    for recipe in _recipes(window):
        graph = build(window, recipe)
        if all(graph.ops != other.ops for _, other in found):
            found.append((recipe, graph))
    return found


def best(window: Window, time_limit: float = SECONDS, named: Sequence[Scheduled] = ()) -> Scheduled:
    """The shortest schedule found over all recipes and orders, never longer than the named ones given that leave the
    model and the hardware as they are, with a bound that holds for all recipes.

    The work is counted in schedules tried, linear programs and nodes of the MILP, so that the same window gets the same
    answer; time_limit: seconds after which it is cut short all the same, which the certificate then says."""
    end = time.monotonic() + time_limit
    made = [_Candidate(recipe, graph, lower_bound(graph), Search(graph, COLLECTIVES))
            for recipe, graph in _graphs(window)]
    for count, tries in ROUNDS:
        _search(sorted(made, key=lambda each: each.search.time)[:count], tries, end)
    first = min(made, key=lambda each: each.search.time)
    found = [(first.search.timeline("best"), first.recipe, first.graph, first.search.kept)]
    found += [(s.timeline, s.recipe, s.graph, s.kept) for s in named if not s.technique.changes
              and not s.technique.ideal]
    timeline, recipe, graph, kept = min(found, key=lambda each: each[0].time)
    floor = _floor(made, timeline.time, end)
    if len(graph.ops) <= SMALL and floor.time < timeline.time * (1 - ENOUGH) and time.monotonic() < end:
        other = improved(graph, end - time.monotonic())
        if other is not None and other.time < timeline.time:
            timeline, kept = other, False
    titled = replace(timeline, title="best")
    certificate = Certificate(titled.time, min(floor.time, titled.time),
                              f"list scheduling, annealing and MILP over {len(made)} graphs, {recipe}"
                              + _cut(time_limit) * (time.monotonic() > end),
                              floor.reason, "s")
    return Scheduled(Technique("best", (recipe,), (math.inf,), str(recipe)), titled, recipe, graph, certificate, kept)


def _cut(time_limit: float) -> str:
    return f", stopped by the time limit after {time_limit:g} s (the answer may differ on another machine)"


@dataclass(frozen=True)
class _Candidate:
    recipe: Recipe
    graph: Graph
    bound: Bound
    search: Search


def _search(candidates: Sequence[_Candidate], tries: int, end: float) -> None:
    """Improve those that could still become the shortest, so long as there is something to gain."""
    for each in candidates:
        shortest = min(other.search.time for other in candidates)
        if each.bound.time < shortest * (1 - ENOUGH):
            each.search.improve(tries, end, each.bound.time * (1 + ENOUGH / 2))


def _floor(candidates: Sequence[_Candidate], shortest: float, end: float) -> Bound:
    """The least of all bounds, those made sharper that are the lowest."""
    bounds = {i: each.bound for i, each in enumerate(candidates)}
    tried: set[int] = set()
    while True:
        lowest = min(bounds, key=lambda i: bounds[i].time)
        left = end - time.monotonic()
        if lowest in tried or bounds[lowest].time > shortest * (1 - ENOUGH) or left <= 0:
            return bounds[lowest]
        tried.add(lowest)
        graph, last = candidates[lowest].graph, len(candidates[lowest].recipe.parts) - 1  # the largest part
        own = {op.name for op in graph.ops if op.micro in (last, -1)}
        sharper = interval_bound(graph, own, left)
        if sharper is not None and sharper.time > bounds[lowest].time:
            bounds[lowest] = sharper
