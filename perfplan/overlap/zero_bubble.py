"""Zero-bubble orders (Qi et al. 2024, arXiv 2401.10241 and 2405.15362), built from blocks repeated every interval.

A building block says when the passes of one micro-batch run on each rank if all passes take one unit of time; it is
repeated for every micro-batch, and the order in which the passes then stand on a rank is the schedule. Run as early
as that order allows, the gaps between the blocks close.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations, product
from math import inf

from perfplan.overlap.passes import Part, Task

__all__ = ["h_order", "v_orders"]

Placed = tuple[str, int, int]
"""(kind, stage, time) of one pass of the block."""

_Pass = tuple[str, int, int]
"""(kind, micro-batch, stage) of one pass, as in `Part`."""

_OFFSETS = {"v-min": (1, 1, 1, 1), "v-half": (1, 2, 1, 2)}
# steps between neighbouring ranks of: forward down, forward back, backward down, backward back


def _repeated(ranks: int, micro_batches: int, interval: int, block: Callable[[int], Sequence[Placed]]) -> tuple[
    tuple[Task, ...], ...
]:
    rows = []
    for rank in range(ranks):
        passes = [(at + interval * i, kind, i, stage) for kind, stage, at in block(rank) for i in range(micro_batches)]
        rows.append(tuple((Part(kind, i, stage),) for _, kind, i, stage in sorted(passes)))
    return tuple(rows)


def h_order(ranks: int, micro_batches: int, lead: int) -> tuple[tuple[Task, ...], ...]:
    """ZB-H1 (`lead` 1: as many micro-batches in flight as 1F1B) or ZB-H2 (2: about twice as many)."""
    step = 3 * lead - 1

    def block(rank: int) -> Sequence[Placed]:
        backward = ranks + (ranks - 1 - rank) * step
        return ("F", rank, rank), ("B", rank, backward), ("W", rank, backward + 1 + 3 * rank * lead)

    return _repeated(ranks, micro_batches, 3, block)


def _v_block(ranks: int, offsets: Sequence[int], turns: Sequence[int], rank: int) -> list[Placed]:
    """Passes of one micro-batch on a rank of a V-shaped pipeline; fewer than six where two of them collide."""
    down, up, back_down, back_up = offsets
    last, far = ranks - 1, 2 * ranks - 1 - rank
    turned = last * down + turns[0]
    behind = turned + last * up + turns[1]
    first = rank * down
    second = turned + (last - rank) * up
    gradient = behind + rank * back_down
    end = behind + last * back_down + turns[2] + (last - rank) * back_up
    free = sorted(set(range(6)) - {at % 6 for at in (first, second, gradient, end)})
    if len(free) != 2:
        return []
    late = min(
        ((gradient + 1 + (a - gradient - 1) % 6, end + 1 + (b - end - 1) % 6) for a, b in permutations(free)), key=sum
    )
    return [("F", rank, first), ("F", far, second), ("B", far, gradient), ("B", rank, end),
            ("W", far, late[0]), ("W", rank, late[1])]


def v_orders(
    ranks: int, micro_batches: int, name: str, times: Sequence[float] = (1.0, 1.0, 1.0)
) -> list[tuple[tuple[Task, ...], ...]]:
    """Orders of ZB-V, V-Half or V-Min, of which the shortest is to be taken.

    ZB-V is listed, for the `times` of forward and of the two gradients, with as many chunks held as under 1F1B. V-Min
    is its block; V-Half is its block, or listed with about half of 1F1B's chunks.
    """
    half = [min(ranks + more, (3 * ranks + 2) // 2) for more in (3, 4, 5)]
    room = {"zb-v": [2 * ranks], "v-half": dict.fromkeys(half), "v-min": []}[name]
    block = [] if name == "zb-v" else [_block_order(ranks, micro_batches, name)]
    return [*block, *(_Listed(ranks, micro_batches, most, times).orders() for most in room)]


def _block_order(ranks: int, micro_batches: int, name: str) -> tuple[tuple[Task, ...], ...]:
    """The block with the shortest turns in which no two passes collide on any rank, repeated."""
    for turns in sorted(product(range(1, 7), repeat=3), key=lambda turns: (sum(turns), turns)):
        blocks = [_v_block(ranks, _OFFSETS[name], turns, rank) for rank in range(ranks)]
        if all(blocks):
            return _repeated(ranks, micro_batches, 6, blocks.__getitem__)
    raise AssertionError(f"no block of {name} for {ranks} ranks")


class _Rank:
    """What one rank of the V has done: passes by chunk, weight gradients that it owes, chunks held (all, and of the way
    back)."""

    def __init__(self) -> None:
        self.now, self.held, self.back = 0.0, 0, 0
        self.forward, self.backward = [0, 0], [0, 0]
        self.owed: list[tuple[int, int]] = []
        self.tasks: list[Task] = []


_URGENCY = {("B", 0): 0, ("F", 1): 1, ("F", 0): 2, "needed": 3, ("B", 1): 4, "owed": 5}
# at one time: (pass, chunk), a weight gradient without which a forward has no room, one that can wait


class _Listed:
    """List scheduling of a V with at most `most` chunks held on a rank: whatever can start first, at one time by
    urgency. A rank keeps as many places as it has ranks before it, and one, for the way back.

    With equal times, `most` twice the ranks and at least that many micro-batches, no rank idles between its first and
    last pass.
    """

    def __init__(self, ranks: int, micro_batches: int, most: int, times: Sequence[float]) -> None:
        self.ranks, self.micro_batches, self.most = ranks, micro_batches, most
        self.times = dict(zip("FBW", times, strict=True))
        self.done: dict[_Pass, float] = {}
        self.rows = [_Rank() for _ in range(ranks)]

    def orders(self) -> tuple[tuple[Task, ...], ...]:
        """Tasks of each rank."""
        options = [self._best(rank) for rank in range(self.ranks)]
        for _ in range(6 * self.ranks * self.micro_batches):
            at, _, rank, chosen = min(options)
            self._take(rank, chosen, at)
            for near in range(max(rank - 1, 0), min(rank + 2, self.ranks)):
                options[near] = self._best(near)
        return tuple(tuple(row.tasks) for row in self.rows)

    def _best(self, rank: int) -> tuple[float, int, int, _Pass]:
        """(earliest time, urgency, rank, pass) of what a rank does next, at no time if it has to wait for another."""
        row, stages = self.rows[rank], (rank, 2 * self.ranks - 1 - rank)
        found, needed = [(inf, 0, rank, ("", 0, 0))], False
        for chunk in (1, 0):
            backward, forward = self._backward(row, chunk, stages[chunk]), self._forward(row, chunk, stages[chunk])
            if backward:
                found.append((backward[0], _URGENCY["B", chunk], rank, backward[1]))
            if forward and self._room(row, chunk, rank):
                found.append((forward[0], _URGENCY["F", chunk], rank, forward[1]))
            elif forward:
                needed |= forward[0] <= row.now + self.times["W"] * (1 + 1e-9)
        if row.owed:
            found.append((row.now, _URGENCY["needed" if needed else "owed"], rank, ("W", *row.owed[0])))
        return min(found)

    def _backward(self, row: _Rank, chunk: int, stage: int) -> tuple[float, _Pass] | None:
        i = row.backward[chunk]
        if i == row.forward[chunk]:
            return None
        start = self.done.get(("F", i, stage) if stage == 2 * self.ranks - 1 else ("B", i, stage + 1))
        return None if start is None else (max(row.now, start), ("B", i, stage))

    def _forward(self, row: _Rank, chunk: int, stage: int) -> tuple[float, _Pass] | None:
        i = row.forward[chunk]
        if i == self.micro_batches:
            return None
        start = self.done.get(("F", i, stage - 1)) if stage else 0.0
        return None if start is None else (max(row.now, start), ("F", i, stage))

    def _room(self, row: _Rank, chunk: int, rank: int) -> bool:
        """Whether a rank may hold one more chunk, places for the way back being kept while there is something due."""
        due = row.forward[0] - row.forward[1] + 1
        kept = min(max(rank + 1 - row.back, 0), due) if chunk == 0 else 0
        return row.held + 1 + kept <= self.most

    def _take(self, rank: int, chosen: _Pass, at: float) -> None:
        part = Part(*chosen)
        row, chunk = self.rows[rank], int(part.stage >= self.ranks)
        row.now = self.done[chosen] = at + self.times[part.kind]
        row.tasks.append((part,))
        if part.kind == "B":
            row.backward[chunk] += 1
            row.owed.append((part.micro, part.stage))
            return
        if part.kind == "F":
            row.forward[chunk] += 1
        else:
            row.owed.pop(0)
        step = 1 if part.kind == "F" else -1
        row.held, row.back = row.held + step, row.back + step * chunk
