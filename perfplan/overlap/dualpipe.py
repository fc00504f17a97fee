"""DualPipe and DualPipeV: the eight phases of deepseek-ai/DualPipe (dualpipe.py, dualpipev.py), rank by rank."""

from __future__ import annotations

from collections import Counter

from perfplan.overlap.passes import Part, Task

__all__ = ["dual_pipe"]


class _Writer:
    """Writes the passes of one rank. Phase 0 is the chain that enters on the rank's side of the pipeline."""

    def __init__(self, rank: int, ranks: int, micro_batches: int, folded: bool) -> None:
        self.rank, self.ranks, self.folded = rank, ranks, folded
        self.flipped = not folded and rank >= ranks // 2
        self.per_chain = micro_batches if folded else micro_batches // 2
        self.count: Counter[tuple[str, int]] = Counter()
        self.owed: list[Part] = []
        self.tasks: list[Task] = []

    def _part(self, kind: str, phase: int) -> Part:
        chain = phase ^ self.flipped
        i = self.count["F" if kind == "F" else "B", phase]
        self.count["F" if kind == "F" else "B", phase] += 1
        stage = self.rank if chain == 0 else 2 * self.ranks - 1 - self.rank
        return Part(kind, i if self.folded else i + self.per_chain * chain, stage)

    def forward(self, phase: int) -> None:
        self.tasks.append((self._part("F", phase),))

    def backward(self, phase: int, split: bool = False) -> None:
        part = self._part("B" if split else "D", phase)
        self.tasks.append((part,))
        if split:
            self.owed.append(Part("W", part.micro, part.stage))

    def weight(self) -> None:
        self.tasks.append((self.owed.pop(0),))

    def both(self, forward: int, backward: int) -> None:
        self.tasks.append((self._part("F", forward), self._part("D", backward)))


def _fill(out: _Writer, outer: int, inner: int) -> None:
    """Phases 1 to 3: forward of one chain, of both, then backward of the far chain with its weights split off."""
    for _ in range(2 * outer):
        out.forward(0)
    for _ in range(inner):
        out.forward(0)
        out.forward(1)
    for _ in range(outer):
        out.backward(1, split=True)
        out.weight()
        out.forward(1)


def _steady(out: _Writer, outer: int, rounds: int) -> None:
    """Phases 4 and 5: forward and backward of opposite chains together."""
    for i in range(rounds):
        if i == 0 and outer == 0:
            out.forward(0)
            out.backward(1)
        else:
            out.both(0, 1)
        out.both(1, 0)
    for _ in range(outer):
        out.backward(1)
        out.both(1, 0)


def _drain(out: _Writer, outer: int, inner: int) -> None:
    """Phases 6 to 8: backward of both chains, weight gradients split off from the middle on, then those left."""
    split = False
    for i in range(inner):
        split = split or (i == inner // 2 and inner % 2 == 0)
        out.backward(1, split)
        split = split or i == inner // 2
        out.backward(0, split)
    for _ in range(outer):
        out.weight()
        out.backward(0, split=True)
    for _ in range(inner):
        out.weight()


def dual_pipe(ranks: int, micro_batches: int, folded: bool) -> tuple[tuple[Task, ...], ...]:
    """Orders of DualPipe, or (`folded`) of DualPipeV, whose one chain runs along the ranks and back."""
    half = ranks if folded else ranks // 2
    rows = []
    for rank in range(ranks):
        depth = rank if folded else min(rank, ranks - 1 - rank)
        out = _Writer(rank, ranks, micro_batches, folded)
        _fill(out, half - depth - 1, depth + 1)
        _steady(out, half - depth - 1, out.per_chain - 2 * half + depth + 1)
        _drain(out, half - depth - 1, depth + 1)
        rows.append(tuple(out.tasks))
    return tuple(rows)
