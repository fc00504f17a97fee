"""The passes that a pipeline rank runs, and the order in which all ranks run theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Order", "Part", "Task"]


class Part(NamedTuple):
    """One pass of one micro-batch through one stage. kind: F forward, B gradient of the input, W gradient of the
    weights, D both gradients in one."""

    kind: str
    micro: int
    stage: int


Task = tuple[Part, ...]
"""Passes that run together: one, or a forward and a backward that overlap."""


@dataclass(frozen=True)
class Order:
    """A schedule of a pipeline. orders: tasks of each rank; place: rank of each stage; starts: stages that begin a
    chain (a second one is walked the other way); copies: times that a rank holds the weights of its share."""

    name: str
    orders: tuple[tuple[Task, ...], ...]
    place: tuple[int, ...]
    starts: frozenset[int]
    copies: int = 1
    splits: bool = False

    @property
    def micro_batches(self) -> int:
        """Micro-batches of all chains together."""
        return len({part.micro for tasks in self.orders for task in tasks for part in task})
