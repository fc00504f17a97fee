"""Replicas of experts: EPLB's algorithm, and plans that balance better, by equal or unequal split of an expert's load.

All work layer by layer on loads [expert]. A plan is a list of experts by slot, the slots of a GPU side by side, and the
share of its expert's load that each slot takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import comb

import numpy as np

from perfplan.errors import Indivisible, OutOfRange
from perfplan.optimize.certificate import Certificate
from perfplan.placement.baselines import balanced_packing
from perfplan.placement.descent import Layer
from perfplan.placement.routing import Array, Whole

__all__ = [
    "EPLB",
    "EQUAL",
    "FRACTIONAL",
    "Plan",
    "check_slots",
    "eplb",
    "equal_split",
    "even_plans",
    "fractional_split",
    "given_plan",
    "max_loads",
    "plans",
    "replica_counts",
    "shared",
]

EPLB, EQUAL, FRACTIONAL = "EPLB", "equal split", "fractional split"
"""Rules that make a plan: EPLB's algorithm; the best found whose replicas share loads evenly, or as they like."""
_ENUMERATED = 20_000  # ways to give out the redundant slots that are all tried
_TRIES = 100_000  # swaps times experts at one level of the unequal split
_LEVELS = 10
_CLOSE = 1e-3  # to the mean load, near enough
_SEED = 7


@dataclass(frozen=True, eq=False)
class Plan:
    """Replicas of all layers. rule: what made it; slots: experts [layer, slot]; shares: of their expert's load [layer,
    slot]; proven: which layers no plan of the same kind can better; least: maximal load of a GPU that no plan can go
    below [layer]; by: what says so; nodes, groups: more than 1 where groups of experts stay on one node."""

    rule: str
    slots: Whole
    shares: Array
    proven: Array
    least: Array
    by: str = "mean load and largest replica"
    nodes: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        """The rule and whether it holds node by node: "equal split by node", "EPLB global"."""
        if self.nodes > 1:
            return f"{self.rule} by node"
        return f"{self.rule} global" if self.rule == EPLB else self.rule

    @property
    def even(self) -> bool:
        """Whether the replicas of an expert share its load evenly, which every engine can run."""
        return self.rule != FRACTIONAL

    def gpu_loads(self, loads: Array, gpus: int) -> Array:
        """Load of each GPU [layer, GPU]."""
        each = np.take_along_axis(loads, self.slots, axis=1) * self.shares
        return np.asarray(each.reshape(len(loads), gpus, -1).sum(axis=2), dtype=float)

    def certificate(self, loads: Array, gpus: int) -> Certificate:
        """Mean over layers of the largest over the mean load of a GPU."""
        mean = loads.sum(axis=1) / gpus
        reached = self.gpu_loads(loads, gpus).max(axis=1)
        least = np.where(self.proven > 0, reached, np.minimum(self.least, reached))
        return Certificate(
            float((reached / mean).mean()), float((least / mean).mean()), self.name, self.by
        )


def check_slots(experts: int, gpus: int, redundant: int, nodes: int = 1, groups: int = 1) -> int:
    """Slots of a layer; refuses numbers that do not fit."""
    slots = experts + redundant
    if redundant < 0:
        raise OutOfRange(f"{slots} slots are fewer than the {experts} experts of a layer; every expert needs one")
    if slots % gpus:
        more = [n for n in range(max(redundant - gpus, 0), redundant + gpus + 1) if (experts + n) % gpus == 0]
        raise Indivisible(
            f"{experts} experts and {redundant} redundant slots do not fill {gpus} GPUs evenly; redundant "
            f"may be {', '.join(map(str, more))}"
        )
    if gpus % nodes or slots % nodes or experts % groups or groups % nodes:
        raise Indivisible(f"{groups} groups of {experts} experts do not fill {nodes} nodes of {gpus} GPUs evenly")
    return slots


# ---------------------------------------------------------------- EPLB
def replica_counts(loads: Array, slots: int) -> Whole:
    """EPLB's counts: one more replica to the largest load per replica, again and again.

    >>> replica_counts(np.array([8.0, 2.0, 2.0]), 5).tolist()
    [3, 1, 1]
    """
    counts = np.ones(len(loads), dtype=np.int64)
    for _ in range(slots - len(loads)):
        counts[np.argmax(loads / counts)] += 1
    return counts


def _replicas(loads: Array, slots: int) -> Whole:
    """Experts of the replicas in EPLB's order: all once, then those that are added."""
    counts, order = np.ones(len(loads), dtype=np.int64), list(range(len(loads)))
    for _ in range(slots - len(loads)):
        order.append(int(np.argmax(loads / counts)))
        counts[order[-1]] += 1
    return np.array(order)


def _packed(experts: Whole, loads: Array, gpus: int) -> Whole:
    """Replicas by slot, packed as EPLB packs."""
    each = loads[experts] / np.bincount(experts, minlength=len(loads))[experts]
    pack, place = balanced_packing(each, gpus)
    table = np.empty(len(experts), dtype=np.int64)
    table[pack * (len(experts) // gpus) + place] = experts
    return table


def _by_node(
    loads: Array,
    slots: int,
    gpus: int,
    nodes: int,
    groups: int,
    inside: Callable[[Array, int, int], tuple[Whole, Array]],
) -> tuple[Whole, Array]:
    """Groups of experts packed to nodes, then a plan inside each node."""
    size = len(loads) // groups
    node, _ = balanced_packing(loads.reshape(groups, size).sum(axis=1), nodes)
    found = []
    for which in range(nodes):
        mine = np.concatenate([np.arange(g * size, (g + 1) * size) for g in _in_rank(node, which)])
        table, shares = inside(loads[mine], slots // nodes, gpus // nodes)
        found.append((mine[table], shares))
    return np.concatenate([table for table, _ in found]), np.concatenate([shares for _, shares in found])


def _in_rank(node: Whole, which: int) -> Whole:
    return np.flatnonzero(node == which)


def eplb(loads: Array, slots: int, gpus: int, nodes: int = 1, groups: int = 1) -> Whole:
    """Experts by slot [layer, slot] as EPLB's rebalance_experts gives them; hierarchical where groups fill the nodes.

    Each expert's load is split evenly over its replicas.
    """
    if groups % nodes:
        nodes = groups = 1

    def inside(mine: Array, own: int, few: int) -> tuple[Whole, Array]:
        return _packed(_replicas(mine, own), mine, few), np.ones(own)

    return np.stack([_by_node(row, slots, gpus, nodes, groups, inside)[0] for row in loads])


# ---------------------------------------------------------------- equal split
def _even(table: Whole, experts: int) -> Array:
    """Equal shares of the replicas of each expert."""
    return np.asarray(1.0 / np.bincount(table, minlength=experts)[table], dtype=float)


def max_loads(loads: Array, table: Whole, shares: Array, gpus: int) -> float:
    """Largest load of a GPU."""
    return float((loads[table] * shares).reshape(gpus, -1).sum(axis=1).max())


def equal_split(loads: Array, slots: int, gpus: int) -> tuple[Whole, Array, bool]:
    """(experts by slot, shares, whether no plan is better) for one layer whose replicas share loads evenly.

    Two slots a GPU: for given counts the largest replica goes with the smallest, which is optimal, and all counts are
    tried where they are few. Else EPLB's counts, packed and swapped, and replicas moved from expert to expert.
    """
    redundant = slots - len(loads)
    if slots == 2 * gpus and comb(len(loads) + redundant - 1, redundant) <= _ENUMERATED:
        table = _pairs(loads, redundant)
        return table, _even(table, len(loads)), True
    counts = replica_counts(loads, slots)
    table = _swapped(loads, counts, gpus)
    best = max_loads(loads, table, _even(table, len(loads)), gpus)
    for changed in _other_counts(loads, counts):
        if best <= loads.sum() / gpus * (1 + _CLOSE):
            break
        tried = _swapped(loads, changed, gpus)
        if (load := max_loads(loads, tried, _even(tried, len(loads)), gpus)) < best:
            table, best = tried, load
    return table, _even(table, len(loads)), False


def _pairs(loads: Array, redundant: int) -> Whole:
    """Slots two by two for the best counts of all."""
    best, found = np.inf, np.empty(0, dtype=np.int64)
    for extra in combinations_with_replacement(range(len(loads)), redundant):
        counts = np.ones(len(loads), dtype=np.int64)
        np.add.at(counts, list(extra), 1)
        experts = np.repeat(np.arange(len(loads)), counts)
        each = loads[experts] / counts[experts]
        order = np.argsort(each, kind="stable")
        half = len(order) // 2
        low, high = order[:half], order[half:][::-1]
        if (most := float((each[low] + each[high]).max())) < best:
            best, found = most, np.stack([experts[high], experts[low]], axis=1).ravel()
    return found


def _swapped(loads: Array, counts: Whole, gpus: int) -> Whole:
    """Replicas packed, then swapped for balance."""
    experts = np.repeat(np.arange(len(loads)), counts)
    each = loads[experts] / counts[experts]
    weights = each * gpus / loads.sum()
    start, _ = balanced_packing(weights, gpus)
    placed = Layer(weights, gpus, 1.0, np.inf).swap(np.zeros((len(experts), gpus)), start)
    return experts[np.argsort(placed, kind="stable")]


def _other_counts(loads: Array, counts: Whole) -> Iterator[Whole]:
    """Counts with one replica moved: from those that can spare it to those that are heaviest."""
    spare = [e for e in np.argsort(loads / np.maximum(counts - 1, 1e-9)) if counts[e] > 1][:4]
    for source in spare:
        for target in np.argsort(-loads / counts)[:4]:
            if target != source:
                changed = counts.copy()
                changed[source] -= 1
                changed[target] += 1
                yield changed


# ---------------------------------------------------------------- unequal split
def _fill(
    loads: list[float], order: list[int], most: float, gpus: int, size: int
) -> tuple[list[tuple[int, int, float]], float]:
    """McNaughton's rule: GPUs filled one after the other up to `most`, an expert that does not fit goes on on the next.

    Gives ((GPU, expert, load) ..., load left over when the slots or the GPUs have run out).
    """
    placed: list[tuple[int, int, float]] = []
    gpu, room, free, done, least = 0, most, size, 0.0, 1e-12 * most
    for expert in order:
        left = loads[expert]
        while left > least:
            if free == 0 or room <= least:
                gpu, room, free = gpu + 1, most, size
                if gpu == gpus:
                    return placed, sum(loads) - done
            part = min(left, room)
            placed.append((gpu, expert, part))
            left, room, free, done = left - part, room - part, free - 1, done + part
    return placed, 0.0


def _search_order(
    loads: list[float], order: list[int], goal: float, gpus: int, size: int, tries: int
) -> tuple[list[int], list[tuple[int, int, float]] | None]:
    """An order that fits in `goal`, by swaps that leave hardly more load over than before; None if none was found."""
    draws = np.random.default_rng(_SEED)
    placed, left = _fill(loads, order, goal, gpus, size)
    for turn, (one, other) in enumerate(draws.integers(len(order), size=(tries, 2)).tolist()):
        if left <= 0:
            return order, placed
        slack = 0.1 * goal * (1 - turn / tries) ** 2  # worse ones are kept at first
        tried = order.copy()
        tried[one], tried[other] = tried[other], tried[one]
        found, over = _fill(loads, tried, goal, gpus, size)
        if over <= left + slack:
            order, placed, left = tried, found, over
    return order, placed if left <= 0 else None


def fractional_split(loads: Array, slots: int, gpus: int, start: Whole | None = None) -> tuple[Whole, Array]:
    """(experts by slot, shares) for one layer whose replicas take unequal shares.

    The best shares of the slots of the equal split (`start` if it is known) by a linear programme; and, if these are
    not balanced, orders of experts that are filled into the GPUs by McNaughton's rule, for less and less load.
    """
    table, shares = shared(loads, equal_split(loads, slots, gpus)[0] if start is None else start, gpus)
    best, low, size = max_loads(loads, table, shares, gpus), float(loads.sum()) / gpus, slots // gpus
    order, amounts = [int(e) for e in np.argsort(-loads, kind="stable")], [float(x) for x in loads]
    for _ in range(_LEVELS):
        if best <= low * (1 + _CLOSE):
            break
        goal = (low + best) / 2
        order, placed = _search_order(amounts, order, goal, gpus, size, int(_TRIES / len(loads)))
        if placed is None:
            low = goal
            continue
        table, shares = shared(loads, _as_plan(loads, placed, gpus, size)[0], gpus)
        best = min(goal, max_loads(loads, table, shares, gpus))
    return table, shares


def _as_plan(loads: Array, placed: list[tuple[int, int, float]], gpus: int, size: int) -> tuple[Whole, Array]:
    """Slots and shares of loads placed; slots left over repeat an expert of their GPU with no share."""
    table, shares, count = np.zeros((gpus, size), dtype=np.int64), np.zeros((gpus, size)), [0] * gpus
    for gpu, expert, load in placed:
        table[gpu, count[gpu]] = expert
        shares[gpu, count[gpu]] = load / loads[expert] if loads[expert] else 1.0
        count[gpu] += 1
    for gpu in range(gpus):
        table[gpu, count[gpu] :] = table[gpu, 0] if count[gpu] else 0
    return table.ravel(), shares.ravel()


def shared(loads: Array, table: Whole, gpus: int) -> tuple[Whole, Array]:
    """The best shares for given slots: a linear programme over (slot) loads and the largest of the GPUs."""
    from scipy import sparse
    from scipy.optimize import linprog

    slots = len(table)
    gpu = np.arange(slots) // (slots // gpus)
    scale = float(loads.sum()) / gpus
    rows, columns = np.append(gpu, np.arange(gpus)), np.append(np.arange(slots), np.full(gpus, slots))
    signs = np.append(np.ones(slots), -np.ones(gpus))
    on_gpu = sparse.csr_matrix((signs, (rows, columns)), shape=(gpus, slots + 1))
    of_expert = sparse.csr_matrix((np.ones(slots), (table, np.arange(slots))), shape=(len(loads), slots + 1))
    goal = np.zeros(slots + 1)
    goal[slots] = 1.0
    found = linprog(goal, A_ub=on_gpu, b_ub=np.zeros(gpus), A_eq=of_expert, b_eq=loads / scale, method="highs")
    parts = np.maximum(found.x[:slots], 0.0) * scale
    sums = np.bincount(table, parts, len(loads))
    return table, np.where(
        sums[table] > 0, parts / np.where(sums[table] > 0, sums[table], 1.0), _even(table, len(loads))
    )


# ---------------------------------------------------------------- all plans
def _least(loads: Array, slots: int, gpus: int, even: bool) -> float:
    """Load that some GPU has at least: the mean, or with equal shares the largest replica of the best counts."""
    mean = float(loads.sum()) / gpus
    if even:
        return max(mean, float((loads / replica_counts(loads, slots)).max()))
    return max(mean, float(loads.max()) / min(gpus, slots - len(loads) + 1))


def plans(loads: Array, slots: int, gpus: int, nodes: int = 1, groups: int = 1) -> list[Plan]:
    """EPLB's plan (by node if groups fill them, and global), and the better ones with equal and unequal split; with
    several nodes these also node by node."""
    layers, experts = loads.shape
    nothing = np.zeros(layers)
    least = {even: np.array([_least(row, slots, gpus, even) for row in loads]) for even in (True, False)}
    found = [given_plan(EPLB, eplb(loads, slots, gpus), loads, gpus)]
    if nodes > 1:
        by_node = given_plan(EPLB, eplb(loads, slots, gpus, nodes, groups), loads, gpus)
        found.insert(0, replace(by_node, nodes=nodes, groups=groups))
        for rule, method in ((EQUAL, _equal), (FRACTIONAL, fractional_split)):
            rows = [_by_node(row, slots, gpus, nodes, groups, method) for row in loads]
            plan = _plan(rule, rows, nothing, least[rule == EQUAL])
            found.append(replace(plan, nodes=nodes, groups=groups))
    best = [equal_split(row, slots, gpus) for row in loads]
    even = _even_plan(best, least[True])
    if slots == experts:  # one replica each: there is nothing to split
        return [*found, even, replace(even, rule=FRACTIONAL)]
    split = [fractional_split(row, slots, gpus, table) for row, (table, _, _) in zip(loads, best, strict=True)]
    return [*found, even, _plan(FRACTIONAL, split, nothing, least[False])]


def given_plan(name: str, table: Whole, loads: Array, gpus: int) -> Plan:
    """Somebody's slots [layer, slot] as a plan whose replicas share loads evenly."""
    least = np.array([_least(row, table.shape[1], gpus, True) for row in loads])
    shares = np.stack([_even(row, loads.shape[1]) for row in table])
    return Plan(name, table, shares, np.zeros(len(loads)), least)


def even_plans(loads: Array, slots: int, gpus: int) -> list[Plan]:
    """EPLB's global plan and the better one with equal shares."""
    least = np.array([_least(row, slots, gpus, True) for row in loads])
    first = given_plan(EPLB, eplb(loads, slots, gpus), loads, gpus)
    return [first, _even_plan([equal_split(row, slots, gpus) for row in loads], least)]


def _even_plan(rows: list[tuple[Whole, Array, bool]], least: Array) -> Plan:
    proven = np.array([float(certain) for _, _, certain in rows])
    return _plan(EQUAL, [(table, shares) for table, shares, _ in rows], proven, least)


def _plan(rule: str, rows: list[tuple[Whole, Array]], proven: Array, least: Array) -> Plan:
    return Plan(rule, np.stack([row for row, _ in rows]), np.stack([shares for _, shares in rows]), proven, least)


def _equal(loads: Array, slots: int, gpus: int) -> tuple[Whole, Array]:
    return equal_split(loads, slots, gpus)[:2]
